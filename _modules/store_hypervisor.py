# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Deploy a store server's domain on its hypervisor.

Each function is one step of a deployment. All take the validated spec of the store and the number
of the deployment (generation) by keyword, can be called again after having been killed at any
line, and return a report: ``ok``, ``error``, ``hint`` and the facts that were read back.
None raises for a fault of the world; such a report sets the return code 1.

:depends: ``storelib`` (``_utils/``), execution module ``virt``, libvirt-python, qemu-img, xorriso,
    curl for images from web servers
"""

import contextlib
import datetime
import functools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import salt.exceptions

from storelib import __version__, bell, report
from storelib.hypervisor import (
    MIB,
    Fault,
    Place,
    disks,
    domains,
    fence,
    first,
    folder,
    free,
    guest,
    images,
    in_use,
    inodes_left,
    new_server,
    of_system,
    old,
    read_json,
    remains,
    transfer,
    unfinished,
    write,
)

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __grains__: dict[str, Any]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __salt__: dict[str, Any]

log = logging.getLogger(__name__)

FACTS_PATIENCE_S = 5
"""How long facts wait for libvirt; without it they tell what else they know."""

STAGING_S = 45 * 60
"""How long a deployment waits for its image, unless the spec says otherwise."""


def _reporting(step):
    """Turn what a step returns or raises into its report."""

    @functools.wraps(step)
    def reported(spec, generation, nonce="", **arguments):
        fault, facts = None, {}
        try:
            try:
                facts = step(spec, generation, **arguments)
            except domains.Gone as gone:
                # Each step can be run again; a restart of libvirt must not cost a deployment.
                log.warning("%s: %s: %s", spec["store"], step.__name__, gone)
                facts = step(spec, generation, **arguments)
        except Fault as err:
            fault, facts = err, err.facts
        except OSError as err:
            pool = Path(spec.get("pool", ""))
            fault = of_system(err, pool if pool.is_absolute() and pool.is_dir() else None)
        except salt.exceptions.SaltException as err:
            fault = Fault(str(err))
        if fault:
            log.error("%s: %s: %s", spec["store"], step.__name__, fault)
        machine = _machine_id()
        facts = {**facts, "machine_id": machine, "note": fence.shown(spec["store"], machine)}
        told = report.made(
            *(spec, generation, step.__name__, facts),
            error=str(fault) if fault else "",
            hint=fault.hint if fault else "",
        )
        return report.sealed(told, nonce, _secret())

    @functools.wraps(step)
    def whatever_is_raised(spec, generation, nonce="", **arguments):
        try:
            told = reported(spec, generation, nonce, **arguments)
        except (Exception, SystemExit) as err:  # parts of Salt mean to end a command
            log.exception("%s", step.__name__)
            error, hint = report.unforeseen(step.__name__, err)
            odd = report.made(spec, generation, step.__name__, {}, error, hint)
            told = report.sealed(odd, nonce, _secret())
        # The loader's context outlives the job in some callers: set it in both cases.
        __context__["retcode"] = 0 if told["ok"] else 1
        return told

    return whatever_is_raised


def _secret():
    return __pillar__.get("store_deploy", {}).get("secret", "")


def _machine_id():
    with contextlib.suppress(OSError, UnicodeError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def _environment():
    """Return in which environments this minion asks for states and pillar; empty for Salt's."""
    told = {key: str(__opts__.get(key) or "") for key in ("saltenv", "pillarenv")}
    if __opts__.get("pillarenv_from_saltenv"):
        told["pillarenv"] = told["pillarenv"] or told["saltenv"]
    return told


def _uri():
    return __salt__["config.get"]("virt:connection:uri", None)


def _place(connection, spec):
    pool = domains.pool_path(connection, spec["pool"])
    if not pool.is_dir():
        raise Fault(f"the pool {pool} does not exist", "make the directory or mount it")
    return Place(pool, spec["minion_id"], spec["image"]["sha256"])


@contextlib.contextmanager
def _at_work(spec, order=None, step=""):
    """
    Give libvirt and the store's files, while no other job works on them.

    order, step
        What is carried out: noted first, and refused if it comes too late.
    """
    store, machine = spec["store"], _machine_id()
    with domains.connected(_uri()) as connection:
        place = _place(connection, spec)
        # The pool's own lock, too: several hypervisors may share a pool.
        with fence.at(store, machine), place.lock():
            if order is not None:
                known = domains.facts(connection, spec, place)
                fence.passed(store, machine, order, step, known)
            # Whatever is to be done now, a trial that was killed is over.
            new_server.untried(connection, spec, new_server.of(place))
            yield connection, place


