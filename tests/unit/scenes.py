# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What several files of tests let happen."""

from fake_master import (
    GUEST,
    pem,
)

ACTING = [
    "store_hypervisor.stage",
    "store_hypervisor.prepare",
    "store_hypervisor.clear",
    "store_hypervisor.define",
    "store_hypervisor.start",
    "provisioning_helper.highstate",
    "provisioning_helper.settle",
    "provisioning_helper.probe",
    "provisioning_helper.cleanup",
    "store_hypervisor.finish",
]


def intrude(master, state):
    """Let another machine have its key accepted when this state is entered."""
    master.begin()
    master.run(until=lambda record: record.state == state)
    master.known_keys[GUEST] = {"accepted": pem("intruder")}
