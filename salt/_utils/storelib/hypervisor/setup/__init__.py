# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What makes a minion a hypervisor, and how that is taken back."""
