# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How each kind of receiver is told of changes, and what has them told."""
