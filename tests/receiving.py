# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Real receivers of changes on this machine: a web server, a mail server, and what misbehaves."""

import contextlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


def server_context(crt, key):
    """Return what a server with that certificate speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return context


class Web:
    """A web server that keeps what it is told, and answers as a test wants it to."""

    def __init__(self, context=None):
        self.posts = []
        """Headers (by names in small letters) and body of each."""
        self.answer = lambda headers, body: 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = outer.answer(headers, body)
                outer.posts.append((headers, body, status))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", f"{outer.url}elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if context else "http"
        host = "localhost" if context else "127.0.0.1"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}/"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def taken(self):
        """Return what was taken, as data."""
        return [json.loads(body) for _, body, status in self.posts if 200 <= status < 300]


@contextlib.contextmanager
def raw(speak):
    """Listen on a port, and let ``speak`` have each connection; give its number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=_one, args=(connection,), daemon=True).start()

        def _one(connection):
            with connection, contextlib.suppress(OSError):
                speak(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        # A thread that waits for a connection does not see that the socket is closed.
        listening.shutdown(socket.SHUT_RDWR)


class Mail:
    """A mail server that keeps what it is sent."""

    def __init__(self, context=None, user=None, password=None):
        self.mails = []
        """Addresses and bytes of each."""
        self.refuses = {}
        """Answers to some addresses."""
        outer = self

        class Handler:
            async def handle_RCPT(self, server, session, envelope, address, options):
                if address in outer.refuses:
                    return outer.refuses[address]
                envelope.rcpt_tos.append(address)
                return "250 OK"

            async def handle_DATA(self, server, session, envelope):
                outer.mails.append((list(envelope.rcpt_tos), bytes(envelope.content)))
                return "250 taken"

        def log_in(server, session, envelope, mechanism, told):
            right = (told.login, told.password) == (user.encode(), password.encode())
            return AuthResult(success=right, handled=False)

        more = {"tls_context": context, "require_starttls": True} if context else {}
        if user:
            more |= {"authenticator": log_in, "auth_required": True}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._controller = Controller(Handler(), hostname="127.0.0.1", port=self.port, **more)

    def __enter__(self):
        self._controller.start()
        return self

    def __exit__(self, *_):
        self._controller.stop()
