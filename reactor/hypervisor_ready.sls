{#- SPDX-FileCopyrightText: store-deploy contributors
    SPDX-License-Identifier: Apache-2.0
    Tag: store/<store ID>/hypervisor/ready #}
store-deploy-hypervisor-ready:
  runner.deploy.notify:
    - args:
      - store: {{ tag.split('/')[1] | json }}
      - minion: {{ data.get('id') | json }}
      - ready: true
