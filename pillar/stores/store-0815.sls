# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# What is this store's own; Salt merges it into the defaults.
store_server:
  store: '0815'              # quoted: YAML reads a bare 0417 as a number
  hostname: store-0815.example.com
  auto_deploy: true          # the hypervisor's first highstate starts the deployment
  data_disks:
    - {name: data, size_gib: 100}
  guest_pillar:              # becomes pillar of store-0815
    greeting: Hello from store 0815
