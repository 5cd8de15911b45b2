# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# Store 0815 in the lab. The image is in image.sls, which `lab up` writes.
store_server:
  store: '0815'
  memory_mib: 1024
  cpus: 1
  disk_gib: 6
  virt_type: auto
  interfaces:
    - {name: eth0, type: user, address: dhcp}
  master: 10.0.2.2
  guest_pillar:
    greeting: Hello from store 0815
  verify:
    - {tcp: 22}
    - {service: salt-minion}
    - {command: grep -q '^Hello' /srv/demo/hello}
