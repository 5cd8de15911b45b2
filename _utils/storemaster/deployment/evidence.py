# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the steps of a deployment have found out, so that nothing is done twice and all can be told.

Each field says whether the operator sees it, and whether a retry forgets it: what a step takes for
granted once it is known, and what was of the failure. As long as a field has its default, it is not
known, and neither written nor shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Facts = dict[str, Any]
"""What a minion has reported, as its modules make it."""

Found = dict[str, Any]
"""What a step is over with: the evidence that is new, by its fields."""


SHOWN, HIDDEN = {"shown": True}, {"shown": False}
"""What the operator sees, and what is for the machine only."""

FORGOTTEN = {"forgotten": True}
"""What a retry forgets."""


@dataclass(frozen=True)
class Evidence:
    """See above. Times are the record's own clock, unless it is said."""

    # The hypervisor
    hypervisor: Facts = field(default_factory=dict, metadata=SHOWN)
    """What it is: the machine, its boot, libvirt, the marker of its highstate."""
    hypervisor_key: str = field(default="", metadata=HIDDEN)
    """The public key with which it is believed."""
    look: Facts = field(default_factory=dict, metadata=HIDDEN)
    """In which run of the master its note was, or is being, compared with the ledger."""
    fence: dict[str, Facts] = field(default_factory=dict, metadata=HIDDEN | FORGOTTEN)
    """Whether the store's other hypervisors run its server, or until when each may say so."""
    offered: Facts = field(default_factory=dict, metadata=SHOWN)
    """Another hypervisor that is ready for the store, why nothing came of it, and when it was."""

    # The new server
    image: Facts | None = field(default=None, metadata=SHOWN)
    """The image in the hypervisor's cache."""
    autosign_tried: bool = field(default=False, metadata=HIDDEN | FORGOTTEN)
    """Whether the autosign file was rewritten as it is, to see that it can be."""
    sufficed_at: Facts | None = field(default=None, metadata=HIDDEN)
    """The moment at which its facts sufficed when it was awaited."""
    suffices: bool = field(default=False, metadata=HIDDEN | FORGOTTEN)
    """Whether the hypervisor was judged once more, before it is worked on."""
    prepared: Facts | None = field(default=None, metadata=SHOWN)
    """The disk that was made beside the old server's."""
    disk: Facts | None = field(default=None, metadata=SHOWN)
    """The server's disk, in its place."""
    public_key: str = field(default="", metadata=HIDDEN)
    """The public key that its hypervisor made for it."""
    start: Facts | None = field(default=None, metadata=SHOWN)
    """How it was started."""
    boot_ids: list[str] | None = field(default=None, metadata=SHOWN)
    """Its boots, by its own list."""
    highstate: Facts | None = field(default=None, metadata=SHOWN)
    """What became of its highstate."""
    settled: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What was made permanent before its last reboot, and in which boot."""
    highstate_test: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What a highstate would still do."""
    probe_tries: int = field(default=0, metadata=HIDDEN | FORGOTTEN)
    """How often a probe has failed."""
    probe_again_at: float = field(default=0.0, metadata=SHOWN | FORGOTTEN)
    """When the probes are tried again."""
    probes: Facts | None = field(default=None, metadata=SHOWN)
    """What the probes said when all of them passed."""
    cleaned: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What is left of the bootstrap data in the guest."""
    finished: Facts | None = field(default=None, metadata=SHOWN)
    """What is left of the seed on the hypervisor, and whether autostart is on."""

    # The old one
    old_public_key: str | None = field(default=None, metadata=HIDDEN)
    """Its public key; empty if no key was accepted."""
    serving_key: str = field(default="", metadata=HIDDEN)
    """The public key of the server that is the store's until it is set aside."""
    cleared: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What the hypervisor has once it was set aside."""
    set_aside: Facts | None = field(default_factory=dict, metadata=SHOWN)
    """Where it is now; ``None`` if there was none, and empty as long as that is not known."""
    old_ended_at: Facts | None = field(default=None, metadata=HIDDEN)
    """The moment at which it ended, if it ran."""
    outage_s: float | None = field(default=None, metadata=SHOWN)
    """How long the store was without a server this time."""
    last_outage_s: float | None = field(default=None, metadata=HIDDEN)
    """The same, of the last deployment that replaced a server."""

    # A server that is put back
    replaces: int | None = field(default=None, metadata=SHOWN)
    """The deployment whose server was there before."""
    rolls_back_to: int | None = field(default=None, metadata=SHOWN)
    """The deployment whose server is put back, or is there since."""
    made_room: Facts | None = field(default=None, metadata=HIDDEN)
    """What the hypervisor has once the present server was set aside."""
    restored: Facts | None = field(default=None, metadata=SHOWN)
    """What was put back."""
    server: Facts | None = field(default=None, metadata=SHOWN)
    """What the server that was put back says of itself."""

    # A retry
    retried: bool | None = field(default=None, metadata=HIDDEN)
    """Whether the deployment, which was retried, had a guest by then."""
    readmitted: bool = field(default=False, metadata=SHOWN | FORGOTTEN)
    """Whether the guest's own key was let in again, if somebody took it away."""
    runs: bool | None = field(default=None, metadata=HIDDEN | FORGOTTEN)
    """Whether the guest ran when the deployment went on."""
    started: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """How a guest was started that was off, or was put back."""

    # What goes wrong
    mended: list[list[str]] = field(default_factory=list, metadata=HIDDEN | FORGOTTEN)
    """What was sent to mend a minion: in which state, to whom, and what."""
    without_modules: float | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """Since when a booting guest has answered without our modules."""
    refused: Facts = field(default_factory=dict, metadata=SHOWN)
    """How many answers were not believed, and the last of them."""
    intrusion: bool = field(default=False, metadata=SHOWN | FORGOTTEN)
    """Whether another key than the guest's was accepted for it."""
    failure: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What a minion reported of what failed."""
    late: Facts | None = field(default=None, metadata=HIDDEN | FORGOTTEN)
    """Why a deployment ends whose time is over, and until when its last words are waited for."""

    # A removal
    locked_out: bool = field(default=False, metadata=HIDDEN | FORGOTTEN)
    """Whether the guest's key was purged."""
    quiet: bool = field(default=False, metadata=HIDDEN | FORGOTTEN)
    """Whether the job that was under way has ended."""
    discarded: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What was left when the new server was removed."""
    data_disks: bool | None = field(default=None, metadata=SHOWN)
    """Whether the data disks are to be removed, too."""
    leaves_uyuni: bool | None = field(default=None, metadata=SHOWN)
    """Whether Uyuni is to forget the store's server."""
    removed: Facts | None = field(default=None, metadata=SHOWN | FORGOTTEN)
    """What was left when all servers of the store were removed."""
    retired: Facts | None = field(default=None, metadata=SHOWN)
    """What was removed of the store for good, and what was kept."""
    cleanup_failed: list[str] = field(default_factory=list, metadata=SHOWN | FORGOTTEN)
    """What could not be removed."""

    unknown: Facts = field(default_factory=dict, metadata=HIDDEN)
    """
    What another version has found out and this one does not know: kept as it is, since a master
    that still runs the old code may write over what the new one is to go on with.
    """

    def __contains__(self, name: str) -> bool:
        """Say whether a field is known."""
        return bool(getattr(self, name) != getattr(NOTHING, name))

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Evidence:
        """Return the evidence that was written as ``plain``, by whatever version."""
        known = {name: value for name, value in plain.items() if name in FIELDS}
        return cls(**known, unknown={k: v for k, v in plain.items() if k not in known})

    def plain(self) -> dict[str, Any]:
        """Return what is known, as it is written."""
        return {**self.unknown, **dict(self._known())}

    def shown(self) -> dict[str, Any]:
        """Return what the operator sees."""
        return {name: value for name, value in self._known() if FIELDS[name].metadata["shown"]}

    def kept(self) -> Evidence:
        """Return what still holds when the deployment goes on in another way."""
        kept = {k: v for k, v in self._known() if "forgotten" not in FIELDS[k].metadata}
        return Evidence(**kept, unknown=self.unknown)

    def _known(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in FIELDS if name in self)


FIELDS = {each.name: each for each in dataclasses.fields(Evidence) if each.name != "unknown"}
"""What can be known."""

NOTHING = Evidence()
"""What is known when a deployment begins."""
