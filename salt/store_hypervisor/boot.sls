# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# It does not reboot: ready.sls says that this is to be done.

{%- from 'store_hypervisor/map.jinja' import hypervisor with context %}

include:
  - store_hypervisor.check

{%- if hypervisor.virt_type == 'xen' %}

store_hypervisor-boot-xen:
  store_hypervisor.booted_by_xen:
    - require:
      - store_hypervisor: store_hypervisor-check-description
{%- endif %}
