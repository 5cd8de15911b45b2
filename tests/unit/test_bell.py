# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A ready hypervisor rings, after longer and longer pauses, until the master has heard it."""

import itertools
import json

import pytest

from storelib.hypervisor import bell


@pytest.fixture
def marker(tmp_path):
    marker = tmp_path / "highstate.json"
    marker.write_text(json.dumps({"boot_id": "one", "result": True}))
    return marker


def rings(marker, seconds):
    """Look every second for that long; return when it was rung."""
    at = []
    for now in range(seconds):
        if bell.is_due(marker, now):
            bell.rung(marker, now)
            at.append(now)
    return at


def test_pauses_double_up_to_an_hour_and_are_longer_by_chance(marker):
    at = rings(marker, 5 * 3600)
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    least = [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600][: len(pauses)]
    assert len(pauses) > 6
    for pause, minimum in zip(pauses, least, strict=True):
        assert minimum <= pause <= minimum * 1.5 + 1


def test_minions_that_rang_in_the_same_second_do_not_do_so_again(tmp_path):
    seconds = set()
    for number in range(50):
        marker = tmp_path / str(number) / "highstate.json"
        marker.parent.mkdir()
        marker.write_text(json.dumps({"boot_id": "one"}))
        seconds.add(rings(marker, 91)[1])
    assert len(seconds) > 10


def test_a_clock_that_was_set_back_keeps_nobody_from_ringing(marker):
    bell.rung(marker, 10_000_000)
    assert bell.is_due(marker, 1000)


def test_who_was_heard_is_silent_until_the_next_boot(marker):
    assert not bell.is_silent(marker)
    bell.rung(marker, 0)
    assert bell.acknowledge(marker)
    assert bell.is_silent(marker)
    bell.rung(marker, 1)
    assert bell.is_silent(marker), "a later highstate of the same boot"
    marker.write_text(json.dumps({"boot_id": "two", "result": True}))
    assert not bell.is_silent(marker)
    assert bell.is_due(marker, 2)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"boot_id": 5}'])
def test_without_a_marker_that_can_be_read_nobody_rings(marker, text):
    marker.unlink()
    if text is not None:
        marker.write_text(text)
    assert bell.is_silent(marker)
    assert not bell.acknowledge(marker)
    assert not bell.note(marker).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_a_note_that_cannot_be_read_is_none(marker, text):
    bell.note(marker).write_text(text)
    assert not bell.is_silent(marker)
    assert bell.is_due(marker, 0)
    bell.rung(marker, 0)
    assert json.loads(bell.note(marker).read_text())["rings"] == 1


def test_it_is_rung_when_it_is_time_until_it_was_heard(marker):
    sent, ended = [], []

    def ring(store="0815"):
        return bell.ring(marker, store, lambda *event: sent.append(event) or True, ended.append)

    assert ring(None) is False
    assert [ring(), ring()] == [True, False]
    assert sent == [("store/0815/hypervisor/ready", {})]
    bell.acknowledge(marker)
    assert not ended
    assert ring() is False
    assert (len(sent), ended) == (1, [bell.SCHEDULE])
