# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Images from web servers that misbehave, by a real curl: each fault is named as what it is."""

import base64
import concurrent.futures
import gzip
import hashlib
import os
import socket
import ssl
import subprocess
import threading
import time

import pytest
from web_server import WebServer, say, says

from storelib.errors import Fault
from storelib.hypervisor import images, transfer

LONG_S = 100
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(content):
    with WebServer(content) as server:
        yield server


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No proxy and no log-in of the machine's, and no pauses."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSES_S", (0,))
    monkeypatch.setattr(transfer, "TRIES", 4)
    monkeypatch.setattr(transfer, "NETRC", tmp_path / "netrc")


@pytest.fixture
def image(tmp_path, sha256):
    return tmp_path / "images" / f"{sha256}.qcow2"


@pytest.fixture
def stage(server, image, sha256):
    """Stage the image, and check that nothing but the image and its lock is left of it."""

    def stage(url=server.url, limit_s=LONG_S, access=None, sha256=sha256):
        access = access or transfer.Access()
        images.stage(url, image, sha256, None, access, limit_s)
        assert image.read_bytes() == server.content
        left = {each.suffix for each in image.parent.iterdir()}
        assert left == {".qcow2", ".lock", ".verified"}

    return stage


@pytest.fixture
def refused(stage, image):
    """Stage the image, which must fail, and return its sentence with the hint."""

    def refused(*arguments, **named):
        with pytest.raises(Fault) as fault:
            stage(*arguments, **named)
        assert not image.exists()
        assert "\n" not in f"{fault.value}{fault.value.hint}"
        assert fault.value.hint
        return f"{fault.value}: {fault.value.hint}"

    return refused


@pytest.fixture
def half(server, image):
    """Half of the image is here, of the file that the server has."""

    def half(etag='"1"'):
        image.parent.mkdir(parents=True)
        size = len(server.content) // 2
        image.with_suffix(".part").write_bytes(server.content[:size])
        if etag:
            image.with_suffix(".from").write_text(etag)
        return size

    return half


