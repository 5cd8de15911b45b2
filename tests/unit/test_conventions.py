# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What every file and every public function of this project has in common."""

import ast
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = {"_runners": ["salt-run"], "_modules": ["salt", "salt-call"]}
CORE = (REPO / "salt/_utils/storelib", REPO / "_utils/storemaster")
LOADED = [
    path
    for folder in ("_engines", "_modules", "_pillar", "_runners", "_states")
    for path in sorted((REPO / folder).glob("*.py"))
]
PUBLIC = [
    pytest.param(path, node, id=f"{path.stem}.{node.name}")
    for path in LOADED
    if path.parent.name in CLIENTS
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
]
# What cannot hold a comment, or is not ours to mark.
BARE = {".csv", ".json", ".md", ".txt", ".png"}
BARE_NAMES = {"LICENSE", ".gitkeep"}


def marked():
    """Return the files in git that have to name their licence."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    files = [(name, REPO / name) for name in listed]
    return [
        name
        for name, path in files
        if path.is_file() and not path.is_symlink()
        if path.suffix not in BARE and path.name not in BARE_NAMES
    ]


def arguments(function):
    given = function.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def example(function):
    """Return the command of the CLI example, without the lines' ends."""
    _, _, text = (ast.get_docstring(function) or "").partition("CLI Example:")
    lines = text.partition(".. code-block:: bash")[2].strip().replace("\\\n", " ").splitlines()
    return lines[0].strip() if lines else ""


def test_there_are_functions_to_look_at():
    assert len(PUBLIC) > 20


@pytest.mark.parametrize(("path", "function"), PUBLIC)
def test_the_cli_example_of_a_public_function_calls_this_function(path, function):
    words = shlex.split(example(function))
    assert words, "no CLI Example"
    assert words[0] in CLIENTS[path.parent.name]
    assert f"{path.stem}.{function.name.rstrip('_')}" in words


@pytest.mark.parametrize(("path", "function"), PUBLIC)
def test_the_cli_example_gives_every_argument_that_must_be_given(path, function):
    words = shlex.split(example(function))
    must = arguments(function)[: len(arguments(function)) - len(function.args.defaults)]
    defaults = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    optional = {each.arg for each, default in defaults if default is not None}
    must = [name for name in must if name not in optional]
    called = words.index(f"{path.stem}.{function.name.rstrip('_')}")
    given = [word for word in words[called + 1 :] if not word.startswith("--")]
    by_name = {word.partition("=")[0] for word in given if re.match(r"\w+=", word)}
    positional = len([word for word in given if not re.match(r"\w+=", word)])
    assert [name for name in must[positional:] if name not in by_name] == []


@pytest.mark.parametrize(("path", "function"), PUBLIC)
def test_every_argument_of_a_public_function_is_documented(path, function):
    lines = (ast.get_docstring(function) or "").splitlines()
    heads = {
        name.strip()
        for line, following in itertools.pairwise(lines)
        if re.match(r"\w", line) and following.startswith("    ")
        for name in line.split(",")
    }
    assert set(arguments(function)) - heads == set()


@pytest.mark.parametrize("path", sorted((REPO / "_modules").glob("*.py")), ids=lambda p: p.stem)
def test_a_function_of_an_execution_module_is_one_call(path):
    """Whatever it does is in its wing."""
    functions = [node for p, node in map(lambda each: each.values, PUBLIC) if p == path]
    bodies = {function.name: function.body[1:] for function in functions}
    assert bodies
    assert [
        name for name, body in bodies.items() if [type(node) for node in body] != [ast.Return]
    ] == []


