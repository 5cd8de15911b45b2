# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a role may do is refused or done by the runner, whatever Salt's own list of rights says."""

import pytest
from fake_master import HYPERVISOR, PILLAR

from storelib.errors import Refused
from storemaster.deployment import views
from storemaster.deployment.actor import API, MASTER, REACTOR, SHELL, Actor, act_as
from storemaster.deployment.spec import from_pillar
from storemaster.master import roles, settings

ROLES = {
    "vera": "viewer",
    "otto": "operator",
    "olga": "owner",
    "nora": {"role": "operator", "groups": ["north"]},
    "four": {"role": "owner", "stores": "04.."},
}
NOBODYS = ("notify", "advance", "reconcile", "unknown")


@pytest.fixture
def opts(tmp_path):
    return {"store_deploy": {"state_dir": str(tmp_path), "roles": ROLES}}


def may(opts, user, verb, store=None, way=API, **more):
    with act_as(Actor(user, way)):
        try:
            roles.check(opts, verb, {"store": store, **more})
        except Refused as err:
            return err.reason
    return True


ALL = [verb for verbs in roles.VERBS.values() for verb in verbs]


@pytest.mark.parametrize(("user", "most"), [("vera", 0), ("otto", 1), ("olga", 2)])
def test_a_role_has_its_verbs_and_those_of_the_roles_before_it(opts, user, most):
    known = [verb for role in roles.ROLES[: most + 1] for verb in roles.VERBS[role]]
    assert [verb for verb in ALL if may(opts, user, verb) is True] == known
    for verb in (*set(ALL) - set(known), *NOBODYS):
        assert may(opts, user, verb) == (
            f"{user} may not say deploy.{verb}: the role is {ROLES[user]}"
        )


@pytest.mark.parametrize("way", [SHELL, MASTER, REACTOR])
@pytest.mark.parametrize("verb", [*ALL, *NOBODYS])
def test_who_is_not_authenticated_by_the_master_is_not_limited(opts, way, verb):
    assert may(opts, "vera", verb, way=way) is True


def test_without_roles_it_is_salts_own_rights_that_count(opts):
    del opts["store_deploy"]["roles"]
    assert may(opts, "anybody", "retire") is True
    # With them, and nobody named, nobody has one.
    opts["store_deploy"]["roles"] = {}
    assert may(opts, "anybody", "list") == "anybody has no role"


@pytest.mark.parametrize("user", ["mallory", "", "VERA", "vera "])
def test_who_has_no_role_may_nothing(opts, user):
    assert "has no role" in may(opts, user, "list")


def test_who_has_some_stores_may_nothing_to_the_others(opts, master):
    for store, group in (("0417", "north"), ("0815", "south")):
        master.pillars[HYPERVISOR] = {**PILLAR, "store": store, "group": group}
        master.begin()
    for user in ("nora", "four"):
        assert may(opts, user, "hold", "0417") is True
        assert may(opts, user, "hold", "0815") == f"store 0815 is none of {user}'s"
        assert may(opts, user, "list") is True
    for verb in ("prune", "doctor", "export", "import"):
        assert "is about all of them" in may(opts, "four", verb)
    assert may(opts, "four", "prune", "0417") is True
    # Whose hypervisor that is, nobody has said.
    told = may(opts, "nora", "plan", "0417", hypervisor="hv-0815")
    assert told == "nora has some of the stores, and another one may be on that hypervisor"
    assert may(opts, "olga", "plan", "0417", hypervisor="hv-0815") is True
    # One that has no record is looked at when its pillar is known; that there is none is not told.
    assert may(opts, "nora", "store", "0999") is True
    assert may(opts, "four", "store", "0999") == "store 0999 is none of four's"
    assert may(opts, "nora", "status", "0999") == "store 0999 is none of nora's"
    with act_as(Actor("nora", API)), pytest.raises(Refused, match="store 0999 is none of nora's"):
        roles.check_store(opts, "0999", None)


