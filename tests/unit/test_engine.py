# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's loop, with a bus and runners that are stubs: what it rings for, and when."""

import itertools

import pytest

from _engines import store_pump

RETURNED = {"tag": "salt/job/20261126173000000000/ret/hv-0815"}
ELSE = {"tag": "salt/auth"}
INTERVAL_S = 0.25


class Over(BaseException):
    """The bus has no more."""


class Bus:
    """Gives events at their times, by its own clock."""

    def __init__(self, events):
        self.events = events
        self.now = 100.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_event(self, wait, **_):
        if not self.events:
            raise Over
        after_s, event = self.events.pop(0)
        self.now += min(after_s, wait)
        return event


@pytest.fixture
def pumped(monkeypatch):
    """Run the engine over events; return what it called, with the seconds since its start."""

    def pumped(*events, known=True):
        bus, called = Bus(list(events)), []
        monkeypatch.setattr(store_pump.salt.utils.event, "get_master_event", lambda *_, **__: bus)
        monkeypatch.setattr(store_pump.time, "monotonic", lambda: bus.now)

        def runner(name, answer):
            def call(**arguments):
                called.append((name, arguments.get("minion"), round(bus.now - 100, 3)))
                return answer

            return call

        runners = {
            "deploy.notify": runner("notify", known),
            "deploy.reconcile": runner("reconcile", {}),
        }
        monkeypatch.setattr(store_pump, "__runners__", runners, raising=False)
        monkeypatch.setattr(store_pump, "__opts__", {"sock_dir": ""}, raising=False)
        with pytest.raises(Over):
            store_pump.start(INTERVAL_S)
        return called

    return pumped


def test_a_return_is_rung_for_again_when_the_master_has_stored_it(pumped):
    """Salt tells of it first: the look at once often finds nothing."""
    called = pumped((0.01, RETURNED), (INTERVAL_S, None), (INTERVAL_S, None))
    assert [each for each in called if each[0] == "notify"] == [
        ("notify", "hv-0815", 0.01),
        ("notify", "hv-0815", 0.26),
    ]
    for (one, _, at), (other, _, then) in itertools.pairwise(called):
        if one == "notify":
            assert (other, then) == ("reconcile", at)


def test_a_busy_bus_does_not_put_that_off(pumped):
    called = pumped((0.01, RETURNED), *[(0.01, ELSE)] * 60)
    again = [at for name, _, at in called if name == "notify"][1:]
    assert len(again) == 1
    assert again[0] <= 0.01 + 2 * INTERVAL_S


def test_returns_of_minions_that_are_none_of_ours_ring_once(pumped):
    called = pumped((0.01, RETURNED), (INTERVAL_S, None), (INTERVAL_S, None), known=False)
    assert [name for name, _, _ in called].count("notify") == 1
