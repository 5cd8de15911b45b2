# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What happens on a hypervisor, without Salt: files, qemu-img, libvirt."""
