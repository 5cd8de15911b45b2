# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# Uyuni writes the second file when a system's registration ends: before, this does not compile. There
# it is named after the machine ID, which is the same one for all stand-ins.
include:
  - packages.packages_{{ grains['id'] }}
