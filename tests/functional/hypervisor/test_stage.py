# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.stage, on a real libvirt."""

import contextlib
import pathlib
import shutil
import subprocess

import pytest
from on_hypervisor import (
    globals_of,
    qemu_img,
    sha256,
)
from salt.exceptions import SaltClientError, SaltReqTimeoutError
from web_server import says

from storelib.hypervisor import domains, images
from storelib.hypervisor.place import Place


def test_an_image_comes_from_a_path(done, place, spec):
    staged = done("stage")["image"]
    assert staged["path"] == str(place.image)
    assert staged["sha256"] == spec["image"]["sha256"] == sha256(place.image)


def test_an_image_comes_from_the_fileserver(done, refused, place, spec, image, minion_opts):
    served = pathlib.Path(minion_opts["file_roots"]["base"][0]) / "store.qcow2"
    spec["image"]["source"] = "salt://store.qcow2"
    assert refused("stage") == "the master does not serve the image salt://store.qcow2"
    served.write_bytes(image.read_bytes())
    assert done("stage")["image"]["sha256"] == sha256(place.image)


def test_an_image_comes_from_a_web_server_once(done, spec, server):
    spec["image"]["source"] = server.url
    assert done("stage")["image"]["sha256"] == spec["image"]["sha256"]
    done("stage")
    assert server.ranges == [None]


def test_a_missing_image_is_one_sentence(call, refused, spec, server):
    spec["image"]["source"] = server.url
    server.answers = [says("404 Not Found")]
    assert "cannot be fetched: the server answers 404 Not Found" in refused("stage")
    spec["image"]["source"] = "/srv/none.qcow2"
    assert refused("stage") == "the image /srv/none.qcow2 does not exist on the hypervisor"
    assert call("facts")["facts"]["source_error"] == ""
    assert call("facts", source=True)["facts"]["source_error"].startswith(
        "the image /srv/none.qcow2 does not exist on the hypervisor: put the"
    )


def test_an_image_that_is_here_is_not_looked_for(done, spec, server):
    spec["image"]["source"] = server.url
    found = done("facts", source=True)
    assert (found["source_error"], found["image_length"]) == ("", len(server.content))
    assert server.ranges == ["bytes=0-3"]
    done("stage")
    server.requests.clear()
    found = done("facts", source=True)
    assert (found["source_error"], found["image_length"]) == ("", None)
    assert found["image"]["size"] == len(server.content)
    assert not server.requests


def test_what_is_here_of_an_image_already_is_told(done, place):
    assert done("facts")["image"]["part"] == 0
    place.image.parent.mkdir(parents=True)
    place.image.with_suffix(".part").write_bytes(b"QFI\xfb")
    assert done("facts")["image"]["part"] == 4


def test_an_image_comes_by_the_minions_proxy(done, modules, spec, server, monkeypatch):
    spec["image"]["source"] = "http://images.example.com/x"
    port = server.server_address[1]
    monkeypatch.setitem(globals_of(modules)["__opts__"], "proxy_host", "127.0.0.1")
    monkeypatch.setitem(globals_of(modules)["__opts__"], "proxy_port", port)
    assert done("facts", source=True)["source_error"] == ""
    done("stage")
    assert {each["line"] for each in server.requests} == {
        "GET http://images.example.com/x HTTP/1.1"
    }


def test_a_transfer_ends_before_the_states_time_is_over(refused, spec, server):
    spec["image"]["source"] = server.url
    spec["timeouts"] = {"staging": 1}
    server.answers = [lambda *_: server.over.wait()]
    assert "it took longer than 0.9 s" in refused("stage")


