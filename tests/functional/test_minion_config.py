# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the seed says is what the minion goes by, whatever else the image has for it."""

import json
import pathlib

import pytest
import salt.config

from storelib import seed
from storemaster.deployment import spec

STORE = {
    "store": "0815",
    "image": {"source": "/x", "sha256": "5e" * 32},
    "master": "salt.example.com",
}
ID = "store-0815"
HOSTILE = {
    "master": {"master": "other.example.com"},
    "masters": {"master": ["a.example.com", "b.example.com"], "master_type": "failover"},
    "master's key": {"master_finger": "00:11", "verify_master_pubkey_sign": False},
    "masterless": {"master_type": "disable", "file_client": "local"},
    "id": {"id": "image"},
    "domain": {"append_domain": "example.com"},
    "no cached id": {"minion_id_caching": False},
    "startup": {"startup_states": "highstate", "sls_list": ["site", "other"]},
    "no startup": {"startup_states": ""},
    "top": {"startup_states": "top", "top_file": "x.sls"},
    "saltenv": {"saltenv": "test", "pillarenv": "test"},
    "environment": {"environment": "test"},
    "keys": {"pki_dir": "/srv/pki"},
    "test": {"test": True},
}
NAMES = ("99-image.conf", "_image.conf", "susemanager.conf", "zzz.conf", "~image.conf", "")
"""The last one is the minion's main file."""


@pytest.fixture(params=["salt-minion", "venv-salt-minion"])
def guest(tmp_path, request):
    """Return where the guest's minion has its configuration, as the seed has left it."""
    plain = spec.from_pillar({**STORE, "minion": request.param}, "hv-0815").as_dict()
    made = seed.documents(plain, 1, "PRIVATE", "PUBLIC", "MASTER")
    user = json.loads(made["user-data"].removeprefix("#cloud-config\n"))
    for file in user["write_files"]:
        path = tmp_path / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"])
    return tmp_path / seed.CONFIG[request.param].lstrip("/")


def effective(folder):
    """Return what a minion would go by."""
    return salt.config.minion_config(str(folder / "minion"), minion_id="host-name")


ALL = {key: value for hostile in HOSTILE.values() for key, value in hostile.items()}


@pytest.mark.parametrize(
    ("name", "hostile"),
    [*(("zzz.conf", hostile) for hostile in HOSTILE.values()), *((name, ALL) for name in NAMES)],
    ids=[*HOSTILE, *NAMES[:-1], "main"],
)
def test_no_file_of_the_images_outvotes_the_seed(guest, name, hostile):
    path = guest / "minion.d" / name if name else guest / "minion"
    path.write_text(json.dumps(hostile))
    opts = effective(guest)
    assert (opts["master"], opts["id"]) == ("salt.example.com", ID)
    assert (opts["startup_states"], opts["sls_list"]) == ("sls", seed.FIRST_STATE)
    assert (opts["saltenv"], opts["pillarenv"]) == (None, None)
    assert (opts["master_type"], opts["file_client"]) == ("str", "remote")
    assert (opts["test"], opts["master_finger"]) == (False, "")
    assert opts["pki_dir"].endswith("/pki/minion")
    assert opts["pki_dir"] != "/srv/pki"
    told = {key: opts[key] for key in ("master", "id", "saltenv", "startup_states", "sls_list")}
    assert seed.outvoted({**STORE, "minion_id": ID}, told) == ""


def test_afterwards_master_and_id_stay_and_nothing_is_run_at_the_start(guest):
    (guest / seed.BOOTSTRAP_CONFIG).unlink()
    opts = effective(guest)
    assert (opts["master"], opts["id"], opts["startup_states"]) == ("salt.example.com", ID, "")


def test_afterwards_a_file_of_the_sites_may_say_otherwise(guest):
    (guest / seed.BOOTSTRAP_CONFIG).unlink()
    (guest / "minion.d/susemanager.conf").write_text("master: proxy.example.com")
    assert effective(guest)["master"] == "proxy.example.com"


def test_each_file_is_one_that_salt_reads(guest):
    names = [path.name for path in sorted((guest / "minion.d").glob("*.conf"))]
    assert names == [pathlib.Path(n).name for n in (seed.CONFIG_FILE, seed.BOOTSTRAP_CONFIG)]
