# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# An example. The hypervisors are the minions whose pillar holds a store server.

base:
  'store_server:store:*':
    - match: pillar
    - store_hypervisor
