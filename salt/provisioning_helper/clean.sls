# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The way back from firstboot.sls: the machine is no longer one that is being deployed. What
# cloud-init keeps of a seed is removed by the function provisioning_helper.cleanup.

# In this order: without the list of boots, but with the others, the next boot would be the first.
provisioning_helper-clean-bootstrap:
  file.absent:
    - names:
      - /etc/salt/minion.d/~store-deploy-bootstrap.conf
      - /etc/salt/minion.d/90-store-deploy-bootstrap.conf
      - /etc/venv-salt-minion/minion.d/~store-deploy-bootstrap.conf
      - /etc/venv-salt-minion/minion.d/90-store-deploy-bootstrap.conf
      - /etc/store-deploy/bootstrap.json

provisioning_helper-clean-boots:
  file.absent:
    - name: /var/lib/store-deploy
    - require:
      - file: provisioning_helper-clean-bootstrap
