# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
One look at one deployment: what a step can see and do.

A step that must wait raises :class:`Waiting`; the next turn calls it again from its beginning. So
that nothing is done twice, a job is in the record before it is published, and what a step has
found out stays in the record's evidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from storelib import __version__, report
from storelib.errors import Fault
from storelib.ledger import Job, Ledger, Record
from storelib.world import Returned, World

RESEND_S = 60.0
"""A job that only asks is sent again after this silence: the minion may have been away."""

SYNC_S = 20.0
"""When to look again whether a minion has got its modules."""

PROBE_S = 30.0
"""After this silence the minion is asked whether a job that acts is still running."""

EARLIER = 5
"""How many earlier jobs of the same question may still be answered: a slow guest is late."""

EAGER_S = 3.0
"""The same, when a bell says that the minion is there."""

NO_FUNCTION = "is not available"
"""Salt's words for a module that the minion has not got yet."""


class Waiting(Exception):
    """The step cannot end yet: ``why``, and when to look again at the latest."""

    def __init__(self, why: str, seconds: float = 15.0) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class Asking(Waiting):
    """An answer is not there yet: says less than what was waited for before."""


class Turn:
    """The record, the ledger and the world, while one step is at work."""

    def __init__(self, world: World, ledger: Ledger, record: Record, rung: bool) -> None:
        self.world = world
        self.ledger = ledger
        self.record = record
        self.rung = rung

    @property
    def spec(self) -> dict[str, Any]:
        """Return the deployment's spec."""
        return self.record.spec

    def save(self, change: str | None = None, **changes: Any) -> None:
        """Write changes of the record; ``change`` is the line of history, if it is one."""
        self.record = self.ledger.save(dataclasses.replace(self.record, **changes), change)

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """Return evidence ``name``; found out at the first call, remembered from then on."""
        if name not in self.record.evidence:
            self.save(evidence={**self.record.evidence, name: find()}, job=None)
        return self.record.evidence[name]

    def on_hypervisor(self, step: str, quick: bool = False, **arguments: Any) -> report.Report:
        """Return the report of ``store_hypervisor.<step>``; raise ``Fault`` if it is not ok."""
        answer = self._report(
            self.record.hypervisor, f"store_hypervisor.{step}", quick, spec=self.spec, **arguments
        )
        return self._good(answer)

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
        job = self.record.job
        if job and (job.minion, job.function) == (minion, "saltutil.sync_all"):
            self._answer(job, quick=True)
            job = None
        if job is None or (job.minion, job.function) != (minion, function):
            job = self._publish(minion, function, arguments)
        returned = self._answer(job, quick, arguments)
        step = function.partition(".")[2]
        try:
            if isinstance(returned.value, str) and NO_FUNCTION in returned.value:
                raise report.NotAReport(f"{minion}: {returned.value}")
            answer = report.opened(returned.value, self.record.store, self.record.generation, step)
            if answer.version != __version__:
                raise report.NotAReport(
                    f"{minion} has version {answer.version} of store-deploy, not {__version__}"
                )
        except report.NotAReport as err:
            if self.record.state == "booting":
                # Its first startup state brings them; a second run of that would only slow it down.
                self.save(job=None)
                raise Waiting(f"{minion} gets its modules from its first state", SYNC_S) from err
            synced = [minion, self.record.state]
            if self.record.evidence.get("synced") == synced:
                raise Fault(
                    str(err),
                    f"check file_roots and module_dirs (deploy.doctor), then salt {minion} "
                    "saltutil.sync_all and look at what it says",
                ) from err
            self.save(evidence={**self.record.evidence, "synced": synced})
            self._publish(minion, "saltutil.sync_all", {})
            raise Waiting(f"{minion} gets its modules", SYNC_S) from err
        # The answer is used up: what asks again, asks anew.
        self.record = dataclasses.replace(self.record, job=None)
        return answer

    def _publish(self, minion: str, function: str, arguments: dict[str, Any]) -> Job:
        old = self.record.job
        again = old is not None and (old.minion, old.function) == (minion, function)
        earlier = (*old.earlier, old.jid)[-EARLIER:] if old and again else ()
        job = Job(self.world.new_jid(), minion, function, self.world.now(), earlier)
        self.save(job=job)
        self.world.publish(job.jid, minion, function, arguments)
        return job

    def _answer(self, job: Job, quick: bool, arguments: dict[str, Any] | None = None) -> Returned:
        """Return what came back for ``job``; otherwise see to it that it will, and wait."""
        returned = self._first_return(job)
        if returned is not None:
            return returned
        waiting: Waiting = Asking(f"{job.minion} has not answered {job.function} yet", PROBE_S)
        silent = self.world.now() - max(job.at, job.probe_at)
        if quick:
            if silent >= (EAGER_S if self.rung else RESEND_S):
                self._publish(job.minion, job.function, arguments or {})
        elif job.probe:
            asked = self.world.returned(job.probe, job.minion)
            if asked is not None and asked.value:
                self.save(job=dataclasses.replace(job, probe=""))
                waiting = Waiting(f"{job.minion} is at work: {job.function}", PROBE_S)
            elif asked is not None and self._first_return(job) is None:
                # It is not running and nothing came back: the job or its return was lost.
                self._publish(job.minion, job.function, arguments or {})
            elif silent >= (EAGER_S if self.rung else PROBE_S):
                self._probe(job)
        elif silent >= (EAGER_S if self.rung else PROBE_S):
            self._probe(job)
        raise waiting

    def _first_return(self, job: Job) -> Returned | None:
        jids = (job.jid, *job.earlier)
        returns = (self.world.returned(jid, job.minion) for jid in jids)
        return next((returned for returned in returns if returned is not None), None)

    def _probe(self, job: Job) -> None:
        probe = self.world.new_jid()
        self.save(job=dataclasses.replace(job, probe=probe, probe_at=self.world.now()))
        self.world.publish(probe, job.minion, "saltutil.find_job", {"jid": job.jid})

    def _good(self, answer: report.Report) -> report.Report:
        if not answer.ok:
            evidence = {**self.record.evidence, "failure": answer.facts}
            self.record = dataclasses.replace(self.record, evidence=evidence)
            raise Fault(answer.error, answer.hint)
        return answer
