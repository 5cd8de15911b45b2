# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# A stand-in.
{%- if pillar.get('formulas') %}
include: {{ pillar['formulas'] | json }}
{%- endif %}
