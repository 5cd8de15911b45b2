# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The tools that configure a machine's network: for each, what makes a bridge of a port."""
