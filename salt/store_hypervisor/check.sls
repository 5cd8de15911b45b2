# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0

{%- from 'store_hypervisor/map.jinja' import hypervisor with context %}

store_hypervisor-check-description:
  store_hypervisor.checked:
    - settings: {{ hypervisor | json }}
