"""Runs the commands of ``tree-ssm``, and the tools of the repository, within the test's process."""

import importlib
import importlib.util
import sys
from pathlib import Path

from ssm_train.apis import cli

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
COMMANDS = ROOT / "ssm_train" / "commands"


def load_tool(tool):
    """Load the module of a command, or ``tools/<tool>.py`` if the tool is no command."""
    if (COMMANDS / f"{Path(tool).name}.py").exists():
        return importlib.import_module(f"ssm_train.commands.{Path(tool).name}")
    path = ROOT / "tools" / f"{tool}.py"
    if str(path.parent) not in sys.path:  # Python finds what a script imports beside it
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"tool_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, *arguments):
    """Run a command or ``tools/<tool>.py`` with these arguments and return its exit status."""
    module = load_tool(tool)
    return cli.run(lambda: module.main([str(a) for a in arguments]))


def error_of(capsys, tool, *arguments):
    """Run a tool that has to fail and return its one line on stderr."""
    capsys.readouterr()
    assert run(tool, *arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
