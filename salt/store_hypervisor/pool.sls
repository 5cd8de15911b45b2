# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0

{%- from 'store_hypervisor/map.jinja' import hypervisor with context %}

include:
  - store_hypervisor.check

{%- if hypervisor.pool is mapping %}

store_hypervisor-pool-running:
  store_hypervisor.pool_running:
    - name: {{ hypervisor.pool.name | json }}
    - path: {{ hypervisor.pool.path | json }}
    - require:
      - store_hypervisor: store_hypervisor-check-description
{%- endif %}
