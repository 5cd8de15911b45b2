# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Give a store server its ``guest_pillar``, and it and its hypervisor the secret for their reports.

Only while the minion's accepted key is the recorded one, checked at each compile: whoever else
calls itself by its minion ID gets nothing.

Where a part of the pillar is not to be had, the pillar is one with an error, which Salt applies no
state with: a highstate without its data would take from a store what it runs on.

.. code-block:: yaml

    ext_pillar:
      - store_deploy: {}

:depends: ``storelib`` and ``storemaster`` (``_utils/``)
"""

import logging
from typing import TYPE_CHECKING

from storelib import seal
from storelib.errors import StoreDeployError
from storemaster.deployment import lifecycle, spec
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import keys, registration, salt_master, settings, uyuni_pillar

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]

log = logging.getLogger(__name__)

MAKE_SEED = ("preparing", "clearing", "defining")
"""In these states the hypervisor may write the guest's seed."""


def _guest_pillar(opts, record):
    if uyuni_pillar.configured(opts) and record.spec["minion"] == uyuni_pillar.CLASSIC:
        yield uyuni_pillar.AVOID, True
    yield from spec.guest_pillar(salt_master.store_server(opts, record.hypervisor)).items()


def _data(opts, record, minion_id, pillar):
    """Return what is the minion's own, or the error that keeps states from running without it."""
    guest = record.minion_id == minion_id
    try:
        if uyuni_pillar.comes_before(opts):
            uyuni_pillar.refuse(opts, minion_id, pillar)
        return dict(_guest_pillar(opts, record)) if guest else {}
    except StoreDeployError as err:
        told = f"{err.reason}; {err.hint}"
        log.error("%s: %s has not its whole pillar: %s", record.store, minion_id, told)
        # The first states of a new guest have it call, before anybody can register it.
        return {} if guest and record.is_new else {"_errors": [told]}


def _seed(opts, records, minion_id):
    """Return what a hypervisor puts into the seed that it makes now, and keeps nowhere else."""
    for record in records:
        # A job that is under way goes on while its deployment is held.
        state = record.held_in if record.state == lifecycle.HELD.name else record.state
        makes = record.hypervisor == minion_id and state in MAKE_SEED
        if key := registration.management_key(opts, record) if makes else "":
            return {registration.MANAGEMENT_KEY: key}
    return {}


def ext_pillar(minion_id, pillar):
    """
    Return what a store server or a hypervisor of ours gets.

    A store server: the ``guest_pillar`` that the pillar of its hypervisor holds now. Both: the
    secret that they seal their reports with.
    """
    # Salt compiles pillar with the minion's view of the configuration.
    opts = {**__opts__, "__role": "master"}
    try:
        path = settings.ledger_path(opts)
        if not path.exists():
            return {}
        with Ledger(path) as ledger:
            records = ledger.of_minion(minion_id)
        for record in records:
            ours = record.key_of(minion_id)
            if not ours:
                # Not used yet: there is no key that it should have.
                continue
            if not keys.same(keys.known(opts, minion_id).get(ACCEPTED, ""), ours):
                log.warning("%s: %s gets nothing: it has not its key", record.store, minion_id)
                continue
            secret = seal.secret(settings.root_secret(opts), minion_id, ours)
            data = _data(opts, record, minion_id, pillar)
            return {**data, "store_deploy": {"secret": secret, **_seed(opts, records, minion_id)}}
        if not records and "store_server" in pillar:
            # A hypervisor that the ledger does not know, or not any more: deploy.adopt asks it.
            key = keys.known(opts, minion_id).get(ACCEPTED)
            secret = seal.secret(settings.root_secret(opts), minion_id, key) if key else ""
            return {"store_deploy": {"secret": secret}} if key else {}
    except StoreDeployError as err:
        log.error("%s gets nothing: %s; %s", minion_id, err.reason, err.hint)
    return {}
