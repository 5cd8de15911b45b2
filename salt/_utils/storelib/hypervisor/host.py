# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a step on a hypervisor is given: what Salt has there, the store's spec, its order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storelib.hypervisor.transfer import Access

Spec = Mapping[str, Any]
"""A store's spec, as the runner freezes it."""

Order = Mapping[str, Any]
"""What :func:`storelib.orders.made` makes."""

Facts = dict[str, Any]
"""What a step has read back."""


@dataclass(frozen=True)
class Host:
    """
    What of this minion's Salt is needed here.

    What Salt itself refuses comes from its functions as a :class:`storelib.errors.Fault`.
    """

    uri: str | None
    """Connection URI of libvirt; ``None`` for libvirt's own default."""

    has_virt: Callable[[], bool]
    """Says whether Salt's module ``virt`` is loaded."""

    virt_init: Callable[..., object]
    virt_start: Callable[[str], object]

    get_file: Callable[[str, str], object]
    """Fetches a ``salt://`` URL to a path; see :func:`storelib.hypervisor.images.stage`."""

    access: Access
    """How this minion gets to web servers."""

    key_bits: int
    """Size of the key pair that a guest is given."""

    registration: Callable[[], Mapping[str, str]]
    """
    Asks the master for the keys with which Uyuni is to register the guest; raises
    :class:`storelib.errors.NotNow` if it cannot tell.
    """

    environment: Mapping[str, str]
    """In which environments this minion asks for states and pillar; empty for Salt's."""

    saltenv: str
    sudo_user: str

    salt: int
    """Salt's line, such as 3008."""
