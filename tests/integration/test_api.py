# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The API as docs/api.md sets it up: the shipped configuration of salt-api, real PAM, real nginx.

Each line of the page is run, in its order, as the page has it; only the certificate is the lab's.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import salt.utils.yaml
import store_site

from storemaster.master import roles

HOST = "deploy.example.com"
URL = f"https://{HOST}"
PASSWORD = "correct horse"
STORE, HYPERVISOR = "0417", "hv-0417"
PAGE = store_site.CHECKOUT / "docs/api.md"
USERS = {"olga": "store-owners", "otto": "store-operators", "vera": "store-viewers", "zoe": ""}
CLIENT = pathlib.Path("/srv/client")
NGINX = pathlib.Path("/srv/nginx")


def lines():
    """Return the commands of the page, in its order."""
    blocks = re.findall(r"(?s)<!-- calls -->\n```bash\n(.*?)```", PAGE.read_text())
    text = "".join(blocks).replace("|\n    ", "| ")
    return text.splitlines()


def private(path):
    """Have a file of the machine of one's own, which others' programs read at its usual path."""
    copy = pathlib.Path("/srv") / pathlib.Path(path).name
    shutil.copy2(path, copy)
    store_site.run("mount", "--bind", copy, path)


def add_users():
    """Add users with a password, and their groups."""
    for path in ("/etc/passwd", "/etc/group", "/etc/shadow"):
        private(path)
    hashed = store_site.run("openssl", "passwd", "-6", PASSWORD).strip()
    groups = [group for group in USERS.values() if group]
    with open("/etc/group", "a") as file:
        for number, group in enumerate(groups):
            members = [user for user, own in USERS.items() if own == group]
            file.write(f"{group}:x:{7100 + number}:{','.join(members)}\n")
    with open("/etc/passwd", "a") as passwd, open("/etc/shadow", "a") as shadow:
        for number, user in enumerate(USERS):
            passwd.write(f"{user}:x:{7000 + number}:100::/srv:/bin/false\n")
            shadow.write(f"{user}:{hashed}:20000:0:99999:7:::\n")


def shipped():
    """Return the shipped configuration without its hashes, as the page has them taken away."""
    command = re.search(r"(?m)^ +(sed .*?) >/etc/salt/master\.d/70-api\.conf$", PAGE.read_text())[1]
    command = command.replace("/usr/share/store-deploy", str(store_site.CHECKOUT))
    return salt.utils.yaml.safe_load(store_site.run("sh", "-c", command))


def start_nginx():
    """Start nginx with the shipped server and a certificate of the lab's."""
    (NGINX / "conf.d").mkdir(parents=True)
    made = ["-keyout", NGINX / "key.pem", "-out", NGINX / "cert.pem", "-subj", f"/CN={HOST}"]
    alternative = ["-addext", f"subjectAltName=DNS:{HOST}"]
    store_site.run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *made,
        *alternative,
    )
    text = (store_site.CHECKOUT / "docs/nginx-store-deploy.conf").read_text()
    for name, own in (
        ("certs/deploy.example.com.pem", "cert.pem"),
        ("private/deploy.example.com.key", "key.pem"),
    ):
        assert f"/etc/ssl/{name};" in text
        text = text.replace(f"/etc/ssl/{name}", str(NGINX / own))
    (NGINX / "conf.d/store-deploy.conf").write_text(text)
    (NGINX / "nginx.conf").write_text(
        f"user root;\npid {NGINX}/pid;\nerror_log {NGINX}/error.log;\ndaemon off;\n"
        f"events {{}}\nhttp {{ access_log {NGINX}/access.log; include {NGINX}/conf.d/*.conf; }}\n"
    )
    return subprocess.Popen(["nginx", "-c", NGINX / "nginx.conf"], start_new_session=True)


@pytest.fixture(scope="module")
def api(site):
    """The API, reached as a client on another machine would reach it."""
    add_users()
    CLIENT.mkdir()
    # As docs/stores.md has it: where a list's stores are.
    shutil.copytree(store_site.CHECKOUT / "pillar/stores", store_site.PILLAR / "stores")
    site.master.kill()
    # Salt's helper for PAM would be run by the distribution's Python, which has no Salt here.
    python = CLIENT / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    site.master.start(**shipped(), **{"auth.pam.python": str(python)})
    salt_api = store_site.Daemon("salt-api")
    salt_api.start()
    nginx = start_nginx()
    (CLIENT / ".curlrc").write_text(
        f'cacert = "{NGINX}/cert.pem"\nresolve = "{HOST}:443:127.0.0.1"\n'
    )
    asked = f"curl -sS --fail --output /dev/null {URL}"
    store_site.until(lambda: shell(asked).returncode == 0, 60, "salt-api answers")
    yield site
    os.killpg(nginx.pid, signal.SIGTERM)
    nginx.wait()
    salt_api.kill()
    site.master.kill()
    site.master.start()


