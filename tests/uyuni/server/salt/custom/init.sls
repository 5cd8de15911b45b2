# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# A stand-in.
mgr_custom:
  test.nop
