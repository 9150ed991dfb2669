"""Tests the start of every tool. It parses its arguments, and imports little before that."""

import ast
import subprocess
import sys

import pytest
from command_line import ROOT, load_tool

TOOLS = sorted(str(path.relative_to(ROOT / "tools").with_suffix("")) for path in (ROOT / "tools").rglob("*.py"))
COMMANDS = [tool for tool in TOOLS if not tool.startswith("benchmarks/")]
STARTED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print(ended.code, sorted({"torch", "mmengine", "numpy"} & set(sys.modules)), file=sys.stderr)
"""


def imported(nodes):
    """Yield the names of the modules that statements import, without looking into functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("tool", TOOLS)
def test_help(tool, capsys):
    with pytest.raises(SystemExit) as ended:
        load_tool(tool).main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("tool", [tool for tool in COMMANDS if tool != "analysis/model_zoo"])
def test_imports(tool):
    """A command imports only ssm_train and the standard library. Before it has parsed, it imports one ssm_train module.

    tools/analysis/model_zoo.py is left out, because it is no command for users. It reads the metafiles, which are YAML.
    """
    module = ast.parse((ROOT / "tools" / f"{tool}.py").read_text())
    first = {name for name in imported(module.body) if name.split(".")[0] not in sys.stdlib_module_names}
    assert first <= {"ssm_train.apis.arguments", "ssm_train.apis.cli"}
    whole = {name for name in imported(ast.walk(module)) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name.split(".")[0] for name in whole} <= {"ssm_train"}


@pytest.mark.parametrize("tool", [*COMMANDS, "benchmarks/distributed"])
def test_help_without_torch(tool):
    command = [sys.executable, "-c", STARTED, ROOT / "tools" / f"{tool}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == "0 []\n"
