# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a step can see: the record, the ledger, the master, and the record's own clock.

A step that must wait raises :class:`Waiting`; it is called again later, from its beginning. What it
has found out stays in the record's evidence, so that nothing is done twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from storelib.errors import Fault, PillarError
from storemaster.deployment import lifecycle
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import LOOK_AGAIN_S, Ledger
from storemaster.deployment.master_api import ACCEPTED, MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.spec import StoreSpec, from_pillar

PILLAR_S = 30.0
"""When to look again whether a pillar compiles."""


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


class NotYet(Waiting):
    """A minion has answered that it is not so yet: it rings when it is."""


class Unheard(Waiting):
    """The master's own bus did not take a job: that is no silence of the minion's."""


def moment(master: MasterApi) -> dict[str, Any]:
    """Return when it is: the kernel's boot ID, seconds since that boot, the time of day."""
    boot, up = master.uptime()
    return {"boot": boot, "up": up, "now": master.now()}


class StepContext:
    """The record, the ledger and the master, while one step is at work."""

    def __init__(
        self, master: MasterApi, ledger: Ledger, record: Record, rung: bool, max_active: int
    ) -> None:
        self.master = master
        self.ledger = ledger
        self.rung = rung
        self.max_active = max_active
        self.asked = ""
        """The question that the step has come to."""
        was, self.moment = record.looked, moment(master)
        boot, up, now = (self.moment[key] for key in ("boot", "up", "now"))
        same = was.get("boot") == boot
        gap_s = max(up - was["up"], 0.0) if same else up if was else 0.0
        self.counted_s = min(gap_s, LOOK_AGAIN_S)
        self.away = not same or max(gap_s, now - was["now"]) > LOOK_AGAIN_S
        """Whether the master may have been away before, longer than between any two looks."""
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
    def idle(self) -> bool:
        """Say whether nothing is to be read or asked anew: no question is open, nobody rang."""
        return self.record.job is None and not self.rung

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
        """Give the state its time since the last look back."""
        self.record = dataclasses.replace(self.record, spent_s=self.record.spent_s - self.counted_s)

    @property
    def evidence(self) -> Evidence:
        """Return what is known by now."""
        return self.record.evidence

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
        if name not in self.evidence:
            self._remember(name, find(), job=None)
        return getattr(self.evidence, name)

    def wanted(self, hypervisor: str, environment: Mapping[str, Any] | None = None) -> StoreSpec:
        """
        Return what the hypervisor's pillar wants now; wait as long as it does not compile.

        environment
            What the hypervisor told of its environments, if it was asked.
        """
        try:
            pillar = self.master.store_server(hypervisor, environment, self.record.deployment)
            return from_pillar(pillar, hypervisor)
        except PillarError as err:
            raise Waiting(err.reason, PILLAR_S) from err

    def check_hypervisor(self) -> None:
        """Raise :class:`Replaced` if an operator has accepted another key of the hypervisor."""
        ours = self.evidence.hypervisor_key
        accepted = self.master.keys(self.record.hypervisor).get(ACCEPTED)
        if ours and accepted and not self.master.same_key(accepted, ours):
            raise Replaced(f"{self.record.hypervisor} has another key: it was installed anew")

    def beside(self, name: str, act: Callable[[], None]) -> None:
        """Act once, beside a job that is under way."""
        if name not in self.evidence:
            act()
            self._remember(name, True)

    def _remember(self, name: str, found: Any, **changes: Any) -> None:
        # Beside what finding it out may have left as evidence of its own.
        self.save(evidence=dataclasses.replace(self.evidence, **{name: found}), **changes)