def _ours(connection, spec, place):
    """Return the facts of the store's domain; a domain of its name that is not ours is refused."""
    known = domains.facts(connection, spec, place)
    if not known["exists"]:
        in_use.refuse_renamed(connection, place, spec["store"])
    elif not known["ours"]:
        raise Fault(
            f"the domain {spec['minion_id']} on this hypervisor does not belong to "
            f"store {spec['store']}",
            "rename or remove it by hand, or choose another minion_id",
        )
    return known


def _in_pool(connection, spec, place):
    """Return the facts of the store's domain, whose disks must be where the pillar says."""
    known = _ours(connection, spec, place)
    if known["exists"]:
        in_use.refuse_moved(connection, place, [each["name"] for each in spec["data_disks"]])
    return known


def _clearable(connection, spec, place):
    """Return the facts of the store's domain, whose files nobody else may use."""
    known = _in_pool(connection, spec, place)
    domain = domains.lookup(connection, spec["minion_id"])
    going = [place.disk, _nvram(domain, place), place.seed]
    # The new server is given these: two guests that write to one disk destroy it.
    shared = [place.data_disk(each["name"]) for each in spec["data_disks"]]
    in_use.refuse(connection, place, [*going, *shared], domain, loose=False)
    return known


def _defined_by(connection, spec, place, generation, deployment):
    """Return the store's domain, which must be the one that this deployment defined."""
    known = _ours(connection, spec, place)
    # A server that was put back is known by its number only.
    right = known.get("deployment") == deployment if deployment else True
    if not (known["exists"] and right and known["generation"] == generation):
        raise Fault(
            f"the domain {spec['minion_id']} of deployment {generation} is not defined",
            f"salt-run deploy.store {spec['store']} makes it anew",
        )
    return domains.kept(connection, domains.lookup(connection, spec["minion_id"]))


def _seed_facts(place):
    return {"path": str(place.seed), "exists": place.seed.exists()}


def _get_file(source, path):
    try:
        return __salt__["cp.get_file"](source, path)
    except salt.exceptions.SaltException as err:
        raise Fault(
            f"the master cannot be asked for the image {source}: {err or type(err).__name__}",
            "see to the master and the line",
        ) from err


def _source_error(spec):
    fault = images.unreachable(spec["image"]["source"], transfer.Access.of(__opts__))
    return f"{fault}: {fault.hint}" if fault else ""


@_reporting
def facts(spec, generation, source=False, nonce=""):
    """
    Read what the hypervisor has and lacks for this store. Changes nothing.

    It answers without libvirt too: ``libvirt`` then says why it cannot be reached, and the facts
    that only libvirt knows are empty.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    source
        Look, too, whether an image that is not here yet can be fetched (``source_error``): web
        server or file. That takes some seconds at most, for which nobody waits otherwise.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.facts spec='{...}' generation=1
    """
    pool = Path(spec["pool"]) if spec["pool"].startswith("/") else None
    curl = [("curl",)] if spec["image"]["source"].startswith(images.WEB) else []
    found = {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "cpus": os.cpu_count(),
        "environment": _environment(),
        "marker": read_json(bell.MARKER),
        "virt_module": "virt.init" in __salt__,
        "tools_missing": [
            " or ".join(tools)
            for tools in (("qemu-img",), guest.ISO_TOOLS, *curl)
            if not first(tools)
        ],
        "saltenv": __opts__.get("saltenv") or "base",
        "source_error": "",
        "libvirt": {"uri": _uri(), "version": None, "reachable": False, "why": ""},
        "virt_types": [],
        "virt_type": None,
        "free_memory_mib": None,
        "sources_missing": None,
        "domain": None,
        "pool_error": "",
        "capabilities": {},
    }
    try:
        with domains.connected(_uri(), FACTS_PATIENCE_S) as connection:
            usable = domains.virt_types(connection, spec["os_type"])
            found |= {
                "libvirt": {
                    "uri": connection.getURI(),
                    "version": connection.getLibVersion(),
                    "reachable": True,
                    "why": "",
                },
                "virt_types": usable,
                "virt_type": domains.resolved(spec["virt_type"], usable),
                "free_memory_mib": domains.free_memory_mib(connection),
                "sources_missing": domains.missing_sources(connection, spec["interfaces"]),
            }
            if found["virt_type"] in usable:
                found["capabilities"] = domains.capabilities(connection, found["virt_type"])
            try:
                pool = domains.pool_path(connection, spec["pool"])
            except Fault as fault:
                found["pool_error"] = str(fault)
            place = Place(pool, spec["minion_id"], spec["image"]["sha256"]) if pool else None
            found["domain"] = domains.facts(connection, spec, place)
    except domains.Gone:
        raise
    except Fault as fault:
        found["libvirt"]["why"] = str(fault)
    there = pool is not None and pool.is_dir()
    found["pool"] = {
        "path": str(pool) if pool else None,
        "exists": there,
        "free_mib": free(pool) // MIB if there else 0,
    }
    if there:
        found["pool"]["inodes_left"] = inodes_left(pool)
        place = Place(pool, spec["minion_id"], spec["image"]["sha256"])
        found["disk"] = disks.facts(place.disk)
        found["seed"] = _seed_facts(place)
        found["image"] = images.facts(place.image)
        found["set_asides"] = old.listing(place)
        found["prepared"] = new_server.facts(new_server.of(place))
    else:
        found |= {what: {"path": None, "exists": False} for what in ("disk", "seed", "image")}
        found["set_asides"] = []
        found["prepared"] = {"path": None, "exists": False, "generation": None, "size": 0}
    if source and found["image"].get("sha256") != spec["image"]["sha256"]:
        found["source_error"] = _source_error(spec)
    return found


