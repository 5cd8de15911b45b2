# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# A stand-in: the last one of Uyuni's own states. Of those with one order Salt takes the module that
# sorts first; there it is service, which sorts before ours, too.
mgr_salt_minion:
  cmd.run:
    - name: 'true'
    - order: last
