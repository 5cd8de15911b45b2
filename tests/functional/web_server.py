# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A web server on loopback that answers as a test tells it, byte for byte."""

import contextlib
import re
import socket
import socketserver
import threading


class WebServer(socketserver.ThreadingTCPServer):
    """
    Serves one file, with ranges, an ETag and a length.

    ``answers`` are functions, each for one request and in their order, that get the request and a
    file to write to; after the last one the file is served.
    """

    daemon_threads = True

    def __init__(self, content, context=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.context = context
        self.etag = '"1"'
        self.answers = []
        self.requests = []
        self.over = threading.Event()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}/image.qcow2"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass

    @property
    def ranges(self):
        """Which range each request asked for."""
        return [request.get("range") for request in self.requests]

    def answer(self, request, out):
        """Serve the file as a good server does."""
        asked = re.fullmatch(r"bytes=(\d+)-\d*", request.get("range", ""))
        same = request.get("if-range", self.etag) == self.etag
        start = int(asked[1]) if asked and same else 0
        size = len(self.content)
        if start >= size > 0:
            say(out, "416 Range Not Satisfiable", f"Content-Range: bytes */{size}")
            return
        status, fields = "200 OK", [f"ETag: {self.etag}"] if self.etag else []
        if start:
            status = "206 Partial Content"
            fields.append(f"Content-Range: bytes {start}-{size - 1}/{size}")
        say(out, status, f"Content-Length: {size - start}", *fields, body=self.content[start:])


class _Handler(socketserver.StreamRequestHandler):
    def setup(self):
        if self.server.context:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self):
        request = {"line": self.rfile.readline().decode().strip()}
        while line := self.rfile.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            request[name.lower()] = value.strip()
        self.server.requests.append(request)
        answers = self.server.answers
        answer = answers.pop(0) if answers else self.server.answer
        with contextlib.suppress(OSError):
            answer(request, self.wfile)
            self.wfile.flush()
            self.request.shutdown(socket.SHUT_WR)


def say(out, status, *fields, body=b""):
    """Write an answer."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *fields, "Connection: close", "", ""])
    out.write(head.encode("latin-1") + body)


def says(status, *fields, body=b""):
    """Return the answer as a function, for ``answers``."""
    return lambda request, out: say(out, status, *fields, body=body)
