# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What comes of an operator's command: ``salt-run`` itself, with a ledger and without a master."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from storemaster.deployment import requests, tables
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar

REPO = pathlib.Path(__file__).resolve().parents[2]
STORE = {"image": {"source": "/x.qcow2", "sha256": "5e" * 32}, "master": "salt.example.com"}
STATES = {"0815": "deployed", "0816": "failed", "4711": "booting"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A master's configuration, and three stores in its ledger."""
    root = tmp_path_factory.mktemp("site")
    config = {
        "root_dir": str(root),
        "user": "root",
        "module_dirs": [str(REPO)],
        "file_roots": {"base": [str(REPO / "salt")]},
        "store_deploy": {"state_dir": str(root / "state")},
    }
    (root / "master").write_text(json.dumps(config))
    # salt-run of 3008 wants what only a master makes.
    (root / "var/cache/salt/master/proc").mkdir(parents=True)
    with Ledger(root / "state" / "ledger.sqlite") as ledger:
        for store, state in STATES.items():
            group = {"group": "north"} if store == "0816" else {}
            spec = from_pillar({**STORE, **group, "store": store}, f"hv-{store}")
            record = requests.begin(ledger, time.time() - 7200, spec, f"hv-{store}", "operator")
            record = dataclasses.replace(record, state=state, since=time.time() - 3600)
            if state == "failed":
                record = dataclasses.replace(
                    record, failed_in="staging", reason="no room\nat all", next_action="make room"
                )
            ledger.save(record, change=record.reason)
    return root


@pytest.fixture
def salt_run(site):
    def salt_run(verb, *arguments):
        command = ["salt-run", "-c", str(site), f"deploy.{verb}", *arguments]
        done = subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr + done.stdout, done
        return done

    return salt_run


def lines(done):
    return [line.removeprefix("- ") for line in done.stdout.splitlines()]


@pytest.mark.thorough
@pytest.mark.parametrize("typed", ["stauts", "list_", "_tell", "stat", "unknown", "watch_it"])
def test_a_verb_that_is_none_fails_and_the_verbs_are_named(salt_run, typed):
    done = salt_run(typed, "0815", "x=1", "--out=json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"]) == (1, f"deploy.{typed} is no verb")
    assert "cancel, doctor, explain, export, history, hold, import, list" in told["hint"]
    assert typed not in told["hint"].split("the verbs: ")[1].split(", ")
    assert typed != "stauts" or told["hint"].startswith("did you mean status?")


def test_a_verb_is_found_beside_one_that_is_none(salt_run):
    assert salt_run("status", "0815").returncode == 0


def test_a_list_takes_a_line_a_store_and_is_data_where_data_is_asked_for(salt_run):
    # On a busy machine a minute may have passed meanwhile.
    told = [re.sub(r"1 h( \d+ min)?", "1 h", line) for line in lines(salt_run("list"))]
    assert told == [
        "0815  deployed  1 h  hv-0815",
        "0816  failed    1 h  hv-0816: staging: no room at all",
        "4711  booting   1 h  hv-4711",
    ]
    rows = json.loads(salt_run("list", "--out=json").stdout)
    assert {row["store"]: row["state"] for row in rows} == STATES
    keys = {"store", "generation", "state", "for_s", "hypervisor", "minion_id", "group", "reason"}
    assert all(set(row) == keys for row in rows)
    (row,) = json.loads(salt_run("list", "group=north", "--out=json").stdout)
    assert (row["store"], row["group"]) == ("0816", "north")


def test_a_history_takes_a_line_a_state_and_is_data_where_data_is_asked_for(salt_run):
    told = lines(salt_run("history", "0816"))
    assert [line.split()[1] for line in told] == ["awaiting_hypervisor", "failed"]
    assert "1 h" in told[0]
    assert told[1].endswith("no room at all")
    rows = json.loads(salt_run("history", "0816", "--out=json").stdout)
    assert rows[0]["took_s"] == pytest.approx(3600, abs=5)


def words(text):
    return [word for word in text.split() if word not in ("-", "mend:")]


