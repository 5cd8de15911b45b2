# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The network is changed with a way back: see store_hypervisor.bridged.

{%- from 'store_hypervisor/map.jinja' import hypervisor with context %}

include:
  - store_hypervisor.check

{%- if hypervisor.bridge is mapping %}

store_hypervisor-bridge-made:
  store_hypervisor.bridged:
    - name: {{ hypervisor.bridge.get('name', 'br0') | json }}
    - port: {{ hypervisor.bridge.get('port') | json }}
    - undo_after_s: {{ hypervisor.bridge.get('undo_after_s', 120) | json }}
    - require:
      - store_hypervisor: store_hypervisor-check-description
{%- endif %}
