#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# Mounts the root file system and hands over to it. No udev and no systemd: under emulation they take ten seconds.
bb=/bin/busybox
$bb mkdir -p /dev /proc /sys /sysroot
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys

root='' mode=ro
read -r arguments < /proc/cmdline
for argument in $arguments; do
    case $argument in
        root=*) root=${argument#root=} ;;
        ro | rw) mode=$argument ;;
    esac
done

# $1 tenths of a second to wait for the disk
mount_root() {
    tenths=$1
    while [ "$tenths" -gt 0 ]; do
        case $root in
            UUID=* | LABEL=*) device=$($bb findfs "$root" 2>/dev/null) ;;
            *) device=$root ;;
        esac
        if [ -b "$device" ]; then $bb mount -o "$mode" "$device" /sysroot; return; fi
        $bb usleep 100000
        tenths=$((tenths - 1))
    done
    return 1
}

# The cloud kernel has them in itself, another one that a highstate installs has not.
$bb modprobe -qa crc32c_generic ext4
for drivers in 'virtio_pci virtio_blk' 'xen_blkfront' 'virtio_scsi sd_mod'; do
    # the drivers by name: each is a word
    # shellcheck disable=SC2086
    $bb modprobe -a $drivers
    if mount_root 10 || { [ "$drivers" = 'virtio_scsi sd_mod' ] && mount_root 300; }; then
        $bb umount /proc /sys
        $bb mount --move /dev /sysroot/dev
        exec $bb switch_root /sysroot /sbin/init
    fi
done
echo "store-deploy: no disk has $root; this is a shell to look around" > /dev/console
exec $bb sh < /dev/console > /dev/console 2>&1
