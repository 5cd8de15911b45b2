# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Says what a deployment would do, from the hypervisor's facts; touches nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from storelib.errors import Refused, SpecError, StoreDeployError, one_line
from storemaster.deployment import (
    ledger_check,
    lifecycle,
    requests,
    suitability,
    transition,
    twin_check,
    views,
)
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.deployment.spec import StoreSpec, from_pillar
from storemaster.deployment.step_context import Behind, Waiting
from storemaster.deployment.steps import installing
from storemaster.deployment.views import Plan, Told
from storemaster.master import (
    asking,
    doctor,
    operator_requests,
    registration,
    settings,
    uyuni_pillar,
)
from storemaster.master.salt_master import SaltMaster

NO_SHA256 = "0" * 64
"""Stands in a spec for a checksum that is none."""


def plan(
    opts: dict, store: str, hypervisor: str | None, redeploy: bool = False, full: bool = False
) -> Plan:
    """Return what would be made, and all that is in the way, what matters first before the rest."""
    settings.check(opts, "max_active")
    with (
        operator_requests.open_ledger(opts) as ledger,
        operator_requests.open_master(opts) as master,
    ):
        record, wrong = ledger.get(store), list[Told]()
        read = functools.partial(_read, opts, wrong)
        refused = functools.partial(requests.refusals, ledger, time.time(), record, store)
        try:
            spec, name = operator_requests.wanted(opts, ledger, store, hypervisor, read)
        except Refused as err:
            if record is None:
                raise
            faults = [*map(_told, refused(None, redeploy)), _told(err)]
            return Plan(store, record.state, faults)

        def begun(spec: StoreSpec) -> Record:
            plain, now = spec.as_dict(), time.time()
            return transition.new(record, now, lifecycle.FIRST, plain, name, "plan", redeploy)

        new, there = begun(spec), list[Told]()
        others = twin_check.others(master, new, name)
        answers = _asked(master, new, [name, *others])
        try:
            facts = _facts(master, new, name, answers)
            with asking.reading(name, "facts"):
                own = operator_requests.wanted_in_its_own(opts, ledger, spec, name, facts, read)
                if own != spec:
                    spec, new = own, begun(own)
                    facts = _facts(master, new, name, _asked(master, new, [name]))
                there += _in_the_way(ledger, master, new, facts)
                would = list(views.would(new.spec, facts))
        except Refused as err:
            would = list(views.would(new.spec, {}))
            there.append(_told(err))
        faults = [
            *map(_told, refused(spec.minion_id, redeploy)),
            *wrong,
            *there,
            *_twins(master, new, others, answers),
            *registration.faults(opts, spec),
            *(doctor.autosign(opts) if spec.admission == "autosign" else ()),
        ]
        return Plan(
            store=store,
            now=record.state if record else "never deployed",
            faults=faults,
            generation=new.generation,
            hypervisor=name,
            outage=views.expected_outage(record, ledger.all()),
            would=would,
            spec=new.spec if full else {},
            steps=list(views.steps(new.spec)) if full else [],
        )


def _told(err: StoreDeployError) -> Told:
    return err.reason, err.hint


def _read(opts: dict, wrong: list[Told], pillar: object, hypervisor: str) -> StoreSpec:
    """Read a spec; a checksum that is none is noted as wrong, and hides nothing else."""
    wrong.clear()
    try:
        spec = from_pillar(pillar, hypervisor)
        wrong.extend(uyuni_pillar.wrong(opts, spec, pillar))
        return spec
    except SpecError as err:
        image = pillar.get("image") if isinstance(pillar, Mapping) else None
        if isinstance(pillar, Mapping) and isinstance(image, Mapping):
            with contextlib.suppress(SpecError):
                right = {**pillar, "image": {**image, "sha256": "5e" * 32}}
                spec = from_pillar(right, hypervisor)
                wrong.append(_told(err))
                return dataclasses.replace(
                    spec, image=dataclasses.replace(spec.image, sha256=NO_SHA256)
                )
        raise


def _asked(master: SaltMaster, new: Record, names: list[str]) -> dict[str, Any]:
    """Ask hypervisors for their facts, all at once; closely only the one that is planned for."""
    arguments = {"spec": new.spec, "generation": new.generation}
    return asking.all_synced(
        master,
        {
            each: (
                *(each, "store_hypervisor.facts"),
                {**arguments, "source": each == new.hypervisor},
            )
            for each in names
        },
    )


def _facts(master: SaltMaster, new: Record, name: str, answers: dict[str, Any]) -> dict[str, Any]:
    return asking.facts(master, answers.get(name), name, new.store, new.generation, "facts")


def _in_the_way(
    ledger: Ledger, master: SaltMaster, new: Record, facts: dict[str, Any]
) -> Iterator[Told]:
    """Find in the hypervisor's facts what the deployment would fail of."""
    old = ledger.get(new.store)
    # Whoever has to say redeploy=True is told so once.
    if new.redeploy or old is None or old.state != lifecycle.DEPLOYED.name:
        yield from ((told, "") for told in installing.unknown_server(ledger, new, facts))
    source, saltenv = new.spec["image"]["source"], facts.get("saltenv", "base")
    here = facts["image"].get("sha256") == new.spec["image"]["sha256"]
    if source.startswith("salt://") and not here:
        facts = {**facts, "image_length": master.serves(source, saltenv)}
        if facts["image_length"] is None:
            yield (
                f"the master does not serve the image {source} to a minion whose environment is "
                f"{saltenv}",
                "put it into file_roots or correct image.source",
            )
    yield from ((one_line(told), "") for told in suitability.hypervisor(new.spec, facts))
    yield from ((told, "") for told in _gone_on(new, facts))


def _twins(
    master: SaltMaster, new: Record, others: list[str], answers: dict[str, Any]
) -> Iterator[Told]:
    """Find which other hypervisors may run the store's server; one that is silent is gone."""
    for other in others:
        try:
            if answers.get(other) is None:
                continue
            facts = _facts(master, new, other, answers)
            with asking.reading(other, "facts"):
                if twin_check.says(other, facts):
                    yield _told(twin_check.found(new.store, other))
        except Waiting as err:
            yield one_line(err.why), ""
        except Refused as err:
            yield _told(err)


def _gone_on(new: Record, facts: dict[str, Any]) -> Iterator[str]:
    try:
        ledger_check.refuse(new, {"note": None, **facts})
    except Behind as err:
        yield f"{err.reason}: {err.hint}"
