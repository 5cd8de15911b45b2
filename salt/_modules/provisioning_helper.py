# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a store server does to itself, and tells of itself, while it is deployed.

Each function takes the store and the number of its deployment, refuses if the guest belongs to
another one, can be called again after a kill at any line, and returns a report of the facts that
were read back (:func:`storelib.report.made`). Faults are in the report: nothing is raised.

:depends: ``storelib`` (``_utils/``)
"""

import functools
from typing import TYPE_CHECKING

import salt.config
import salt.loader
from salt.exceptions import SaltException

import storelib.guest.facts
import storelib.guest.highstate
from storelib import report
from storelib.guest import leftovers, network, outcome, power, probes
from storelib.guest.minion import CONFIG, Minion

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __grains__: dict[str, Any]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __salt__: dict[str, Any]

MAX_QUEUE = 100
"""
How many state runs a highstate waits for. With ``queue=True`` Salt would put it on the disk for
later and answer at once, as if all were well; with a number it waits.
"""


def _reporting(step):
    """Turn what a step returns or raises into its sealed report, and into the return code."""

    @functools.wraps(step)
    def reported(store, generation, *args, nonce="", **kwargs):
        name = step.__name__

        def act():
            return step(store, generation, *args, **kwargs)

        def acted():
            return outcome.of(name, store, generation, act)

        secret = __pillar__.get("store_deploy", {}).get("secret", "")
        told = report.on(acted, store, generation, name, nonce, secret)
        __context__["retcode"] = 0 if told["ok"] else 1
        return told

    return reported


def _minion():
    return Minion(
        id=__opts__["id"],
        master=str(__opts__["master"]),
        salt_version=__grains__["saltversion"],
        config={key: __opts__.get(key) for key in CONFIG},
        conf_file=__opts__["conf_file"],
        read_config=lambda path: salt.config.load_config(
            path, "SALT_MINION_CONFIG", path, exit_on_config_errors=False
        ),
        include_config=functools.partial(salt.config.include_config, verbose=False),
        highstate=_highstate,
        grains=__grains__,
        fresh_grains=_fresh_grains,
        addresses=lambda: __salt__["network.ip_addrs"](),
        addresses6=lambda: __salt__["network.ip_addrs6"](),
        service_runs=lambda name: __salt__["service.status"](name),
        run=lambda command, seconds: __salt__["cmd.run_all"](
            command, python_shell=True, timeout=seconds, ignore_retcode=True
        ),
    )


def _fresh_grains():
    __salt__["saltutil.refresh_grains"]()
    # This process has them from before.
    return salt.loader.grains(__opts__, force_refresh=True)


def _highstate(test):
    try:
        return __salt__["state.apply"](queue=MAX_QUEUE, test=test)
    except SaltException as err:
        return [str(err)]


@_reporting
def boots(store, generation, nonce=""):
    """
    Note this boot; return all that were noted, in order, who the guest is, and by which settings.

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
    return storelib.guest.facts.boots(_minion(), store, generation)


@_reporting
def reboot(store, generation, after, nonce=""):
    """
    Reboot the guest a moment after this job has returned, but never twice for one order.

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
    return power.reboot(after)


@_reporting
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
    return storelib.guest.highstate.apply(_minion(), test)


@_reporting
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
    return network.settle()


@_reporting
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

    The fact ``results`` is a list of dicts of ``check``, ``ok`` and ``detail``; ``addresses`` are
    those of the server's interfaces.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.probe store="'0815'" generation=1 \
            checks='[{"tcp": 22}, {"service": "sshd"}]'
    """
    return probes.probe(_minion(), checks)


@_reporting
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

    The facts are ``left``, paths that could not be removed, and ``registration``, which keys for
    Uyuni are still among the grains.

    CLI Example:

    .. code-block:: bash

        salt store-0815 provisioning_helper.cleanup store="'0815'" generation=1
    """
    return leftovers.cleanup(_minion())


@_reporting
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
    return {"running": bool(__salt__["saltutil.find_job"](jid))}


@_reporting
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
    return storelib.guest.facts.facts(_minion())
