# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The guest's seed: the three documents that cloud-init's NoCloud data source reads.

Sources: cloud-init's documentation of NoCloud, of ``write_files`` and of network
configuration version 2; Salt's documentation of ``startup_states`` and of the minion's key files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

BOOTSTRAP = "/etc/store-deploy/bootstrap.json"
"""Names the deployment to the guest; there only until the deployment has ended."""

CONFIG = {"salt-minion": "/etc/salt", "venv-salt-minion": "/etc/venv-salt-minion"}
"""Configuration folder of each kind of minion: distribution package, Uyuni's Salt Bundle."""

BOOTSTRAP_CONFIG = "minion.d/~store-deploy-bootstrap.conf"
"""
What the minion goes by until the deployment has ended, whatever else is in the image: Salt reads
the files in the order of their names, and the last one wins.
"""

BOOTSTRAP_CONFIGS = (BOOTSTRAP_CONFIG, "minion.d/90-store-deploy-bootstrap.conf")
"""With the name that it had in guests of an earlier version."""

CONFIG_FILE = "minion.d/10-store-deploy.conf"
"""What stays; a file of the site's that sorts after it wins."""

REGISTRATION_GRAIN = "susemanager"
REGISTRATION_KEYS = {"activation_key", "management_key"}
"""The grain with the keys by which Uyuni registers a system, and these."""

FIRST_STATE = "provisioning_helper.firstboot"


def documents(
    spec: Mapping[str, Any],
    generation: int,
    private_key: str,
    public_key: str,
    master_public_key: str,
    registration: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """
    Return the seed's documents as ``{file name: text}``.

    spec
        The store's spec, as the modules get it.
    generation
        Number of the deployment.
    private_key, public_key
        The guest's key pair, PEM.
    master_public_key
        Public key of the only master that the guest may trust, PEM.
    registration
        The keys with which Uyuni knows the guest: ``activation_key``, ``management_key``.
    """
    meta = {
        "instance-id": f"{spec['minion_id']}-g{generation}",
        "local-hostname": spec["hostname"],
    }
    user = {
        "hostname": spec["hostname"].partition(".")[0],
        "fqdn": spec["hostname"],
        "write_files": _files(
            *(spec, generation, private_key, public_key, master_public_key, registration or {})
        ),
    }
    # JSON is YAML, and has no quoting traps.
    return {
        "meta-data": _json(meta),
        "network-config": _json(network(spec["interfaces"])),
        "user-data": "#cloud-config\n" + _json(user),
    }


def outvoted(spec: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """
    Say by which other settings than the seed's the guest's minion goes, if so.

    config
        What the guest reports: ``master``, ``id``, ``saltenv``, ``startup_states``, ``sls_list``.
    """
    ours = {
        "master": str(config["master"]).strip("[]").lower() == spec["master"].strip("[]").lower(),
        "id": config["id"] == spec["minion_id"],
        "saltenv": config["saltenv"] in (None, "base"),
        "startup_states": config["startup_states"] == "sls",
        "sls_list": config["sls_list"] in (FIRST_STATE, [FIRST_STATE]),
    }
    return ", ".join(f"{key}: {config[key] or 'none'}" for key, right in ours.items() if not right)


def network(interfaces: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return cloud-init's network configuration, version 2, for the spec's interfaces."""
    return {
        "version": 2,
        "ethernets": {
            interface["name"]: {
                "match": {"macaddress": interface["mac"]},
                "set-name": interface["name"],
                **_addressing(interface),
            }
            for interface in interfaces
        },
    }


def _addressing(interface: Mapping[str, Any]) -> dict[str, Any]:
    if interface["address"] == "dhcp":
        return {"dhcp4": True}
    addressing: dict[str, Any] = {"addresses": [interface["address"]]}
    if interface.get("gateway"):
        # Not "default": cloud-init of Debian 12 takes that for an address.
        everywhere = "::/0" if ":" in interface["gateway"] else "0.0.0.0/0"
        addressing["routes"] = [{"to": everywhere, "via": interface["gateway"]}]
    if interface.get("dns"):
        addressing["nameservers"] = {"addresses": list(interface["dns"])}
    return addressing


def _files(
    spec: Mapping[str, Any],
    generation: int,
    private_key: str,
    public_key: str,
    master_public_key: str,
    registration: Mapping[str, str],
) -> list[dict[str, str]]:
    config = CONFIG[spec["minion"]]
    bootstrap = {
        "store": spec["store"],
        "generation": generation,
        "minion_id": spec["minion_id"],
        "hostname": spec["hostname"],
    }
    stays = {"master": spec["master"], "id": spec["minion_id"]}
    until_then = {
        **stays,
        **{"append_domain": "", "master_type": "str", "master_finger": "", "file_client": "remote"},
        **{"pki_dir": f"{config}/pki/minion", "environment": None, "saltenv": None},
        **{"pillarenv": None, "test": False, "startup_states": "sls"},
        # No list, though Salt warns of that: it would be added to a list of the image's.
        "sls_list": FIRST_STATE,
    }
    if registration:
        # Where Uyuni looks; a key of its own is in no file that its states change.
        until_then["grains"] = {REGISTRATION_GRAIN: dict(registration)}
    contents = {
        f"{config}/pki/minion/minion.pem": ("0400", private_key),
        f"{config}/pki/minion/minion.pub": ("0644", public_key),
        f"{config}/pki/minion/minion_master.pub": ("0644", master_public_key),
        f"{config}/{CONFIG_FILE}": ("0644", _json(stays)),
        f"{config}/{BOOTSTRAP_CONFIG}": ("0600" if registration else "0644", _json(until_then)),
        BOOTSTRAP: ("0644", _json(bootstrap)),
        # Last: an image may start its minion as soon as there is an ID.
        f"{config}/minion_id": ("0644", spec["minion_id"]),
    }
    return [
        {"path": path, "permissions": mode, "content": text}
        for path, (mode, text) in contents.items()
    ]


def _json(data: object) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"
