# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stand-in for Uyuni's API: its signatures and what its calls do, behind XML-RPC and TLS.

Written from the pages that Uyuni generates of its API, and from what its sources say of faults. No
Uyuni server takes part in a test.
"""

import contextlib
import itertools
import ssl
import subprocess
import threading
import xmlrpc.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


class Uyuni:
    """What the server knows; each method of the API is one here, its dots underlined."""

    user, password = "store-deploy", "correct horse"

    def __init__(self, forms=None):
        self.forms = forms or {}
        self.systems, self.groups, self.keys, self.reactivation = {}, {}, {"1-store"}, {}
        self.sessions, self.calls = set(), []
        self._numbers, self._group_numbers = itertools.count(1000010000), itertools.count(1)

    # What tests do.

    def register(self, minion, machine="", **more):
        """Register a system, as the end of its onboarding does."""
        sid = next(self._numbers)
        self.systems[sid] = {
            **{"name": minion, "minion": minion, "machine": machine, "mac": "", "groups": set()},
            **{"formulas": [], "data": {}},
            **more,
        }
        return sid

    def named(self, name):
        (sid,) = [sid for sid, each in self.systems.items() if each["name"] == name]
        return self.systems[sid]

    def called(self, name):
        return [arguments for each, arguments in self.calls if each == name]

    # The dispatcher.

    def answer(self, name, arguments):
        """Answer a call, or raise a fault as Uyuni does."""
        if name == "auth.login":
            return self._login(*arguments)
        key, *rest = arguments or ("",)
        if key not in self.sessions:
            raise xmlrpc.client.Fault(-1, "The session key is invalid or has expired")
        self.calls.append((name, tuple(rest)))
        method = getattr(self, name.replace(".", "_"), None)
        counts = getattr(method, "counts", ())
        if len(rest) not in counts:
            # By the number of arguments; what is no method, and a wrong number, look the same.
            raise xmlrpc.client.Fault(-1, f"Could not find method: {name} with {len(rest)} args")
        if name == "auth.logout":
            self.sessions.discard(key)
        return method(*rest)

    def _login(self, user, password, duration=0):
        if (user, password) != (self.user, self.password):
            raise xmlrpc.client.Fault(2950, "Either the password or username is incorrect.")
        key = f"session{next(self._numbers)}"
        self.sessions.add(key)
        return key

    def _system(self, sid):
        if sid not in self.systems:
            raise xmlrpc.client.Fault(1001, f"No such system - sid = {sid}")
        return self.systems[sid]

    def _group(self, gid):
        found = [each for each in self.groups.values() if each["id"] == gid]
        if not found:
            raise xmlrpc.client.Fault(
                -1, "redstone.xmlrpc.XmlRpcFault: unhandled internal exception"
            )
        return found[0]

    def _checked(self, formula, content):
        """Refuse as the API does: each key is in the layout, of the class of its default."""

        def check(layout, data, path):
            for key, value in data.items():
                if key not in layout:
                    raise xmlrpc.client.Fault(1066, f"{path}.{key} is not in the layout")
                element = layout[key]
                if element.get("$type") == "group":
                    check(element, value, f"{path}.{key}")
                elif "$key" in element.get("$prototype", {}):
                    for name, item in value.items():
                        check(element["$prototype"], item, f"{path}.{key}.{name}")
                elif "$default" in element and type(value) is not type(element["$default"]):
                    raise xmlrpc.client.Fault(1066, f"{path}.{key} is of another class")

        check(self.forms[formula], content, formula)

    # The methods.

    def auth_logout(self):
        return 1

    def system_getMinionIdMap(self):
        return {each["minion"]: sid for sid, each in self.systems.items() if each["minion"]}

    def system_getId(self, name):
        return [{"id": sid, "name": name} for sid, s in self.systems.items() if s["name"] == name]

    def system_listEmptySystemProfiles(self):
        return [
            {"id": sid, "name": each["name"], "hw_address": [each["mac"]]}
            for sid, each in self.systems.items()
            if not each["minion"]
        ]

    def system_createSystemProfile(self, name, data):
        mac = data.get("hwAddress", "")
        known = [
            sid for sid, s in self.systems.items() if s["name"] == name or (mac and s["mac"] == mac)
        ]
        if known:
            raise xmlrpc.client.Fault(1100, f"System(s) exist: {known}")
        sid = self.register(name, mac=mac)
        self.systems[sid]["minion"] = ""
        return sid

    def system_obtainReactivationKey(self, sid):
        self._system(sid)
        self.reactivation[sid] = f"re-{sid}-{next(self._numbers):x}"
        return self.reactivation[sid]

    def system_deleteSystem(self, sid, cleanup=None):
        self._system(sid)
        assert cleanup in (None, "FAIL_ON_CLEANUP_ERR", "NO_CLEANUP", "FORCE_DELETE")
        del self.systems[sid]
        return 1

    def systemgroup_listAllGroups(self):
        return [{"name": name, **each} for name, each in self.groups.items()]

    def systemgroup_create(self, name, description):
        if name in self.groups:
            raise xmlrpc.client.Fault(1305, f"{name} exists")
        group = {"id": next(self._group_numbers), "description": description, "org_id": 1}
        self.groups[name] = {**group, "system_count": 0}
        return {"name": name, **self.groups[name]}

    def systemgroup_getDetails(self, group):
        for name, each in self.groups.items():
            if group in (name, each["id"]):
                return {"name": name, **each}
        raise xmlrpc.client.Fault(2201, f"Unable to locate group {group}")

    def systemgroup_listSystemsMinimal(self, group):
        self.systemgroup_getDetails(group)
        return [
            {"id": sid, "name": s["name"]}
            for sid, s in self.systems.items()
            if group in s["groups"]
        ]

    def systemgroup_addOrRemoveSystems(self, group, sids, add):
        self.systemgroup_getDetails(group)
        for sid in sids:
            groups = self._system(sid)["groups"]
            groups.add(group) if add else groups.discard(group)
        return 1

    def formula_listFormulas(self):
        return sorted(self.forms)

    def formula_getFormulasByServerId(self, sid):
        return list(self._system(sid)["formulas"])

    def formula_getFormulasByGroupId(self, gid):
        return list(self._group(gid).get("formulas", []))

    def formula_setFormulasOfServer(self, sid, names):
        return self._assign(self._system(sid), names)

    def formula_setFormulasOfGroup(self, gid, names):
        return self._assign(self._group(gid), names)

    def _assign(self, holder, names):
        """Replace the list, sorted as all formulas are; the data of what is dropped goes."""
        if unknown := set(names) - set(self.forms):
            raise xmlrpc.client.Fault(1065, f"unknown formulas: {unknown}")
        holder["formulas"] = sorted(names)
        holder["data"] = {k: v for k, v in holder.get("data", {}).items() if k in names}
        return 1

    def formula_getSystemFormulaData(self, sid, name):
        return self._system(sid)["data"].get(name, {})

    def formula_getGroupFormulaData(self, gid, name):
        return self._group(gid).get("data", {}).get(name, {})

    def formula_setSystemFormulaData(self, sid, name, content):
        system = self._system(sid)
        groups = [self.groups[group] for group in system["groups"]]
        if not any(name in each.get("formulas", []) for each in (system, *groups)):
            raise xmlrpc.client.Fault(1063, f"{name} is not assigned to {sid}")
        self._checked(name, content)
        system["data"][name] = content
        return 1

    def formula_setGroupFormulaData(self, gid, name, content):
        group = self._group(gid)
        if name not in group.get("formulas", []):
            raise xmlrpc.client.Fault(1063, f"{name} is not assigned to {gid}")
        self._checked(name, content)
        group.setdefault("data", {})[name] = content
        return 1


def _counts(**methods):
    for name, counts in methods.items():
        getattr(Uyuni, name).counts = counts


# Behind the session key.
_counts(
    **{"auth_logout": (0,), "system_getMinionIdMap": (0,), "system_getId": (1,)},
    **{"system_listEmptySystemProfiles": (0,), "system_createSystemProfile": (2,)},
    **{"system_obtainReactivationKey": (1,), "system_deleteSystem": (1, 2)},
    **{"systemgroup_listAllGroups": (0,), "systemgroup_create": (2,)},
    **{"systemgroup_getDetails": (1,), "systemgroup_listSystemsMinimal": (1,)},
    **{"systemgroup_addOrRemoveSystems": (3,), "formula_listFormulas": (0,)},
    **{"formula_getFormulasByServerId": (1,), "formula_getFormulasByGroupId": (1,)},
    **{"formula_setFormulasOfServer": (2,), "formula_setFormulasOfGroup": (2,)},
    **{"formula_getSystemFormulaData": (2,), "formula_getGroupFormulaData": (2,)},
    **{"formula_setSystemFormulaData": (3,), "formula_setGroupFormulaData": (3,)},
)


def layouts(folder):
    """Return the layouts of all formulas in a folder, by their names."""
    return {
        path.parent.name: yaml.safe_load(path.read_text()) for path in folder.glob("*/form.yml")
    }


def certificate(folder):
    """Make a certificate for localhost that signs itself, and its key; return their paths."""
    crt, key = folder / "crt.pem", folder / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    subprocess.run(
        [*command, *subject, "-keyout", key, "-out", crt],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return crt, key


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if (status := self.server.statuses.pop(0) if self.server.statuses else 200) != 200:
            return self._say(status, b"busy")
        arguments, name = xmlrpc.client.loads(body, use_builtin_types=True)
        self.server.sent.append(name)
        try:
            with self.server.lock:
                answer = (self.server.uyuni.answer(name, arguments),)
            said = xmlrpc.client.dumps(answer, methodresponse=True)
        except xmlrpc.client.Fault as fault:
            said = xmlrpc.client.dumps(fault)
        return self._say(200, self.server.garbage or said.encode())

    def _say(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(uyuni, certificate, key, port=0):
    """Serve it on loopback; yield the server, whose ``url`` a client is given."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    server.uyuni, server.lock = uyuni, threading.Lock()
    server.statuses, server.garbage, server.sent = [], b"", []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.ca_file = str(certificate)
    server.url = f"https://localhost:{server.server_address[1]}/rpc/api"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
