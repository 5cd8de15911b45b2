# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
One look at one deployment: what a step can see and do.

A step that must wait raises :class:`Waiting`; the next turn calls it again from its beginning. So
that nothing is done twice, a job is in the record before it is published, and what a step has
found out stays in the record's evidence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from storelib import __version__, lifecycle, orders, report, verbs
from storelib.domain_states import ON
from storelib.errors import Fault, PillarError
from storelib.ledger import TURN_S, Job, Ledger, Record
from storelib.spec import StoreSpec, from_pillar
from storelib.world import ACCEPTED, Returned, World

RESEND_S = 60.0
"""A job that only asks is sent again after this silence: the minion may have been away."""

SYNC_S = 20.0
"""When to look again whether a minion has got its modules."""

PROBE_S = 30.0
"""After this silence the minion is asked whether a job that acts is still running."""

EAGER_S = 3.0
"""In place of both, when a bell says that the minion is there."""

EARLIER = 5
"""How many earlier jobs of the same question may still be answered: a slow guest is late."""

PILLAR_S = 30.0
"""When to look again whether a pillar compiles."""

FENCE_S = 45.0
"""How long another hypervisor of the store has to say whether it runs the store's server."""

MENDS: dict[str, dict[str, Any]] = {
    "saltutil.sync_all": {},
    "saltutil.refresh_pillar": {"wait": True},
}
"""What brings a minion the modules, and the secret that its pillar holds."""

MEND_AGAIN = 5
"""After so many refused reports they are sent once more."""

FIRST_STATE_S = 300.0
"""How long a guest has to get its modules from its first state, before it is told to."""

NO_FUNCTION = "is not available"
"""Salt's words for a module that the minion has not got yet."""

log = logging.getLogger(__name__)


class Waiting(Exception):
    """The step cannot end yet: ``why``, and when to look again at the latest."""

    def __init__(self, why: str, seconds: float = 15.0) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class Replaced(Exception):
    """The hypervisor is another machine than the one that the deployment began on."""


class Behind(Fault):
    """The hypervisor knows more of the store than the ledger: nothing may be touched."""


class Asking(Waiting):
    """An answer is not there yet: says less than what was waited for before."""


class Unheard(Waiting):
    """The master's own bus did not take a job: that is no silence of the minion's."""


def moment(world: World) -> dict[str, Any]:
    """Return when it is: the kernel's boot ID, seconds since that boot, the time of day."""
    boot, up = world.uptime()
    return {"boot": boot, "up": up, "now": world.now()}


