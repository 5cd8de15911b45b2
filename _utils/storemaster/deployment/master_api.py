# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the core asks of the master. ``storemaster.master`` does it with Salt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from storemaster.deployment.record import Record

ACCEPTED = "accepted"


@dataclass(frozen=True)
class Returned:
    """What a minion returned for a job."""

    value: Any


class MasterApi(Protocol):
    """Salt's master, as far as a deployment touches it. No call waits for a minion."""

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""

    def incarnation(self) -> str:
        """Return what is another whenever the master was restarted or its ledger replaced."""

    def uptime(self) -> tuple[str, float]:
        """Return the boot ID of the master's kernel, and the seconds since that boot."""

    def new_jid(self) -> str:
        """Return an unused job ID."""

    def publish(self, jid: str, minion: str, function: str, arguments: Mapping[str, Any]) -> None:
        """Send a job to exactly one minion."""

    def returned(self, jid: str, minion: str) -> Returned | None:
        """Return what the minion returned, ``None`` as long as it has not."""

    def keys(self, minion: str) -> dict[str, str]:
        """Return the public keys known of exactly this minion ID, by state, as PEM."""

    def autorejected(self, minion: str) -> bool:
        """Say whether the master rejects each key of this minion ID by itself."""

    def purge_key(self, minion: str) -> None:
        """Delete the minion's keys in all states; nothing is done if there is none."""

    def accept_key(self, minion: str, public_key: str) -> None:
        """Store ``public_key`` as the accepted key, and remove all others of this ID."""

    def arm(self, minion: str) -> None:
        """Write the autosign entry of exactly this minion ID."""

    def disarm(self, minion: str) -> None:
        """Remove that entry, if it is there."""

    def rewrite_autosign(self) -> None:
        """Replace the autosign file by its own bytes, as a trial; one that is missing is made."""

    def master_public_key(self) -> str:
        """Return the master's public key, PEM."""

    def store_server(
        self,
        hypervisor: str,
        environment: Mapping[str, Any] | None = None,
        deployment: str = "",
    ) -> object:
        """
        Compile the hypervisor's pillar and return its ``store_server``.

        environment
            ``saltenv`` and ``pillarenv`` that the minion told under seal: the pillar of these is
            compiled from now on.

        Raises :class:`storelib.errors.PillarError` if it does not compile.
        """

    def same_key(self, one: str, other: str) -> bool:
        """Say whether two PEM texts are the same public key."""

    def secret(self, minion: str, public_key: str) -> str:
        """Return the secret that the minion with that key seals its reports with."""

    def arrange_registration(self, record: Record) -> None:
        """
        Have Uyuni be ready for the guest, beside the step that asks.

        Raises :class:`storemaster.deployment.step_context.Waiting` as long as it is not, and
        :class:`storelib.errors.Fault` if Uyuni refuses.
        """

    def end_registration(self, record: Record) -> None:
        """Have Uyuni forget the store's server; otherwise as :meth:`arrange_registration`."""

    def registration_keys(self, record: Record) -> list[str]:
        """Return the names of the keys for Uyuni that the guest's seed has to have."""

    def forget_registration(self, record: Record) -> None:
        """Delete what was kept of it: its keys are of no use any more."""

    def announce(self, tag: str, data: Mapping[str, Any]) -> None:
        """Fire an event on the master's bus."""
