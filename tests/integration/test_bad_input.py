# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a careless or hostile operator types, and what is wrong in the pillar: refused at once."""

import json
import re

import pytest
import salt.config
import salt.runner
import store_site


@pytest.fixture(autouse=True)
def untouched(site):
    """Everything that belongs to others stays as it is, and no refusal leaves a trace."""
    before, records = site.others(), site.list()
    # What a test begins on purpose it adds to this set.
    begun = set()
    yield begun
    assert site.others() == before
    kept = [[each for each in all_ if each.store not in begun] for all_ in (records, site.list())]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("typed", ["../x", "*", "a,b", "", "x" * 300, "a\nb", "[0815]"])
def test_what_is_no_store_id_is_refused(site, typed):
    done = site.salt_run("store", typed)
    error, hint = done.sentences
    assert (done.status, "is no store ID" in error) == (1, True), done.stdout
    assert hint.startswith("a store ID has 1 to 63 letters, digits")
    assert len(error) < 120
    assert "\n" not in error


def test_an_unknown_store_is_refused(site):
    done = site.salt_run("store", "nowhere")
    error, hint = done.sentences
    assert (done.status, site.record("nowhere")) == (1, None)
    assert error.startswith("store nowhere is unknown: hv-nowhere is taken for its hypervisor")
    assert error.endswith("that is no minion of this master")
    assert "hypervisor=MINION" in hint
    assert "deploy.store" not in hint


@pytest.mark.parametrize("wrong", ["*", "a,b", "../x"])
def test_a_hypervisor_is_one_minion(site, wrong):
    done = site.salt_run("store", "nowhere", f"hypervisor={wrong}")
    assert done.status == 1
    assert done.sentences[0].endswith("is no minion ID")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere", "redeploy=maybe"], "redeploy is 'maybe'"),
        (["nowhere", "timeout=soon"], "timeout is 'soon'"),
        (["nowhere", "force=True"], "unexpected keyword argument 'force'"),
        ([], "missing a required argument: 'store'"),
        (["no"], "the store ID arrived as False"),
        (["on"], "the store ID arrived as True"),
        (["null"], "the store ID arrived as None"),
    ],
)
def test_a_wrong_argument_is_refused(site, arguments, named):
    done = site.salt_run("store", *arguments)
    assert done.status == 1
    assert named in done.sentences[0]
    assert done.sentences[1]


@pytest.mark.parametrize("typed", [["0417"], ["store=0417"], ["'0417'"], ["417"]])
def test_a_store_id_of_digits_means_what_was_typed(site, untouched, typed):
    (word,) = typed
    store = word.removeprefix("store=").strip("'")
    untouched.add(store)
    # Nobody has let in this hypervisor, so the deployment waits and then ends.
    site.describe(f"hv-{store}", store, timeouts={"awaiting_hypervisor": 1})
    other = {"0417": "417", "417": "0417"}[store]
    before = site.record(other)
    assert site.begin(word)["store"] == store
    assert site.record(other) == before
    record = site.ended(store)
    assert (record.state, record.failed_in) == ("failed", "awaiting_hypervisor")
    assert f"hv-{store} has no accepted key" in record.reason


def test_a_number_from_a_program_is_refused_with_the_quoting_that_works(site):
    runner = salt.runner.RunnerClient(salt.config.master_config("/etc/salt/master"))
    answer = runner.cmd("deploy.store", [417], print_event=False)
    assert answer["retcode"] == 1
    assert "arrived as the number 417" in answer["error"]
    assert "'0417'" in answer["hint"]


def test_a_bare_number_in_the_pillar_is_refused(site):
    text = json.dumps(site.store_server("bare")).replace('"bare"', "0417")
    site.write_pillar("hv-bare", text=f"store_server: {text}\n")
    done = site.salt_run("store", "'0417'", "hypervisor=hv-bare")
    assert done.status == 1
    assert re.search(
        r"store is \d+, which .* quote it, allowed: a quoted string .* \('0417'\)",
        done.sentences[0],
    )


def test_all_faults_of_a_pillar_are_named_at_once(site):
    site.describe("hv-wrong", "wrong", cpus="two", memory=512, disk_gib=-1)
    done = site.salt_run("store", "wrong")
    error, hint = done.sentences
    assert (done.status, site.record("wrong")) == (1, None)
    for named in ("cpus is 'two'", "memory is 512, allowed: no such key", "disk_gib is -1"):
        assert named in error
    assert "mend the pillar" in hint


def test_a_pillar_that_does_not_compile_is_refused(site):
    site.write_pillar("hv-broken", text="store_server: [")
    done = site.salt_run("store", "broken", salt_logs_a_traceback=True)
    store_site.PILLAR.joinpath("hv-broken.sls").unlink()
    assert done.status == 1
    assert "the pillar of hv-broken does not compile" in done.sentences[0]


def test_a_pillar_of_another_store_is_refused(site):
    site.describe("hv-swapped", "other")
    done = site.salt_run("store", "swapped")
    assert done.status == 1
    assert done.sentences[0] == "the pillar of hv-swapped describes store other, not swapped"


@pytest.mark.parametrize("verb", ["status", "history", "explain", "plan", "advance"])
def test_a_verb_refuses_what_it_does_not_know(site, verb):
    done = site.salt_run(verb, "nowhere")
    assert done.status == 1
    assert all(done.sentences)
