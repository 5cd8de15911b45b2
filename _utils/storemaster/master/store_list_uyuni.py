# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Uyuni as the target of a store list: form data, groups and profiles, by its API.

A store is the form data of ``store-server`` of its hypervisor, a group of the list a system group
with form data of ``store-defaults``. ``formula.setFormulasOfServer`` replaces a list and deletes
the data of what it drops, so a list is read, extended, written and read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from storelib.errors import StoreDeployError
from storemaster.deployment import form_pages
from storemaster.deployment.form_pages import DEFAULTS, KEY, SERVER
from storemaster.deployment.formats import shown
from storemaster.deployment.store_list import columns, comparing
from storemaster.deployment.store_list.columns import GROUP, HYPERVISOR, HYPERVISOR_MAC
from storemaster.deployment.store_list.rows import Place, Row, StoreList
from storemaster.deployment.store_list.targets import Progress, Tell, merged

BEGINS = {key: value for (of, key), value in form_pages.OTHER_DEFAULTS.items() if of == DEFAULTS}
"""What Uyuni puts into a pillar where a group's data have nothing."""


class Server(Protocol):
    """A session with Uyuni."""

    def call(self, name: str, *args: Any) -> Any:
        """Call a method of the API; raise a :class:`StoreDeployError` if that is a fault."""