@_reporting
def stage(spec, generation, order, nonce=""):
    """
    Bring the image into the hypervisor's cache and check its SHA-256.

    An image that is there already is not fetched again, and read again only if it was touched.
    A transfer by http(s) that broke off goes on where it stopped, and ends before the state's time
    is over. While another job brings the same image, ``waits`` says so and nothing is done.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.stage spec='{...}' generation=1 order='{...}'
    """
    with _at_work(spec, order, "stage") as (_, place):
        # The transfer takes its time, and has a lock of its own.
        pass
    # What went wrong is to be told before the master loses its patience.
    limit_s = 0.9 * spec.get("timeouts", {}).get("staging", STAGING_S)
    access = transfer.Access.of(__opts__)
    try:
        images.stage(spec["image"]["source"], place.image, place.sha256, _get_file, access, limit_s)
    except images.Busy as busy:
        return {"waits": str(busy)}
    # An image that was in the cache before may have been looked at less closely then.
    disks.whole(place.image, transfer.shown(spec["image"]["source"]))
    disks.fit(place.image, spec["disk_gib"], spec["clone"])
    ready = new_server.facts(new_server.of(place))
    disks.room(place.image, place.pool, spec["clone"], ready["size"])
    return {"image": {**disks.facts(place.image), "sha256": images.recorded(place.image)}}


@_reporting
def prepare(spec, generation, order, master_public_key, nonce=""):
    """
    Make the store's new server ready beside the old one, which is not touched.

    Its disk is cloned from the staged image and grown, its key pair made, its seed written, all in
    a folder of their own. Then libvirt has to take its definition, under another name, and it is
    undefined again. Whatever fails leaves nothing behind. Called again for the same deployment it
    changes nothing; what another one left is removed.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    master_public_key
        Public key (PEM) of the only master that the guest may trust.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.prepare spec='{...}' generation=1 order='{...}' \
            master_public_key='...'
    """
    with _at_work(spec, order, "prepare") as (connection, place):
        # What clear would refuse is told here.
        known = _clearable(connection, spec, place)
        prepared = new_server.of(place)
        note = new_server.note_of(_intent(spec, generation, order), spec, master_public_key)
        public = new_server.public_key(prepared, note)
        if not public or not new_server.there(prepared, prepared):
            new_server.swept(prepared)
            public = _prepared(connection, spec, place, note, master_public_key)
        trial = domains.lookup(connection, prepared.trial)
        return {
            "domain": known,
            "disk": disks.facts(prepared.disk),
            "seed": _seed_facts(prepared),
            "public_key": public,
            "trial": trial and trial.name(),
        }


def _prepared(connection, spec, place, note, master_public_key):
    prepared = new_server.of(place)
    virt_type = _virt_type(connection, spec)
    _staged(spec, place)
    new_server.check(connection, spec, virt_type)

    def define(name):
        arguments = guest.init_arguments({**spec, "minion_id": name}, prepared, virt_type)
        return _init(connection, arguments)

    try:
        public = new_server.make(prepared, spec, note, __opts__["keysize"], master_public_key)
        new_server.tried(connection, spec, prepared, note, public, define)
        new_server.made(prepared, note, public)
    except Exception:
        # Files first: libvirt may be what is gone.
        new_server.swept(prepared)
        new_server.untried(connection, spec, prepared)
        raise
    return public


