# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# A stand-in: where the Salt Bundle is not to be had, each highstate fails.
{%- if not pillar.get('mgr_avoid_venv_salt_minion') and not salt['file.file_exists']('/etc/ImageVersion') %}
mgr_venv_salt_minion_missing:
  test.fail_without_changes:
    - order: last
{%- endif %}
