# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a store server does to itself, and tells of itself, while it is deployed.

Each function takes the store and the number of its deployment, refuses if the guest belongs to
another one, can be called again after a kill at any line, and returns a report of the facts that
were read back (:func:`storelib.report.made`). Faults are in the report: nothing is raised.

:depends: ``storelib`` (``_utils/``)
"""

import ipaddress
import logging
import os
import pathlib
import socket
import time
from typing import TYPE_CHECKING

import salt.config
from salt.exceptions import SaltException

from storelib import guest, report, seed

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __grains__: dict[str, Any]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __salt__: dict[str, Any]

log = logging.getLogger(__name__)

MAX_QUEUE = 100
"""
How many state runs a highstate waits for. With ``queue=True`` Salt would put it on the disk for
later and answer at once, as if all were well; with a number it waits.
"""

CONFIG = ("id", "saltenv", "sls_list", "startup_states")
"""What the seed has set, beside the master, and another file of the minion's may have changed."""

PROBE_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 5
COMMENT_LENGTH = 500


def boots(store, generation, nonce=""):
    """
    Return which boots the guest has noted, in order, who it is, and by which settings it goes.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.boots store="'0815'" generation=1
    """

    def look():
        return {
            "boots": guest.boots(),
            "cleaned": guest.cleaned(),
            "handed_over": guest.handed_over(store, generation),
            "config": {
                "master": str(__opts__["master"]),
                **{key: __opts__.get(key) for key in CONFIG},
            },
            **_identity(),
        }

    return _report("boots", store, generation, nonce, look)


def reboot(store, generation, after, nonce=""):
    """
    Reboot the guest a few seconds after this job has returned, but never twice for one order.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    after
        ID of the boot to be ended. In any other boot nothing happens: the order was carried out.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.reboot store="'0815'" generation=1 \
            after=2f1c9a52-6f0b-4d5e-9d0c-5f8ab5f1b7de
    """

    def act():
        current = guest.boot_id()
        if current == after:
            guest.reboot_soon()
        return {
            "boots": guest.boots(),
            "cleaned": guest.cleaned(),
            "boot_id": current,
            "rebooting": current == after,
        }

    return _report("reboot", store, generation, nonce, act)


def highstate(store, generation, test=False, nonce=""):
    """
    Apply the guest's highstate, after any state run that is under way, and return a summary.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    test
        Whether to change nothing and only tell what would change.

    The facts are ``total``, ``changed``, ``failed`` (dicts of ``id``, ``sls``, ``comment``),
    ``would_change`` (state IDs), ``errors`` (texts of a highstate that did not compile) and
    ``duration_s``. Not ok is a highstate that is empty, did not compile or has a failed state.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.highstate store="'0815'" generation=1 test=True
    """

    def act():
        begun = time.monotonic()
        __salt__["saltutil.refresh_pillar"](wait=True)
        try:
            returned = __salt__["state.apply"](queue=MAX_QUEUE, test=test)
        except SaltException as err:
            returned = [str(err)]
        facts = _summary(returned)
        facts["duration_s"] = round(time.monotonic() - begun, 1)
        # A reboot follows: what is reported outlives a power cut, too.
        os.sync()
        if facts["errors"]:
            raise guest.Fault(
                f"the highstate did not run: {facts['errors'][0]}",
                "mend the states or pillar that it names",
                facts,
            )
        if facts["failed"]:
            first = facts["failed"][0]
            raise guest.Fault(
                f"the highstate failed in {len(facts['failed'])} of {facts['total']} states, first "
                f"{first['id']} ({first['sls']}): {first['comment']}",
                "mend the state",
                facts,
            )
        return facts

    return _report("highstate", store, generation, nonce, act)


def settle(store, generation, nonce=""):
    """
    Make network and hostname stay as they are, and switch cloud-init off for good.

    Without its seed, which is taken away in the end, cloud-init would see a new machine at the
    next boot and set it up anew.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.settle store="'0815'" generation=1
    """
    return _report("settle", store, generation, nonce, guest.settle)


