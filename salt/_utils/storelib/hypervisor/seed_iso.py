# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a new server is given to begin with: its key pair, and its seed as an ISO image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from storelib.errors import Fault
from storelib.files import sync
from storelib.hypervisor.place import Place, first, run, unfinished

ISO_TOOLS = ("xorrisofs", "genisoimage", "mkisofs")

PRIVATE = Path("/run")
"""Memory, not disk: the private key passes through it on its way into the seed."""


def key_pair(bits: int) -> tuple[str, str]:
    """Return a new RSA key pair as PEM, private half first, in the forms that Salt writes."""
    key = rsa.generate_private_key(65537, bits)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def write_seed(place: Place, documents: Mapping[str, str]) -> None:
    """Write the documents into the guest's seed, an ISO image with the label that NoCloud wants."""
    tool = first(ISO_TOOLS)
    if not tool:
        raise Fault(f"none of {', '.join(ISO_TOOLS)} is installed", "install xorriso")
    remove_seed(place)
    private = _private(place)
    private.mkdir(mode=0o700)
    try:
        for name, text in documents.items():
            (private / name).write_text(text)
        partial = unfinished(place.seed)
        run(tool, "-quiet", "-volid", "cidata", "-joliet", "-rock", "-output", partial, private)
    finally:
        shutil.rmtree(private)
    sync(partial)
    os.rename(partial, place.seed)


def remove_seed(place: Place) -> None:
    """Remove the seed and what a killed attempt left of it: the private key is in each."""
    shutil.rmtree(_private(place), ignore_errors=True)
    for file in (unfinished(place.seed), place.seed):
        file.unlink(missing_ok=True)


def facts(place: Place) -> dict[str, Any]:
    """Return whether the seed is there."""
    return {"path": str(place.seed), "exists": place.seed.exists()}


def _private(place: Place) -> Path:
    return PRIVATE / f"store-deploy-seed-{place.minion_id}"