def _staged(spec, place):
    """Raise a fault if the image is not in the cache, whole."""
    if not place.image.exists() or not images.checked(place.image, place.sha256):
        raise Fault(f"the image {place.sha256} is not in the cache", "stage it first")
    disks.whole(place.image, transfer.shown(spec["image"]["source"]))


def _init(connection, arguments):
    """Define a domain with Salt's virt.init and return it."""
    try:
        __salt__["virt.init"](**arguments)
    except salt.exceptions.SaltException as err:
        # Salt says no more than the text of what libvirt said: raises if libvirt is gone.
        domains.lookup(connection, arguments["name"])
        raise domains.refused(str(err)) from None
    domain = domains.lookup(connection, arguments["name"])
    if domain is None:
        raise Fault(f"virt.init did not define the domain {arguments['name']}")
    return domain


@_reporting
def clear(spec, generation, order, public_key=None, nonce=""):
    """
    Set the store's old server aside: its disk, definition, NVRAM and public key together.

    ``off_for_s`` is how long ago it ended, if it ran.

    The guest is shut down, and switched off if that takes longer than a minute. Nothing of it is
    deleted but its seed. Data disks stay where they are. A domain of that name that is not ours is
    refused, untouched. A restore that was killed is taken back: the server is set aside again,
    under the name that it had.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment that makes room for itself.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    public_key
        The old guest's public key (PEM), used if its definition does not hold it.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.clear spec='{...}' generation=2 order='{...}'
    """
    with _at_work(spec, order, "clear") as (connection, place):
        known = _clearable(connection, spec, place)
        old.taken_back(place)
        left = place.disk.exists() or place.nvram.exists() or old.begun(place)
        if known["exists"] or left:
            _set_aside(connection, spec, place, known, order["deployment"], public_key)
        _swept(spec, place)
        whole = [each for each in old.listing(place) if each["complete"]]
        put = [each for each in whole if each["cleared_for"] == order["deployment"]]
        return {
            "domain": domains.facts(connection, spec, place),
            "disk": disks.facts(place.disk),
            "seed": _seed_facts(place),
            "set_aside": put[-1] if put else None,
            "set_asides": whole,
            **(old.ended(Path(put[-1]["path"])) if put else {}),
        }


def _set_aside(connection, spec, place, known, deployment, public_key):
    domain = domains.lookup(connection, spec["minion_id"])
    of = known.get("generation") or (read_json(place.intent) or {}).get("generation") or 0
    partial = old.opened(
        place, {"store": spec["store"], "generation": of, "cleared_for": deployment}
    )
    key = known.get("public_key")
    # The argument is of the server that ran last, not of one that a killed restore has left.
    if key := key or (public_key if not (partial / old.PUBLIC_KEY).exists() else None):
        write(partial / old.PUBLIC_KEY, key)
    if domain:
        domain = domains.kept(connection, domain)
        definition = domains.definition(domain)
        write(partial / old.DOMAIN, definition)
        # Or a hypervisor that restarts meanwhile would start it again.
        domain.setAutostart(False)
        ran = domain.isActive()
        domains.switch_off(domain)
        if ran:
            old.note_end(partial)
    old.move(old.nvram(partial, place), partial / old.NVRAM)
    old.move(place.disk, partial / old.DISK)
    if domain:
        if (partial / old.DOMAIN).read_text() != definition:
            raise Fault(f"{partial / old.DOMAIN} does not read back as written", "check the disk")
        domains.undefine(domain)
    old.closed(partial)


def _swept(spec, place):
    """Remove what a define made, or left when it was killed, beside the server's own files."""
    guest.remove_seed(place)
    made = [place.disk, *(place.data_disk(data["name"]) for data in spec["data_disks"])]
    # The intent last: it says whose the others are.
    for file in (*map(unfinished, made), place.intent):
        file.unlink(missing_ok=True)


@_reporting
def restore(spec, generation, order, of, nonce=""):
    """
    Put a server that was set aside back: disk, NVRAM, definition with autostart. It is not started.

    The place must be clear. A restore that was killed goes on when it is called again; ``clear``
    takes it back instead.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment that is rolled back.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    of
        Number of the deployment whose server is put back. If it was set aside more than once, the
        newest is.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.restore spec='{...}' generation=2 order='{...}' of=1
    """
    with _at_work(spec, order, "restore") as (connection, place):
        known = _ours(connection, spec, place)
        note = read_json(place.restored)
        if not (note and known["exists"] and note["generation"] == known["generation"] == of):
            _put_back(connection, spec, place, known, of)
            note = read_json(place.restored)
        new_server.swept(new_server.of(place))
        if begun := old.restoring(place):
            old.removed(begun)
        known = domains.facts(connection, spec, place)
        return {
            "domain": known,
            "disk": disks.facts(place.disk),
            "public_key": known["public_key"] or note["public_key"],
            "set_aside": note["set_aside"],
        }