def test_the_doctor_takes_a_row_a_fault_and_is_data_where_data_is_asked_for(salt_run):
    done, data = salt_run("doctor"), salt_run("doctor", "--out=json")
    told = json.loads(data.stdout)
    assert (done.returncode, data.returncode, told.pop("retcode")) == (1, 1, 1)
    assert list(told) == ["faults"]
    assert all({"fault", "mend"} <= set(each) for each in told["faults"])
    shown = done.stdout.splitlines()
    assert (shown[0], shown[-2:]) == ("faults:", ["retcode:", "    1"])
    assert sum(line.startswith("    - ") for line in shown) == len(told["faults"]) > 5
    parts = [word for each in told["faults"] for word in words(f"{each['fault']} {each['mend']}")]
    # A step of a mend takes a line, instead of the semicolon before it.
    assert [word.rstrip(";") for word in words("\n".join(shown[1:-2]))] == [
        word.rstrip(";") for word in parts
    ]
    long = [line for line in shown if len(line) > 80]
    assert all(tables.TYPED.search(line) for line in long)


def test_a_plan_is_a_table_and_is_data_where_data_is_asked_for(salt_run):
    done, data = salt_run("plan", "0815"), salt_run("plan", "0815", "--out=json")
    told = json.loads(data.stdout)
    assert (done.returncode, data.returncode, told["retcode"]) == (1, 1, 1)
    assert told["faults"][0] == f"{told['error']}: {told['hint']}"
    assert (told["error"], told["now"]) == ("store 0815 is deployed", "deployed")
    shown = done.stdout.splitlines()
    assert shown[:4] == [
        *("plan:", "    store  0815", "    now    deployed", "    fault  store 0815 is deployed")
    ]
    assert told["hint"] == "to replace its server: salt-run deploy.store 0815 redeploy=True"
    assert " ".join(" ".join(shown[4:6]).split()) == f"mend: {told['hint']}"
    assert shown[-2:] == ["retcode:", "    1"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("store", "status", "error"),
    [
        ("0815", 0, None),
        ("0816", 1, "no room\nat all"),
        ("4711", 1, "store 4711 is still booting"),
    ],
)
def test_a_watch_ends_as_the_deployment_did(salt_run, store, status, error):
    began = time.monotonic()
    done = salt_run("watch", store, "timeout=1", "--out=json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["state"], told.get("error")) == (status, STATES[store], error)
    assert STATES[store] in done.stderr
    assert all(len(line) <= 79 for line in done.stderr.splitlines() if " s  " in line)
    assert time.monotonic() - began < 60


@pytest.mark.thorough
@pytest.mark.parametrize("verb", ["status", "watch", "explain", "history", "cancel", "retry"])
def test_who_mistypes_a_store_is_told_the_similar_ones(salt_run, verb):
    done = salt_run(verb, "0851", "--out=json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"]) == (1, "store 0851 was never deployed")
    assert told["hint"].startswith("did you mean 08")
    assert "0815" in told["hint"]
    assert "deploy.list" in told["hint"]
    assert "deploy.store" not in told["hint"]


# A copy of what minions get, which salt-run saltutil.sync_all makes on the master


@pytest.fixture
def copy(site):
    """Have Salt make the copy; return its folder."""
    command = ["salt-run", "-c", str(site), "saltutil.sync_all"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    folder = site / "var/cache/salt/master/extmods/utils/storelib"
    assert (folder / "report.py").exists()
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


def test_a_copy_of_what_minions_get_changes_nothing(salt_run, copy):
    assert salt_run("list").returncode == 0


def test_a_copy_that_hides_an_upgrade_is_named_with_its_removal(salt_run, copy):
    with (copy / "report.py").open("a") as file:
        file.write("# as it was before the upgrade\n")
    # Salt ends with status 0 where a runner cannot be loaded.
    done = salt_run("list")
    told = " ".join((done.stdout + done.stderr).split())
    mend = f"rm -r {copy}"
    assert f"{copy} hides the storelib of {REPO}: {mend}; systemctl restart salt-master" in told
    subprocess.run(mend.split(), check=True)
    assert salt_run("list").returncode == 0
