# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The :class:`storemaster.deployment.master_api.MasterApi` that a Salt master is."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import salt.client
import salt.daemons.masterapi
import salt.exceptions
import salt.fileserver
import salt.pillar
import salt.utils.args
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
import salt.utils.url

from storelib import files, seal
from storelib.errors import PillarError
from storemaster.deployment.master_api import Returned
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import Unheard
from storemaster.master import keys, pillar_cache, registration, settings, uyuni_pillar

PUBLISH_TIMEOUT_S = 10
"""How long the master may take to accept a job."""

LOOKED_S = 30.0
"""For how long a pillar that was looked at is good for the deployment that begins with it."""

COMPILING = threading.Lock()
"""Held where a pillar is compiled, or one that was looked at is taken."""


class Looked(NamedTuple):
    """A pillar that was looked at."""

    at: float
    environment: dict[str, str]
    store_server: object

    @property
    def fresh(self) -> bool:
        """Say whether that was a moment ago."""
        return time.monotonic() - self.at <= LOOKED_S

    def good(self, environment: dict[str, str]) -> bool:
        """Say whether it need not be compiled again, in that environment."""
        return self.fresh and self.environment == environment


class SaltMaster:
    """Salt's master, seen from one of its processes, in one thread of it."""

    def __init__(self, opts: dict) -> None:
        self.opts = opts
        self._looked: dict[str, Looked] = {}
        self.autosign = keys.Autosign(opts, settings.state_dir(opts) / keys.AUTOSIGN_LOCK)

    def beside(self) -> SaltMaster:
        """Return the same master for another thread: what is open belongs to one of them."""
        other = SaltMaster(self.opts)
        other._looked = self._looked
        return other

    @functools.cached_property
    def _client(self) -> Any:
        return salt.client.get_local_client(mopts=self.opts)

    @functools.cached_property
    def _bus(self) -> Any:
        return salt.utils.event.get_master_event(self.opts, self.opts["sock_dir"], listen=False)

    def close(self) -> None:
        """Give back the connections that were opened."""
        for name, part in (("_client", "destroy"), ("_bus", "destroy")):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                getattr(opened, part)()

    def now(self) -> float:
        """See :class:`storemaster.deployment.master_api.MasterApi`, here and below."""
        return time.time()

    def incarnation(self) -> str:
        """Take it from the ledger's file, and from what the master makes at each of its starts."""
        made = [settings.ledger_path(self.opts).stat().st_ino]
        for path in (Path(self.opts["sock_dir"], "master_event_pub.ipc"), self.opts["pidfile"]):
            with contextlib.suppress(OSError):
                made.append(Path(path).stat().st_mtime_ns)
        return "-".join(map(str, made))

    def uptime(self) -> tuple[str, float]:
        """Ask the kernel; whatever sets the clock, this one it does not."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot_id, time.clock_gettime(time.CLOCK_BOOTTIME)

    def new_jid(self) -> str:
        """Return a job ID as Salt makes them."""
        return str(salt.utils.jid.gen_jid(self.opts))

    def publish(self, jid: str, minion: str, function: str, arguments: Mapping[str, Any]) -> None:
        """Publish; not through ``run_job``, which prints if no minion matches."""
        try:
            self._client.pub(
                [minion],
                function,
                salt.utils.args.condition_input([], dict(arguments)),
                tgt_type="list",
                jid=jid,
                timeout=PUBLISH_TIMEOUT_S,
            )
        except salt.exceptions.SaltException as err:
            raise Unheard(f"the master did not take a job: {err}", 5) from err

    def returned(self, jid: str, minion: str) -> Returned | None:
        """Look into the master's job cache."""
        returner = self.opts["master_job_cache"]
        answer = self._client.returners[f"{returner}.get_jid"](jid).get(minion)
        # Nothing but the value: a return code is any minion's word, and no seal covers it.
        return None if answer is None else Returned(answer.get("return"))

    def keys(self, minion: str) -> dict[str, str]:
        """Return the minion's public keys by state."""
        return keys.known(self.opts, minion)

    def autorejected(self, minion: str) -> bool:
        """Ask what the master asks."""
        return bool(salt.daemons.masterapi.AutoKey(self.opts).check_autoreject(minion))

    def purge_key(self, minion: str) -> None:
        """Delete the minion's keys."""
        keys.purge(self.opts, minion)
        pillar_cache.forget(self.opts, minion)

    def accept_key(self, minion: str, public_key: str) -> None:
        """Accept this key."""
        keys.accept(self.opts, minion, public_key)
        pillar_cache.forget(self.opts, minion)

    def same_key(self, one: str, other: str) -> bool:
        """Compare keys, not texts."""
        return keys.same(one, other)

    def arm(self, minion: str) -> None:
        """Write the autosign entry."""
        # Nobody has the ID now, and whoever comes first gets it.
        pillar_cache.forget(self.opts, minion)
        self.autosign.arm(minion)

    def disarm(self, minion: str) -> None:
        """Remove the autosign entry."""
        self.autosign.disarm(minion)

    def rewrite_autosign(self) -> None:
        """Write the autosign file as it is."""
        self.autosign.rewrite()

    def master_public_key(self) -> str:
        """Read the master's public key."""
        return (Path(self.opts["pki_dir"]) / "master.pub").read_text()

    def store_server(
        self,
        hypervisor: str,
        environment: Mapping[str, Any] | None = None,
        deployment: str = "",
    ) -> object:
        """Compile the pillar as the master would for that minion; or take what was looked at."""
        if environment is not None:
            _note(self.opts, hypervisor, environment)
        # It computes all the time, so a second thread would gain nothing by doing so, too.
        with COMPILING:
            looked = self._looked.pop(deployment, None)
            if looked and looked.good(environment_of(self.opts, hypervisor)):
                return looked.store_server
            return store_server(self.opts, hypervisor)

    def looked_at(self, deployment: str, hypervisor: str, store_server: object) -> None:
        """Keep a pillar for the deployment that has just begun with it, and wants it again soon."""
        with COMPILING:
            known = environment_of(self.opts, hypervisor)
            for name in [name for name, each in self._looked.items() if not each.fresh]:
                del self._looked[name]
            self._looked[deployment] = Looked(time.monotonic(), known, store_server)

    def serves(self, source: str, saltenv: str) -> int | None:
        """Return the bytes of what this master serves as a ``salt://`` URL, ``None`` if nothing."""
        path, env = salt.utils.url.parse(source)
        found = salt.fileserver.Fileserver(self.opts).find_file(path, env or saltenv)
        if not found["path"]:
            return None
        with contextlib.suppress(OSError):
            return Path(found["path"]).stat().st_size
        return 0

    def secret(self, minion: str, public_key: str) -> str:
        """Derive the minion's secret from the master's own."""
        return seal.secret(settings.root_secret(self.opts), minion, public_key)

    def arrange_registration(self, record: Record) -> None:
        """Have it done by a thread of its own."""
        registration.done(self.opts, record, registration.arranged)

    def end_registration(self, record: Record) -> None:
        """Have it done by a thread of its own."""
        registration.done(self.opts, record, registration.ended)

    def registration_keys(self, record: Record) -> list[str]:
        """Look into the file."""
        known = registration.management_key(self.opts, record)
        return [registration.MANAGEMENT_KEY] if known else []

    def forget_registration(self, record: Record) -> None:
        """Have the hypervisor ask for a pillar without it, and delete the file."""
        if registration.management_key(self.opts, record):
            # Salt keeps of each minion the last pillar that it has compiled for it. First: if this
            # process ends now, the next one finds the file.
            with contextlib.suppress(Unheard):
                self.publish(self.new_jid(), record.hypervisor, "saltutil.refresh_pillar", {})
        registration.forget(self.opts, record)

    def announce(self, tag: str, data: Mapping[str, Any]) -> None:
        """Fire on the master's own bus."""
        if not self._bus.fire_event(dict(data), tag):
            raise ConnectionError("the master's event bus cannot be reached")


