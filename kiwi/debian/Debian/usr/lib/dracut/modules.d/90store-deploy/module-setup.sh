#!/bin/bash
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# The whole initrd: one program, the drivers of virtual disks and of the root file system, one script.

check() { return 0; }

depends() { return 0; }

installkernel() { hostonly='' instmods virtio_pci virtio_blk virtio_scsi sd_mod xen_blkfront ext4 crc32c_generic; }

install() {
    inst_simple /bin/busybox
    # dracut gives it to us as $moddir
    # shellcheck disable=SC2154
    inst_simple "$moddir/init.sh" /init
}
