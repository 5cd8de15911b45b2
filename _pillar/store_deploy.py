# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Give a store server its ``guest_pillar``, and it and its hypervisor the secret for their reports.

Only while the minion's accepted key is the recorded one, checked at each compile: whoever else
calls itself by its minion ID gets nothing.

.. code-block:: yaml

    ext_pillar:
      - store_deploy: {}

:depends: ``storelib`` and ``storemaster`` (``_utils/``)
"""

import logging
from typing import TYPE_CHECKING

from storelib import seal
from storelib.errors import StoreDeployError
from storemaster.deployment import spec
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import keys, salt_master, settings

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]

log = logging.getLogger(__name__)


def _guest_pillar(opts, record):
    try:
        return spec.guest_pillar(salt_master.store_server(opts, record.hypervisor))
    except StoreDeployError as err:
        # It must be able to tell of the fault that this will be: the secret is given all the same.
        log.error("%s: no guest_pillar: %s; %s", record.store, err.reason, err.hint)
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
            guest = record.minion_id == minion_id
            ours = record.key_of(minion_id)
            if not ours:
                # Not used yet: there is no key that it should have.
                continue
            if not keys.same(keys.known(opts, minion_id).get(ACCEPTED, ""), ours):
                log.warning("%s: %s gets nothing: it has not its key", record.store, minion_id)
                continue
            secret = seal.secret(settings.root_secret(opts), minion_id, ours)
            data = _guest_pillar(opts, record) if guest else {}
            return {**data, "store_deploy": {"secret": secret}}
        if not records and "store_server" in pillar:
            # A hypervisor that the ledger does not know, or not any more: deploy.adopt asks it.
            key = keys.known(opts, minion_id).get(ACCEPTED)
            secret = seal.secret(settings.root_secret(opts), minion_id, key) if key else ""
            return {"store_deploy": {"secret": secret}} if key else {}
    except StoreDeployError as err:
        log.error("%s gets nothing: %s; %s", minion_id, err.reason, err.hint)
    return {}
