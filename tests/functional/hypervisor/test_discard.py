# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.discard, on a real libvirt."""

import pathlib
import subprocess
from xml.etree import ElementTree

import pytest
from on_hypervisor import (
    dumped,
    left,
)


def test_a_new_server_is_discarded_and_nothing_else(done, connection, place):
    done("stage", "define", "start")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")
    facts = done("discard")
    assert facts["domain"] == {"exists": False}
    assert (facts["disk"]["exists"], facts["seed"]["exists"]) == (False, False)
    assert connection.listAllDomains() == []
    assert left(place) == []
    assert place.data_disk("data").exists()
    assert place.image.exists()
    assert facts["left"] == []
    assert done("discard") == facts


def test_what_could_not_be_discarded_is_named(done, place, nvram, monkeypatch):
    """Stands in for a disk that cannot be removed, so that the definition stays as well."""
    done("stage", "define")
    assert done("discard", generation=2)["left"] == [], "it is another deployment's"
    subprocess.run(["virsh", "undefine", "store-0815"], check=True, capture_output=True)
    assert done("discard")["left"] == [str(place.disk), str(place.seed), str(nvram)]


def test_where_nothing_was_made_nothing_is_discarded(done, pool):
    assert done("discard")["domain"] == {"exists": False}
    assert [
        path for path in pool.rglob("*") if path.is_file() and path.parent.name != "locks"
    ] == []


@pytest.mark.parametrize("generation", [1, 3])
def test_the_server_of_another_deployment_is_not_discarded(done, connection, place, generation):
    done("stage")
    done("define", "start", generation=2)
    before = connection.lookupByName("store-0815").ID()
    facts = done("discard", generation=generation)
    assert facts["domain"]["generation"] == 2
    assert connection.lookupByName("store-0815").ID() == before
    assert place.disk.exists()
    assert place.seed.exists()


def test_what_was_set_aside_is_not_discarded(done, place, impatient):
    done("stage", "define")
    put = done("clear", generation=2)["set_aside"]
    done("define", generation=2)
    done("discard", generation=2)
    assert left(place) == []
    assert pathlib.Path(put["path"], "disk.qcow2").exists()


def test_a_disk_without_a_domain_is_not_discarded(done, place):
    place.disk.write_text("somebody's")
    assert done("discard")["disk"]["exists"]
    assert place.disk.read_text() == "somebody's"


def test_nvram_in_another_place_is_discarded_too(done, connection, place, tmp_path):
    done("stage", "define")
    nvram = place.pool / "vars.fd"
    nvram.write_text("boot order")
    defined = dumped(connection)
    ElementTree.SubElement(defined.find("os"), "loader", {"readonly": "yes", "type": "pflash"})
    defined.find("os/loader").text = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    ElementTree.SubElement(defined.find("os"), "nvram").text = str(nvram)
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))
    done("discard")
    assert not nvram.exists()
