# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine, with a bus, a queue and rounds that are stubs: what it rings for, and when."""

import itertools
import queue

import pytest
from salt.exceptions import SaltDeserializationError

from _engines import store_pump
from storelib.errors import LedgerError, Refused
from storemaster.deployment.doorbell import Ring, of_event

JID = "20261126173000000000"
RETURNED = {"tag": f"salt/job/{JID}/ret/hv-0815", "data": {}}
STARTED = {"tag": "salt/minion/hv-0815/start", "data": {"id": "hv-0815"}}
ELSE = {"tag": "salt/auth", "data": {}}
UNREADABLE = SaltDeserializationError("no tag")
INTERVAL_S = 0.25
BEGUN = 100.0
BACK, UP = Ring(None, "hv-0815", eager=False, jid=JID), Ring(None, "hv-0815")


class Over(Exception):
    """The bus has no more."""


class Heard:
    """What the listening thread put into its queue, each after a pause, by its own clock."""

    def __init__(self, told):
        self.now = BEGUN
        times = itertools.accumulate((after_s for after_s, _ in told), initial=BEGUN)
        next(times)
        self.told = list(zip(times, (what for _, what in told), strict=True))

    def get(self):
        if not self.told:
            raise Over
        at, what = self.told.pop(0)
        self.now = max(self.now, at)
        return what

    def get_nowait(self):
        if not self.told or self.told[0][0] > self.now:
            raise queue.Empty
        return self.get()

    def sleep(self, seconds):
        self.now += seconds
        if not self.told:
            raise Over


@pytest.fixture
def pumped(monkeypatch):
    """Run the engine over rings; return what each round rang for, with the second it was at."""

    def pumped(*told, known=True, begins=(), refuses=(), stored_s=0, round_s=0):
        begins, refuses = list(begins), list(refuses)
        heard, rung, rounds = Heard(list(told)), [], []

        class Pump:
            def __init__(self, _):
                if begins:
                    raise begins.pop()

            def ring(self, rings):
                if refuses:
                    raise refuses.pop()
                rung.extend(rings)
                return known

            def open_jobs(self):
                return {JID} if heard.now - BEGUN < stored_s else set()

            def round(self):
                rounds.append((round(heard.now - BEGUN, 3), rung.copy()))
                rung.clear()
                heard.now += round_s

        monkeypatch.setattr(store_pump.queue, "SimpleQueue", lambda: heard)
        monkeypatch.setattr(store_pump.threading.Thread, "start", lambda _: None)
        monkeypatch.setattr(store_pump.time, "monotonic", lambda: heard.now)
        monkeypatch.setattr(store_pump.time, "sleep", heard.sleep)
        monkeypatch.setattr(store_pump, "MENDING_S", 0)
        monkeypatch.setattr(store_pump.pump, "Pump", Pump)
        monkeypatch.setattr(store_pump, "__opts__", {"sock_dir": ""}, raising=False)
        with pytest.raises(Over):
            store_pump.start(INTERVAL_S)
        return rounds

    return pumped


@pytest.fixture
def listened(monkeypatch):
    """Listen to a bus that gives these events; return what was put into the queue."""

    def listened(*events):
        class Bus:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def get_event(self, **_):
                event = events.pop(0) if events else Over()
                if isinstance(event, Exception):
                    raise event
                return event

        events, heard = list(events), queue.SimpleQueue()
        monkeypatch.setattr(store_pump.salt.utils.event, "get_master_event", lambda *_, **__: Bus())
        store_pump._listen(heard, {"sock_dir": ""}, INTERVAL_S)
        return [heard.get_nowait() for _ in range(heard.qsize())]

    return listened


END = (INTERVAL_S, None)


def rung_at(rounds):
    return [at for at, rings in rounds if BACK in rings]


def test_a_return_that_is_not_stored_yet_is_rung_for_again_in_a_moment(pumped):
    """Salt tells of it first: the look at once often finds nothing."""
    late_s = 2.5 * store_pump.STORED_S
    rung = rung_at(pumped((0.01, BACK), *[END] * 4, stored_s=0.01 + late_s))
    assert rung == pytest.approx([0.01 + n * store_pump.STORED_S for n in range(3)])


def test_one_that_was_found_is_not_rung_for_again(pumped):
    assert rung_at(pumped((0.01, BACK), *[END] * 4)) == [0.01]


def test_one_that_is_never_stored_is_left_to_the_sweep_after_a_while(pumped):
    rung = rung_at(pumped((0.01, BACK), *[END] * 8, stored_s=60))
    assert len(rung) == store_pump.LOOKS