def _put_back(connection, spec, place, known, of):
    aside = old.restoring(place) or old.newest(place, known, of)
    # Of a restore that goes on the domain may be there already.
    domain = domains.lookup(connection, spec["minion_id"])
    in_use.refuse(connection, place, [aside, place.disk], domain, loose=False)
    old.check(connection, aside, spec, place, known, of)
    _swept(spec, place)
    place.restored.unlink(missing_ok=True)
    begun = old.taken_out(aside)
    definition = (begun / old.DOMAIN).read_text()
    old.move(begun / old.NVRAM, old.nvram(begun, place))
    old.move(begun / old.DISK, place.disk)
    domain = connection.defineXML(definition)
    # Set aside before it was finished, it would look for a seed that is gone.
    domains.detach(domain, place.seed)
    domain.setAutostart(True)
    known = domains.facts(connection, spec, place)
    if not (known["ours"] and known["generation"] == of and known["autostart"]):
        raise Fault(f"the domain {spec['minion_id']} does not read back as restored")
    folder(place.restored.parent)
    note = {
        "generation": of,
        "set_aside": str(old.path_of(begun)),
        "public_key": (begun / old.PUBLIC_KEY).read_text(),
    }
    write(place.restored, json.dumps(note))


@_reporting
def define(spec, generation, order, master_public_key, nonce=""):
    """
    Define the store's new server: the prepared disk and seed are renamed into place, data disks
    made where there are none, the domain defined.

    Called again for the same deployment it changes nothing if all is there, and goes on if it was
    killed before the end. What was not prepared, as it is not where the deployment began before an
    update, it makes itself.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    master_public_key
        Public key (PEM) of the only master that the guest may trust.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.define spec='{...}' generation=1 order='{...}' \
            master_public_key='...'
    """
    with _at_work(spec, order, "define") as (connection, place):
        known = _ours(connection, spec, place)
        intent = _intent(spec, generation, order)
        prepared = new_server.of(place)
        if begun := old.restoring(place):
            raise Fault(f"the restore that began {begun.name} is not over", "clear it first")
        if known["exists"]:
            if known["deployment"] != order["deployment"] or known["state"] != "shut off":
                raise Fault(
                    f"the domain {spec['minion_id']} of deployment {known['generation']} is there "
                    f"({known['state']})",
                    "clear it first",
                )
            files = [*map(Path, known["disks"]), place.seed]
            if known["public_key"] and all(file.exists() for file in files):
                place.intent.unlink(missing_ok=True)
                new_server.swept(prepared)
                return _defined(connection, spec, place)
            if known["public_key"] and place.disk.exists():
                # It may have run: a disk with a server on it is never overwritten.
                raise Fault(f"the domain {spec['minion_id']} lacks a file", "clear it first")
        elif place.disk.exists() and read_json(place.intent) != intent:
            raise Fault(f"there is a disk {place.disk} already", "clear it first")
        virt_type = _virt_type(connection, spec)
        _staged(spec, place)

        folder(place.intent.parent)
        write(place.intent, json.dumps(intent))
        if known["exists"]:
            domains.undefine(domains.lookup(connection, spec["minion_id"]))
        note = new_server.note_of(intent, spec, master_public_key)
        public = new_server.public_key(prepared, note)
        if not public or not new_server.there(prepared, place):
            # What is in the place is this deployment's, as the intent says, and has never run.
            place.disk.unlink(missing_ok=True)
            guest.remove_seed(place)
            public = new_server.make(prepared, spec, note, __opts__["keysize"], master_public_key)
            new_server.made(prepared, note, public)
        new_server.moved(prepared, place)
        for data in spec["data_disks"]:
            disks.keep(place.data_disk(data["name"]), data["size_gib"])
        folder(place.console.parent)
        domain = _init(connection, guest.init_arguments(spec, place, virt_type))
        domains.complete(connection, domain, intent, public, place.console)
        place.intent.unlink()
        new_server.swept(prepared)
        return _defined(connection, spec, place)


def _intent(spec, generation, order):
    """Return whose the domain is that is being made."""
    return {
        "store": spec["store"],
        "generation": generation,
        "deployment": order["deployment"],
    }


