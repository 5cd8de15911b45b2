# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A site on the private machine that tests/lab/machine makes: nothing of Salt, libvirt and QEMU is
replaced, and the master's configuration is the shipped one. Only the guests are not what a store
has: stand_in.py says what is in their place.
"""

import logging

import pytest
import salt._logging
import store_site

# It would print what was logged once more after pytest's last line.
salt._logging.shutdown_temp_handler()
# Or each look at the bus would be a line in the report of a failed test.
logging.getLogger("salt").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def site():
    """The running site, with a minion, a domain and an autosign entry that are none of ours."""
    if not store_site.on_private_machine():
        pytest.fail("run this by `make integration`: it starts daemons at their usual paths")
    with store_site.running() as site:
        (store_site.PKI / "minions_pre" / "site-minion").write_text("a key\n")
        store_site.AUTOSIGN.write_text("site-minion\n")
        store_site.AUTOSIGN.chmod(0o600)
        site.define("site-domain")
        yield site


@pytest.fixture
def master(site):
    """The master, started anew with what a test wants, and in the end as shipped."""

    def restart(**how):
        site.master.kill()
        site.master.start(**how)

    yield restart
    restart()