def cut(server, size=1000):
    """Answer with so many bytes of the file only, then close the connection."""

    def answer(request, out):
        asked = request.get("range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        status = "206 Partial Content" if start else "200 OK"
        full = len(server.content)
        fields = [f"Content-Range: bytes {start}-{full - 1}/{full}"] if start else []
        fields += [f"Content-Length: {full - start}", f"ETag: {server.etag}"]
        say(out, status, *fields, body=server.content[start : start + size])

    return answer


# a good server


def test_an_image_comes_at_once(stage, server):
    stage()
    stage()
    assert server.ranges == [None]


def test_a_redirect_is_followed(stage, server):
    server.answers = [says("302 Found", "Location: /elsewhere")]
    stage()
    assert [request["line"] for request in server.requests] == [
        "GET /image.qcow2 HTTP/1.1",
        "GET /elsewhere HTTP/1.1",
    ]


def test_an_image_without_a_length_comes(stage, server):
    server.answers = [says("200 OK", body=server.content)]
    stage()


def test_an_image_comes_in_chunks_with_a_trailer(stage, server):
    chunks = b"%x\r\n%b\r\n0\r\nX-Checked: yes\r\n\r\n" % (len(server.content), server.content)
    server.answers = [says("200 OK", "Transfer-Encoding: chunked", body=chunks)]
    stage()


# what breaks, and goes on


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(stage, server):
    server.answers = [cut(server), cut(server)]
    stage()
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-"]
    assert server.requests[1]["if-range"] == '"1"'


def test_a_transfer_that_was_killed_goes_on_where_it_stopped(stage, server, half):
    size = half()
    stage()
    assert server.ranges == [f"bytes={size}-"]


def test_a_transfer_killed_after_its_last_byte_is_not_repeated(stage, server, image):
    image.parent.mkdir(parents=True)
    image.with_suffix(".part").write_bytes(server.content)
    stage()
    assert len(server.requests) == 1


def test_a_part_longer_than_the_file_begins_anew(stage, server, image):
    image.parent.mkdir(parents=True)
    image.with_suffix(".part").write_bytes(server.content + b"stale")
    stage()
    assert server.ranges == [f"bytes={len(server.content) + 5}-", None]


def test_a_file_that_changed_begins_anew(stage, server, half):
    size = half(etag='"of old"')
    stage()
    assert server.ranges == [f"bytes={size}-"]
    assert server.requests[0]["if-range"] == '"of old"'


@pytest.mark.parametrize(
    ("field", "noted"), [("ETag: W/1", None), (f"ETag: W/1\r\nLast-Modified: {DATE}", DATE)]
)
def test_a_weak_mark_is_not_used(stage, server, field, noted):
    head = (f"Content-Length: {len(server.content)}", field)
    server.answers = [says("200 OK", *head, body=server.content[:1000])]
    server.etag = noted or server.etag
    stage()
    assert server.requests[1].get("if-range") == noted


def test_a_stale_part_without_a_mark_begins_anew(stage, server, image, half):
    size = half(etag=None)
    image.with_suffix(".part").write_bytes(bytes(size))
    stage()
    assert server.ranges == [f"bytes={size}-", None]


@pytest.mark.parametrize(
    "range_", ["Content-Range: bytes 0-9/20", "Content-Range: bytes x", "X-None: 1"]
)
def test_another_part_than_asked_for_is_not_appended(stage, refused, server, half, range_):
    size = half()
    wrong = says("206 Partial Content", range_, "Content-Length: 10", body=bytes(10))
    server.answers = [wrong]
    stage()
    assert server.ranges == [f"bytes={size}-", None]


def test_a_server_that_never_sends_the_part_that_was_asked_for_is_named(refused, server, half):
    size = half()
    wrong = says("206 Partial Content", "Content-Range: bytes 7-16/20", body=bytes(10))
    server.answers = [wrong] * 10
    assert (
        "the server sends another part than asked for (all of it; its Content-Range: "
        "bytes 7-16/20) (tries: 4, bytes here: 0)"
    ) in refused()
    assert server.ranges == [f"bytes={size}-", None, None, None]


def test_a_part_of_a_part_is_completed(stage, server):
    whole = len(server.content)

    def answer(request, out):
        fields = (f"Content-Range: bytes 1000-1999/{whole}", "Content-Length: 1000")
        say(out, "206 Partial Content", *fields, body=server.content[1000:2000])

    server.answers = [cut(server), answer]
    stage()
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-"]


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_busy_server_is_asked_again(stage, server, status):
    server.answers = [says(status, body=b"<html>later</html>")] * 6
    stage()


@pytest.mark.parametrize("date", [False, True])
def test_a_busy_server_says_when_it_is_asked_again(stage, refused, server, monkeypatch, date):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    later = transfer.email.utils.formatdate(time.time() + 30, usegmt=True) if date else "30"
    server.answers = [says("503 Busy", f"Retry-After: {later}")]
    stage()
    assert len(slept) == 1
    assert 28 <= slept[0] <= 30
    assert transfer._seconds("soon") == 0


def test_a_server_that_is_busy_for_too_long_is_named(refused, server):
    server.answers = [says("503 Service Unavailable", "Retry-After: 1000")]
    assert (
        f"the image {server.url} cannot be fetched: the server answers 503 Service Unavailable "
        "(tries: 1, bytes here: 0)"
    ) in refused()


def test_a_line_that_brings_nothing_new_is_given_up(refused, stage, server):
    server.answers = [cut(server), *[cut(server, 0)] * 4]
    assert (
        f"the image {server.url} cannot be fetched: the server closed the connection "
        "(tries: 5, bytes here: 1000)"
    ) in refused()
    server.requests.clear()
    stage()
    assert server.ranges == ["bytes=1000-"]


def test_a_server_without_ranges_is_given_up(refused, server):
    server.etag = '"another each time"'
    one = says("200 OK", "Content-Length: 5000", body=server.content[:1000])
    server.answers = [one] * 5
    assert "the server closed the connection (tries: 5, bytes here: 1000)" in refused()


# what does not get better


def test_a_silent_server_is_named(refused, server, monkeypatch):
    monkeypatch.setattr(transfer, "SILENT_S", 1)
    monkeypatch.setattr(transfer, "TRIES", 1)
    server.answers = [lambda *_: server.over.wait()]
    assert "less than 1024 bytes a second came for 1 s" in refused()


def test_a_server_that_dribbles_ends_in_time(refused, server, image):
    def dribbling(_, out):
        say(out, "200 OK", "Content-Length: 200000", body=server.content[:4])
        out.flush()
        while not server.over.wait(0.02):
            # Fast enough for curl's own idea of a stall.
            out.write(bytes(100))
            out.flush()

    server.answers = [dribbling]
    assert "it took longer than 2.0 s" in refused(limit_s=2)
    # Its lock is free.
    with images._alone(image):
        pass


def test_a_redirect_without_end_is_named(refused, server):
    server.answers = [says("302 Found", "Location: /image.qcow2")] * 10
    assert "Maximum (5) redirects followed" in refused()
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/hostname",
        "http://[::1/x",
        "http://images..example.com/x",
        f"http://{'a' * 70}.example.com/x",
    ],
)
def test_a_redirect_to_where_nothing_can_be_is_named(refused, server, target):
    server.answers = [says("302 Found", f"Location: {target}?token=secret")] * 10
    sentence = refused()
    assert f"the server redirects to {target}: " in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    "url", ["http://images..example.com/x", "http://[::1/x", f"http://{'a' * 70}.example.com/x"]
)
def test_a_malformed_url_is_named(refused, url):
    assert f"the image {url} cannot be fetched: " in refused(url)