class UyuniTarget:
    """See :class:`storemaster.deployment.store_list.targets.Target`."""

    writes_groups = True

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ids: dict[str, int] = {}
        self._macs: dict[str, str] = {}
        """Whose profile has a hardware address."""
        self._groups: dict[str, int] = {}
        """All system groups."""
        self._ours: dict[str, set[int]] = {}
        """The systems of those that have ``store-defaults``, or that the list names."""
        self._data: dict[str, dict[str, Any]] = {}
        """Of each group what its ``store-defaults`` has."""
        self._had: dict[str, dict[str, Any] | None] = {}
        """Of each hypervisor what its ``store-server`` has, ``None`` without one."""
        self._listed: Mapping[str, Row] = {}

    # Looking

    def know(self, stores: StoreList, tell: Tell) -> None:
        """Look up systems, groups and form data; all that is asked is asked here."""
        call, self._listed = self._server.call, stores.groups
        missing = {DEFAULTS, SERVER} - set(call("formula.listFormulas"))
        if missing:
            raise StoreDeployError(
                f"Uyuni has no formula {' and no '.join(sorted(missing))}",
                "install the forms: docs/uyuni.md",
            )
        profiles = call("system.listEmptySystemProfiles")
        self._ids = {each["name"]: each["id"] for each in profiles}
        self._macs = {
            mac.lower(): each["name"] for each in profiles for mac in each.get("hw_address") or ()
        }
        self._ids |= {str(name): int(sid) for name, sid in call("system.getMinionIdMap").items()}
        self._groups = {each["name"]: each["id"] for each in call("systemgroup.listAllGroups")}
        named = {str(row.group) for row in (*stores.rows, *stores.groups.values())}
        for name, number in self._groups.items():
            has = DEFAULTS in call("formula.getFormulasByGroupId", number)
            if has:
                data = call("formula.getGroupFormulaData", number, DEFAULTS)
                self._data[name] = columns.stripped(data.get(KEY) or {})
            if has or name in named:
                systems = call("systemgroup.listSystemsMinimal", name)
                self._ours[name] = {each["id"] for each in systems}
        members = set().union(*self._ours.values()) if self._ours else set()
        listed = {str(row.hypervisor) for row in stores.rows}
        asked = [name for name, sid in self._ids.items() if name in listed or sid in members]
        progress = Progress(tell, "asked Uyuni for systems", len(asked))
        for name in asked:
            self._had[name] = self._own_of(self._ids[name])
            progress.step()

    def _own_of(self, sid: int) -> dict[str, Any] | None:
        if SERVER not in self._server.call("formula.getFormulasByServerId", sid):
            return None
        data = self._server.call("formula.getSystemFormulaData", sid, SERVER)
        own: dict[str, Any] = data.get(KEY) or {}
        return own

    def faults(self, row: Row) -> Iterator[tuple[str, str]]:
        """Find groups that are nowhere described, fields on no page, addresses of others."""
        formula = DEFAULTS if row.is_group else SERVER
        for column in columns.flat(row.own):
            if not _is_on_page(formula, column) and columns.field_of(column):
                yield column, f"{column} is not on the page of {formula}: {_elsewhere(column)}"
        group = row.group if isinstance(row.group, str) else ""
        if group and group not in self._groups and group not in self._listed:
            known = ", ".join(sorted(self._data)) or "none"
            told = "no system group of Uyuni and none of this list"
            yield GROUP, f"{GROUP} is {shown(group)}, {told} (groups with {DEFAULTS}: {known})"
        other = self._macs.get(str(row.mac), row.hypervisor)
        if other != row.hypervisor:
            yield HYPERVISOR_MAC, f"{HYPERVISOR_MAC} {row.mac} is that of the profile {other}"

    def _in(self, row: Row) -> list[str]:
        """Return the groups that a hypervisor is in: with defaults, or else named by the list."""
        sid = self._ids.get(str(row.hypervisor))
        found = [name for name in sorted(self._ours) if sid in self._ours[name]]
        return [name for name in found if self._has_defaults(name)] or found

    def _has_defaults(self, name: str) -> bool:
        """Say whether a group has ``store-defaults``, or will have."""
        return name in self._data or name in self._listed

    def _group(self, row: Row) -> str:
        """Return the group that is to be: the one that is named, else what is."""
        return str(row.group or ", ".join(self._in(row)))

    def whole(self, row: Row) -> Mapping[str, Any]:
        """Return the pillar that Uyuni will make of a group's data and of a system's."""
        group = self._group(row)
        listed = self._listed.get(group)
        data = _own(listed) if listed else self._data.get(group)
        below = {} if data is None else {**BEGINS, **data}
        return below if row.is_group else merged(below, row.own)

    def wanted(self, row: Row) -> dict[str, Any]:
        """Return the form data that a row asks for, and its group."""
        values = _given(_own(row))
        return values if row.is_group else {GROUP: self._group(row), **values}

    def had(self, row: Row) -> dict[str, Any] | None:
        """Return the form data that are there, and the group."""
        if row.is_group:
            data = self._data.get(row.group)
            return None if data is None else _given(data)
        own = self._had.get(row.hypervisor)
        return None if own is None else {GROUP: ", ".join(self._in(row)), **_given(own)}

    def others(self, listed: Iterable[str]) -> Mapping[str, Row]:
        """Return the other stores of the groups that have ``store-defaults``."""
        listed = set(listed)
        rows = {}
        for name, own in self._had.items():
            if own and name not in listed:
                row = Row(Place(0), columns.nested(_given(own)), {HYPERVISOR: name})
                groups = self._in(row)
                row.beside.update({GROUP: groups[0]} if len(groups) == 1 else {})
                rows[name] = row
        return rows

    def waits(self, row: Row) -> str:
        """Say so of a hypervisor that is no system yet and cannot become one."""
        if row.is_group or row.hypervisor in self._ids or row.mac:
            return ""
        return (
            f"is no system of Uyuni yet; register it, or give its {HYPERVISOR_MAC} for a profile, "
            "then import again"
        )

    def refuses(self, row: Row, new: bool) -> str:
        """Say nothing: form data have no other owner than the list."""
        return ""

    # Writing

    def write(self, rows: Sequence[Row], tell: Tell) -> int:
        """Write groups, profiles, memberships, then formulas and data, all of it read back."""
        written, done, at = 0, 0, ""
        progress = Progress(tell, "written", len(rows))
        try:
            for row in rows:
                at = comparing.name_of(row)
                self._make(row)
            at = "members of groups"
            self._move([row for row in rows if not row.is_group])
            for row in rows:
                at = comparing.name_of(row)
                written += self._describe(row)
                done += 1
                progress.step()
        except StoreDeployError as err:
            raise StoreDeployError(
                f"{at}: {err.reason}; {done:,} of {len(rows):,} were written before",
                err.hint or "mend that, then the same command again: it goes on there",
            ) from err
        return written

    def _make(self, row: Row) -> None:
        """Make the group or the profile that is not there."""
        call = self._server.call
        if row.is_group and row.group not in self._groups:
            made = call("systemgroup.create", row.group, "stores (store-deploy)")
            self._groups[row.group], self._ours[row.group] = made["id"], set()
        elif not row.is_group and row.hypervisor not in self._ids:
            made = call("system.createSystemProfile", row.hypervisor, {"hwAddress": row.mac})
            self._ids[row.hypervisor] = made

    def _move(self, rows: Sequence[Row]) -> None:
        """Put hypervisors into their groups, many at once."""
        joining: dict[str, list[int]] = {}
        leaving: dict[str, list[int]] = {}
        for row in rows:
            sid = self._ids[row.hypervisor]
            if row.group and sid not in self._ours.get(row.group, ()):
                joining.setdefault(row.group, []).append(sid)
            # In two groups with one formula, whose data count is chance.
            for name in self._in(row) if row.group else ():
                if name != row.group and self._has_defaults(name):
                    leaving.setdefault(name, []).append(sid)
        for moving, join in ((joining, True), (leaving, False)):
            for name, systems in moving.items():
                self._server.call("systemgroup.addOrRemoveSystems", name, systems, join)

    def _describe(self, row: Row) -> int:
        """Assign the formula, and write its data."""
        if row.is_group:
            number = self._groups[row.group]
            self._assign("Group", "getFormulasByGroupId", number, DEFAULTS)
            return self._fill("Group", number, DEFAULTS, row)
        sid = self._ids[row.hypervisor]
        self._assign("Server", "getFormulasByServerId", sid, SERVER)
        return self._fill("System", sid, SERVER, row)

    def _assign(self, kind: str, read: str, number: int, formula: str) -> None:
        """Extend a list of formulas."""
        call = self._server.call
        before = call(f"formula.{read}", number)
        if formula in before:
            return
        call(f"formula.setFormulasOf{kind}", number, [*before, formula])
        after = call(f"formula.{read}", number)
        lost = {*before, formula} - set(after)
        if lost:
            raise StoreDeployError(
                f"after Uyuni was told to add {formula}, it has no {', '.join(sorted(lost))}",
                "assign that on its page again; its data may be lost",
            )

    def _fill(self, kind: str, number: int, formula: str, row: Row) -> int:
        """Write form data, and read them back."""
        call = self._server.call
        content = {KEY: columns.nested(_given(_own(row)))}
        call(f"formula.set{kind}FormulaData", number, formula, content)
        there = call(f"formula.get{kind}FormulaData", number, formula)
        if _given(there.get(KEY) or {}) != _given(_own(row)):
            raise StoreDeployError(
                f"Uyuni has other data of {formula} than it was given",
                "look at the page of that form: its version may be another one",
            )
        return len(repr(content))


def _own(row: Row) -> Mapping[str, Any]:
    """Return the form data that a row has: a group's have its name, too."""
    return {GROUP: row.group, **row.own} if row.is_group else row.own


def _given(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given in form data, flat: a page saves empty lists, too."""
    return {
        column: value
        for column, value in columns.flat(columns.named(own)).items()
        if value not in ([], {})
    }


def _is_on_page(formula: str, column: str) -> bool:
    field = columns.field_of(column)
    if field is None:
        return False
    if field.path == "timeouts.STATE":
        return formula == DEFAULTS and column.partition(".")[2] in form_pages.TIMEOUTS
    return field.path in form_pages.SHOWN[formula]


def _elsewhere(column: str) -> str:
    """Say where a field belongs instead."""
    if _is_on_page(DEFAULTS, column):
        return f"give it to the store's group ({DEFAULTS})"
    if _is_on_page(SERVER, column):
        return f"give it to each store ({SERVER})"
    if column == columns.GUEST_PILLAR:
        return "the guest is a system with formulas of its own"
    return "leave it out"
