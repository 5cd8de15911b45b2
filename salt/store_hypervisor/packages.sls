# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0

{%- from 'store_hypervisor/map.jinja' import packages with context %}

include:
  - store_hypervisor.check

store_hypervisor-packages-noted:
  store_hypervisor.noted:
    - packages: {{ packages | json }}
    - require:
      - store_hypervisor: store_hypervisor-check-description

store_hypervisor-packages-installed:
  pkg.installed:
    - pkgs: {{ packages | json }}
    - require:
      - store_hypervisor: store_hypervisor-packages-noted
