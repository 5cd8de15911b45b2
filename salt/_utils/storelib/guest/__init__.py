# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What happens in a guest, without Salt: its boots, its network, what is left of its deployment."""
