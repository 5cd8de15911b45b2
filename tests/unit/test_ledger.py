# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The ledger loses nothing, whoever writes at the same time or dies while writing."""

import dataclasses
import multiprocessing
import os
import pathlib
import sqlite3
import subprocess
import sys

import pytest
from fake_master import PILLAR

from storelib.errors import Conflict, LedgerError, Refused
from storemaster.deployment import engine, minion_ids, requests, spec, views
from storemaster.deployment.doorbell import PUT_OFF_S
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import SCHEMA_VERSION, Ledger
from storemaster.deployment.record import Job, Record

FORK = multiprocessing.get_context("fork")
CORE = {**os.environ, "PYTHONPATH": str(pathlib.Path(engine.__file__).parents[2])}


def record(store="0815", **changes):
    made = Record(
        store=store,
        generation=1,
        state="awaiting_hypervisor",
        since=100.0,
        deadline=200.0,
        hypervisor=f"hv-{store}",
        minion_id=f"store-{store}",
        spec={"cpus": 2},
        began=100.0,
        requested_by="operator",
        due=100.0,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path) as opened:
        yield opened


# Records


def test_a_record_is_read_as_it_was_written(path, ledger):
    job = Job("jid-1", "hv-0815", "store_hypervisor.stage", 101.5, ("jid-0",), "jid-2", 131.5)
    known = Evidence(boot_ids=["a", "b"])
    saved = ledger.save(record(job=job, evidence=known, reason="ä\n'\";"))
    assert saved == record(job=job, evidence=known, reason="ä\n'\";", revision=1)
    with Ledger(path) as again:
        assert again.get("0815") == saved
        assert again.get("0816") is None


def test_records_are_found_by_what_they_are_looked_up_by(ledger):
    first = ledger.save(record("0815", due=30.0))
    second = ledger.save(record("0816", state="deployed", due=None, hypervisor="hv-0815"))
    third = ledger.save(record("0817", state="staging", due=20.0))
    assert ledger.all() == [first, second, third]
    assert ledger.of_minion("hv-0815") == [first, second]
    assert ledger.of_minion("store-0817") == [third]
    assert ledger.of_minion("%") == []
    assert [views.row(line, 0) for line in ledger.lines()] == [
        views.row(each, 0) for each in ledger.all()
    ]
    assert [line.store for line in ledger.lines("staging")] == [third.store]
    assert ledger.stores() == [each.store for each in ledger.all()]
    assert [ledger.due(now) for now in (19, 20, 1000)] == [[], ["0817"], ["0817", "0815"]]


def test_a_record_that_was_changed_in_the_meantime_is_not_overwritten(path, ledger):
    read = ledger.save(record())
    with Ledger(path) as other:
        theirs = other.save(dataclasses.replace(read, state="queued"), "first")
    with pytest.raises(Conflict, match="0815"):
        ledger.save(dataclasses.replace(read, state="failed"), "second")
    assert ledger.get("0815") == theirs
    assert [change.reason for change in ledger.history("0815")] == ["first"]


def test_a_record_that_is_there_is_not_made_a_second_time(ledger):
    ledger.save(record())
    with pytest.raises(Conflict):
        ledger.save(record())


def test_a_record_that_is_gone_is_not_written_again(ledger):
    with pytest.raises(Conflict):
        ledger.save(record(revision=3))
    assert ledger.get("0815") is None


# History


def test_each_change_is_a_line_of_history_with_the_state_before(ledger):
    saved = ledger.save(record(), "requested")
    saved = ledger.save(dataclasses.replace(saved, state="queued", since=110.0), "")
    ledger.save(dataclasses.replace(saved, reason="still waiting"))
    told = [(c.previous, c.state, c.reason, c.at) for c in ledger.history("0815")]
    assert told == [
        ("", "awaiting_hypervisor", "requested", 100.0),
        ("awaiting_hypervisor", "queued", "", 110.0),
    ]
    assert ledger.reached("0815", 1, "queued")
    assert not ledger.reached("0815", 2, "queued")
    assert not ledger.reached("0815", 1, "staging")
    assert not ledger.reached("0816", 1, "queued")


