# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a step in a guest is given of the guest's Salt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Facts = dict[str, Any]
"""What a step has read back."""

CONFIG = ("id", "saltenv", "sls_list", "startup_states")
"""What the seed has set, beside the master, and another file of the minion's may have changed."""


@dataclass(frozen=True)
class Minion:
    """The guest's minion: who it is, by which settings it goes, and what its Salt does for us."""

    id: str
    master: str
    salt_version: str

    config: Mapping[str, Any]
    """Its settings of :data:`CONFIG`."""

    conf_file: str
    """Path of its own configuration."""

    read_config: Callable[[str], dict[str, Any]]
    """Reads that file, and no other."""

    include_config: Callable[[Any, str], Mapping[str, Any]]
    """Reads what a file of that path, the second argument, includes by these patterns."""

    highstate: Callable[[bool], Any]
    """
    Applies the highstate, after any state run that is under way, or only tests it; returns what
    ``state.apply`` does, of one that does not compile a list of errors.
    """

    grains: Mapping[str, Any]
    """Its grains, as they were when it started or last refreshed them."""

    fresh_grains: Callable[[], Mapping[str, Any]]
    """Has it refresh them, and returns them as they are now."""

    addresses: Callable[[], list[str]]
    addresses6: Callable[[], list[str]]

    service_runs: Callable[[str], object]
    """Says whether the service of that name runs."""

    run: Callable[[str, int], Mapping[str, Any]]
    """Runs a shell command for at most so many seconds; returns its ``retcode`` and output."""
