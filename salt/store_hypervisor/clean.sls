# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The way back from init.sls: what its states made, as they noted it. It refuses, and nothing is done,
# while a domain, a disk or a set-aside server is there.

include:
  - store_hypervisor.unready

store_hypervisor-clean-made:
  store_hypervisor.cleaned:
    - require_in:
      - sls: store_hypervisor.unready