def test_history_and_record_are_written_together_or_not_at_all(ledger):
    saved = ledger.save(record(), "requested")
    ledger._db.execute("DROP TABLE history")
    with pytest.raises(LedgerError, match="history"):
        ledger.save(dataclasses.replace(saved, state="queued"), "slot")
    assert ledger.get("0815") == saved


def test_who_watches_sees_without_reading_whether_another_has_written(path, ledger):
    with Ledger(path) as watching:
        seen = watching.version()
        assert watching.version() == seen
        ledger.save(record(), "requested")
        assert watching.version() != seen


def test_a_change_is_unannounced_until_it_was_announced(ledger):
    saved = ledger.save(record(), "one")
    ledger.save(dataclasses.replace(saved, state="queued"), "two")
    ledger.save(record("0816"), "other")
    first, second = ledger.unannounced("0815")
    ledger.announced([first])
    assert ledger.unannounced("0815") == [second]
    assert len(ledger.unannounced("0816")) == 1


def test_the_stores_with_something_untold_are_found(ledger):
    assert ledger.untold() == []
    ledger.save(record("0815"), "requested")
    ledger.save(record("0816"), "requested")
    assert ledger.untold() == ["0815", "0816"]
    ledger.announced(ledger.unannounced("0815"))
    assert ledger.untold() == ["0816"]


# Doorbells


def test_a_bell_rings_once_until_it_is_answered(ledger):
    ledger.ring("store-0815", 2.0)
    ledger.ring("hv-0816", 1.0)
    ledger.ring("store-0815", 3.0)
    hypervisor, store = ledger.rung()
    assert (hypervisor.name, store.name) == ("hv-0816", "store-0815")
    ledger.answered(hypervisor)
    assert ledger.rung() == [store]


def test_a_bell_that_rings_again_while_it_is_answered_is_heard_again(ledger):
    ledger.ring("hv-0816", 1.0)
    (heard,) = ledger.rung()
    ledger.ring("hv-0816", 2.0, ready=True)
    ledger.answered(heard)
    (again,) = ledger.rung()
    assert (again.name, again.ready) == ("hv-0816", True)


def test_a_bell_that_is_put_off_rests_longer_each_time_unless_it_rings(ledger):
    ledger.ring("hv-0816", 100.0, ready=True)
    rests = []
    for _ in range(len(PUT_OFF_S) + 1):
        (bell,) = ledger.rung()
        ledger.put_off(bell, 100.0)
        (bell,) = ledger.rung()
        rests.append(bell.at - 100.0)
        assert bell.rests(100.0)
        assert not bell.rests(bell.at)
    assert rests == [*PUT_OFF_S, PUT_OFF_S[-1]]
    ledger.ring("hv-0816", 100.0)
    (rung,) = ledger.rung()
    assert not rung.rests(100.0)
    ledger.put_off(bell, 100.0)
    assert ledger.rung() == [rung], "it rang meanwhile"


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_an_eager_ring_is_not_lost_beside_another_one(ledger, order):
    for eager in order:
        ledger.ring("store-0815", 1.0, eager=eager)
    assert [bell.eager for bell in ledger.rung()] == [True]


# Slots


def queue(ledger, *stores, **changes):
    """Put stores into the queue, one a second."""
    return [
        ledger.save(record(store, state="queued", since=100.0 + n, **changes))
        for n, store in enumerate(stores)
    ]


def test_a_hypervisor_has_one_slot(ledger):
    ledger.save(record("0815", state="booting", hypervisor="hv"))
    (waiting,) = queue(ledger, "0816", hypervisor="hv")
    assert not ledger.slot_free(waiting, 50)
    (elsewhere,) = queue(ledger, "0817")
    assert ledger.slot_free(elsewhere, 50)


