# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# Run at each start of the minion until the deployment has ended (startup_states). A new guest has
# none of our modules yet, and state.sls, unlike a highstate, fetches none by itself. Loading all
# modules anew takes a small guest seconds: once is enough. The modules come last: with them there
# the others are, too.

{% if 'provisioning_helper.boots' not in salt %}
{% for kind in ['utils', 'states', 'modules'] %}
provisioning_helper-firstboot-{{ kind }}:
  saltutil.sync_{{ kind }}:
    - refresh: False
    - reload_modules: {{ loop.last }}
    - require_in:
      - provisioning_helper: provisioning_helper-firstboot-handing-over
{% endfor %}
{% endif %}

provisioning_helper-firstboot-handing-over:
  provisioning_helper.firstboot: []