def store_server(
    opts: dict, hypervisor: str, environment: Mapping[str, Any] | None = None
) -> object:
    """
    Return ``store_server`` of the hypervisor's pillar, compiled here with its cached grains.

    environment
        ``saltenv`` and ``pillarenv`` of the minion, which gets the pillar of these. Default: what
        it told under seal, or else those of a minion that sets none.

    Raises :class:`PillarError` if the pillar does not compile, or Uyuni does not give its part.
    """
    _, grains, _ = salt.utils.minions.get_minion_data(hypervisor, opts)
    known = _noted(opts, hypervisor) if environment is None else environment
    saltenv, pillarenv = (known.get(key) for key in ("saltenv", "pillarenv"))
    pillar = salt.pillar.Pillar(
        # A copy: Salt notes pillarenv in it.
        {**opts},
        grains or {"id": hypervisor},
        hypervisor,
        str(saltenv) if saltenv else None,
        pillarenv=str(pillarenv) if pillarenv else None,
    )
    data = pillar.compile_pillar()
    uyuni_pillar.refuse(opts, hypervisor, data)
    if data.get("_errors"):
        raise PillarError(
            f"the pillar of {hypervisor} does not compile: {'; '.join(map(str, data['_errors']))}",
            f"salt-run pillar.show_pillar {hypervisor} shows it; mend it, then try again",
        )
    return data.get("store_server")


def _note(opts: dict, hypervisor: str, environment: Mapping[str, Any]) -> None:
    """Keep which environments a minion has: also its guest's pillar is compiled in them."""
    path, text = _note_of(opts, hypervisor), json.dumps(dict(environment), sort_keys=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return
    if any(environment.values()):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, text, 0o600)
    else:
        path.unlink(missing_ok=True)


def environment_of(opts: dict, hypervisor: str) -> dict[str, str]:
    """Return in which environments a minion's pillar is taken to be; empty for Salt's."""
    noted = _noted(opts, hypervisor)
    return {key: str(noted.get(key) or "") for key in ("saltenv", "pillarenv")}


def _noted(opts: dict, hypervisor: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(_note_of(opts, hypervisor).read_text())
        if isinstance(noted, dict):
            return noted
    return {}


def _note_of(opts: dict, hypervisor: str) -> Path:
    return settings.state_dir(opts) / "environments" / hypervisor