@pytest.mark.parametrize("ended", ["deployed", "failed", "awaiting_hypervisor"])
def test_what_is_not_being_worked_on_holds_no_slot(ledger, ended):
    ledger.save(record("0815", state=ended, hypervisor="hv"))
    (waiting,) = queue(ledger, "0816", hypervisor="hv")
    assert ledger.slot_free(waiting, 1)


@pytest.mark.parametrize("state", ["staging", "finishing"])
def test_not_more_than_max_active_have_a_slot(ledger, state):
    for store in ("01", "02"):
        ledger.save(record(store, state=state))
    (waiting,) = queue(ledger, "03")
    assert not ledger.slot_free(waiting, 2)
    assert ledger.slot_free(waiting, 3)


def test_a_long_queue_is_not_read_to_its_end(ledger):
    read = []
    ledger._db.set_progress_handler(lambda: read.append(1), 1)

    def steps(look):
        read.clear()
        return look(), len(read)

    def looks():
        return [
            *(steps(lambda most=most: ledger.next_in_queue(most)) for most in (0, 1)),
            steps(lambda: ledger.due(200.0)),
            steps(ledger.asked),
            steps(ledger.open_jobs),
        ]

    queue(ledger, *(f"{n:03}" for n in range(50)), due=86500.0)
    few = looks()
    assert [found for found, _ in few] == [[], ["000"], [], [], set()]
    queue(ledger, *(f"{n:03}" for n in range(50, 500)), due=86500.0)
    assert looks() == few


def test_who_has_a_job_under_way_is_told_without_the_queue(ledger):
    queue(ledger, "0816")
    job = Job("1", "hv", "store_hypervisor.stage", 1.0)
    ledger.save(record("0817", state="staging", job=job))
    ledger.save(record("0818", state="staging"))
    ledger.save(record("0819", state="deployed", job=job))
    assert ledger.asked() == ["0817"]


def test_all_jobs_that_are_waited_for_are_known_by_their_ids(ledger):
    queue(ledger, "0816")
    job = Job("1", "hv", "store_hypervisor.stage", 1.0, earlier=("2", "3"), probe="4")
    look = Evidence(look={"jids": ["5", "6"], "mend": "7"})
    ledger.save(record("0817", state="staging", job=job, evidence=look, due=9.0))
    ledger.save(record("0818", state="deployed", job=Job("8", "hv", "noted", 1.0), due=9.0))
    ledger.save(record("0819", state="booting", due=9.0))
    assert ledger.open_jobs() == set("12345678")


def test_slots_are_given_in_the_order_of_the_queue(ledger):
    first, second, third = queue(ledger, "03", "02", "01")
    assert [ledger.slot_free(r, 1) for r in (first, second, third)] == [True, False, False]
    assert [ledger.slot_free(r, 2) for r in (first, second, third)] == [True, True, False]


def test_who_waits_for_a_busy_hypervisor_does_not_keep_others_waiting(ledger):
    ledger.save(record("01", state="booting", hypervisor="hv"))
    blocked, other = queue(ledger, "02", "03")
    blocked = ledger.save(dataclasses.replace(blocked, hypervisor="hv"))
    assert not ledger.slot_free(blocked, 2)
    assert ledger.slot_free(other, 2)


def test_those_who_wait_for_the_same_hypervisor_take_one_slot_of_those_behind(ledger):
    first, second, other = queue(ledger, "01", "02", "03")
    for each in (first, second):
        ledger.save(dataclasses.replace(each, hypervisor="hv"))
    assert ledger.slot_free(other, 2)


def test_a_slot_is_taken_only_if_it_is_still_free(path, ledger):
    first, second = queue(ledger, "01", "02", hypervisor="hv")
    with Ledger(path) as other:
        other.save(dataclasses.replace(first, state="staging"), "", max_active=50)
    with pytest.raises(Conflict, match="no slot is free"):
        ledger.save(dataclasses.replace(second, state="staging"), "", max_active=50)
    assert ledger.get("02").state == "queued"