class Turn:
    """The record, the ledger and the world, while one step is at work."""

    def __init__(
        self, world: World, ledger: Ledger, record: Record, rung: bool, max_active: int
    ) -> None:
        self.world = world
        self.ledger = ledger
        self.rung = rung
        self.max_active = max_active
        self.asked = ""
        """The question that this turn has come to."""
        was, self.moment = record.looked, moment(world)
        boot, up, now = (self.moment[key] for key in ("boot", "up", "now"))
        same = was.get("boot") == boot
        gap_s = max(up - was["up"], 0.0) if same else up if was else 0.0
        self.counted_s = min(gap_s, TURN_S)
        self.away = not same or max(gap_s, now - was["now"]) > TURN_S
        """Whether the master may have been away before this turn, longer than between any two."""
        self.record = dataclasses.replace(
            record,
            spent_s=record.spent_s + self.counted_s,
            clock_s=(record.clock_s or now) + self.counted_s,
            looked=self.moment,
        )

    def left_s(self, until: float) -> float:
        """
        Return the seconds until the record's clock shows ``until``.

        Those of a gap do not count yet: minions may have tried to answer in vain meanwhile.
        """
        return until - self.record.clock_s + (self.counted_s if self.away else 0)

    @property
    def limit_s(self) -> int:
        """Return the seconds that the state may last; 0 for one that may last for ever."""
        return lifecycle.limit_s(self.record.state, self.spec["timeouts"])

    @property
    def over(self) -> bool:
        """Say whether the state's time is over; then only what is there already can end it well."""
        left_s = self.left_s(self.record.clock_s + self.limit_s - self.record.spent_s)
        return bool(self.limit_s) and left_s <= 0

    def since_s(self, then: dict[str, Any]) -> float:
        """Return the seconds since a moment; by the time of day only if the kernel is another."""
        clock = "up" if then["boot"] == self.moment["boot"] else "now"
        return float(max(0, self.moment[clock] - then[clock]))

    def uncount(self) -> None:
        """Give the state its time since the last turn back."""
        self.record = dataclasses.replace(self.record, spent_s=self.record.spent_s - self.counted_s)

    @property
    def spec(self) -> dict[str, Any]:
        """Return the deployment's spec."""
        return self.record.spec

    def save(self, change: str | None = None, noted: float | None = None, **changes: Any) -> None:
        """Write changes of the record; ``change`` and ``noted`` as for :meth:`Ledger.save`."""
        self.record = self.ledger.save(
            dataclasses.replace(self.record, **changes), change, noted=noted
        )

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """Return evidence ``name``; found out at the first call, remembered from then on."""
        if name not in self.record.evidence:
            found = find()
            # Only now: finding it out may have left evidence of its own.
            self.save(evidence={**self.record.evidence, name: found}, job=None)
        return self.record.evidence[name]

    def on_hypervisor(
        self, step: str, quick: bool = False, at: str | None = None, **arguments: Any
    ) -> report.Report:
        """
        Return the report of ``store_hypervisor.<step>``; raise ``Fault`` if it is not ok.

        at
            Minion ID of another hypervisor than the record's.
        """
        minion = at or self.record.hypervisor
        if step in orders.STEPS:
            arguments["order"] = self._order(step)
        answer = self._report(
            minion, f"store_hypervisor.{step}", quick, spec=self.spec, **arguments
        )
        known = self.record.evidence.get("hypervisor", {}).get("machine_id")
        if at is None and known not in (None, answer.facts.get("machine_id", known)):
            raise Replaced(f"{minion} is another machine: its ID is {answer.facts['machine_id']}")
        if step in orders.STEPS:
            self._carried_out(answer)
        return self._good(answer)

    def _carried_out(self, answer: report.Report) -> None:
        """Note what the machine has noted; raise ``Behind`` if it refuses because of that."""
        record, note = self.record, answer.facts.get("note") or {}
        if answer.facts.get("behind"):
            raise Behind(f"{record.hypervisor}: {answer.error}", answer.hint)
        if note.get("deployment") == record.deployment:
            noted = {**record.noted, answer.facts["machine_id"]: [record.deployment]}
            self.record = dataclasses.replace(record, noted=noted)

    def _order(self, step: str) -> dict[str, Any]:
        """Return the order for a step, and note that it is given, with the record's next saving."""
        record = self.record
        ours, machine, asked = record.deployment, record.machine, (record.attempt, step)
        order = orders.made(
            ours, record.attempt, record.may_be_noted(machine), after=record.ordered
        )
        noted = [each for each in record.noted.get(machine, ()) if each != ours]
        self.record = dataclasses.replace(
            record,
            ordered=asked if orders.beyond(asked, record.ordered) else record.ordered,
            noted={**record.noted, machine: [*noted, ours]},
        )
        return order

    def look(self) -> None:
        """
        Compare with the hypervisor's note, once in each run of the master.

        A master that was restarted may have its ledger from a backup: before it acts, or believes
        what is in its job cache, it looks whether the store has gone on. Raises ``Behind`` then.
        """
        if self.compared:
            return
        run, record = self.world.incarnation(), self.record
        known = record.evidence.get("look", {})
        now = record.clock_s
        silent = now - known["at"] if known.get("run") == run else RESEND_S
        rung = self.rung or known.get("rung", False)
        if silent >= (EAGER_S if rung else RESEND_S):
            # Beside the job that is under way, which goes on.
            jids = [*known.get("jids", []), self.world.new_jid()][-EARLIER:]
            known = {"run": run, "jids": jids if known.get("run") == run else jids[-1:], "at": now}
            arguments = {"spec": self.spec, "generation": record.generation, "nonce": jids[-1]}
            self._send_beside(known, jids[-1], "store_hypervisor.noted", arguments)
        elif self.rung and "rung" not in known:
            known = {**known, "rung": True}
            self._looking(known)
        told = self._told(known["jids"], record.hypervisor, "noted")
        if told is None:
            self._mend_beside(known)
            if gone := self.without_key(record.hypervisor):
                raise Waiting(gone, SYNC_S)
            why = f"{record.hypervisor} has not said yet how far the store is"
            raise Asking(why, _pause_s(rung, silent, SYNC_S))
        self._looking(self.compare(self._good(told).facts))

    def _mend_beside(self, known: dict[str, Any]) -> None:
        """Send what the hypervisor lacks to say it, as after an update; once in each run."""
        returned = self.world.returned(known["jids"][-1], self.record.hypervisor)
        if returned is None or "mend" in known:
            return
        sync = NO_FUNCTION in str(returned.value)
        function = "saltutil.sync_all" if sync else "saltutil.refresh_pillar"
        known = {
            **known,
            "mend": self.world.new_jid(),
            "at": self.record.clock_s - RESEND_S + SYNC_S,
        }
        self._send_beside(known, known["mend"], function, MENDS[function])

    def _send_beside(
        self, known: dict[str, Any], jid: str, function: str, arguments: dict[str, Any]
    ) -> None:
        """Publish beside the deployment's own job, as :meth:`_send` does."""
        self._looking(known)
        try:
            self.world.publish(jid, self.record.hypervisor, function, arguments)
        except Unheard:
            self._looking({**known, "at": 0})
            raise

    def _looking(self, known: dict[str, Any]) -> None:
        self.save(evidence={**self.record.evidence, "look": known})

    @property
    def compared(self) -> bool:
        """Whether the hypervisor's note was compared in this run of the master."""
        known = self.record.evidence.get("look", {})
        return bool(known.get("done")) and known["run"] == self.world.incarnation()

    def compare(self, facts: dict[str, Any]) -> dict[str, Any]:
        """
        Return the evidence ``look`` that it was compared.

        Raises ``Behind`` if the hypervisor has noted what this ledger does not know of.
        """
        record, note = self.record, facts["note"]
        done = {"run": self.world.incarnation(), "done": True}
        if note is None:
            return done
        where = f"{record.hypervisor} has noted"
        if "unreadable" in note:
            raise Behind(f"{where}: {note['unreadable']}", self._adopt())
        ours, earlier = record.deployment, record.may_be_noted(facts["machine_id"])
        if orders.unknown(note, ours, earlier, record.ordered):
            attempt, step = record.ordered
            here = f"{step or 'nothing'} of deployment {ours}, attempt {max(attempt, 1)}"
            raise Behind(
                f"store {record.store} has gone on: {where} {orders.told(note)}; the ledger knows "
                f"of {here}",
                self._adopt(),
            )
        return done

    def _adopt(self) -> str:
        return (
            "is the ledger from a backup? See what is there, and take it into the ledger: "
            f"salt-run deploy.adopt {self.record.store}"
        )

    def _told(self, jids: list[str], minion: str, step: str) -> report.Report | None:
        """Return what a job beside the deployment's own returned, if it is to be believed."""
        record = self.record
        shared = self.world.secret(minion, record.key_of(minion))
        for jid in jids:
            returned = self.world.returned(jid, minion)
            if returned and report.believed(returned.value, (jid,), shared):
                with contextlib.suppress(report.NotAReport):
                    return report.opened(returned.value, record.store, record.generation, step)
        return None

    def wanted(self, hypervisor: str, environment: Mapping[str, Any] | None = None) -> StoreSpec:
        """
        Return what the hypervisor's pillar wants now; wait as long as it does not compile.

        environment
            What the hypervisor told of its environments, if it was asked.
        """
        try:
            return from_pillar(self.world.store_server(hypervisor, environment), hypervisor)
        except PillarError as err:
            raise Waiting(err.reason, PILLAR_S) from err

    def check_hypervisor(self) -> None:
        """Raise :class:`Replaced` if an operator has accepted another key of the hypervisor."""
        ours = self.record.evidence.get("hypervisor_key")
        accepted = self.world.keys(self.record.hypervisor).get(ACCEPTED)
        if ours and accepted and not self.world.same_key(accepted, ours):
            raise Replaced(f"{self.record.hypervisor} has another key: it was installed anew")

    def twin(self, hypervisor: str) -> str:
        """
        Return which other hypervisor runs the store's server; empty if none does.

        One that does not answer within :data:`FENCE_S` is gone, and so is one that has not the key
        any more that it had then. One that answers must be able to say it.
        """
        for other in dict.fromkeys((self.record.hypervisor, *self.record.others)):
            known = self.record.evidence.get("fence", {}).get(other)
            if other == hypervisor or not self._still_there(other):
                continue
            if known is None:
                known = {"until": self.record.clock_s + FENCE_S}
                self._fence(other, known)
            if "runs" not in known:
                try:
                    facts = self.on_hypervisor("facts", quick=True, at=other).facts
                    runs = self._runs(other, facts)
                except Asking:
                    if self.left_s(known["until"]) > 0:
                        raise
                    runs = False
                except Waiting:
                    # It is there, and has its time again to say it.
                    self._fence(other, {"until": self.record.clock_s + FENCE_S})
                    raise
                known = {**known, "runs": runs}
                self._fence(other, known)
            if known["runs"]:
                return other
        return ""

    def _still_there(self, other: str) -> bool:
        ours, accepted = self.record.key_of(other), self.world.keys(other).get(ACCEPTED)
        return bool(ours and accepted and self.world.same_key(accepted, ours))

    @staticmethod
    def _runs(other: str, facts: dict[str, Any]) -> bool:
        domain = facts["domain"]
        if domain is None:
            why = facts["libvirt"]["why"]
            raise Waiting(
                f"{other} may run the store's server and cannot say so: {why}; if it is no "
                f"hypervisor any more, delete its key: salt-key -d {other}"
            )
        return bool(domain.get("ours") and domain["state"] in ON)

    def _fence(self, other: str, known: dict[str, Any]) -> None:
        evidence = self.record.evidence
        fence = {**evidence.get("fence", {}), other: known}
        self.save(evidence={**evidence, "fence": fence})

    def in_guest(self, step: str, quick: bool = False, **arguments: Any) -> report.Report:
        """Return the report of ``provisioning_helper.<step>``; raise ``Fault`` if it is not ok."""
        return self._good(self.try_in_guest(step, quick, **arguments))

    def try_in_guest(self, step: str, quick: bool = False, **arguments: Any) -> report.Report:
        """Return the report of ``provisioning_helper.<step>``, ok or not."""
        return self._report(
            self.record.minion_id,
            f"provisioning_helper.{step}",
            quick,
            store=self.record.store,
            **arguments,
        )

    def _report(self, minion: str, function: str, quick: bool, **arguments: Any) -> report.Report:
        arguments["generation"] = self.record.generation
        self.asked = f"{minion} {function}"
        job = self.record.job
        if job and job.minion == minion and job.function in MENDS:
            self._answer(job, quick=True, arguments=MENDS[job.function])
            job = None
        if job is None or (job.minion, job.function) != (minion, function):
            job = self._publish(minion, function, arguments)
        returned = self._answer(job, quick, arguments)
        try:
            answer = self._believed(job, returned.value)
        except report.Unsealed as err:
            raise self._refused(minion, str(err), "saltutil.refresh_pillar") from err
        except report.NotAReport as err:
            raise self._refused(minion, str(err), "saltutil.sync_all") from err
        if _numbers(answer.version) > _numbers(__version__):
            # Its modules come from the disk: so does what this master would run after a restart.
            self.save(job=None)
            raise Waiting(
                f"{minion} has version {answer.version} of store-deploy, the running master still "
                f"{__version__}: systemctl restart salt-master",
                SYNC_S,
            )
        if answer.version != __version__:
            raise self._mending(minion, "saltutil.sync_all") or Fault(
                f"{minion} has version {answer.version} of store-deploy, not {__version__}",
                f"salt {minion} saltutil.sync_all, then: {verbs.again(self.record)}",
            )
        # The answer is used up: what asks again, asks anew.
        self.record = dataclasses.replace(self.record, job=None)
        return answer

    def _believed(self, job: Job, value: Any) -> report.Report:
        """Return the report, if it is one and sealed by the minion with the key that we know."""
        record, step = self.record, job.function.partition(".")[2]
        shared = self.world.secret(job.minion, record.key_of(job.minion))
        answer = report.opened(value, record.store, record.generation, step)
        if not report.believed(value, (job.jid, *job.earlier), shared):
            raise report.Unsealed(f"{job.minion} sent a report on {step} without its seal")
        return answer

    def _refused(self, minion: str, why: str, mend: str) -> Waiting:
        """Put aside what may be forged: it neither moves the deployment nor fails it."""
        waiting = self._mending(minion, mend)
        if waiting is not None:
            return waiting
        record = self.record
        # A stranger's text, on its way to a log and a terminal.
        why = "".join(char if char.isprintable() else " " for char in why)
        log.warning("%s: refused: %s", record.store, why)
        before = record.evidence.get("refused", {"count": 0, "state": ""})
        now = self.world.now()
        refused = {"count": before["count"] + 1, "last": why, "at": now, "state": record.state}
        # One line of history in each state: a flood of them must not bury the rest.
        line = f"refused: {why}" if before["state"] != record.state else None
        evidence = {**record.evidence, "refused": refused}
        if refused["count"] % MEND_AGAIN == 0:
            # What was to mend it may never have come there.
            evidence["mended"] = []
        self.save(line, noted=now, job=None, evidence=evidence)
        return Waiting(f"refused: {why}", SYNC_S)

    def _mending(self, minion: str, mend: str) -> Waiting | None:
        """Send what an honest minion may lack; ``None`` if it was sent in this state."""
        record = self.record
        if record.state == "booting" and mend == "saltutil.sync_all":
            # Its first startup state brings them; a second run of that would only slow it down.
            since = record.evidence.get("without_modules", record.clock_s)
            self.save(job=None, evidence={**record.evidence, "without_modules": since})
            record = self.record
            if record.clock_s - since < FIRST_STATE_S:
                return Waiting(f"{minion} gets its modules from its first state", SYNC_S)
        mended = record.evidence.get("mended", [])
        this = [record.state, minion, mend]
        if this in mended:
            return None
        self.save(evidence={**record.evidence, "mended": [*mended, this]})
        self._publish(minion, mend, MENDS[mend])
        return Waiting(f"{minion} is new to us: {mend}", SYNC_S)

    def _publish(self, minion: str, function: str, arguments: dict[str, Any]) -> Job:
        old = self.record.job
        again = old is not None and (old.minion, old.function) == (minion, function)
        earlier = (*old.earlier, old.jid)[-EARLIER:] if old and again else ()
        job = Job(self.world.new_jid(), minion, function, self.record.clock_s, earlier)
        # The JID is new with each question: it is the nonce, too.
        nonce = {} if function in MENDS else {"nonce": job.jid}
        self._send(job, job.jid, function, {**arguments, **nonce})
        return job

    def _send(self, job: Job, jid: str, function: str, arguments: dict[str, Any]) -> None:
        """Publish what is in the record by now; what the master refuses is due again at once."""
        self.save(job=job)
        try:
            self.world.publish(jid, job.minion, function, arguments)
        except Unheard:
            self.save(job=dataclasses.replace(job, at=0, probe_at=0))
            raise

    def _answer(self, job: Job, quick: bool, arguments: dict[str, Any]) -> Returned:
        """Return what came back for ``job``; otherwise see to it that it will, and wait."""
        returned = self._first_return(job)
        if returned is not None:
            return returned
        told = self.without_key(job.minion)
        silent = self.record.clock_s - max(job.at, job.probe_at)
        rung = self.rung or job.rung
        if silent < EAGER_S and rung and not job.rung:
            # Asked a moment before the bell, it may not have been there yet: the bell is kept.
            job = dataclasses.replace(job, rung=True)
            self.save(job=job)
        if quick:
            if silent >= (EAGER_S if rung else RESEND_S):
                self._publish(job.minion, job.function, arguments)
        elif self._lost(job, silent):
            self._publish(job.minion, job.function, arguments)
        pause_s = _pause_s(rung, silent, PROBE_S)
        if told:
            raise Waiting(told, pause_s)
        raise Asking(f"{job.minion} has not answered {job.function} yet", pause_s)

    def without_key(self, minion: str) -> str:
        """Say why a minion cannot answer: what became of its key; empty if that is accepted."""
        ours, known = self.record.key_of(minion), self.world.keys(minion)
        if ACCEPTED in known:
            return ""
        if not known:
            return (
                f"{minion} has no key on this master any more; once it has called again: "
                f"salt-key -a {minion}"
            )
        own = [state for state, pem in known.items() if ours and self.world.same_key(pem, ours)]
        if ours and not own:
            return f"another machine calls itself {minion}: its key is {', '.join(known)}"
        state = (own or list(known))[0]
        include = "" if state == "pending" else f"--include-{state} "
        mend = f"salt-key {include}-a {minion} lets it in"
        if state == "rejected" and self.world.autorejected(minion):
            mend = f"the master's autoreject_file names it; take it out there, then {mend}"
        return f"{minion}'s own key is {state}: {mend}"

    def quiet(self) -> bool:
        """Wait until the hypervisor's job that was under way at the cancelling has ended."""
        job = self.record.job
        # A guest's job ends with the guest.
        if job is None or job.minion != self.record.hypervisor:
            return True
        silent = self.record.clock_s - max(job.at, job.probe_at)
        if self._first_return(job) is None and not self._lost(job, silent):
            raise Waiting(f"{job.minion} is still at work: {job.function}", PROBE_S)
        return True

    def _lost(self, job: Job, silent: float) -> bool:
        """Say whether a job is not running though nothing came back; else ask, if it is time."""
        told = self._told([job.probe], job.minion, "job") if job.probe else None
        if told is not None:
            self._good(told)
        if told is not None and told.facts.get("running") is False:
            return self._first_return(job) is None
        if told is not None:
            self.save(job=dataclasses.replace(job, probe=""))
        elif silent >= (EAGER_S if self.rung or job.rung else PROBE_S):
            self._probe(job)
        return False

    def _first_return(self, job: Job) -> Returned | None:
        jids = (job.jid, *job.earlier)
        returns = (self.world.returned(jid, job.minion) for jid in jids)
        return next((returned for returned in returns if returned is not None), None)

    def _probe(self, job: Job) -> None:
        """Ask whether a job is running; only a sealed answer counts, as anybody can send one."""
        probe = self.world.new_jid()
        probed = dataclasses.replace(job, probe=probe, probe_at=self.record.clock_s, rung=False)
        module, whose = "store_hypervisor", dict[str, Any](spec=self.spec)
        if job.minion == self.record.minion_id:
            module, whose = "provisioning_helper", {"store": self.record.store}
        arguments = {**whose, "generation": self.record.generation, "jid": job.jid}
        self._send(probed, probe, f"{module}.job", {**arguments, "nonce": probe})

    def _good(self, answer: report.Report) -> report.Report:
        if not answer.ok:
            evidence = {**self.record.evidence, "failure": answer.facts}
            self.record = dataclasses.replace(self.record, evidence=evidence)
            raise Fault(answer.error, answer.hint)
        return answer


def _pause_s(rung: bool, silent: float, otherwise: float) -> float:
    """Return when to look again for an answer: soon, if a bell rang too early to ask anew."""
    return EAGER_S - silent if rung and silent < EAGER_S else otherwise


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]
