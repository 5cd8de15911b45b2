# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# One hypervisor for each store. On Uyuni the formula's form takes this file's place.
base:
  hv-0815:
    - stores.defaults
    - stores.store-0815
