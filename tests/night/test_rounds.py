# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Rounds of faults on a real guest: each fault in each state in which a guest runs.

One store, deployed again and again. In each round every state suffers another fault, and after the
last round each has suffered all of them. SALT and STORE_DEPLOY_IMAGE as for tests/e2e.
"""

import os
import signal

import pytest
from tests.e2e.faults import FAULTS, suffered
from tests.e2e.stores import PATIENT, Stores
from tests.lab.lab import Lab

from storemaster.deployment import lifecycle

STATES = ("booting", "rebooting", "configuring", "restarting", "verifying")
ROUNDS = [
    {state: list(FAULTS)[(number + place) % len(FAULTS)] for place, state in enumerate(STATES)}
    for number in range(len(FAULTS))
]


@pytest.fixture(scope="session")
def stores():
    # However the session is ended, the lab ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(f"/var/tmp/store-deploy-night.{os.getpid()}")
    try:
        lab.up(os.environ.get("SALT", "3008"), "root", os.environ.get("STORE_DEPLOY_IMAGE"))
        stores = Stores(lab)
        stores.describe("0815", timeouts=PATIENT)
        yield stores
    finally:
        lab.down()


@pytest.mark.parametrize(("generation", "plan"), list(enumerate(ROUNDS, 1)))
def test_a_round_of_faults_ends_at_deployed(stores, generation, plan):
    outcome = suffered(stores, generation, plan)
    assert len(outcome.answer["evidence"]["boot_ids"]) >= 3
    timeline = stores.salt_run("deploy.history", "'0815'").answer
    states = [row["state"] for row in timeline if row["generation"] == generation]
    assert states == [*(state.name for state in lifecycle.PATH), "deployed"]
    assert stores.virsh("list", "--name").split() == ["store-0815"]
    own = stores.sh("0815", "cat /etc/salt/pki/minion/minion.pub")
    assert stores.keys("0815") == {"minions": own}
    assert not stores.autosigned("0815")
    assert not stores.seed("0815").exists()
