# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# yaml-language-server: $schema=../store_server.schema.json#/definitions/part
# What all stores of the chain have in common. Every key, its default and what is allowed: docs/pillar.md.
store_server:
  image:
    source: salt://images/store-server.qcow2
    # A placeholder, which is refused: `sha256sum FILE` prints yours.
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'
  cpus: 2
  memory_mib: 2048
  disk_gib: 20
  pool: /var/lib/libvirt/images
  # By name, so that a store's own file can say the address alone; a list would be replaced as a whole.
  interfaces:
    eth0: {type: bridge, source: br0, address: dhcp}
  master: salt.example.com
  verify:
    tcp: [22]
    service: [sshd]