def _virt_type(connection, spec):
    if "virt.init" not in __salt__:
        raise Fault(
            "Salt's module virt is not loaded on the hypervisor",
            "on Salt 3008 install saltext-virt and libvirt-python, then restart the minion",
        )
    usable = domains.virt_types(connection, spec["os_type"])
    virt_type = domains.resolved(spec["virt_type"], usable)
    if virt_type not in usable:
        raise Fault(
            f"the hypervisor cannot run {spec['virt_type']} guests of OS type {spec['os_type']}; "
            f"it can run: {', '.join(usable) or 'none'}",
            "correct virt_type or os_type in the pillar",
        )
    return virt_type


def _defined(connection, spec, place):
    known = domains.facts(connection, spec, place)
    return {
        "domain": known,
        "disk": disks.facts(place.disk),
        "data_disks": [disks.facts(place.data_disk(each["name"])) for each in spec["data_disks"]],
        "seed": {**_seed_facts(place), "mode": f"{place.seed.stat().st_mode & 0o777:04o}"},
        "public_key": known["public_key"],
    }


@_reporting
def start(spec, generation, order, of=None, nonce=""):
    """
    Start the store's server and see that it keeps running.

    Tried ``start.attempts`` times with the pauses of ``start.backoff_s``; it has started when it
    ran for ``start.steady_s`` seconds without a break. One that runs already is only watched.
    From then on its autostart is on.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    of
        Number of the deployment whose server is started, if it is not this one: a restored server.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.start spec='{...}' generation=1 order='{...}'
    """
    name, plan = spec["minion_id"], spec["start"]
    found = {"attempts": 0, "errors": [], "started_at": None}
    with _at_work(spec, order, "start") as (connection, place):
        ours = order["deployment"] if of is None else None
        _defined_by(connection, spec, place, generation if of is None else of, ours)
        while found["attempts"] < plan["attempts"]:
            if found["errors"]:
                time.sleep(plan["backoff_s"][: found["attempts"]][-1])
            found["attempts"] += 1
            error = _attempt(connection, name, plan["steady_s"], found)
            known = domains.facts(connection, spec, place)
            found |= {"state": known.get("state"), "id": known.get("id")}
            if not error:
                # A power cut in the midst of the deployment then costs no more than a boot.
                domains.lookup(connection, name).setAutostart(True)
                return found
            log.warning("%s: start %s: %s", spec["store"], found["attempts"], error)
            found["errors"].append(error)
    raise Fault(
        f"the domain {name} did not start in {found['attempts']} attempts: {error}",
        f"see /var/log/libvirt/qemu/{name}.log on the hypervisor and mend it",
        found,
    )


def _attempt(connection, name, steady_s, found):
    """Start the domain unless it runs, and return what went wrong."""
    if domains.running_as(connection, name) is None:
        try:
            if not domains.woken(connection, name):
                __salt__["virt.start"](name)
        except Exception as err:  # virt.start lets libvirt's own exceptions through
            return str(err)
        found["started_at"] = datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        )
    run = domains.running_as(connection, name)
    if run is None or domains.awaited(
        lambda: domains.running_as(connection, name) != run, steady_s
    ):
        stands = domains.stands(connection, name)
        return stands or f"it did not run for {steady_s} s without a break"
    return ""


@_reporting
def finish(spec, generation, order, nonce=""):
    """
    Take the seed away from the store's server, for good, and switch its autostart on.

    The seed is ejected from the running guest, its drive taken out of the definition, its file
    deleted.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.finish spec='{...}' generation=1 order='{...}'
    """
    with _at_work(spec, order, "finish") as (connection, place):
        domain = _defined_by(connection, spec, place, generation, order["deployment"])
        domains.detach(domain, place.seed)
        guest.remove_seed(place)
        domain.setAutostart(True)
        known = domains.facts(connection, spec, place)
        found = {
            "domain": known,
            "seed": _seed_facts(place),
            "inserted": bool(domains.attached(domains.running(domain), place.seed)),
            "defined": bool(domains.attached(domains.description(domain), place.seed)),
            "autostart": known["autostart"],
        }
        if found["inserted"] or found["defined"] or not found["autostart"]:
            raise Fault(f"the seed of {spec['minion_id']} is still there", facts=found)
        return found


