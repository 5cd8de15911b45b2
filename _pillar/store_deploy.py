# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Give a store server its ``guest_pillar``.

Only while its accepted key is the one that was made for it, checked at each compile: whoever else
calls itself by its minion ID gets nothing.

.. code-block:: yaml

    ext_pillar:
      - store_deploy: {}

:depends: ``storelib`` (``_utils/``)
"""

import logging
from typing import TYPE_CHECKING

from storelib import spec
from storelib.errors import StoreDeployError
from storelib.ledger import Ledger
from storelib.master import keys, salt_world, settings
from storelib.world import ACCEPTED

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]

log = logging.getLogger(__name__)


def ext_pillar(minion_id, pillar):
    """Return the ``guest_pillar`` that the pillar of the minion's hypervisor holds now."""
    # Salt compiles pillar with the minion's view of the configuration.
    opts = {**__opts__, "__role": "master"}
    path = settings.ledger_path(opts)
    if not path.exists():
        return {}
    try:
        with Ledger(path) as ledger:
            records = [r for r in ledger.of_minion(minion_id) if r.minion_id == minion_id]
        for record in records:
            ours = record.evidence.get("public_key", "")
            if ours and keys.same(keys.known(opts, minion_id).get(ACCEPTED, ""), ours):
                return spec.guest_pillar(salt_world.store_server(opts, record.hypervisor))
            log.warning("%s: %s gets no guest_pillar: not its key", record.store, minion_id)
    except StoreDeployError as err:
        log.error("%s gets no guest_pillar: %s; %s", minion_id, err.reason, err.hint)
    return {}
