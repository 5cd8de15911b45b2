# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
An example of a receiver: writes each change that it is told into a file, once.

usage: receiver.py PORT SECRET_FILE FILE

It needs the library of Standard Webhooks: pip install standardwebhooks. A real one stands behind a
server that speaks TLS.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

port, secret_file, file = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
known = set()
"""Keys of what was told already: an inventory keeps them with what it has made of it."""


class Receiver(BaseHTTPRequestHandler):
    """Takes one request after the other."""

    def do_POST(self):
        """Take a change."""
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            # The signature, and that it is no more than five minutes old.
            change = Webhook(secret_file.read_text().strip()).verify(body, headers)
        except WebhookVerificationError as err:
            return self.answer(401, str(err))
        key = headers["idempotency-key"]
        if key not in known:
            with file.open("a") as lines:
                lines.write(json.dumps(change) + "\n")
            known.add(key)
        return self.answer(204)

    def answer(self, status, why=None):
        """Answer without a body."""
        self.send_response(status, why)
        self.end_headers()


HTTPServer(("127.0.0.1", port), Receiver).serve_forever()
