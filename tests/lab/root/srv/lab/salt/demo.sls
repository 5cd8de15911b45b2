# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# What a store's server is for, in the lab: a greeting from its pillar.
demo-hello:
  file.managed:
    - name: /srv/demo/hello
    - makedirs: true
    - contents_pillar: greeting
