# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Images from web servers: curl fetches, and each transfer ends with the file or with one sentence.

What a server answers is looked at before any of it is kept. A transfer that broke goes on where it
stopped, as long as the server says that the file is still the same.
"""

from __future__ import annotations

import contextlib
import email.utils
import io
import logging
import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from storelib.errors import Fault
from storelib.hypervisor import chains
from storelib.hypervisor.place import free, no_space, write

NETRC = Path("/etc/store-deploy/netrc")
"""Log-ins for servers that ask for one: pillar and job arguments are no place for them."""

SILENT_S = 30
"""Seconds that a server may be silent, or send less than :data:`SLOWEST` bytes a second."""

SLOWEST = 1024

PROBE_S = 5
"""How long a server has to show the beginning of an image, where that is all that is asked."""

TRIES = 6
"""How often in a row a transfer may bring nothing new."""

PAUSES_S = (1, 5, 15, 30, 60)
"""Pauses between tries, unless the server says how long."""

REDIRECTS = 5

CHUNK = 64 * 1024

KINDS = {
    chains.MAGIC: "a qcow2 file",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"BZh": "a bzip2 file",
    b"PK\x03\x04": "a zip file",
}
"""What a file is, by its first bytes."""

FINAL = {
    **dict.fromkeys((1, 3, 8, 47), "correct image.source in the pillar, or the server"),
    **dict.fromkeys((2, 4, 26), "see to curl and its files on the hypervisor"),
    **dict.fromkeys(
        (51, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91),
        "see to the server's certificate and the hypervisor's clock; the certificates of a CA of "
        "your own go into the minion's ca_bundle",
    ),
}
"""Exit codes of curl that another try does not change, and what to do."""

NAME_HINT = "correct the name, or see to the hypervisor's name resolution"
SOURCE_HINT = "put the image there or correct image.source in the pillar"
LINE_HINT = "see to the server and the line (the transfer goes on where it stopped)"
SERVER_HINT = "see to the server or what is between it and the hypervisor"

log = logging.getLogger(__name__)


class Broken(Fault):
    """What may be over at the next try; ``busy`` if it is the server that says so."""

    def __init__(
        self, error: str, hint: str = LINE_HINT, busy: bool = False, after_s: float = 0
    ) -> None:
        super().__init__(error, hint)
        self.busy = busy
        self.after_s = after_s


@dataclass(frozen=True)
class Access:
    """How this minion gets to web servers."""

    proxy: str = ""
    login: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    ca_bundle: str = ""

    @classmethod
    def of(cls, opts: Mapping[str, Any]) -> Access:
        """Read the minion's configuration, as Salt does for its own transfers."""
        host, port = opts.get("proxy_host"), opts.get("proxy_port")
        user, password = opts.get("proxy_username"), opts.get("proxy_password")
        direct = opts.get("no_proxy") or ()
        return cls(
            proxy=f"http://{host}:{port}" if host and port else "",
            login=f"{user}:{password}" if user and password else "",
            no_proxy=tuple(direct.split(",") if isinstance(direct, str) else map(str, direct)),
            ca_bundle=str(opts.get("ca_bundle") or ""),
        )


@dataclass(frozen=True)
class Came:
    """How a file came: all at once or not, and whether the server said how long it is."""

    whole: bool
    sized: bool


@dataclass(frozen=True)
class Head:
    """An answer's status line and fields."""

    status: int
    reason: str
    fields: Mapping[str, str]

    @property
    def says(self) -> str:
        """The status, for a sentence."""
        return f"the server answers {self.status} {self.reason}".strip()

    @property
    def part(self) -> tuple[int, int | None] | None:
        """First byte and length of the whole file, of which this is a part."""
        pattern = r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)"
        found = re.fullmatch(pattern, self.fields.get("content-range", ""))
        if not found:
            return None
        return int(found[1] or 0), None if found[2] == "*" else int(found[2])

    @property
    def size(self) -> int | None:
        """Length of the whole file, if the server tells it."""
        if self.status != 200:
            return self.part[1] if self.part else None
        length = self.fields.get("content-length", "")
        return int(length) if length.isdecimal() else None

    @property
    def validator(self) -> str:
        """What says that the file is still the same; a weak ETag does not say it of each byte."""
        etag = self.fields.get("etag", "")
        return etag if etag.startswith('"') else self.fields.get("last-modified", "")


