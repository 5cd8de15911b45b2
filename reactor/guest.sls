{#- SPDX-FileCopyrightText: store-deploy contributors
    SPDX-License-Identifier: Apache-2.0
    Tags: store/<store ID>/guest/<what> #}
store-deploy-guest:
  runner.deploy.notify:
    - args:
      - store: {{ tag.split('/')[1] | json }}
      - minion: {{ data.get('id') | json }}