def test_a_server_that_is_down_is_named(refused):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/image.qcow2"
    assert f"the image {url} cannot be fetched: Failed to connect to 127.0.0.1" in refused(url)


def test_a_name_that_does_not_resolve_is_named(refused):
    assert "Could not resolve host: none.invalid" in refused("http://none.invalid/x")


def test_a_server_that_says_nothing_is_named(refused, server):
    server.answers = [lambda *_: None] * 10
    assert "Empty reply from server" in refused()


def test_what_is_no_http_is_named(refused, server):
    server.answers = [lambda _, out: out.write(b"SSH-2.0-OpenSSH_9.2\r\n")] * 10
    assert "what the server answers is no HTTP" in refused()


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "400 Bad Request"])
def test_a_missing_image_is_named_at_once(refused, server, status):
    server.answers = [says(status, body=b"<html>")]
    assert refused() == (
        f"the image {server.url} cannot be fetched: the server answers {status}: "
        "put the image there or correct image.source in the pillar"
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", ["12, 12", "many", "-1", "12\r\nContent-Length: 12"])
def test_a_length_that_is_none_is_named(refused, server, length):
    server.answers = [says("200 OK", f"Content-Length: {length}", body=server.content[:12])] * 10
    assert "Content-Length" in refused()


def test_a_packed_body_is_named(refused, server):
    body = gzip.compress(server.content)
    fields = ("Content-Encoding: gzip", f"Content-Length: {len(body)}")
    server.answers = [says("200 OK", *fields, body=body)]
    assert "the server sends it packed (Content-Encoding: gzip), which was not asked" in refused()


@pytest.mark.parametrize(
    ("body", "fields", "kind"),
    [
        (
            b"\n <!DOCTYPE html><title>Log in",
            ["Content-Type: text/html"],
            "a web page (Content-Type: text/html), perhaps a log-in page",
        ),
        (
            b"please log in",
            ["Content-Type: text/html; charset=utf-8"],
            "text ('please log in') (Content-Type: text/html; charset=utf-8), perhaps a log-in",
        ),
        (b'{"error": "token expired"}', [], """text ('{"error": "token expired"}')"""),
        (gzip.compress(b"x" * 100), [], "a gzip file"),
        (b"\xfd7zXZ\x00" + bytes(50), [], "an xz file"),
        (bytes(100), [], "a file of unknown kind"),
        (b"", ["Content-Length: 0"], "an empty file"),
        (b"", [], "an empty file"),
    ],
    ids=["page", "called a page", "text", "gzip", "xz", "zeros", "nothing", "no length"],
)
def test_what_is_no_image_is_named(refused, server, image, body, fields, kind):
    server.answers = [says("200 OK", *fields, body=body)]
    assert f"cannot be fetched: what the server sends is {kind}" in refused()
    assert len(server.requests) == 1
    assert [each.suffix for each in image.parent.iterdir()] == [".lock"]


def test_an_image_that_is_called_a_web_page_comes_all_the_same(stage, server):
    server.answers = [says("200 OK", "Content-Type: text/html", body=server.content)]
    stage()


def test_a_wrong_checksum_says_what_came(refused, server, image, sha256):
    other = "0" * 64
    assert (
        f"has the sha256 {sha256}, the pillar says {other}; it is a qcow2 file of "
        f"{len(server.content)} bytes: correct"
    ) in refused(sha256=other)
    assert [each.suffix for each in image.parent.iterdir()] == [".lock"]


def test_a_body_that_was_cut_without_a_length_is_named(refused, server, image):
    server.answers = [says("200 OK", body=server.content[:5000])]
    assert "of 5000 bytes, of a length that the server did not tell: it may be cut" in refused()
    assert [each.suffix for each in image.parent.iterdir()] == [".lock"]


# who may


def test_no_log_in_or_token_of_a_url_is_shown(refused, server):
    server.answers = [says("403 Forbidden")]
    url = server.url.replace("http://", "http://me:secret@") + "?token=secret#secret"
    sentence = refused(url)
    assert server.url in sentence
    assert "secret" not in sentence


def test_a_log_in_comes_from_the_hypervisors_own_file(stage, refused, server):
    server.answers = [says("401 Unauthorized")]
    assert f"a log-in for the server goes into {transfer.NETRC}" in refused()
    transfer.NETRC.write_text("machine 127.0.0.1 login me password secret\n")
    transfer.NETRC.chmod(0o600)
    stage()
    said = base64.b64decode(server.requests[-1]["authorization"].removeprefix("Basic "))
    assert said == b"me:secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_log_ins_that_others_can_read_or_change_are_refused(refused, server, mode):
    transfer.NETRC.write_text("machine 127.0.0.1 login me password secret\n")
    transfer.NETRC.chmod(mode)
    assert f"{transfer.NETRC} is not a file that only root can read and change" in refused()
    assert not server.requests


def test_the_minions_proxy_is_used_and_its_password_is_in_no_command_line(
    stage, server, monkeypatch
):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda command, **rest: started.append(command) or popen(command, **rest),
    )
    proxy = {"proxy_host": "127.0.0.1", "proxy_port": server.server_address[1]}
    login = {"proxy_username": "me", "proxy_password": 'se"cr\\et'}
    stage("http://images.example.com/x", access=transfer.Access.of({**proxy, **login}))
    (request,) = server.requests
    assert request["line"] == "GET http://images.example.com/x HTTP/1.1"
    said = base64.b64decode(request["proxy-authorization"].removeprefix("Basic "))
    assert said == b'me:se"cr\\et'
    assert started[0] == ["curl", "-q", "--config", "-"]


