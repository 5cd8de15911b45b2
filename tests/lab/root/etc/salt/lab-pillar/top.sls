# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
base:
  hv-0815:
    - hypervisor
    - image
