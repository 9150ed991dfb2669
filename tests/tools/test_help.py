"""Tests the start of every command and tool. It parses its arguments, and imports little before that."""

import ast
import os
import re
import resource
import subprocess
import sys

import pytest
from command_line import COMMANDS, ROOT, load_tool

from ssm_train.commands import program

MEASURED = ROOT / "tools" / "benchmarks" / "measured"  # what benchmarks import after they have parsed
FILES = [path for path in (ROOT / "tools").rglob("*.py") if path.parent != MEASURED]
TOOLS = sorted(str(path.relative_to(ROOT / "tools").with_suffix("")) for path in FILES)
OWN = [tool for tool in TOOLS if tool.startswith("benchmarks/")] + ["analysis/model_zoo"]  # they are no commands
CALLERS = [tool for tool in TOOLS if tool not in OWN]
NAMES = list(program.COMMANDS)
NOT_COMMANDS = {"__init__", "__main__", "program", "processes"}
# What a command imports before it has parsed. None of these imports more than the standard library.
LIGHT = re.compile(r"ssm_train\.(apis\.(arguments|cli)|commands\..+)|ssm_core\.(errors|doctor)\..+")
CALLER = '''"""Calls ``tree-ssm {name}``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main([{words}, *sys.argv[1:]]))
'''
STARTED = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]  # as Python does for a script
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print(ended.code, sorted({"torch", "mmengine", "matplotlib", "transformers"} & set(sys.modules)), file=sys.stderr)
"""
WITHOUT_DOCSTRINGS = """
from contextlib import suppress
from ssm_train.commands import program
for name in program.COMMANDS:
    with suppress(SystemExit):
        program.main([*name.split(), "--help"])
"""


def imported(nodes):
    """Yield the names of the modules that statements import, without looking into functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def from_outside(nodes):
    return {name for name in imported(nodes) if name.split(".")[0] not in sys.stdlib_module_names}


def started(file, *arguments):
    """Run a file as a program. Return what it printed, and in a last line its status and what it imported that is slow.

    It takes less than a second of a core. Other programs of the machine do not change that, as they do the time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", STARTED, file, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tree-ssm {name} ")


def test_help_without_docstrings():
    """``python -OO`` drops the docstrings, from which commands take their descriptions."""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", WITHOUT_DOCSTRINGS], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^usage: tree-ssm (.*?) (?:\[|[A-Z])", done.stdout, re.M) == NAMES


@pytest.mark.parametrize("tool", OWN)
def test_help_of_a_tool(tool, capsys):
    with pytest.raises(SystemExit) as ended:
        load_tool(tool).main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_every_module_is_a_command():
    modules = {path.stem for path in COMMANDS.glob("*.py")} - NOT_COMMANDS
    assert modules == {command.module for command in program.COMMANDS.values()}


@pytest.mark.parametrize("module", sorted({command.module for command in program.COMMANDS.values()}))
def test_imports(module):
    """Before a command has parsed, it imports nothing slow. All of it imports nothing but this project."""
    tree = ast.parse((COMMANDS / f"{module}.py").read_text())
    assert all(LIGHT.fullmatch(name) for name in from_outside(tree.body))
    whole = from_outside(ast.walk(tree)) - {"torch"}
    assert {name.split(".")[0] for name in whole} <= {"ssm_train", "ssm_core"}


def test_tools_call_commands():
    modules = {command.module: name for name, command in program.COMMANDS.items()}
    assert len(CALLERS) > 15
    for tool in CALLERS:
        module = tool.rpartition("/")[2]
        name = modules[module]
        words = ", ".join(f'"{word}"' for word in name.split())
        assert (ROOT / f"tools/{tool}.py").read_text() == CALLER.format(name=name, words=words)


STARTS = [("ssm_train/commands/__main__.py", *name.split()) for name in NAMES]
STARTS += [(f"tools/{tool}.py",) for tool in TOOLS]


@pytest.mark.parametrize("start", STARTS, ids=" ".join)
def test_help_is_quick(start):
    printed, ended = started(ROOT / start[0], *start[1:], "--help")
    assert printed.startswith("usage: ")
    assert ended == "0 []\n"


@pytest.mark.parametrize("start", STARTS, ids=" ".join)
def test_a_misspelt_switch_is_told_quickly(start):
    printed, ended = started(ROOT / start[0], *start[1:], "--halp")
    assert printed == ""
    assert "error: " in ended
    assert ended.endswith("\n2 []\n")
