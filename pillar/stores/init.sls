{#- SPDX-FileCopyrightText: store-deploy contributors
    SPDX-License-Identifier: Apache-2.0
    The store of the minion whose pillar this is: stores/MINION_ID.yaml, over what all stores have in
    common. Who has no such file is no store's hypervisor and gets nothing. #}
{%- set own %}{% include 'stores/' ~ opts.id ~ '.yaml' ignore missing %}{% endset %}
{%- if own.strip() %}
include:
  - stores.defaults

{{ own }}
{%- endif %}