# Many processes


def together(count, work, *arguments):
    """Let processes work at the same moment and return what each said."""
    barrier, said = FORK.Barrier(count), FORK.SimpleQueue()
    processes = [
        FORK.Process(target=at_once, args=(barrier, said, work, n, *arguments))
        for n in range(count)
    ]
    for process in processes:
        process.start()
    answers = [said.get() for _ in processes]
    for process in processes:
        process.join()
    return answers


def at_once(barrier, said, work, n, *arguments):
    try:
        barrier.wait(30)
        said.put(work(n, *arguments))
    except BaseException as err:
        said.put(f"{type(err).__name__}: {err}")


def increment(n, path, times):
    done = 0
    with Ledger(path) as ledger:
        while done < times:
            before = ledger.get("0815")
            try:
                ledger.save(dataclasses.replace(before, attempts=before.attempts + 1), str(n))
                done += 1
            except Conflict:
                pass
    return done


def test_nothing_is_lost_when_eight_processes_write_the_same_record(path, ledger):
    ledger.save(record())
    assert together(8, increment, path, 5) == [5] * 8
    assert ledger.get("0815").attempts == 40
    assert ledger.get("0815").revision == 41
    assert len(ledger.history("0815")) == 40


def request(n, path):
    made = spec.from_pillar(PILLAR, "hv-0815")
    with Ledger(path) as ledger:
        try:
            return requests.begin(ledger, float(n), made, "hv-0815", f"process {n}").requested_by
        except Refused as err:
            return err.reason


def test_of_ten_requests_for_a_store_at_the_same_moment_one_succeeds(path):
    answers = together(10, request, path)
    with Ledger(path) as ledger:
        (change,) = ledger.history("0815")
        winner = ledger.get("0815").requested_by
    assert change.reason == f"requested by {winner}"
    refused = [answer for answer in answers if answer != winner]
    assert len(refused) == 9
    assert all("of store 0815 is under way" in a for a in refused), refused


def test_a_request_is_refused_if_another_came_after_it_was_checked(path, monkeypatch):
    refusals = minion_ids.refusals

    def overtaken(*told):
        monkeypatch.setattr(minion_ids, "refusals", refusals)
        assert request(2, path) == "process 2"
        return refusals(*told)

    monkeypatch.setattr(minion_ids, "refusals", overtaken)
    assert request(1, path) == "a deployment of store 0815 is under way: another request was first"
    with Ledger(path) as ledger:
        assert ledger.get("0815").requested_by == "process 2"


def begin_writing_and_die(path):
    ledger = Ledger(path)
    ledger._db.execute("BEGIN IMMEDIATE")
    ledger._db.execute("UPDATE deployments SET record = 'half', revision = 9")
    ledger._db.execute("DELETE FROM history")
    os._exit(9)


