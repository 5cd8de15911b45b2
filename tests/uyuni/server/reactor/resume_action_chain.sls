# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# A stand-in: what Uyuni does at each start of a minion.
uyuni-resume-action-chain:
  local.test.ping:
    - tgt: {{ data['id'] | json }}
