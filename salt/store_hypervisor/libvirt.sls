# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0

{%- from 'store_hypervisor/map.jinja' import hypervisor, services with context %}

include:
  - store_hypervisor.check

store_hypervisor-libvirt-noted:
  store_hypervisor.noted:
    - services: {{ services | json }}
    - require:
      - store_hypervisor: store_hypervisor-check-description

{%- for service in services %}

store_hypervisor-libvirt-{{ service }}:
  service.running:
    - name: {{ service | json }}
    - enable: True
    - require:
      - store_hypervisor: store_hypervisor-libvirt-noted
{%- endfor %}

{%- if not hypervisor.default_network %}

store_hypervisor-libvirt-default-network:
  store_hypervisor.network_off:
    - name: default
    - require:
      - store_hypervisor: store_hypervisor-libvirt-noted
{%- endif %}