@_reporting
def discard(spec, generation, order, nonce=""):
    """
    Remove the server that this deployment made, or only made ready: domain, system disk, NVRAM and
    seed.

    A server of another deployment is left alone, and so are one that is not ours, data disks and
    what was set aside.
    ``left`` names what is still there of this one's.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    order
        What :func:`storelib.orders.made` makes: of which deployment and attempt this is.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.discard spec='{...}' generation=2 order='{...}'
    """
    with _at_work(spec, order, "discard") as (connection, place):
        new_server.swept(new_server.of(place))
        known = domains.facts(connection, spec, place)
        if not known["exists"]:
            in_use.refuse_renamed(connection, place, spec["store"], order["deployment"])
        intent = _intent(spec, generation, order)
        if known["exists"] and known["ours"] and known["deployment"] == order["deployment"]:
            _in_pool(connection, spec, place)
            domain = domains.lookup(connection, spec["minion_id"])
            going = [place.disk, _nvram(domain, place), place.seed]
            in_use.refuse(connection, place, going, domain)
            # Killed from here on, the next call still knows whose files these are.
            folder(place.intent.parent)
            write(place.intent, json.dumps(intent))
            domain = domains.kept(connection, domain)
            domains.destroy(domain)
            _nvram(domain, place).unlink(missing_ok=True)
            domains.undefine(domain)
        if read_json(place.intent) == intent:
            in_use.refuse(connection, place, [place.disk, place.nvram, place.seed])
            place.disk.unlink(missing_ok=True)
            place.nvram.unlink(missing_ok=True)
            _swept(spec, place)
        known = domains.facts(connection, spec, place)
        # Of another's server, the files are that one's.
        others = (
            old.restoring(place)
            or not known.get("ours", True)
            or known.get("deployment", order["deployment"]) != order["deployment"]
            or in_use.renamed(connection, place, spec["store"])
        )
        left = [spec["minion_id"]] if known["exists"] else []
        left += [str(file) for file in (place.disk, place.seed, place.nvram) if file.exists()]
        return {
            "domain": known,
            "disk": disks.facts(place.disk),
            "seed": _seed_facts(place),
            "left": [] if others else left,
        }


def _nvram(domain, place):
    return Path((domain and domains.description(domain).findtext("os/nvram")) or place.nvram)


@_reporting
def retire(spec, generation, order=None, data_disks=False, remove=False, nonce=""):
    """
    Remove all that the store has on this hypervisor, or list it.

    Domain, system disk, NVRAM, seed, console log, everything that was set aside. The guest is shut
    down first. The cached image stays, for other stores may use it, and so does a disk that is in
    another domain or another disk's backing file.

    Returned are ``found`` (what goes), ``kept`` (what stays, and why), ``removed``, and ``left``:
    what should have gone and is still there.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the store's last deployment.

    order
        As for the other steps. Without it nothing is removed.

    nonce
        What the runner sends to have the report sealed for its question.

    data_disks
        The data disks go too: the spec's, and those that a definition of the store's names.

    remove
        Without it nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.retire spec='{...}' generation=2 remove=True
    """
    with _at_work(spec, _ordered(order, remove), "retire") as (connection, place):
        _in_pool(connection, spec, place)
        domain = domains.lookup(connection, spec["minion_id"])
        parts = [{"what": "domain", "name": spec["minion_id"], "size": 0}] if domain else []
        parts += remains.files(place, _nvram(domain, place))
        defined = [domains.description(domain)] if domain else []
        stay = remains.data_disks(
            connection,
            place,
            [each["name"] for each in spec["data_disks"]],
            [*defined, *remains.definitions(place)],
        )
        if data_disks:
            # Last, thus removed first: while a definition is there it says which these are.
            parts, stay = [*parts, *stay], []
        needed = remains.needed(connection, place, parts, domain)
        if remove and domain:
            domain = domains.kept(connection, domain)
            domain.setAutostart(False)
            domains.switch_off(domain)
        found = remains.removed(connection, parts, needed, remove)
        if remove:
            if not needed.of(place.seed):
                _swept(spec, place)
            place.restored.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                place.set_asides.rmdir()
        found["kept"] += [{**each, "why": "data_disks=True was not given"} for each in stay]
        found["kept"] += remains.unreadable(place)
        return found


@_reporting
def prune(spec, generation, older_than_s, order=None, remove=False, nonce=""):
    """
    Remove the store's set-aside servers that are older than a given age, or list them.

    What a killed clearing or restore left is no set-aside server yet and stays. So does one whose
    disk is in a domain or another disk's backing file. Returned is what ``retire`` returns.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the store's last deployment.

    order
        As for the other steps. Without it nothing is removed.

    nonce
        What the runner sends to have the report sealed for its question.

    older_than_s
        Age in seconds, by the date in the name of the folder, and of those that came before it: a
        wrong clock makes none older than it is.

    remove
        Without it nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.prune spec='{...}' generation=2 older_than_s=2592000
    """
    number = isinstance(older_than_s, (int, float)) and not isinstance(older_than_s, bool)
    if not number or not older_than_s >= 0:
        raise Fault(
            f"older_than_s is {older_than_s!r}, not a number of seconds from 0 up",
            "give the age in seconds, such as 2592000 for 30 days",
        )
    ordered = _ordered(order, remove)
    with _at_work(spec) as (connection, place):
        if ordered:
            fence.present(spec["store"], _machine_id(), ordered)
        parts = [
            {**each, "what": "set_aside"}
            for each, age in old.aged(old.listing(place), time.time())
            if each["complete"] and age >= older_than_s
        ]
        needed = remains.needed(connection, place, parts)
        found = remains.removed(connection, parts, needed, remove)
        found["kept"] += remains.unreadable(place)
        return found