def test_however_long_a_round_lasts_one_that_is_stored_meanwhile_is_looked_for(pumped):
    rung = rung_at(pumped((0.01, BACK), *[END] * 20, stored_s=3, round_s=2))
    assert rung == pytest.approx([0.01, 2.01 + store_pump.STORED_S])


def test_a_busy_bus_does_not_put_that_off(pumped):
    late_s = 1.5 * store_pump.STORED_S
    rung = rung_at(pumped((0.01, BACK), *[(0.001, None)] * 600, stored_s=0.01 + late_s))
    assert rung == pytest.approx([0.01, 0.01 + store_pump.STORED_S])


def test_all_that_rang_by_now_is_heard_before_one_round(pumped):
    assert pumped((0.01, None), (0, BACK), (0, None), (0, UP), (0, UP), END)[0] == (
        0.01,
        [BACK, UP],
    )


def test_bells_that_ring_again_and_again_each_get_a_round(pumped):
    """Salt 3006 would wait for more a tenth of a second after each."""
    assert [len(rings) for _, rings in pumped(*[(0.025, UP)] * 40)] == [1] * 40


def test_a_flood_of_events_does_not_keep_the_pump_from_its_rounds(pumped, monkeypatch):
    monkeypatch.setattr(store_pump, "AT_ONCE", 3)
    rounds = pumped(*[(0, Ring(None, f"hv-{n}")) for n in range(7)], END)
    assert [len(rings) for _, rings in rounds][:3] == [3, 3, 1]


def test_what_could_not_be_rung_for_is_rung_for_later(pumped):
    faults = [LedgerError("the ledger is busy", "wait"), LedgerError("still", "wait")]
    rounds = pumped((0.01, UP), (0.01, BACK), END, END, refuses=faults)
    assert rounds[0] == (0.27, [UP, BACK])
    assert rounds[1] == (0.52, [])


def test_a_wrong_setting_does_not_end_the_engine(pumped):
    rounds = pumped((0.01, UP), END, END, begins=[Refused("state_dir is wrong", "mend it")])
    assert rounds[0] == (0.26, [UP])


@pytest.mark.parametrize("ring", [None, UP])
def test_what_rings_for_nothing_that_is_known_costs_no_round_of_its_own(pumped, ring):
    assert [at for at, _ in pumped(END, *[(0.01, ring)] * 20, known=False)] == [0.25]
    assert len(pumped(END, *[(0.01, ring)] * 60, known=False)) == 3


def test_an_event_that_cannot_be_read_takes_none_beside_it_along(listened):
    told = listened(STARTED, UNREADABLE, None, ELSE, RETURNED)
    assert told[:-1] == [UP, None, None, None, BACK]
    assert told[-2].jid == JID
    assert isinstance(told[-1], Over)


def test_an_engine_that_can_hear_nothing_any_more_ends_and_is_started_again():
    heard = Heard([(0, UP), (0, OSError("gone"))])
    with pytest.raises(RuntimeError, match="the bus cannot be heard"):
        store_pump._rings(heard, False)


@pytest.mark.parametrize(
    ("tag", "minion", "ring"),
    [
        ("store/0815/hypervisor/ready", "hv-1", Ring("0815", "hv-1", ready=True)),
        ("store/0815/hypervisor/ready", None, Ring("0815", None, ready=True)),
        ("store/0815/guest/booted", "store-0815", Ring("0815", "store-0815")),
        ("salt/minion/another/start", "store-0815", Ring(None, "store-0815")),
        ("salt/minion/store-0815/start", None, None),
        (
            "salt/job/20261126173000000000/ret/store-0815",
            "x",
            Ring(None, "store-0815", eager=False),
        ),
        ("store/0815/guest", "x", None),
        ("store/../x/hypervisor/ready", "x", None),
        ("store/*/guest/booted", "x", None),
        ("store/a\0b/guest/booted", "x", None),
        ("store/a\n/guest/booted", "x", None),
        ("store/\ud800/guest/booted", "x", None),
        ("salt/job/1/ret/a b", "x", None),
        ("store/0815/deploy/failed", "x", None),
        ("", "x", None),
        ("minion_start", "x", None),
    ],
)
def test_what_an_event_rings_for_is_in_its_tag_and_its_sender(tag, minion, ring):
    assert of_event(tag, {"id": minion, "store": "1", "minion": "1"}) == ring


@pytest.mark.parametrize("data", [None, [], "x", {"id": ["x"]}, {"id": "a/../b"}, {"id": "\ud800"}])
def test_a_sender_that_is_no_minion_id_is_nobody(data):
    assert of_event("salt/minion/x/start", data) is None
    assert of_event("store/0815/guest/booted", data) == Ring("0815", None)
