# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The API as docs/api.md sets it up: the shipped configuration of salt-api, real PAM, real nginx.

Each line of the page is run, in its order, as the page has it; only the certificate is the lab's.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
from types import SimpleNamespace

import api_site
import pytest
import store_site
from api_site import CLIENT, HOST, PAGE, PASSWORD, URL

from storemaster.master import roles

STORE, HYPERVISOR = "0417", "hv-0417"


def lines():
    """Return the commands of the page, in its order."""
    blocks = re.findall(r"(?s)<!-- calls -->\n```bash\n(.*?)```", PAGE.read_text())
    text = "".join(blocks).replace("|\n    ", "| ")
    return text.splitlines()


@pytest.fixture(scope="module")
def api(site):
    """The API, reached as a client on another machine would reach it."""
    # As docs/stores.md has it: where a list's stores are.
    shutil.copytree(store_site.CHECKOUT / "pillar/stores", store_site.PILLAR / "stores")
    with api_site.serving(site):
        (CLIENT / ".curlrc").write_text(
            f'cacert = "{api_site.NGINX}/cert.pem"\nresolve = "{HOST}:443:127.0.0.1"\n'
        )
        yield site


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
    assert [row["store"] for row in by_verb["list"]["stores"]] == [STORE]
    assert by_verb["whoami"]["role"] == "owner"
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


def test_a_list_comes_as_text(api, token):
    text = "hypervisor,store,memory_mib,image.sha256\nhv-0998,0998,4096," + "5e" * 32 + "\n"
    told = call(token("olga"), "import", text=text).said
    assert [each["store"] for each in told["new"]] == ["0998"], told
    assert not list(store_site.PILLAR.rglob("hv-0998*"))
    told = call(token("olga"), "import", text=f"{text}hv-0999,0998,4096,\n").said
    assert told["error"].startswith("text has ")
    assert told["faults"][0]["line"] == 3
    told = call(token("olga"), "import", text="hypervisor,store,guest_pillar\nhv-1,1,{a: b}\n")
    assert "may be secret" in told.said["error"]


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
