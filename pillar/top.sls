# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# Each hypervisor gets its own store, and no other minion any: stores/init.sls.
base:
  '*':
    - stores
