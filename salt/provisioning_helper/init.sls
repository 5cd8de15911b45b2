# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# A store server while it is deployed; on a deployed one it does nothing.

include:
  - provisioning_helper.firstboot
