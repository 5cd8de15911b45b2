# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What an operator may say of a store that has a record.

Each check raises :class:`Refused` where its verb is refused. The verbs ask them before they act,
and ``deploy.explain`` asks the same ones for what it offers.
"""

from __future__ import annotations

from collections.abc import Callable

from storelib import commands
from storelib.errors import Refused
from storemaster.deployment import lifecycle
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.deployment.times import lasting

ROLLING_BACK = lifecycle.ROLLING_BACK.name
RETIRING = lifecycle.RETIRING.name


def store(record: Record, now: float, redeploy: bool) -> None:
    """Refuse a new deployment beside one, and of a deployed store if nobody said so."""
    if record.state in lifecycle.OPEN:
        raise Refused(
            f"deployment {record.generation} of store {record.store} is under way on "
            f"{record.hypervisor}: {record.state} for {lasting(now - record.since)}",
            f"watch it: salt-run deploy.watch {record.store}",
        )
    if record.state == lifecycle.DEPLOYED.name and not redeploy:
        raise Refused(
            f"store {record.store} is deployed",
            f"to replace its server: salt-run deploy.store {record.store} redeploy=True",
        )


def hold(record: Record) -> None:
    """Refuse it where nothing moves, or where it cannot rest."""
    _may(record, "hold", f"cannot become {lifecycle.HELD.name}")


def release(record: Record) -> None:
    """Refuse it where nothing is held."""
    _may(record, "release", "is not held")


def retry(record: Record) -> None:
    """Refuse it where nothing failed that can go on."""
    goes_on = record.failed_in in lifecycle.RESUMES
    _may(record, "retry", "has nothing to retry", goes_on)


def cancel(record: Record) -> None:
    """Refuse it where no new server is being made, or was left."""
    _may(record, "cancel", f"cannot become {lifecycle.CANCELLING.name}")
    if ROLLING_BACK in (record.resumes, record.failed_in, record.held_in):
        raise Refused(
            f"store {record.store} is rolled back, which makes no new server to remove",
            _see(record),
        )
    if record.failed_in == RETIRING:
        raise Refused(
            f"store {record.store} is being retired, which cannot be taken back", again(record)
        )


def retire(record: Record) -> None:
    """Refuse it while anything is under way, or where nothing is left."""
    _may(record, "retire", f"allowed are: {', '.join(lifecycle.said_in('retire'))}")


def rollback(record: Record, ledger: Ledger) -> int:
    """Refuse it where no earlier server can be put back; return whose server is there now."""
    _may(record, "rollback", f"allowed are: {', '.join(lifecycle.said_in('rollback'))}")
    name = record.store
    # The server that is in the place now is not the one to go back to.
    present = record.evidence.rolls_back_to if record.state == "deployed" else None
    if record.failed_in == ROLLING_BACK:
        present = record.evidence.replaces
    if present is None:
        present = record.generation
    verified = set(ledger.generations(name, lifecycle.DEPLOYED.name)) - {present}
    # These made no server, but put one back that has the number of its own deployment.
    verified -= set(ledger.generations(name, ROLLING_BACK))
    if not verified:
        raise Refused(
            f"store {name} has no earlier server that was ever verified",
            f"see: salt-run deploy.history {name}",
        )
    elsewhere = [_elsewhere(record, number) for number in sorted(verified)]
    if all(elsewhere):
        raise Refused(
            f"no set-aside server of store {name} is on {record.hypervisor}: "
            f"{'; '.join(elsewhere)}",
            "put it back there by hand, as docs/operate.md says, or deploy anew: "
            f"salt-run deploy.store {name} redeploy=True",
        )
    return present


def _elsewhere(record: Record, number: int) -> str:
    """Say why an earlier deployment's server cannot be put back; empty if it may be there."""
    machine = record.evidence.hypervisor.get("machine_id")
    aside = record.asides.get(str(number))
    if aside is None and record.state != lifecycle.DEPLOYED.name:
        # A clearing that failed at its beginning has left it in its place.
        return ""
    if aside is None:
        others = ", ".join(name for name in record.others if name != record.hypervisor)
        on = f" (such as {others})" if others else ""
        return f"deployment {number} was pruned, or is on a machine that is gone{on}"
    if aside["hypervisor"] != record.hypervisor or machine not in (None, aside["machine_id"]):
        return (
            f"deployment {number} in {aside['path']} on {aside['hypervisor']} (machine ID "
            f"{aside['machine_id']})"
        )
    return ""


def offered(record: Record, ledger: Ledger) -> dict[str, str]:
    """Return the commands that change the store and would not be refused, by their verbs."""
    checks: dict[str, Callable[[], object]] = {
        "hold": lambda: hold(record),
        "release": lambda: release(record),
        "retry": lambda: retry(record),
        "cancel": lambda: cancel(record),
        "store": lambda: store(record, record.since, redeploy=True),
        "rollback": lambda: rollback(record, ledger),
        "retire": lambda: retire(record),
    }
    return {verb: command(record, verb) for verb, check in checks.items() if _accepted(check)}


def _accepted(check: Callable[[], object]) -> bool:
    try:
        check()
    except Refused:
        return False
    return True


def command(record: Record, verb: str) -> str:
    """Return how a verb is said of this store, with what it has to be told."""
    more = ""
    replaces = record.redeploy or record.state == lifecycle.DEPLOYED.name
    if verb == "store" and replaces and record.state != lifecycle.RETIRED.name:
        more = " redeploy=True"
    if verb == "retire" and record.evidence.data_disks:
        more = " data_disks=True"
    if verb == "retire" and record.evidence.leaves_uyuni:
        more += " uyuni=True"
    return commands.deploy(verb, record.store) + more


def again(record: Record) -> str:
    """Return the command that goes on with what fails, or failed, in its state."""
    state = record.failed_in or record.state
    if state == RETIRING:
        return f"{command(record, 'retire')} remove=True"
    return command(record, "cancel" if state == lifecycle.CANCELLING.name else "retry")


def _see(record: Record) -> str:
    return f"see what can be done: salt-run deploy.explain {record.store}"


def _may(record: Record, verb: str, otherwise: str, besides: bool = True) -> None:
    if not besides or record.state not in lifecycle.said_in(verb):
        raise Refused(f"store {record.store} is {record.state}, {otherwise}", _see(record))
