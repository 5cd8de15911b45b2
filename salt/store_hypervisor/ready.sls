# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# Put this into the highstate of a hypervisor: its good end starts the store's deployment.

store_hypervisor-ready-reported:
  store_hypervisor.reported:
    - name: /var/lib/store-deploy/highstate.json
    - order: last
