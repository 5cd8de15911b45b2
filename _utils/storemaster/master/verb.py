# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What makes a function of the runner an operator's verb: how it is called, how it ends."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from storelib.errors import Refused, StoreDeployError
from storemaster.deployment import fields, spec
from storemaster.deployment.actor import act_as
from storemaster.master import caller, roles, two_persons

LINE_LENGTH = 500
NOTHING: dict[str, Any] = {}


@contextlib.contextmanager
def as_caller(
    runner: dict[str, Any], verb: str, arguments: Mapping[str, Any] = NOTHING
) -> Iterator[None]:
    """Act in the name of who calls; raise :class:`Refused` if they may not say this verb so."""
    # Salt writes it into the globals of one function of the module: of a verb, then it is here.
    user = globals().get("__user__", runner.get("__user__"))
    with act_as(caller.caller(user)):
        roles.check(runner["__opts__"], verb, arguments)
        yield


def verb(function: Callable[..., Any], runner: dict[str, Any] | None = None) -> Callable[..., Any]:
    """
    Make a verb of ``function``: whatever is refused becomes plain data and exit status 1.

    Salt gives exit status 0 to a wrong argument, so that is found here, and only a ``retcode`` in
    both places fails ``salt-run`` as well as an orchestration (measured on 3006.25 and 3008.3).

    runner
        The runner's globals, where ``function`` is not written down in it.
    """
    of = function.__globals__ if runner is None else runner

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        context = of["__context__"]
        context["retcode"] = 0
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("__")}
        parameters = inspect.signature(function).parameters
        try:
            try:
                bound = inspect.signature(function).bind(*args, **kwargs)
            except TypeError as err:
                name = function.__name__.rstrip("_")
                usage = f"salt-run deploy.{name}{inspect.signature(function)}"
                raise Refused(f"deploy.{name}: {err}", f"usage: {usage}") from err
            optional = "store" in parameters and parameters["store"].default is None
            if "store" in bound.arguments and not (optional and bound.arguments["store"] is None):
                bound.arguments["store"] = spec.store_id(
                    spec.as_typed(bound.arguments["store"], sys.argv)
                )
            name = function.__name__.rstrip("_")
            with as_caller(of, name, bound.arguments):
                waits = two_persons.asked(of["__opts__"], name, bound.arguments)
                answer = waits or function(*bound.args, **bound.kwargs)
        except StoreDeployError as err:
            answer = {"error": err.reason, "hint": err.hint, "retcode": 1}
        if isinstance(answer, dict) and answer.get("retcode"):
            context["retcode"] = 1
        return answer

    # Salt would see the signature of ``function`` and refuse an unknown argument by itself.
    del called.__wrapped__
    return called


def flags(**given: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in given.items():
        if not isinstance(value, bool):
            raise Refused(f"{name} is {value!r}", "allowed: True | False")


def number(**given: Any) -> None:
    """Refuse what is no number, or below 0; ``None`` is left out."""
    for name, value in given.items():
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and (not right or value < 0):
            raise Refused(f"{name} is {value!r}", "allowed: a number, not below 0")


def line(**given: Any) -> str:
    """Return a line of text; refuse what is none, and what Salt has made of digits."""
    ((name, value),) = given.items()
    # A number is what was typed only if it looks so: of 0471 Salt makes 471.
    typed = {word.removeprefix(f"{name}=") for word in sys.argv[1:]}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = str(value).strip() if isinstance(value, str) or (number and str(value) in typed) else ""
    if not text or not text.isprintable() or len(text) > LINE_LENGTH:
        allowed = f"allowed: a text of one line, up to {LINE_LENGTH} characters"
        raise Refused(f"{name} is {value!r}", f"{allowed}; quote digits: \"'0471'\"")
    return text


def group(**given: Any) -> None:
    """Refuse what is no name of a group; ``None`` is left out."""
    kind = fields.under("")["group"].kind
    for name, value in given.items():
        if value is not None and not kind.good(value):
            hint = f"allowed: {kind.allowed}; quote digits: \"'10'\""
            raise Refused(f"{name} is {value!r}", hint)


def read_by_people(opts: dict) -> bool:
    """Say whether ``salt-run`` shows the answer as it likes, not as data in a format."""
    shows = str(opts.get("fun")).startswith("deploy.") and not opts.get("async")
    return shows and not opts.get("output")


def refuse_unknown(fun: str, runner: dict[str, Any]) -> None:
    """
    Make a verb that is refused of one that was typed and is none; Salt would end with status 0.

    fun
        What ``salt-run`` was told to run, such as ``deploy.stauts``.
    runner
        The runner's globals, before Salt looks for functions in them.
    """
    module, _, typed = fun.partition(".")
    aliases = runner["__func_alias__"]
    public = [name for name, each in runner.items() if inspect.isfunction(each)]
    verbs = sorted(aliases.get(name, name) for name in public if not name.startswith("_"))
    if module != "deploy" or typed in verbs:
        return

    def unknown(*_: Any, **__: Any) -> None:
        similar = difflib.get_close_matches(typed, verbs)
        meant = f"did you mean {' or '.join(similar)}? " if similar else ""
        raise Refused(f"deploy.{typed} is no verb", f"{meant}the verbs: {', '.join(verbs)}")

    # Salt leaves out what a module only imports.
    unknown.__module__, unknown.__name__ = runner["__name__"], typed
    runner["unknown"] = verb(unknown, runner)
    aliases["unknown"] = typed
