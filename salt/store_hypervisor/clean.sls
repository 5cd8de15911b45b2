# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The way back from ready.sls: this hypervisor is no longer known to be ready, and does not ring.
# Packages and the service of init.sls stay, since a guest may be running.

store_hypervisor-clean-schedule:
  schedule.absent:
    - name: store-deploy-ring

store_hypervisor-clean-marker:
  file.absent:
    - name: /var/lib/store-deploy/highstate.json

store_hypervisor-clean-note:
  file.absent:
    - name: /var/lib/store-deploy/bell.json
