# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The adapters to Salt's master: the only part of the core that imports Salt."""