def parsed(text: str) -> Head | None:
    """Return the last of the heads that curl noted: of redirects there is one each."""
    heads = [each for each in re.split(r"\r?\n\r?\n", text) if each.startswith("HTTP/")]
    if not heads:
        return None
    first, *lines = heads[-1].splitlines()
    _, status, reason = (*first.split(" ", 2), "", "")[:3]
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        # Doubled ones together are no value that anything here takes for good.
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return Head(int(status) if status.isdecimal() else 0, _printable(reason), fields)


def shown(url: str) -> str:
    """Return a URL as it may be shown: what may be a log-in or a token is left out."""
    bare = re.sub(r"[?#].*", "", re.sub(r"(?<=://).*@", "", url))
    return _printable(bare if len(bare) <= 200 else f"{bare[:197]}...")


def kind(first: bytes) -> str:
    """Say what a file is, by its first bytes."""
    for magic, name in KINDS.items():
        if first.startswith(magic):
            return name
    if not first:
        return "an empty file"
    text = first.decode(errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return "a web page"
    line = text.partition("\n")[0][:40].strip()
    return f"text ({line!r})" if line.isprintable() and line.isascii() else "a file of unknown kind"


def fetch(url: str, part: Path, access: Access, until: float) -> Came:
    """
    Fetch the file, or the rest of it, before ``until`` on the clock ``time.monotonic``.

    A busy server is asked again as long as there is time, a line that breaks as long as that brings
    more of the file.
    """
    most, tries, stuck = _size(part), 0, 0
    while True:
        tries += 1
        try:
            return _more(url, part, access, until)
        except Broken as broken:
            fault = broken
        except OSError:
            # A full disk: what cannot be completed must not fill it, with guests on it.
            _begin_anew(part)
            raise
        size = _size(part)
        stuck = 0 if size > most else stuck + 1
        pause = max(fault.after_s, PAUSES_S[min(stuck, len(PAUSES_S)) - 1]) if stuck else 0
        most = max(most, size)
        if (stuck >= TRIES and not fault.busy) or time.monotonic() + pause >= until:
            raise Fault(f"{fault} (tries: {tries}, bytes here: {size})", fault.hint)
        log.warning("%s; next try in %.0f s", fault, pause)
        time.sleep(pause)


def length(url: str, access: Access) -> int | None:
    """
    Return the image's length in bytes, if the server tells it.

    Raises what keeps the image from being fetched, as far as its first bytes tell.
    """
    with _asked(url, access, time.monotonic() + PROBE_S, ["Range: bytes=0-3"]) as answer:
        return answer.checked(0).size


def _more(url: str, part: Path, access: Access, until: float) -> Came:
    """Fetch what is not there yet."""
    have, note = _size(part), _note(part)
    wanted = []
    if have:
        wanted.append(f"Range: bytes={have}-")
        with contextlib.suppress(FileNotFoundError):
            wanted.append(f"If-Range: {note.read_text()}")
    with _asked(url, access, until, wanted) as answer:
        head = answer.checked(have)
        if head.status == 416 and have:
            if head.size != have:
                _begin_anew(part)
                raise Broken(f"{answer.what}: what came of it before is not of the file there now")
        elif head.status == 206 and (head.part is None or head.part[0] != have):
            _begin_anew(part)
            range_ = _printable(head.fields.get("content-range", "")) or "none"
            wanted_part = f"from byte {have} on" if have else "all of it"
            raise Broken(
                f"{answer.what}: the server sends another part than asked for ({wanted_part}; "
                f"its Content-Range: {range_})",
                SERVER_HINT,
            )
        else:
            start = have if head.status == 206 else 0
            if head.size is not None and head.size - start > free(part.parent):
                raise no_space(part.parent, head.size - start)
            with part.open("ab" if start else "wb") as file:
                note.unlink(missing_ok=True)
                if head.validator:
                    write(note, head.validator)
                answer.copied(file)
            answer.ended()
            if head.size is not None and _size(part) < head.size:
                raise Broken(f"{answer.what}: the server sent only a part of it")
    note.unlink(missing_ok=True)
    return Came(head.status == 200, head.size is not None)


class _Answer:
    """What curl makes of a request: the head, then the body as it comes, then how it ended."""

    def __init__(self, what: str, curl: subprocess.Popen[bytes], heads: IO[bytes], until: float):
        self.what = what
        self.curl = curl
        self.heads = heads
        self.until = until
        self.limit_s = round(until - time.monotonic(), 1)
        self.body = cast(io.BufferedReader, curl.stdout)
        # As soon as they come: curl notes the heads first.
        self.first = self.body.read(len(chains.MAGIC))

    def checked(self, have: int) -> Head:
        """Return the answer's head; raise :class:`Fault` if what follows is not the image."""
        self.heads.seek(0)
        head = parsed(self.heads.read().decode("latin-1"))
        if not self.first:
            self.ended(head)
        if head is None:
            raise Fault(f"{self.what}: what the server answers is no HTTP", SERVER_HINT)
        if head.status == 416 and have:
            return head
        self._good_status(head)
        encoding = head.fields.get("content-encoding", "identity")
        if encoding != "identity":
            raise Fault(
                f"{self.what}: the server sends it packed (Content-Encoding: "
                f"{_printable(encoding)}), which was not asked for",
                "have the server send images as they are",
            )
        length = head.fields.get("content-length", "0")
        if not length.isdecimal():
            raise Fault(
                f"{self.what}: the server's Content-Length is no number: {_printable(length)}",
                SERVER_HINT,
            )
        begins = head.status == 200 or (not have and head.part and head.part[0] == 0)
        if begins and not self.first.startswith(chains.MAGIC):
            raise self._no_image(head)
        return head

    def _good_status(self, head: Head) -> None:
        if head.status in (200, 206):
            return
        why = f"{self.what}: {head.says}"
        if head.status == 429 or head.status >= 500:
            raise Broken(why, SERVER_HINT, True, _seconds(head.fields.get("retry-after", "")))
        if head.status == 407:
            raise Fault(why, "correct the minion's proxy_username and proxy_password")
        if head.status in (401, 403):
            raise Fault(why, f"a log-in for the server goes into {NETRC} on the hypervisor")
        raise Fault(why, SOURCE_HINT)

    def _no_image(self, head: Head) -> Fault:
        found = kind(self.first + self.body.read1(CHUNK))
        of_type = _printable(head.fields.get("content-type", ""))
        found += f" (Content-Type: {of_type})" if of_type else ""
        hint = SOURCE_HINT
        if "web page" in found or "html" in of_type:
            found += ", perhaps a log-in page"
            hint = f"correct image.source; a log-in for the server goes into {NETRC}"
        return Fault(f"{self.what}: what the server sends is {found}, no qcow2 image", hint)

    def copied(self, file: IO[bytes]) -> None:
        """Write the body as it comes."""
        chunk = self.first
        while chunk:
            file.write(chunk)
            chunk = self.body.read1(CHUNK)

    def ended(self, head: Head | None = None) -> None:
        """Raise :class:`Fault` if curl says that it did not end well."""
        assert self.curl.stderr
        said = re.search(rb"curl: \(\d+\) (.*)", self.curl.stderr.read())
        code = self.curl.wait()
        if not code:
            return
        why = _printable(said[1].decode(errors="replace")) if said else f"curl ended with {code}"
        if time.monotonic() >= self.until:
            raise Broken(f"{self.what}: it took longer than {self.limit_s} s")
        if code == 28 and "slow" in why:
            why = f"less than {SLOWEST} bytes a second came for {SILENT_S} s"
        elif code == 1 and "HTTP/0.9" in why:
            why = "what the server answers is no HTTP"
        elif code == 18:
            why = "the server closed the connection"
        elif head and 300 <= head.status < 400:
            target = shown(head.fields.get("location", ""))
            why = f"the server redirects to {target}: {why}"
        if code in FINAL:
            raise Fault(f"{self.what}: {why}", FINAL[code])
        raise Broken(f"{self.what}: {why}", NAME_HINT if code in (5, 6) else LINE_HINT)


@contextlib.contextmanager
def _asked(url: str, access: Access, until: float, fields: list[str]) -> Iterator[_Answer]:
    """Ask for the file; what was not read of the answer when the block ends is not fetched."""
    with tempfile.TemporaryFile() as heads:
        # On stdin: other users can read a command line.
        config = _config(url, access, until, heads.fileno(), fields)
        try:
            curl = subprocess.Popen(
                ["curl", "-q", "--config", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[heads.fileno()],
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise Fault("curl is not installed", "install curl") from None
        with curl:
            try:
                assert curl.stdin
                with contextlib.suppress(BrokenPipeError), curl.stdin:
                    curl.stdin.write(config.encode())
                what = f"the image {shown(url)} cannot be fetched"
                yield _Answer(what, curl, heads, until)
            finally:
                curl.kill()


def _config(url: str, access: Access, until: float, heads: int, fields: list[str]) -> str:
    """Return what curl reads: one option a line."""
    left_s = max(until - time.monotonic(), 0.1)
    options: list[tuple[str, Any]] = [
        ("url", url),
        ("dump-header", f"/dev/fd/{heads}"),
        ("proto", "=http,https"),
        ("proto-redir", "=http,https"),
        ("max-redirs", REDIRECTS),
        ("connect-timeout", min(SILENT_S, left_s)),
        ("speed-time", SILENT_S),
        ("speed-limit", SLOWEST),
        ("max-time", left_s),
        ("header", "Accept-Encoding: identity"),
        *(("header", field) for field in fields),
    ]
    if access.proxy:
        # Also if it is empty: the environment's is of another proxy.
        options += [("proxy", access.proxy), ("noproxy", ",".join(access.no_proxy))]
    if access.proxy and access.login:
        options.append(("proxy-user", access.login))
    if access.ca_bundle:
        options.append(("cacert", access.ca_bundle))
    if _netrc():
        options.append(("netrc-file", NETRC))
    flags = ["silent", "show-error", "globoff", "location", "suppress-connect-headers"]
    return "\n".join([*flags, *(f"{name} = {_quoted(str(value))}" for name, value in options)])


def _quoted(value: str) -> str:
    for char, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(char, escaped)
    return f'"{value}"'


def _netrc() -> bool:
    """Return whether there are log-ins; a file that others can read or change is refused."""
    try:
        status = NETRC.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_uid or status.st_mode & 0o077:
        raise Fault(
            f"{NETRC} is not a file that only root can read and change",
            f"make it one: chown root {NETRC}; chmod 600 {NETRC}",
        )
    return True


def _note(part: Path) -> Path:
    """Return the file that keeps the server's mark of the file that the part is of."""
    return part.with_suffix(".from")


def _begin_anew(part: Path) -> None:
    for file in (part, _note(part)):
        file.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _seconds(retry_after: str) -> float:
    """Read a Retry-After: seconds or a date."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0)
    except (TypeError, ValueError):
        return 0


def _printable(text: str) -> str:
    """Return a stranger's text as it may be shown."""
    return "".join(char if char.isprintable() else " " for char in text)[:200]
