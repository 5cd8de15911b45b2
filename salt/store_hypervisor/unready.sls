# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The way back from ready.sls: this hypervisor is no longer known to be ready, and does not ring. Its
# servers run on.

store_hypervisor-unready-schedule:
  schedule.absent:
    - name: store-deploy-ring

store_hypervisor-unready-marker:
  file.absent:
    - name: /var/lib/store-deploy/highstate.json

store_hypervisor-unready-note:
  file.absent:
    - name: /var/lib/store-deploy/bell.json