@pytest.mark.parametrize("store", ["04", "041", "04170", "x0417", "0417\n"])
def test_a_pattern_is_of_whole_ids(opts, store):
    with act_as(Actor("four", API)):
        own = roles.rights(opts)
    assert own.has("0417", None)
    assert not own.has(store, None)


def test_only_what_one_may_do_is_offered(opts, master):
    record = master.begin()
    with act_as(Actor("vera", API)):
        own = roles.rights(opts)
    told = views.explain(record, master.time, master.ledger, own.may)
    assert told["you_can"] == ["watch it: salt-run deploy.watch 0815"]
    assert len(views.explain(record, master.time, master.ledger)["you_can"]) > 1


WRONG = {
    "a list": ["vera"],
    "an unknown role": {"vera": "admin"},
    "no role": {"vera": {"groups": ["north"]}},
    "another key": {"vera": {"role": "viewer", "group": "north"}},
    "a group that is no list": {"vera": {"role": "viewer", "groups": "north"}},
    "a pattern that is none": {"vera": {"role": "viewer", "stores": "04("}},
    "a pattern that is a number": {"vera": {"role": "viewer", "stores": 417}},
    "a user that is a number": {417: "viewer"},
    "nothing": {"vera": None},
}


@pytest.mark.parametrize("told", WRONG.values(), ids=WRONG)
def test_wrong_roles_let_nobody_do_anything_and_are_told(opts, told):
    opts["store_deploy"]["roles"] = told
    ((fault, mend),) = settings.faults(opts)
    assert fault.startswith("store_deploy: roles is ")
    assert "viewer | operator | owner" in fault
    assert mend
    assert "roles is" in may(opts, "vera", "list")
    assert may(opts, "root", "list", way=SHELL) is True


def test_a_spec_has_the_group_by_which_it_is_looked_at():
    assert from_pillar({**PILLAR, "group": "north"}, "hv").group == "north"


@pytest.fixture
def groups(opts, monkeypatch):
    """Groups of this machine by user, and roles that name some."""
    told = {
        "gina": ["users", "store-owners"],
        "both": ["store-viewers", "store-owners"],
        "vera": [],
    }
    monkeypatch.setattr(roles, "get_group_list", lambda user: told.get(user, []))
    opts["store_deploy"]["roles"] = {
        "store-owners%": "owner",
        "store-viewers%": "viewer",
        "both": {"role": "operator", "stores": "04.."},
        "users": "owner",
    }
    return told


def test_who_is_in_a_group_has_its_role_and_whose_name_is_there_has_that(opts, groups):
    assert may(opts, "gina", "prune") is True
    assert may(opts, "both", "prune") == "both may not say deploy.prune: the role is operator"
    assert may(opts, "vera", "list") == "vera has no role"


def test_of_two_groups_the_one_that_is_named_first_counts(opts, groups):
    groups["ines"] = groups["both"]
    assert may(opts, "ines", "prune") is True


@pytest.mark.parametrize("user", ["store-owners%", "store-owners", "%"])
def test_nobody_has_a_role_by_being_called_like_a_group(opts, groups, user):
    assert may(opts, user, "list") == f"{user} has no role"


@pytest.mark.parametrize(
    "said",
    [("import", {"file": "/etc/shadow"}), ("export", {"file": "/x"}), ("export", {"folder": "/x"})],
)
@pytest.mark.parametrize("with_roles", [True, False])
def test_nobody_who_logs_in_has_the_master_read_or_write_a_file(opts, said, with_roles):
    verb, arguments = said
    if not with_roles:
        del opts["store_deploy"]["roles"]
    told = f"deploy.{verb} would read or write a file of the master's as the master"
    assert may(opts, "olga", verb, **arguments) == told
    assert may(opts, "root", verb, way=SHELL, **arguments) is True
    assert may(opts, "olga", "export", file=None) is True