def probe(store, generation, checks, nonce=""):
    """
    Try whether the server serves.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    checks
        List of ``{tcp: <port>}``, ``{service: <name>}`` and ``{command: <shell command>}``; a
        port must take a connection, a service must run, a command must end with status 0 within
        60 seconds.

    The fact ``results`` is a list of dicts of ``check``, ``ok`` and ``detail``.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.probe store="'0815'" generation=1 \
            checks='[{"tcp": 22}, {"service": "sshd"}]'
    """

    def look():
        for check in checks:
            if not isinstance(check, dict) or len(check) != 1 or not set(check) <= set(PROBES):
                raise guest.Fault(
                    f"unknown check {check!r}", f"a check is one of {', '.join(sorted(PROBES))}"
                )
        results = []
        for check in checks:
            ((kind, wanted),) = check.items()
            passed, detail = PROBES[kind](wanted)
            results.append({"check": check, "ok": passed, "detail": detail})
        facts = {"results": results}
        failed = [result for result in results if not result["ok"]]
        if failed:
            raise guest.Fault(
                f"{len(failed)} of {len(results)} checks failed, first {failed[0]['check']}: "
                f"{failed[0]['detail']}",
                "mend the service in the guest or its states",
                facts,
            )
        return facts

    return _report("probe", store, generation, nonce, look)


def cleanup(store, generation, nonce=""):
    """
    Remove bootstrap data and each copy of the seed from the guest.

    Minion keys and ID, SSH host keys, network and hostname stay; cloud-init stays off. Refused, and
    nothing is removed, if the minion would have another master or ID from its next start on.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    The fact ``left`` lists the paths that could not be removed.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.cleanup store="'0815'" generation=1
    """

    def act():
        if afterwards := _afterwards():
            raise guest.Fault(
                f"without the bootstrap data this minion would go by {afterwards}",
                "take that out of the guest's own minion configuration, and out of the image's",
            )
        left = guest.clean()
        if left:
            raise guest.Fault(
                f"bootstrap data could not be removed: {', '.join(left)}",
                "remove these paths in the guest by hand",
                {"left": left},
            )
        return {"left": left}

    return _report("cleanup", store, generation, nonce, act)


def job(store, generation, jid, nonce=""):
    """
    Say whether a job is running on this minion, as the fact ``running``.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    jid
        ID of the job.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.job store="'0815'" generation=1 \
            jid=20261126140000000000
    """

    def look():
        return {"running": bool(__salt__["saltutil.find_job"](jid))}

    return _report("job", store, generation, nonce, look)


def facts(store, generation, nonce=""):
    """
    Return what tells this guest from another one, and what is left of its deployment.

    store
        ID of the store.

    generation
        Number of the deployment, an integer.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.facts store="'0815'" generation=1
    """

    def look():
        return {
            **_identity(),
            "addresses": __salt__["network.ip_addrs"]() + __salt__["network.ip_addrs6"](),
            "host_keys": guest.host_keys(),
            "root_size_mib": guest.root_size_mib(),
            "startup_configured": guest.startup_configured(),
            "left": guest.left(),
        }

    return _report("facts", store, generation, nonce, look)


def _report(step, store, generation, nonce, act):
    """Return the report on what ``act`` found, whether it ended well or by a fault."""
    found, error, hint = {}, "", ""
    try:
        guest.check_deployment(store, generation)
        found = act()
    except guest.Fault as fault:
        found, error, hint = fault.facts, str(fault), fault.hint
    except OSError as err:
        error, hint = f"{step} failed in the guest: {err}", "look at the guest's disk"
    except (Exception, SystemExit) as err:  # parts of Salt mean to end a command
        log.exception("%s: %s", store, step)
        error, hint = report.unforeseen(step, err)
    shared = __pillar__.get("store_deploy", {}).get("secret", "")
    told = report.made(store, generation, step, found, error, hint)
    told = report.sealed(told, nonce, shared)
    __context__["retcode"] = 0 if told["ok"] else 1
    return told