def test_a_proxy_that_wants_a_log_in_is_named(refused, server):
    server.answers = [says("407 Proxy Authentication Required")]
    assert "correct the minion's proxy_username" in refused()


@pytest.mark.parametrize("direct", [["127.0.0.1"], "localhost,127.0.0.1"])
def test_no_proxy_is_used_where_the_minion_says_so(stage, server, direct):
    stage(
        access=transfer.Access.of({"proxy_host": "x.invalid", "proxy_port": 1, "no_proxy": direct})
    )
    assert server.requests[0]["line"] == "GET /image.qcow2 HTTP/1.1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            path,
            "-out",
            path.with_suffix(".crt"),
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def secure(content, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_suffix(".crt"), certificate)
    with WebServer(content, context) as server:
        yield server


def test_a_certificate_is_checked_with_the_minions_ca_bundle(stage, refused, secure, certificate):
    sentence = refused(secure.url)
    assert "SSL certificate problem" in sentence
    assert "ca_bundle" in sentence
    stage(
        secure.url, access=transfer.Access.of({"ca_bundle": str(certificate.with_suffix(".crt"))})
    )


def test_a_ca_bundle_that_is_not_there_is_named(refused, secure):
    assert "/none.pem" in refused(secure.url, access=transfer.Access.of({"ca_bundle": "/none.pem"}))


