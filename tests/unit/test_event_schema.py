# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The published schema of the event is what is sent, and stays it."""

import dataclasses
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from storemaster.deployment import actor, lifecycle, transition
from storemaster.deployment.record import Change

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "event.schema.json").read_text())
CHANGE = Change(7, "0815", 2, "failed", "booting", "it is late", 1_790_000_000.5, "alice", "api")


def refused(data):
    return [each.message for each in Draft202012Validator(SCHEMA).iter_errors(data)]


def test_the_schema_is_one_and_its_examples_are_of_it():
    Draft202012Validator.check_schema(SCHEMA)
    assert len(SCHEMA["examples"]) == 3
    assert [refused(each) for each in SCHEMA["examples"]] == [[], [], []]


def test_it_has_each_state_and_each_way():
    assert SCHEMA["properties"]["state"]["enum"] == sorted(lifecycle.STATES)
    assert SCHEMA["properties"]["previous"]["enum"] == ["", *sorted(lifecycle.STATES)]
    ways = (actor.SHELL, actor.API, actor.MASTER, actor.REACTOR, actor.EVENT, actor.CLOCK)
    # Of changes from before they had one.
    assert SCHEMA["properties"]["way"]["enum"] == ["", *sorted(ways)]


@pytest.mark.parametrize("state", sorted(lifecycle.STATES))
def test_what_is_sent_is_of_it(state):
    assert refused(transition.event(dataclasses.replace(CHANGE, state=state))) == []


def test_it_names_all_that_is_sent_and_a_key_that_is_missing_is_a_fault():
    sent = transition.event(CHANGE)
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"]) == set(sent)
    for key in sent:
        assert refused({name: value for name, value in sent.items() if name != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [("store", 417), ("store", "a b"), ("generation", 0), ("state", "done"), ("version", 2)],
)
def test_what_is_not_of_it_is_refused(key, value):
    assert refused({**transition.event(CHANGE), key: value})


def test_version_one_keeps_its_keys():
    """A key that goes, or means something else, breaks whoever reads them: raise the version."""
    assert SCHEMA["properties"]["version"]["const"] == transition.EVENT_VERSION == 1
    keys = ["version", "store", "generation", "state", "previous", "reason", "at", "actor", "way"]
    assert list(transition.event(CHANGE))[: len(keys)] == keys