@pytest.mark.parametrize("path", LOADED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_loader_modules_print_nothing_but_a_runners_progress(path):
    printing = {
        getattr(top, "name", "the module")
        for top in ast.parse(path.read_text()).body
        for node in ast.walk(top)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert printing <= ({"_tell"} if path.parent.name == "_runners" else set())


@pytest.mark.parametrize("name", marked())
def test_every_file_says_whose_it_is_and_under_which_licence(name):
    head = "\n".join((REPO / name).read_text().splitlines()[:12])
    assert "SPDX-License-Identifier: Apache-2.0" in head
    assert "SPDX-FileCopyrightText: store-deploy contributors" in head


REACTORS = sorted((REPO / "reactor").glob("*.sls"))


@pytest.mark.parametrize("path", REACTORS, ids=lambda path: path.stem)
def test_a_reactor_renders_event_data_only_as_json(path):
    rendered = re.findall(r"{{-?(.*?)-?}}", path.read_text(), re.DOTALL)
    assert rendered
    assert [each for each in rendered if not re.search(r"\|\s*json\s*$", each.strip())] == []


@pytest.mark.parametrize("path", REACTORS, ids=lambda path: path.stem)
def test_a_reactor_only_rings_the_doorbell(path):
    text = path.read_text()
    assert re.findall(r"^  ([\w.]+):$", text, re.MULTILINE) == ["runner.deploy.notify"]
    assert "{%" not in text


@pytest.mark.parametrize(
    "path",
    sorted(path for top in CORE for path in top.rglob("*.py")),
    ids=lambda path: str(path.relative_to(REPO)),
)
def test_only_the_masters_adapters_import_salt(path):
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + [alias.name for alias in node.names if isinstance(node, ast.Import)]
    }
    assert "salt" not in imported or path.parent.name == "master"


def changing(path):
    """Yield the calls in a file that give a record another state, or write one that has."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func).rpartition(".")[2], {k.arg for k in node.keywords}
            if (name == "replace" and "state" in given) or (name == "save" and "change" in given):
                yield f"{path.name}: {ast.unparse(node)[:80]}"


def test_a_state_is_changed_by_one_door_only():
    files = sorted((REPO / "_utils/storemaster").rglob("*.py"))
    by_file = {path.name: list(changing(path)) for path in files}
    assert [name for name, found in by_file.items() if found] == ["transition.py"]
    assert len(by_file["transition.py"]) == 2


def test_a_file_is_replaced_and_a_lock_is_taken_in_one_place_only():
    ours = [*LOADED, *(path for top in CORE for path in top.rglob("*.py"))]
    calls = [
        (str(path.relative_to(REPO)), name)
        for path in ours
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        if (name := ast.unparse(node.func)) in ("fcntl.flock", "os.fsync")
    ]
    assert {name for _, name in calls} == {"fcntl.flock", "os.fsync"}
    assert {path for path, _ in calls} == {"salt/_utils/storelib/files.py"}


COMMANDS = REPO / "salt/_utils/storelib/commands.py"
HYPERVISORS = (
    REPO / "salt/_modules/store_hypervisor.py",
    *sorted((REPO / "salt/_utils/storelib/hypervisor").rglob("*.py")),
    COMMANDS,
)


def hints(path):
    """Yield what a file's faults tell the operator to do, as far as it is written down."""
    for node in ast.walk(ast.parse(path.read_text())):
        if path == COMMANDS and isinstance(node, ast.Return):
            yield ast.unparse(node.value)
        called = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Fault", "domains.Fault")
        if called and len(node.args) > 1:
            yield ast.unparse(node.args[1])


def test_no_operator_is_told_to_take_a_step_that_is_no_verb():
    """Only a deployment clears, stages, prepares or defines."""
    told = [hint for path in HYPERVISORS for hint in hints(path)]
    assert len(told) > 30
    steps = re.compile(r"\b(clear|stage|prepare|define|restore|discard|finish)\b(?!d)")
    assert [hint for hint in told if steps.search(hint.replace("deploy.", ""))] == []


DOING = re.compile(r"\b(rename|remove|move|detach|shut off|shut it|convert|by hand|look at both)\b")
COMMAND = re.compile(r"\b(virsh|mv|rm|qemu-img|df|losetup|kill|salt-run) |commands\.\w")


def test_what_is_to_be_done_to_a_server_disk_or_domain_is_a_command_that_can_be_typed():
    told = [hint for path in HYPERVISORS if path != COMMANDS for hint in hints(path)]
    assert [hint for hint in told if DOING.search(hint) and not COMMAND.search(hint)] == []


def test_every_fragment_is_of_a_kind_that_the_changelog_shows():
    """towncrier passes over the others without a word."""
    kinds = re.findall(r'directory = "(\w+)"\nname = ', (REPO / "pyproject.toml").read_text())
    fragments = [path.name for path in (REPO / "changelog.d").glob("*.md")]
    assert fragments
    assert [name for name in fragments if name.split(".")[1] not in kinds] == []


@pytest.mark.parametrize("tier", ["faults", "night"])
def test_the_tiers_that_are_run_by_hand_can_be_collected(tier):
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", f"tests/{tier}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TESTS, SOURCE = 700, 500
"""Lines that a file may have: a reader finds in it what its name says."""


def lines(path):
    """Count the lines, in loader modules without docstrings: each verb has its reference there."""
    text = path.read_text()
    count = len(text.splitlines())
    if path in [each.resolve() for each in LOADED]:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
                count -= node.body[0].end_lineno - node.body[0].lineno + 1
    return count


def test_no_file_is_too_long_to_be_read():
    data = (".csv", ".md", ".json", ".txt")
    files = [REPO / name for name in marked() if not name.endswith(data)]
    long = {
        str(path.relative_to(REPO)): lines(path)
        for path in files
        if lines(path) > (TESTS if path.is_relative_to(REPO / "tests") else SOURCE)
    }
    assert len(files) > 200
    assert long == {}


def test_what_is_typed_on_a_hypervisor_is_made_in_one_place():
    made = re.compile(r"\b(virsh|qemu-img|losetup -d|kill|mv|rm|df|mkdir) [-{a-z]")
    elsewhere = {
        f"{path.name}: {hint}"
        for path in HYPERVISORS
        if path != COMMANDS
        for hint in hints(path)
        if made.search(hint)
    }
    assert elsewhere == set()