def test_a_missing_curl_is_named(refused, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused() == "curl is not installed: install curl"


# beside others


def test_a_second_job_tells_that_it_waits(stage, server, image, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE_S", 0)
    asked, go = threading.Event(), threading.Event()

    def slow(request, out):
        asked.set()
        go.wait()
        server.answer(request, out)

    server.answers = [slow]
    first = threading.Thread(target=stage)
    first.start()
    assert asked.wait(LONG_S)
    with pytest.raises(images.Busy, match="another job of this hypervisor brings the image, 0 MiB"):
        stage()
    monkeypatch.setattr(images, "PATIENCE_S", LONG_S)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        second = pool.submit(stage)
        go.set()
        second.result()
    first.join()
    assert len(server.requests) == 1


# only looked for

BEGINNING = b"QFI\xfb"


def looked_for(source):
    """Return the length of an image, or the fault that is found."""
    try:
        return images.length(source, transfer.Access(), 2, "copy")
    except Fault as fault:
        return fault


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (says("206 Partial Content", "Content-Range: bytes 0-3/70000", body=BEGINNING), 70000),
        (says("200 OK", "Content-Length: 4", body=BEGINNING), 4),
        (says("200 OK", body=BEGINNING), None),
        (says("206 Partial Content", "Content-Range: bytes 0-3/*", body=BEGINNING), None),
    ],
    ids=["a part", "all of it", "of unknown length", "a part of unknown length"],
)
def test_an_image_that_can_be_fetched_has_no_fault_and_its_length_is_known(server, answer, length):
    server.answers = [answer]
    assert looked_for(server.url) == length
    assert server.ranges == ["bytes=0-3"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says("404 Not Found"), "the server answers 404 Not Found"),
        (says("503 Busy"), "the server answers 503 Busy"),
        (says("200 OK", body=b"<html>"), "perhaps a log-in page"),
    ],
)
def test_why_an_image_cannot_be_fetched_is_told_at_once(server, answer, why):
    server.answers = [answer] * 2
    assert why in str(looked_for(server.url))
    assert len(server.requests) == 1


def test_a_server_is_looked_at_for_some_seconds_only(server, monkeypatch):
    monkeypatch.setattr(transfer, "PROBE_S", 0.5)
    server.answers = [lambda *_: server.over.wait()]
    assert "cannot be fetched: it took longer than " in str(looked_for(server.url))


def made(path, size="1G", *options):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    return str(path)


def test_a_path_is_looked_at(tmp_path):
    def wrong(path):
        return str(looked_for(str(path)))

    good = made(tmp_path / "good")
    assert looked_for(good) == os.path.getsize(good)
    assert "does not exist on the hypervisor" in wrong("/none")
    assert "is no file on the hypervisor" in wrong("/etc")
    (tmp_path / "empty").touch()
    assert wrong(tmp_path / "empty").endswith("empty is not in the format qcow2")
    backed = made(tmp_path / "backed", "1G", "-F", "qcow2", "-b", tmp_path / "good")
    assert "needs another file" in wrong(backed)
    assert wrong(made(tmp_path / "large", "3G")).startswith("the disk (2 GiB) is smaller than")
    old = made(tmp_path / "old", "1G", "-o", "compat=0.10")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", old], check=True)
    assert wrong(old).startswith("the image cannot be grown")
