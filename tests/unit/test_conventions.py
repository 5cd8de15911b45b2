# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What every file and every public function of this project has in common."""

import ast
import itertools
import pathlib
import re
import shlex
import subprocess

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = {"_runners": ["salt-run"], "_modules": ["salt", "salt-call"]}
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
BARE = {".json", ".md", ".txt", ".png"}
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
    sorted((REPO / "_utils" / "storelib").rglob("*.py")),
    ids=lambda path: str(path.relative_to(REPO / "_utils")),
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
