# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What every report of store_hypervisor is."""

import json

import pytest
from on_hypervisor import (
    SECRET,
)

from storelib import report


@pytest.mark.parametrize("step", ["facts", "start"])
def test_a_report_is_sealed_whether_it_is_good_or_not(call, spec, secret, step):
    made = call(step, nonce="jid-7")
    assert made["ok"] is (step == "facts")
    assert report.believed(json.loads(json.dumps(made)), ["jid-7"], SECRET)
    assert not report.believed(made, ["jid-8"], SECRET)
    assert SECRET not in json.dumps(made)


def test_without_a_secret_a_report_has_no_seal(call):
    made = call("facts", nonce="jid-7")
    assert (made["nonce"], made["seal"]) == ("jid-7", "")