def test_a_job_that_waits_for_another_says_so(done, place, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE_S", 0)
    place.image.parent.mkdir(parents=True)
    with images._alone(place.image):
        assert done("stage")["waits"] == (
            "another job of this hypervisor brings the image, 0 MiB are here"
        )
        assert not place.image.exists()
    assert "waits" not in done("stage")


@pytest.mark.parametrize("error", [SaltReqTimeoutError("Message timed out"), SaltClientError()])
def test_a_master_that_cannot_be_asked_for_the_image_is_named(refused, spec, place, stub, error):
    def broken(_, part):
        pathlib.Path(part).write_bytes(b"half")
        raise error

    spec["image"]["source"] = "salt://store.qcow2"
    stub(cp__get_file=broken)
    assert refused("stage") == (
        "the master cannot be asked for the image salt://store.qcow2: "
        f"{str(error) or type(error).__name__}"
    )
    assert [path.suffix for path in place.image.parent.iterdir()] == [".lock"]


def test_curl_is_asked_for_only_where_it_is_needed(done, spec, tmp_path, monkeypatch):
    for tool in ("qemu-img", "xorrisofs"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert done("facts")["tools_missing"] == []
        spec["image"]["source"] = "http://127.0.0.1/x"
        assert done("facts")["tools_missing"] == ["curl"]


def test_a_wrong_checksum_names_both_and_leaves_nothing(refused, spec, image, place):
    spec["image"]["sha256"] = "0" * 64
    sentence = refused("stage")
    assert sha256(image) in sentence
    assert "0" * 64 in sentence
    assert [path.suffix for path in place.image.parent.iterdir()] == [".lock"]


def test_a_damaged_image_in_the_cache_is_noticed(done, spec, server, place):
    spec["image"]["source"] = server.url
    done("stage")
    with place.image.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    assert done("facts")["image"]["sha256"] is None
    assert done("stage")["image"]["sha256"] == sha256(place.image) == spec["image"]["sha256"]
    assert len(server.requests) == 2


def test_an_image_larger_than_the_disk_is_refused(refused, spec, pool, tmp_path):
    large = tmp_path / "large.qcow2"
    qemu_img("create", "-f", "qcow2", large, "3G")
    spec["image"] = {"source": str(large), "sha256": sha256(large)}
    assert refused("stage") == "the disk (2 GiB) is smaller than the image (3 GiB)"
    assert refused("define") == "the disk (2 GiB) is smaller than the image (3 GiB)"
    assert not list(pool.glob("*.qcow2"))


@pytest.mark.parametrize(
    ("made_with", "sentence"),
    [
        (["-f", "raw"], "is not in the format qcow2"),
        (["-f", "qcow2", "-F", "raw", "-b", "{base}"], "needs another file (backing file)"),
        (["-f", "qcow2", "-o", "data_file={base}"], "needs another file (external data file)"),
        (
            ["-f", "qcow2", "-o", "data_file={base},data_file_raw=on"],
            "needs another file (external data file)",
        ),
        *(
            (
                [
                    *("-f", "qcow2", "--object", "secret,id=s,data=x"),
                    *("-o", f"encrypt.format={kind},encrypt.key-secret=s"),
                ],
                "is encrypted, which no guest here could open",
            )
            for kind in ("luks", "aes")
        ),
        (["-f", "qcow2", "CORRUPT"], "is marked as corrupt"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_an_image_that_is_no_whole_qcow2_is_refused(
    done, refused, spec, place, tmp_path, made_with, sentence, cached
):
    path, base = tmp_path / "odd.qcow2", tmp_path / "base"
    base.write_bytes(bytes(1024**2))
    words = [word.format(base=base) for word in made_with if word != "CORRUPT"]
    for _ in range(20):
        # What encrypts looks how fast the processor is, and gives up on a busy machine.
        with contextlib.suppress(subprocess.CalledProcessError):
            qemu_img("create", *words, path, "1M")
            break
    assert path.exists()
    if "CORRUPT" in made_with:
        with path.open("r+b") as file:
            # The second of the header's incompatible features.
            file.seek(79)
            file.write(b"\2")
    spec["image"] = {"source": str(path), "sha256": sha256(path)}
    if cached:
        # By a version that looked less closely.
        image = Place(place.pool, place.minion_id, spec["image"]["sha256"]).image
        image.parent.mkdir(parents=True)
        image.write_bytes(path.read_bytes())
        images._record(image, spec["image"]["sha256"])
        assert f"{sentence}: " in done("facts")["image"]["wrong"]
        assert sentence in refused("prepare")
    assert refused("stage") == f"the image {path} {sentence}"


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_an_image_that_cannot_be_grown_is_refused_where_it_would_be(
    done, refused, spec, tmp_path, clone
):
    path = tmp_path / "old.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "compat=0.10", path, "1G")
    qemu_img("snapshot", "-c", "before", path)
    spec |= {"image": {"source": str(path), "sha256": sha256(path)}, "clone": clone}
    if clone == "cow":
        done("stage", "prepare", "clear", "define", "start")
    else:
        assert refused("stage").startswith("the image cannot be grown: ")
        assert done("facts")["image"]["wrong"].startswith("the image cannot be grown: ")
        assert refused("prepare").startswith("the image cannot be grown: ")


def test_a_pool_that_is_missing_is_refused(refused, spec):
    spec["pool"] = "/var/lib/libvirt/images/none"
    for step in ("stage", "prepare", "clear", "define", "start", "finish"):
        assert refused(step) == f"the pool {spec['pool']} does not exist"


def test_a_full_pool_is_refused(done, refused, spec, pool, image, place, server):
    full = f"no free disk in {pool}: 1025 MiB needed, 1024 MiB free"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1049276k", "tmpfs", pool], check=True)
    try:
        # There is room for the image and a first boot, and none for its copy.
        assert refused("stage") == full
        assert place.image.exists()
        subprocess.run(["mount", "-o", "remount,size=1026m", pool], check=True)
        done("stage")
        subprocess.run(["mount", "-o", "remount,size=1049276k", pool], check=True)
        for step in ("prepare", "define"):
            assert refused(step) == full
        assert not place.disk.exists()
        subprocess.run(["mount", "-o", "remount,size=700k", pool], check=True)
        place.image.unlink()
        (pool / "ballast").write_bytes(bytes(400_000))
        for spec["image"]["source"] in (str(image), server.url):
            assert refused("stage").startswith("no free disk in ")
    finally:
        subprocess.run(["umount", pool], check=True)


def test_libvirt_being_down_is_refused(refused, libvirtd, monkeypatch):
    monkeypatch.setattr(domains, "BACK_S", 0)
    libvirtd.stop()
    try:
        for step in ("stage", "prepare", "clear", "define", "start", "finish"):
            assert refused(step).startswith("libvirt cannot be reached: ")
    finally:
        libvirtd.start()
