# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What of store-deploy runs on hypervisors and in guests, and what they share with the master.

It is served to minions, and imports no Salt.
"""

__version__ = "0.3.0"
