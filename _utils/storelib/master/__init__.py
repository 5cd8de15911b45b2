# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The master-side adapters: the only part of the core that imports Salt."""
