# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
base:
  'hv-*':
    - store_hypervisor.ready
  'store-*':
    - demo