def test_a_writer_that_is_killed_leaves_the_record_as_it_was(path, ledger):
    saved = ledger.save(record(), "requested")
    process = FORK.Process(target=begin_writing_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert ledger.get("0815") == saved
    assert len(ledger.history("0815")) == 1
    assert ledger.save(dataclasses.replace(saved, state="queued")).revision == 2


KEEP_SAVING = """
import dataclasses, pathlib, sys
from storemaster.deployment.ledger import Ledger
with Ledger(pathlib.Path(sys.argv[1])) as ledger:
    while True:
        read = ledger.get("0815")
        ledger.save(dataclasses.replace(read, attempts=read.attempts + 1), "saved")
        print(read.attempts + 1, flush=True)
"""


def test_what_was_acknowledged_is_there_whenever_the_writer_is_killed(path, ledger):
    ledger.save(record())
    command = [sys.executable, "-c", KEEP_SAVING, path]
    for round_ in range(8):
        told = 0
        with subprocess.Popen(command, env=CORE, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(round_ + 1):
                told = int(writer.stdout.readline())
            writer.kill()
            told = int((writer.stdout.read().split() or [told])[-1])
        found = ledger.get("0815").attempts
        # The one that was being written may be there, too, but whole.
        assert found in (told, told + 1)
        assert len(ledger.history("0815")) == found
    assert ledger._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# The file


def test_file_and_folder_are_private_even_with_an_open_umask(path):
    umask = os.umask(0)
    try:
        with Ledger(path) as ledger:
            ledger.save(record())
            files = list(path.parent.iterdir())
            assert path in files
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        os.umask(umask)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_was_written_is_on_the_disk_before_it_counts(ledger):
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)


FIRST_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE deployments (
    store TEXT PRIMARY KEY, generation INTEGER NOT NULL, state TEXT NOT NULL,
    hypervisor TEXT NOT NULL, minion_id TEXT NOT NULL, due REAL, revision INTEGER NOT NULL,
    record TEXT NOT NULL);
CREATE INDEX deployments_due ON deployments (due);
CREATE INDEX deployments_state ON deployments (state);
CREATE INDEX deployments_minion ON deployments (minion_id);
CREATE INDEX deployments_hypervisor ON deployments (hypervisor);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, store TEXT NOT NULL, generation INTEGER NOT NULL,
    state TEXT NOT NULL, previous TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    announced INTEGER NOT NULL DEFAULT 0);
CREATE INDEX history_store ON history (store, generation);
CREATE INDEX history_unannounced ON history (announced) WHERE announced = 0;
CREATE TABLE bells (name TEXT PRIMARY KEY, at REAL NOT NULL, eager INTEGER NOT NULL);
INSERT INTO deployments VALUES ('0815', 3, 'staging', 'hv-0815', 'store-0815', 130.5, 7,
    '{"attempts": 1, "began": 100.0, "deadline": 2800.0, "due": 130.5, "evidence": {"x": ["y"]},
      "failed_in": "", "generation": 3, "held_in": "", "hypervisor": "hv-0815", "left_s": null,
      "job": {"at": 101.5, "earlier": ["j0"], "function": "store_hypervisor.stage", "jid": "j1",
              "minion": "hv-0815", "probe": "", "probe_at": 0},
      "minion_id": "store-0815", "next_action": "", "reason": "", "redeploy": true,
      "requested_by": "event", "resumes": "", "revision": 7, "since": 100.0,
      "spec": {"cpus": 2}, "state": "staging", "store": "0815"}');
INSERT INTO history VALUES (41, '0815', 3, 'queued', 'awaiting_hypervisor', '', 99.0, 1);
INSERT INTO history VALUES (42, '0815', 3, 'staging', 'queued', 'slot', 100.0, 0);
INSERT INTO bells VALUES ('hv-0815', 101.0, 1);
PRAGMA user_version=1;
"""


@pytest.fixture
def first_ledger(path):
    """A ledger as the first version wrote it, not with this one's code."""
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.executescript(FIRST_SCHEMA)
    db.close()
    return path


def opened(_, path):
    with Ledger(path) as ledger:
        return ledger.get("0815").revision


