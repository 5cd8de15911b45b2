#!/bin/bash
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# kiwi runs this in the new root, after packages and overlays are in.
set -euo pipefail

# What makes a machine this machine is made or brought at its first boot.
rm -f /etc/ssh/ssh_host_*_key{,.pub} /etc/salt/minion_id /etc/venv-salt-minion/minion_id
rm -rf /etc/salt/pki /etc/venv-salt-minion/pki /var/lib/cloud
# systemd takes the machine ID from D-Bus where it has none of its own.
rm -f /var/lib/dbus/machine-id
: > /etc/machine-id
passwd --lock root

# $1 unit; an alias is not enough
exists() {
    for folder in /etc/systemd/system /usr/lib/systemd/system; do
        if [ -e "$folder/$1" ] && [ ! -L "$folder/$1" ]; then return 0; fi
    done
    return 1
}

# A store server changes when its highstate says so, not by a timer of the distribution.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service logrotate.timer man-db.timer; do
    if exists "$unit"; then systemctl disable "$unit"; fi
done

for unit in salt-minion venv-salt-minion sshd ssh ssh-host-keys grow-root \
    cloud-init systemd-networkd systemd-resolved; do
    if exists "$unit.service"; then systemctl enable "$unit.service"; fi
done

# shellcheck disable=SC1091
[ "$(. /etc/os-release; echo "$ID")" = debian ] || exit 0

# One unit runs all of cloud-init.
systemctl mask cloud-init-local.service cloud-config.service cloud-final.service cloud-init-hotplugd.socket

# Nothing has to be looked for at each boot that the image cannot have. Init scripts and rc.local it can: of a
# store's own packages.
mkdir -p /etc/systemd/system-generators
for generator in cloud-init systemd-{cryptsetup,gpt-auto,hibernate-resume,integritysetup,system-update,veritysetup}; do
    ln -s /dev/null "/etc/systemd/system-generators/$generator-generator"
done

# Not needed by a virtual machine at its start; the kernel loads on demand what somebody uses.
systemctl mask modprobe@.service dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-network-generator.service \
    systemd-pstore.service dracut-shutdown.service systemd-journald-audit.socket
systemctl disable getty@.service systemd-networkd-wait-online.service

# The hypervisor takes the seed's CD away when it likes, without asking the guest to unlock it.
sed 's/ --lock-media//' /usr/lib/udev/rules.d/60-cdrom_id.rules > /etc/udev/rules.d/60-cdrom_id.rules
echo 'dev.cdrom.lock = 0' > /etc/sysctl.d/50-cdrom.conf

# Salt's modules as bytecode that is not checked against the source again, ours as such that is.
if [ -d /usr/lib/salt ]; then
    python3 -m compileall -q -j 0 --invalidation-mode checked-hash /var/cache/salt/minion/extmods
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/salt/lib
fi

# The users, caches and catalogues are as this system needs them: nothing to update at its first boot.
touch /etc/.updated /var/.updated
