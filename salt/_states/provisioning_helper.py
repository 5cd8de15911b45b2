# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Hand a new store server over to its deployment.

:depends: ``storelib`` (``_utils/``)
"""

import logging
from typing import TYPE_CHECKING

from storelib.errors import Fault
from storelib.guest import deployment, power

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]
    __salt__: dict[str, Any]

log = logging.getLogger(__name__)


def firstboot(name):
    """
    Note this boot, tell it, and reboot if it is the first one.

    The guest's list of boots decides whether it reboots, so that a kill at any line ends well:
    in the same boot everything is done again, after another boot there has been a reboot.

    name
        Any text.

    Example:

    .. code-block:: yaml

        hand the machine over:
          provisioning_helper.firstboot: []

    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        known = deployment.bootstrap()
        if known is None:
            ret["comment"] = "There is nothing to do: this machine is not being deployed."
        elif __opts__["test"]:
            ret["comment"] = "This boot would be noted and told."
            ret["result"] = None
        else:
            ret["comment"], ret["changes"] = _note_and_tell(**known)
    except (Fault, OSError) as err:
        ret["result"] = False
        ret["comment"] = str(err)
    return ret


def _note_and_tell(store, generation):
    before = deployment.boots()
    noted = deployment.note_boot()
    handed_over = deployment.handed_over(store, generation)
    what = "booted" if handed_over and len(noted) > 1 else "firstboot"
    # An event that nobody hears costs a delay, not the deployment.
    __salt__["event.send"](f"store/{store}/guest/{what}", {"boot_id": noted[-1]})
    if not handed_over:
        deployment.note_handing_over(store, generation)
    comment = f"Boot {len(noted)} of store {store}, deployment {generation}, was told."
    if len(noted) == 1:
        power.reboot_soon()
        comment += " The machine reboots."
    log.info("store %s: %s", store, comment)
    return comment, {} if noted == before else {"boots": {"old": before, "new": noted}}
