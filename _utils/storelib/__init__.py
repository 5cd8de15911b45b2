# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The core of store-deploy: plain Python, no Salt import.

Only the sub-package ``master`` imports Salt: it holds the master-side adapters.
"""

__version__ = "0.2.0"
