"""Runs the command-line tools within the test's process."""

import importlib.util
from pathlib import Path

from ssm_train.apis import cli

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def load_tool(tool):
    """Load the module ``tools/<tool>.py``."""
    spec = importlib.util.spec_from_file_location(f"tool_{Path(tool).name}", ROOT / "tools" / f"{tool}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, *arguments):
    """Run ``tools/<tool>.py`` with these arguments and return its exit status."""
    module = load_tool(tool)
    return cli.run(lambda: module.main([str(a) for a in arguments]))


def error_of(capsys, tool, *arguments):
    """Run a tool that has to fail and return its one line on stderr."""
    capsys.readouterr()
    assert run(tool, *arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
