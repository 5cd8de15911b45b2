# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# One hypervisor for each store.
base:
  hv-0815:
    - stores.defaults
    - stores.store-0815
