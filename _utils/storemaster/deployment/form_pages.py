# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Which fields the two forms for Uyuni have: ``store-defaults`` of a group, ``store-server`` of one.

They are two formulas with the same key ``store_server``, because a system's page saves all that it
shows: what a store has of its group must not be on it.
"""

from __future__ import annotations

KEY = "store_server"
DEFAULTS, SERVER = "store-defaults", "store-server"

SHOWN = {
    DEFAULTS: (
        *("group", "image", "image.source", "image.sha256", "cpus", "memory_mib", "disk_gib"),
        *("pool", "clone", "virt_type", "os_type", "firmware"),
        *("data_disks", "data_disks[].size_gib"),
        *("interfaces", "interfaces[].type", "interfaces[].source", "master", "minion"),
        *("registration", "activation_key", "system_groups"),
        *("admission", "start", "start.attempts", "start.steady_s"),
        *("verify", "verify[].tcp", "verify[].service", "verify[].command", "timeouts"),
    ),
    # No choice and no number of which 0 is one: those are saved whether they are filled in or not.
    SERVER: (
        *("store", "minion_id", "hostname", "auto_deploy", "image", "image.source", "image.sha256"),
        *("cpus", "memory_mib", "disk_gib", "data_disks", "data_disks[].size_gib"),
        *("interfaces", "interfaces[].source", "interfaces[].mac", "interfaces[].address"),
        *("interfaces[].gateway", "interfaces[].dns"),
    ),
}
"""The fields of each page. ``guest_pillar`` is on none: the guest is a system with its own page."""

TIMEOUTS = ("staging", "booting", "configuring", "verifying")
"""Limits that depend on a site's links, disks and states; the others are in the pillar only."""

OTHER_DEFAULTS = {
    (DEFAULTS, "minion"): "venv-salt-minion",
    (DEFAULTS, "interfaces"): {"eth0": {"type": "bridge", "source": "br0"}},
}
"""
Where a page begins otherwise than a pillar: Uyuni's highstate moves another minion to the Bundle;
that a list is not given, a page cannot say.
"""
