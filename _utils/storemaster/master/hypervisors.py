# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor asks the hypervisors, and finds in their answers and their pillar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import salt.client
import salt.exceptions
import salt.utils.jid
import salt.utils.minions

from storelib import __version__
from storelib.errors import SpecError
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.spec import from_pillar
from storemaster.master import heartbeat, keys, salt_master, serving, uyuni_pillar
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault

ANSWER_S = 12
"""How long is waited for the next hypervisor's answer."""

LOOK_S = 0.25
"""How often is looked for answers."""

TELL_S = 5
"""How often progress is told."""

SKEW_S = 5
"""More than this between two clocks is told."""

VIRT_LEFT = 3008
"""The first Salt without the module virt, which is in saltext-virt since."""

HEALTH = {
    "at": float,
    "version": str,
    "salt": int,
    "python": str,
    "virt_module": bool,
    "libvirt": str,
    "hint": str,
    "saltenv": str,
    "pillarenv": str,
    "sudo_user": str,
}
"""Exactly this, as a job's return is any minion's word."""

Tell = Callable[[str], None]


def faults(
    opts: dict, names: list[str], started: float | None, tell: Tell
) -> dict[Fault, list[str]]:
    """
    Return what is wrong with which of the hypervisors.

    started
        When the running master was started; without one only their keys are looked at.
    """
    found: dict[Fault, list[str]] = {}
    states = keys.states(opts) if names else {}
    let_in = [name for name in names if states.get(name) == ACCEPTED]
    for name in sorted(set(names) - set(let_in)):
        found.setdefault(_not_let_in(states.get(name)), []).append(name)
    if not let_in or started is None:
        return found
    answers: dict[str, dict[str, Any]] = {}
    seldom = _now_and_then(tell)
    # What is not kept by the master that runs, whatever the disk says, cannot be waited for.
    asked = () if any(serving.kept({**opts, **heartbeat.running(opts, started)})) else (_answers,)
    for check in (*asked, _pillars):
        for name, fault in check(opts, let_in, answers, seldom):
            found.setdefault(fault, []).append(name)
    return found


def _not_let_in(state: str | None) -> Fault:
    if state is None:
        return (
            "no accepted key",
            "have its salt-minion call this master, then salt-key -a MINION; behind a syndic, "
            "deploy from the master that it calls",
        )
    included = "" if state == "pending" else f"--include-{state} "
    return (
        f"no accepted key, but a {state} one",
        f"salt-key {included}-a MINION, once the key is known to be its own",
    )


def _now_and_then(tell: Tell) -> Tell:
    """Return ``tell``, but for what comes within ``TELL_S`` of the line before."""
    told = time.monotonic()

    def seldom(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_S:
            told = time.monotonic()
            tell(line)

    return seldom


def _answers(
    opts: dict, names: list[str], answers: dict[str, dict[str, Any]], tell: Tell
) -> Iterator[tuple[str, Fault]]:
    """Ask all of them at once; what they answer is the doctor's to tell and moves nothing."""
    asked = time.time()
    with salt.client.get_local_client(mopts=opts) as client:
        try:
            for name, told in _returns(client, names, "store_hypervisor.health", []):
                answers[name] = told if isinstance(told, dict) else {}
                tell(f"{len(answers)} of {len(names)} hypervisors have answered")
                for fault in _health(told, asked):
                    yield name, fault
            lacking = [name for name, told in answers.items() if "saltenv" not in told]
            known = {name: told.get("saltenv") for name, told in answers.items()}
            # Salt's own function, as those have not got ours.
            known |= _returns(client, lacking, "config.get", ["saltenv"])
        except salt.exceptions.SaltException as err:
            yield names[0], (f"the master did not take the job that asks it: {err}", RESTART)
            return
    own = {name: told for name, told in known.items() if isinstance(told, str) and told}
    unserved = {saltenv for saltenv in set(own.values()) if serving.missing(opts, saltenv)}
    yield from ((name, _unserved(own[name])) for name in own if own[name] in unserved)
    for name in sorted(set(names) - set(answers)):
        yield (
            name,
            (
                f"no answer in {ANSWER_S} s",
                "is it on, does salt-minion run there, can it reach ports 4505 and 4506 of this "
                "master? salt MINION test.ping",
            ),
        )


def _returns(
    client: Any, names: list[str], function: str, arguments: list[str]
) -> Iterator[tuple[str, Any]]:
    """Ask minions, and wait for each within ``ANSWER_S`` of the one before."""
    if not names:
        return
    jid = str(salt.utils.jid.gen_jid(client.opts))
    client.pub(names, function, arguments, tgt_type="list", jid=jid, timeout=10)
    waited_for, until = set(names), time.monotonic() + ANSWER_S
    while waited_for and time.monotonic() < until:
        time.sleep(LOOK_S)
        returned = client.returners[f"{client.opts['master_job_cache']}.get_jid"](jid)
        for name in waited_for.intersection(returned):
            until = time.monotonic() + ANSWER_S
            waited_for.remove(name)
            yield name, returned[name].get("return")


def _unserved(saltenv: str) -> Fault:
    return (
        f"its saltenv is {saltenv}, in which the master does not serve our files",
        f"remove saltenv from the minion's configuration there, restart salt-minion; or name "
        f"{heartbeat.CHECKOUT}/salt for {saltenv}, too, under file_roots in a file of master.d; "
        f"{RESTART}",
    )


def _health(told: Any, asked: float) -> Iterator[Fault]:
    types = {key: type(value) for key, value in told.items()} if isinstance(told, dict) else {}
    if types != HEALTH or told["version"] != __version__:
        yield (
            f"its modules are missing or not those of version {__version__}",
            "salt MINION saltutil.sync_all",
        )
        return
    skew = max(asked - told["at"], told["at"] - time.time())
    if skew > SKEW_S:
        yield (
            f"its clock is wrong by more than {SKEW_S} s",
            "have chrony or systemd-timesyncd set it",
        )
    if told["sudo_user"]:
        yield (
            f"sudo_user is {told['sudo_user']}: Salt passes on the arguments of jobs as text, and "
            "what arrives is not what was sent",
            "remove sudo_user from the minion's configuration there, restart salt-minion",
        )
    if not told["virt_module"]:
        yield "Salt's module virt is not loaded", _virt_package(told)
    if told["libvirt"]:
        yield told["libvirt"], told["hint"]


def _virt_package(told: dict) -> str:
    if "venv-salt-minion" in told["python"]:
        return "install libvirt-libs there, restart venv-salt-minion"
    packages = "libvirt-python" if told["salt"] < VIRT_LEFT else "saltext-virt libvirt-python"
    return f"{told['python']}/bin/python3 -m pip install {packages} there, restart salt-minion"


def _pillars(
    opts: dict, names: list[str], answers: dict[str, dict[str, Any]], tell: Tell
) -> Iterator[tuple[str, Fault]]:
    for done, name in enumerate(names):
        tell(f"{done} of {len(names)} pillars are compiled")
        _, grains, _ = salt.utils.minions.get_minion_data(name, opts)
        if not grains and name in answers and opts.get("minion_data_cache"):
            yield (
                name,
                (
                    "the master has not cached its grains, without which its pillar may be another",
                    "salt MINION saltutil.refresh_pillar",
                ),
            )
        try:
            data = salt_master.store_server(opts, name, answers.get(name))
            if data is None:
                yield name, ("its pillar has no store_server", "describe its store there")
            else:
                spec = from_pillar(data, name)
                yield from ((name, each) for each in uyuni_pillar.wrong(opts, spec, data))
        except SpecError as err:
            yield name, (err.reason, err.hint)
