# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0

{%- from 'store_hypervisor/map.jinja' import hypervisor with context %}

include:
  - store_hypervisor.ready

store_hypervisor-init-packages:
  pkg.installed:
    - pkgs: {{ hypervisor.packages | json }}

{%- if hypervisor.service %}

store_hypervisor-init-service:
  service.running:
    - name: {{ hypervisor.service | json }}
    - enable: True
    - require:
      - pkg: store_hypervisor-init-packages
{%- endif %}
