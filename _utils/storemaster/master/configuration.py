# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The files of the master's configuration: which of them Salt reads, and what in them counts.

Measured on 3006.25 and 3008.3: the files that ``default_include`` names are merged with each other,
lists and mappings key by key. What comes of it replaces the same keys of the main file, and the
files of ``include`` then replace both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import salt.config

from storemaster.master import config_files, heartbeat
from storemaster.master.config_files import DEFAULT_INCLUDE, RESTART, File, main_file

KEYS = (
    *("autosign_file", "engines", "ext_pillar", "external_auth", "file_roots", "module_dirs"),
    *("netapi_enable_clients", "pillar_dirs", "reactor", "schedule", "store_deploy"),
)
"""What the shipped files set: a site's own entries beside ours must count, too."""

Fault = tuple[str, str]


def faults(opts: dict) -> Iterator[Fault]:
    """Find files that Salt cannot read or does not look at, and keys that others replace."""
    main = main_file(opts)
    read, unread = config_files.read(opts)
    for each in unread:
        yield each.fault, each.mend
    if not read or read[0].path != main:
        return
    yield from _not_looked_at(main, read)
    # With a file that cannot be read at all Salt does not get as far as this.
    if not any(each.ends for each in unread):
        yield from _replaced(main, read)


def install(opts: dict, name: str) -> str:
    """Say how to get the settings of a shipped file, which may be there and yet not count."""
    # Where it was installed, and does not run from a checkout, some sort last.
    last = name.replace("50-", "zz-", 1)
    name = last if (heartbeat.CHECKOUT / "master.d" / last).exists() else name
    there = main_file(opts).parent / "master.d" / name
    shipped = heartbeat.CHECKOUT / "master.d" / name
    if not os.path.exists(there):
        return f"install master.d/{name}; {RESTART}"
    way = f"cp --remove-destination {shipped} {there}"
    if str(heartbeat.CHECKOUT) != "/srv/store-deploy":
        way = f"rm {there}; sed s,/srv/store-deploy,{heartbeat.CHECKOUT}, {shipped} >{there}"
    return f"{there} is there and does not say so: {way}; {RESTART}"


def _not_looked_at(main: Path, read: list[File]) -> Iterator[Fault]:
    include = read[0].content.get("default_include", DEFAULT_INCLUDE)
    looked_at = {file.path.name for file in read}
    for shipped in sorted((heartbeat.CHECKOUT / "master.d").glob("*.conf")):
        there = main.parent / "master.d" / shipped.name
        elsewhere = shipped.name not in looked_at and include != DEFAULT_INCLUDE
        if elsewhere and os.path.exists(there):
            yield (
                f"default_include is {include}, so {there} does not count",
                f"remove default_include from {main}, or link {there} where it looks; {RESTART}",
            )


def _replaced(main: Path, read: list[File]) -> Iterator[Fault]:
    told = read[0].content
    merged = dict(told)
    for key, default in (("default_include", DEFAULT_INCLUDE), ("include", [])):
        merged |= salt.config.include_config(told.get(key, default), str(main), verbose=False)
    for number, file in enumerate(read):
        for key in KEYS:
            # Of two files beside each other, the later one's word is meant to be the last.
            ours = key in file.content
            if not ours or _counts(file.content[key], merged.get(key), words=file.layer == 0):
                continue
            others = [each for each in read[number + 1 :] if key in each.content]
            # Settings that are no mapping are told of as that.
            if others and (key != "store_deploy" or isinstance(merged.get(key), Mapping)):
                yield (
                    f"{key} in {file.path} does not count: it is in {others[-1].path}, too, which "
                    f"{_how(file, others[-1], key)}",
                    f"{_mend(file, others[-1], key)}; {RESTART}",
                )


def _counts(said: object, merged: object, words: bool) -> bool:
    """Say whether all that a file says is in what Salt makes of all files; of ``words``, too."""
    if said is None:
        return True
    if isinstance(said, Mapping):
        return isinstance(merged, Mapping) and all(
            key in merged and _counts(value, merged[key], words) for key, value in said.items()
        )
    if isinstance(said, list):
        return isinstance(merged, list) and all(each in merged for each in said)
    return said == merged or not (words or isinstance(merged, (Mapping, list)))


def _how(file: File, other: File, key: str) -> str:
    if file.layer < other.layer:
        return "replaces it"
    return f"has it as {_kind(other.content[key])}, not as {_kind(file.content[key])}"


def _mend(file: File, other: File, key: str) -> str:
    if file.layer == other.layer:
        return f"write {key} as {_kind(other.content[key])} in {file.path}"
    if not isinstance(file.content[key], (Mapping, list)):
        return f"remove {key} from {file.path}, or from {other.path}"
    if file.layer:
        return f"move {key} from {other.path} into {file.path.parent / '60-site.conf'}"
    # Our roots come after the site's; a setting of the site's own comes after ours.
    name = "60-site.conf" if key == "store_deploy" else "10-site.conf"
    return f"move {key} from {file.path} into {other.path.parent / name}"


def _kind(value: object) -> str:
    return (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list)
        else "a word"
    )