def _ordered(order, remove):
    """Return the order of a removal, ``None`` for a look."""
    if remove and order is None:
        raise Fault("nothing is removed without an order", "use the runner: salt-run deploy.retire")
    return order if remove else None


@_reporting
def noted(spec, generation, nonce=""):
    """
    Return how far this hypervisor has noted the store to be, as the fact ``note``.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.noted spec='{...}' generation=1
    """
    return {}


@_reporting
def adopt(spec, generation, nonce=""):
    """
    Note the deployment of the server that is there, if nothing is noted of the store.

    For a hypervisor whose notes were lost. Returns the server's domain; a note that is there, or a
    domain that is not the store's, stays as it is.

    spec
        Spec of the store, as the pillar now describes it.

    generation
        Number of the deployment that the ledger takes the server for.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.adopt spec='{...}' generation=1
    """
    store, machine = spec["store"], _machine_id()
    with _at_work(spec) as (connection, place):
        known = _ours(connection, spec, place)
        if "deployment" not in (fence.shown(store, machine) or {}):
            fence.forget(store, machine)
            if known["exists"]:
                last = {"deployment": known["deployment"], "attempt": 1, "step": "finish"}
                fence.put(store, machine, last)
        return {"domain": known}


@_reporting
def job(spec, generation, jid, nonce=""):
    """
    Say whether a job is running on this minion, as the fact ``running``.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    jid
        ID of the job.

    nonce
        What the runner sends to have the report sealed for its question.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.job spec='{...}' generation=1 jid=20261126140000000000
    """
    return {"running": bool(__salt__["saltutil.find_job"](jid))}


@_reporting
def console(spec, generation, lines=50, nonce=""):
    """
    Return the last lines that the store's server wrote to its serial console.

    spec
        Spec of the store, as the runner freezes it.

    generation
        Number of the deployment.

    nonce
        What the runner sends to have the report sealed for its question.

    lines
        How many lines.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.console spec='{...}' generation=1
    """
    path = Place(Path(spec["pool"]), spec["minion_id"], spec["image"]["sha256"]).console
    if not path.exists():
        return {"path": str(path), "lines": []}
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 256 * lines), os.SEEK_END)
        text = file.read().decode(errors="replace")
    return {"path": str(path), "lines": text.splitlines()[-lines:]}


def health():
    """
    Say whether this minion can be a hypervisor. Changes nothing, and needs no store.

    CLI Example:

    .. code-block:: bash

        salt 'hv-*' store_hypervisor.health
    """
    found = {
        "at": time.time(),
        "version": __version__,
        "salt": __grains__["saltversioninfo"][0],
        "python": sys.prefix,
        "virt_module": "virt.init" in __salt__,
        "libvirt": "",
        "hint": "",
        "sudo_user": str(__opts__.get("sudo_user") or ""),
        **_environment(),
    }
    try:
        with domains.connected(_uri(), 0):
            pass
    except Fault as fault:
        found |= {"libvirt": str(fault), "hint": fault.hint}
    return found


def ring():
    """
    Ring the store's doorbell again, if it is time; end the schedule once the master has heard it.

    The minion's schedule calls it every minute, from the end of a highstate on. Returns whether
    the bell was rung.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.ring
    """
    if bell.is_silent(bell.MARKER):
        __salt__["schedule.delete"](bell.SCHEDULE)
        return False
    store = __pillar__.get("store_server", {}).get("store")
    if not store or not bell.is_due(bell.MARKER, time.time()):
        return False
    # On the disk first: a master that is away must not be rung for each minute.
    bell.rung(bell.MARKER, time.time())
    return __salt__["event.send"](f"store/{store}/hypervisor/ready", {})


def acknowledge():
    """
    Take it that the master has heard that this hypervisor is ready, and decided on it.

    It is rung no more for the boot that the marker is of. Returns whether there is a marker.

    CLI Example:

    .. code-block:: bash

        salt 'hv-0815' store_hypervisor.acknowledge
    """
    return bell.acknowledge(bell.MARKER)
