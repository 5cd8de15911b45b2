#!/bin/bash
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
#
# kiwi runs this in the new root, after packages and overlays are in.
set -euo pipefail

# What makes a machine this machine is made or brought at its first boot.
rm -f /etc/ssh/ssh_host_*_key{,.pub} /etc/salt/minion_id /etc/venv-salt-minion/minion_id
rm -rf /etc/salt/pki /etc/venv-salt-minion/pki /var/lib/cloud
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

for unit in salt-minion venv-salt-minion sshd ssh ssh-host-keys grow-root cloud-init-local \
    cloud-init systemd-networkd systemd-resolved; do
    if exists "$unit.service"; then systemctl enable "$unit.service"; fi
done
