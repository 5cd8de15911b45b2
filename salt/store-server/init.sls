# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# What Uyuni's formula of this name applies: it includes the SLS that is called as the formula is.

include:
  - store_hypervisor
