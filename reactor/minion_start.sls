{#- SPDX-FileCopyrightText: store-deploy contributors
    SPDX-License-Identifier: Apache-2.0
    Tags: salt/minion/<minion ID>/start #}
store-deploy-minion-start:
  runner.deploy.notify:
    - args:
      - minion: {{ data.get('id') | json }}
