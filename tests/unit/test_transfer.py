# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is read of a server's answer, and what is shown of it. The transfers: functional tier."""

import pytest

from storelib.hypervisor import transfer

REDIRECTED = "HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"


def head(*fields, status="200 OK"):
    return transfer.parsed("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]))


def test_the_last_head_counts():
    found = transfer.parsed(f"{REDIRECTED}HTTP/2 404 \r\nServer: x\r\n\r\nX-Trailer: 1\r\n\r\n")
    assert (found.status, found.says) == (404, "the server answers 404")
    assert found.fields == {"server": "x"}


@pytest.mark.parametrize("text", ["", "SSH-2.0\r\n\r\n", "\r\n\r\n"])
def test_what_is_no_head_is_none(text):
    assert transfer.parsed(text) is None


@pytest.mark.parametrize("first", ["HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 two OK"])
def test_a_status_that_is_no_number_is_no_good_one(first):
    assert transfer.parsed(f"{first}\r\n\r\n").status == 0


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 5-9/*", (5, None)),
        ("bytes */10", (0, 10)),
        ("bytes 5-9", None),
        ("bytes 5-9/10, bytes 5-9/10", None),
        ("items 5-9/10", None),
        ("", None),
    ],
)
def test_a_range_is_read_or_is_none(range_, part):
    assert head(f"Content-Range: {range_}", status="206 Partial Content").part == part


def test_a_doubled_length_is_none():
    assert head("Content-Length: 12").size == 12
    assert head("Content-Length: 12", "Content-Length: 12").size is None


@pytest.mark.parametrize(
    ("fields", "validator"),
    [
        (['ETag: "1"', "Last-Modified: then"], '"1"'),
        (['ETag: W/"1"', "Last-Modified: then"], "then"),
        (['ETag: W/"1"'], ""),
        ([], ""),
    ],
)
def test_only_what_changes_with_each_byte_says_that_a_file_is_the_same(fields, validator):
    assert head(*fields).validator == validator


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example.com/x.qcow2", "https://a.example.com/x.qcow2"),
        ("https://me:secret@a.example.com/x", "https://a.example.com/x"),
        ("https://me:se/cr@et@a.example.com/x", "https://a.example.com/x"),
        ("https://a.example.com/x?token=secret", "https://a.example.com/x"),
        ("https://a.example.com/x#secret", "https://a.example.com/x"),
        ("http://a/\x1b[31m", "http://a/ [31m"),
        ("/srv/x.qcow2", "/srv/x.qcow2"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url, shown):
    assert transfer.shown(url) == shown


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"QFI\xfb\0\0\0\3", "a qcow2 file"),
        (b"\xef\xbb\xbf\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "text ("),
        (b"PK\x03\x04", "a zip file"),
        (b"\x1b[31mred", "a file of unknown kind"),
        (b"", "an empty file"),
    ],
)
def test_what_came_is_named_by_its_first_bytes(first, kind):
    assert transfer.kind(first).startswith(kind)


def test_a_password_is_not_in_what_python_shows_of_the_configuration():
    opts = {"proxy_host": "p", "proxy_port": 1, "proxy_username": "u", "proxy_password": "secret"}
    access = transfer.Access.of(opts)
    assert access.login == "u:secret"
    assert "secret" not in repr(access)


def test_a_value_cannot_add_a_line_to_curls_configuration():
    assert transfer._quoted('a"\nurl = "x\\') == '"a\\"\\nurl = \\"x\\\\"'