class Answer:
    """What came of a call."""

    def __init__(self, done):
        assert done.returncode == 0, done.stderr
        self.head, _, self.body = done.stdout.partition("\n\n")
        self.status = int(self.head.split()[1])

    @property
    def said(self):
        (entry,) = json.loads(self.body)["return"]
        return entry


def shell(script, body=None):
    """Run a script as the client does, and return how it ended."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=CLIENT,
        env={**store_site.ENVIRONMENT, "HOME": str(CLIENT)},
        input=body,
        text=True,
        capture_output=True,
        timeout=320,
        check=False,
    )


def curl(*argv, body=None):
    """Call, with a body that is JSON if there is one."""
    more = [] if body is None else ["--json", "@-"]
    return Answer(shell(shlex.join(["curl", "-sS", "--http1.1", "--include", *more, *argv]), body))


def log_in(user, password=PASSWORD):
    """Log in, not faster than one may, and return the header to show."""

    def answered():
        body = {"username": user, "password": password, "eauth": "pam"}
        answer = curl(f"{URL}/login", body=json.dumps(body))
        return answer if answer.status != 429 else None

    answer = store_site.until(answered, 90, f"{user} may log in", every=2)
    return answer.status, f"X-Auth-Token: {answer.said['token']}" if answer.status == 200 else ""


@pytest.fixture(scope="module")
def token(api):
    """Return what logs a user in, once."""
    tokens = {}

    def of(user):
        if user not in tokens:
            status, tokens[user] = log_in(user)
            assert status == 200
        return tokens[user]

    return of


def call(header, verb, client="runner", **kwarg):
    low = {"client": client, "fun": f"deploy.{verb}", "kwarg": kwarg}
    return curl("-H", header, URL, body=json.dumps(low))


def test_each_line_of_the_page_does_what_it_says(api):
    api.describe(HYPERVISOR, STORE)
    api.start_hypervisors(HYPERVISOR)
    api.reaches_its_highstate(HYPERVISOR)
    login = {"username": "olga", "password": PASSWORD, "eauth": "pam"}
    (CLIENT / "login.json").write_text(json.dumps(login))
    said, over = [], SimpleNamespace(active=False)
    for line in lines():
        if any(verb in line for verb in ("deploy.store", "deploy.prune", "deploy.retire")):
            store_site.until(lambda: not (api.record(STORE) or over).active, 60, "its end")
        done = shell(f"umask 077; {line}")
        assert (done.returncode, done.stderr) == (0, ""), line
        if '"fun"' in line:
            (entry,) = json.loads(done.stdout)["return"]
            said.append((re.search(r"deploy\.(\w+)", line)[1], entry))
            assert not (isinstance(entry, dict) and "error" in entry), (line, entry)
        if "/login" in line:
            assert (CLIENT / "token").stat().st_mode & 0o777 == 0o600
    assert not (CLIENT / "token").exists()
    by_verb = dict(said)
    assert [entry["state"] for verb, entry in said if verb == "watch"] == ["deployed"] * 3
    assert by_verb["retire"]["state"] in ("retiring", "retired")
    assert by_verb["cancel"]["state"] in ("cancelling", "cancelled")
    assert by_verb["export"] == {"stores": by_verb["export"]["stores"]}
    assert [row["store"] for row in by_verb["list"]] == [STORE]
    whose = {(row.actor, row.way) for row in api.history(STORE)}
    assert ("olga", "api") in whose
    assert whose - {("olga", "api")} <= {
        ("", "clock"),
        (HYPERVISOR, "minion"),
        (f"store-{STORE}", "minion"),
    }


def test_all_verbs_are_on_the_page(api):

    said = set(re.findall(r"deploy\.(\w+)", PAGE.read_text()))
    assert {verb for verbs in roles.VERBS.values() for verb in verbs} <= said


def test_a_group_of_this_machine_has_its_role(api, token):
    assert isinstance(call(token("vera"), "list").said, list)
    refused = call(token("vera"), "cancel", store=STORE)
    assert refused.status == 200
    assert refused.said["error"] == "vera may not say deploy.cancel: the role is viewer"
    refused = call(token("otto"), "retire", store=STORE, remove=True)
    assert refused.said["error"] == "otto may not say deploy.retire: the role is operator"


def test_who_is_in_none_of_the_groups_comes_as_far_as_the_door(api):
    status, header = log_in("zoe")
    # Salt lets nobody log in whom external_auth does not list, or lets the call through to nothing.
    if status == 200:
        assert call(header, "list").status == 401
    else:
        assert status == 401


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"arg": [STORE]}, "the store ID arrived as the number"),
        ({"kwarg": {"store": 417}}, "the store ID arrived as the number 417"),
        ({"kwarg": {"store": ["0417"]}}, "is no store ID"),
        (
            {"kwarg": {"store": STORE, "actor": "root"}},
            "got an unexpected keyword argument 'actor'",
        ),
        ({"kwarg": {"store": "9999"}}, "store 9999"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_sentence(api, token, told, why):
    low = {"client": "runner", "fun": "deploy.status", **told}
    answer = curl("-H", token("vera"), URL, body=json.dumps(low))
    assert answer.status == 200
    assert why in answer.said["error"]
    assert answer.said["hint"]


def test_nobody_names_a_file_of_the_masters(api, token):
    for verb, more in (("import", {"file": "/etc/shadow"}), ("export", {"file": "/srv/x.csv"})):
        told = call(token("olga"), verb, **more).said
        assert told["error"].endswith("would read or write a file of the master's as the master")
    assert not pathlib.Path("/srv/x.csv").exists()


@pytest.mark.parametrize("client", ["local", "wheel", "ssh", "nonsense"])
def test_a_client_that_is_not_enabled_is_refused(api, token, client):
    assert call(token("olga"), "list", client=client).status == 400


def test_another_runner_is_refused_by_salt(api, token):
    low = {"client": "runner", "fun": "state.orchestrate", "kwarg": {"mods": "x"}}
    assert curl("-H", token("olga"), URL, body=json.dumps(low)).status == 401


@pytest.mark.parametrize(
    "path", ["events", "ws", "hook", "hook/x", "keys", "minions", "jobs", "run", "stats", "token"]
)
def test_nothing_else_of_salt_api_is_reached_through_the_proxy(api, token, path):
    assert curl("-H", token("olga"), f"{URL}/{path}").status == 404
    low = {"client": "runner", "fun": "deploy.list", "username": "olga", "password": PASSWORD}
    assert curl(f"{URL}/{path}", body=json.dumps([{**low, "eauth": "pam"}])).status == 404


@pytest.mark.parametrize(
    "path", ["events/..", "events/x/..%2f..", "hook/..", "jobs/.", "keys/%2e%2e"]
)
def test_no_detour_leads_there_either(api, token, path):
    answer = curl("--path-as-is", "-H", token("vera"), f"{URL}/{path}")
    # Of what is / to nginx the root alone is reached.
    assert answer.status == 404 or '"clients"' in answer.body or "Welcome" in answer.body
    posted = curl("--path-as-is", f"{URL}/{path}", body='{"x": 1}')
    assert posted.status in (401, 404)


def test_without_a_token_or_with_a_false_one_nothing_is_told(api):
    for header in ("X-Auth-Token;", "X-Auth-Token: " + "0" * 64, "Cookie: session_id=" + "0" * 40):
        assert call(header, "list").status == 401


def test_a_token_that_was_handed_back_is_none(api):
    status, header = log_in("vera")
    assert (status, call(header, "list").status) == (200, 200)
    assert curl("-H", header, f"{URL}/logout", body="{}").status == 200
    assert call(header, "list").status == 401


def test_headers_keep_the_answers_to_whoever_asked(api):
    answer = curl(URL)
    for line in (
        "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Strict-Transport-Security: max-age=31536000",
    ):
        assert line in answer.head
    assert "Set-Cookie" not in answer.head
    assert "nginx/" not in answer.head


def test_ten_megabytes_are_not_taken(api, token):
    body = json.dumps({"client": "runner", "fun": "deploy.note", "kwarg": {"text": "x" * 10**7}})
    assert curl("-H", token("olga"), "-H", "Expect:", URL, body=body).status == 413


def test_guessing_passwords_is_slowed_down(api):
    assert log_in("olga", "guessed") == (401, "")
    guess = json.dumps({"username": "olga", "password": "guessed", "eauth": "pam"})
    told = [curl(f"{URL}/login", body=guess).status for _ in range(8)]
    assert set(told) <= {401, 429}
    assert told[-1] == 429


def test_the_doctor_finds_nothing_wrong_with_it(api):
    told = api.salt_run("doctor", "hypervisors=False").answer
    faults = [each["fault"] for each in told["faults"]]
    assert [fault for fault in faults if "salt-api" in fault or "external_auth" in fault] == []
