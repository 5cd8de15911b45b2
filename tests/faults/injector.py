# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Injects the faults while the master's processes wait.

They tell at which place of a deployment they are (shim/sitecustomize.py) and wait there for the
answer, with the lock of the store held: a fault that is injected meanwhile happens in that state
and in no other.
"""

import contextlib
import json
import pathlib
import socketserver
import threading
import traceback
import types

from fault import ACTING

SOCKET = pathlib.Path("/srv/faults.sock")


class Answers(socketserver.StreamRequestHandler):
    """Answers one process of the master that is at some place."""

    def handle(self):
        asked = self.rfile.readline()
        if not asked.endswith(b"\n"):
            return  # Who asks was killed, with the others of the master, before it had said where.
        at = types.SimpleNamespace(**json.loads(asked))
        answer = self.server.answer(at)
        # Who asked may have been killed by the answer.
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Injector(socketserver.ThreadingUnixStreamServer):
    """Listens to the master's processes on behalf of the faults that are under way."""

    daemon_threads = True

    def __init__(self):
        SOCKET.unlink(missing_ok=True)
        super().__init__(str(SOCKET), Answers)
        self.faults = {}
        self.broken = []
        """Faults of the harness itself."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        self.broken.append(traceback.format_exc())

    def of_minion(self, minion):
        return next((each for each in self.faults.values() if minion in each.minions), None)

    def answer(self, at):
        if at.point == "return":
            fault = self.of_minion(at.minion)
            return {"lost": bool(fault and fault.loses(at))}
        if at.point == "bell":
            store, minion = at.bells
            fault = self.faults.get(store) or self.of_minion(minion)
            return {"times": fault.rings(minion or store) if fault else 1}
        fault = self.faults.get(getattr(at, "store", None))
        if fault and at.point == "lock":
            return {"busy": fault.locks(at)}
        if fault:
            act = (at.pid, at.store)
            # A record is told of in the midst of its transaction, and once more after it.
            if at.point == ("after" if at.act == "record" else "between"):
                ACTING.discard(act)
            fault.reached(at)
            if at.point == "before":
                ACTING.add(act)
        return {}