def test_a_ledger_of_the_first_version_is_read_and_written_on(first_ledger):
    # However many are first to open it after the update.
    assert together(6, opened, first_ledger) == [7] * 6
    with Ledger(first_ledger) as ledger:
        job = Job("j1", "hv-0815", "store_hypervisor.stage", 101.5, ("j0",))
        found = ledger.get("0815")
        assert (found.job, found.evidence.unknown, found.redeploy) == (job, {"x": ["y"]}, True)
        assert ledger.due(131) == ["0815"]
        assert ledger.of_minion("hv-0815") == [found]
        assert [change.id for change in ledger.unannounced("0815")] == [42]
        assert [bell.name for bell in ledger.rung()] == ["hv-0815"]
        ledger.ring("store-0815", 102.0)
        ledger.save(record("0816", state="queued", hypervisor="hv-0815"))
        ledger.save(record("0817", state="queued"))
        assert ledger.next_in_queue(50) == ["0817"], "staging keeps its slot"
        ledger.save(dataclasses.replace(found, state="clearing", job=None), "staged")
        assert [change.id for change in ledger.history("0815")] == [41, 42, 43]
        assert ledger._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert ledger._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_newer_schema_is_refused_and_left_alone(path):
    with Ledger(path) as ledger:
        ledger._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"has schema {SCHEMA_VERSION + 1}, this code") as refused:
        Ledger(path)
    assert "install the version of store-deploy" in refused.value.hint
    assert path.read_bytes() == before


def garbage(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database, but long enough to be looked at " * 99)


def torn(path):
    with Ledger(path) as ledger:
        ledger.save(record())
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)


def truncated(path):
    with Ledger(path) as ledger:
        for n in range(20):
            ledger.save(record(f"08{n:02}"))
    os.truncate(path, path.stat().st_size // 2)


def half_a_record(path):
    with Ledger(path) as ledger:
        ledger.save(record())
        ledger._db.execute("UPDATE deployments SET record = substr(record, 1, 99)")


def strange_record(path):
    with Ledger(path) as ledger:
        ledger.save(record())
        ledger._db.execute("""UPDATE deployments SET record = '{"job": null, "of": "later"}'""")


def folder_in_its_place(path):
    path.mkdir(parents=True)


def file_in_its_folders_place(path):
    path.parent.write_text("")


@pytest.mark.parametrize(
    "spoil",
    [
        *(garbage, torn, truncated, half_a_record, strange_record),
        *(folder_in_its_place, file_in_its_folders_place),
    ],
    ids=lambda f: f.__name__,
)
def test_a_ledger_that_cannot_be_used_says_which_and_what_to_do_and_is_left_alone(path, spoil):
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""

    def use():
        with Ledger(path) as ledger:
            ledger.get("0815")

    with pytest.raises(LedgerError) as refused:
        use()
    assert refused.value.reason.startswith(f"the ledger {path} cannot be used: ")
    assert "owner, mode and disk space" in refused.value.hint
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_ledger_that_is_full_says_so_and_keeps_what_it_has(ledger):
    saved = ledger.save(record(), "requested")
    more = dataclasses.replace(saved, evidence=Evidence(failure={"long": "x" * 100_000}))
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match="full"):
        ledger.save(more, "more")
    assert ledger.get("0815") == saved
    ledger._db.execute("PRAGMA max_page_count=100000")
    ledger.save(more, "more")


def test_a_writer_that_waited_too_long_says_so(path, ledger):
    ledger._db.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked"):
        ledger.save(record())
    other.execute("ROLLBACK")
    other.close()
    ledger.save(record())


RING = """
import pathlib, sys
from storemaster.deployment.ledger import Ledger
with Ledger(pathlib.Path(sys.argv[1])) as ledger:
    ledger.ring("hv-0815", 100.0)
"""


def test_opening_the_ledger_twice_in_a_process_loses_nothing_that_others_write(path, ledger):
    saved = ledger.save(record())
    # As the ext_pillar does while a step is taken. A descriptor that is closed takes all locks of
    # its process with it; then the next process to close the ledger would remove its log.
    with Ledger(path):
        pass
    # Not forked: SQLite would still count the connections of this process.
    subprocess.run([sys.executable, "-c", RING, path], env=CORE, check=True, timeout=30)
    assert [bell.name for bell in ledger.rung()] == ["hv-0815"]
    ledger.save(dataclasses.replace(saved, reason="kept"))
    with Ledger(path) as again:
        assert again.get("0815").reason == "kept"
