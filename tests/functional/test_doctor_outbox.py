# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of the outbox."""

import time

import pytest
import salt.utils.yaml
from installation import SHIPPED, SITE, Installation, uncommented

from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import GIVEN_UP_S, Outbox
from storemaster.deployment.record import Record
from storemaster.master import settings


@pytest.fixture
def site(tmp_path):
    """An installation with the shipped outbox, whose secret is there."""
    site = Installation(tmp_path)
    shipped = uncommented((SHIPPED / "60-store-deploy-outbox.conf").read_text(), "/srv")
    told = salt.utils.yaml.safe_load(shipped)
    secret = tmp_path / "erp"
    secret.touch(0o600)
    secret.write_text("sixteen bytes ok\n")
    told["store_deploy"]["outbox"]["erp"]["secret_file"] = str(secret)
    site.say(SITE, **told)
    return site


def found(site):
    words = ("outbox", "erp", "desk")
    return {f: mend for f, mend in site.found().items() if any(word in f for word in words)}


def change(site, **told):
    ours = site.read(SITE)["store_deploy"]
    site.say(SITE, store_deploy={**ours, "outbox": told})


def fail(site, at):
    """Let a notice fail at a time."""
    with Ledger(settings.ledger_path(site.opts)) as ledger:
        box = Outbox(ledger, "erp")
        box.collect(lambda _: True)
        if ledger.get("0815") is None:
            made = Record("0815", 1, "failed", 1.0, None, "hv", "store", {}, 1.0, "operator")
            ledger.save(made, "it is late")
            box.collect(lambda _: True)
        box.failed(box.due(at), "it answers 503", at)


def test_the_shipped_outbox_is_as_it_should_be(site):
    assert set(site.opts["store_deploy"]["outbox"]) == {"erp", "desk"}
    assert found(site) == {}


def test_receivers_without_the_engine_are_told(site):
    site.say(SITE, engines=[])
    ((fault, mend),) = found(site).items()
    assert fault.startswith("store_deploy names receivers of changes, and the engine")
    assert "60-store-deploy-outbox.conf" in mend


def test_a_wrong_receiver_is_told_in_one_sentence(site):
    change(site, erp={"webhook": "ftp://erp"})
    (fault,) = found(site)
    assert fault.startswith("store_deploy: outbox: erp: webhook is wrong, allowed: https://HOST")
    assert "it needs secret_file or secret" in fault


def test_a_secret_that_is_not_there_is_told(site, tmp_path):
    (tmp_path / "erp").unlink()
    ((fault, mend),) = found(site).items()
    assert fault.startswith("erp is told nothing: the secret cannot be read: ")
    assert mend == f"write it into {tmp_path}/erp, owned by root, mode 0600"


def test_a_receiver_that_is_away_for_long_is_told(site):
    fail(site, time.time() - 60)
    assert found(site) == {}
    fail(site, time.time() - 30)
    with Ledger(settings.ledger_path(site.opts)) as ledger, ledger.writing() as db:
        db.execute("UPDATE notices SET failing_since = ?", (time.time() - 7200,))
    ((fault, mend),) = found(site).items()
    assert fault == "erp has not taken notices for 2 h: it answers 503"
    assert "salt-run deploy.outbox erp retry=True" in mend


def test_what_was_given_up_is_told_with_both_ways(site):
    fail(site, time.time() - 2 * GIVEN_UP_S)
    with Ledger(settings.ledger_path(site.opts)) as ledger, ledger.writing() as db:
        db.execute("UPDATE notices SET tries = 100")
    fail(site, time.time() - GIVEN_UP_S + 10)
    ((fault, mend),) = found(site).items()
    assert fault == "erp was not told for a day, and notices were given up (1): it answers 503"
    assert "deploy.outbox erp retry=True" in mend
    assert "deploy.outbox erp drop=True" in mend


def test_what_is_no_receiver_any_more_is_told(site):
    fail(site, time.time())
    change(site)
    ((fault, _),) = found(site).items()
    assert fault == "erp is no receiver any more, and its notices are kept: 1"
