# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A deployment: what it is, how it begins, moves and ends. Nothing here imports Salt."""