def _afterwards():
    """Return what this minion would go by without the bootstrap data, if it is not as now."""
    main = pathlib.Path(__opts__["conf_file"])
    config = salt.config.load_config(
        str(main), "SALT_MINION_CONFIG", str(main), exit_on_config_errors=False
    )
    files = main.parent.glob(config.get("default_include", "minion.d/*.conf"))
    ours = [pathlib.Path(name).name for name in seed.BOOTSTRAP_CONFIGS]
    # As Salt does it.
    stay = sorted(str(path) for path in files if path.name not in ours)
    include = config.get("include", [])
    for each in (stay, include):
        config.update(salt.config.include_config(each, str(main), verbose=False))
    masters, name = config.get("master", "salt"), config.get("id") or __opts__["id"]
    domain = config.get("append_domain") or ""
    name = name if name.endswith(domain) else f"{name}.{domain}"
    now = str(__opts__["master"]).lower()
    listed = masters if isinstance(masters, list) else [masters]
    told = [] if now in [str(each).lower() for each in listed] else [f"master: {masters}"]
    return ", ".join(told + ([] if name == __opts__["id"] else [f"id: {name}"]))


def _identity():
    return {
        **guest.identity(),
        "minion_id": __opts__["id"],
        "salt_version": __grains__["saltversion"],
    }


def _summary(returned):
    """Shorten what ``state.apply`` returned to what decides whether a deployment goes on."""
    errors, chunks = [], {}
    if isinstance(returned, list):
        errors = [str(error)[:COMMENT_LENGTH] for error in returned]
    elif returned and all(
        isinstance(chunk, dict) and "result" in chunk for chunk in returned.values()
    ):
        chunks = returned
    else:
        errors = [f"it returned {returned!r}"[:COMMENT_LENGTH]]
    named = [
        (chunk.get("__id__", tag), chunk)
        for tag, chunk in sorted(chunks.items(), key=lambda item: item[1].get("__run_num__", 0))
    ]
    return {
        "total": len(chunks),
        "changed": sum(bool(chunk.get("changes")) for _, chunk in named),
        "failed": [
            {
                "id": state_id,
                "sls": chunk.get("__sls__", ""),
                "comment": str(chunk.get("comment", ""))[:COMMENT_LENGTH],
            }
            for state_id, chunk in named
            if chunk["result"] is False
        ],
        "would_change": [state_id for state_id, chunk in named if chunk["result"] is None],
        "errors": errors,
    }


def _tcp(port):
    refusals = []
    ipv6 = [
        address
        for address in __salt__["network.ip_addrs6"]()
        # Means something together with an interface only.
        if not ipaddress.ip_address(address).is_link_local
    ]
    for address in ("127.0.0.1", "::1", *__salt__["network.ip_addrs"](), *ipv6):
        try:
            socket.create_connection((address, int(port)), CONNECT_TIMEOUT_S).close()
            return True, f"{address} port {port} takes connections"
        except (OSError, OverflowError, ValueError) as err:
            refusals.append(f"{address}: {err}")
    return False, "; ".join(refusals)


def _service(name):
    runs = bool(__salt__["service.status"](name))
    return runs, f"{name} {'runs' if runs else 'does not run'}"


def _command(command):
    done = __salt__["cmd.run_all"](
        command, python_shell=True, timeout=PROBE_TIMEOUT_S, ignore_retcode=True
    )
    said = " ".join(f"{done['stdout']} {done['stderr']}".split())[-COMMENT_LENGTH:]
    return done["retcode"] == 0, f"status {done['retcode']}: {said}"


PROBES = {"tcp": _tcp, "service": _service, "command": _command}
