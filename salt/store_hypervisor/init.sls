# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# All that makes a minion a store's hypervisor, in this order. A site that does one of it by itself
# includes the others.

include:
  - store_hypervisor.check      # nothing is touched if pillar or machine are not right
  - store_hypervisor.packages
  - store_hypervisor.libvirt    # its daemons run, its own network does not
  - store_hypervisor.pool
  - store_hypervisor.bridge     # where the pillar asks for one
  - store_hypervisor.boot       # Xen, where that is wanted
  - store_hypervisor.ready      # tells the master, last
