"""The script that measures on a GPU gives every tool a command line that the tool takes."""

import os
import re
import subprocess
import sys

import pytest
from command_line import ROOT

SCRIPT = ROOT / "dev" / "measure_gpu.sh"
PARTS = ["step", "sides", "sizes", "loop:quadmamba", "loading", "start", "detection", "segmentation", "study:scenes"]
# Reads a command line as the tool does, writes it down, and measures nothing.
PARSER = """#!{python}
import importlib, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tools!r}]
if sys.argv[1] == "-m":
    tool, line = importlib.import_module("ssm_train.commands." + sys.argv[3]), sys.argv[4:]
else:
    tool, line = importlib.import_module(Path(sys.argv[1]).stem), sys.argv[2:]
(getattr(tool, "parse", None) or tool.parse_arguments)(line)
if tool.__name__ == "imagenet_files":
    Path(line[0], "train").mkdir(parents=True)
with open({lines!r}, "a") as file:
    file.write(tool.__name__ + " " + " ".join(line) + "\\n")
"""


def measure(tmp_path, *parts):
    python, lines = tmp_path / "python", tmp_path / "lines"
    tools = str(ROOT / "tools" / "benchmarks")
    python.write_text(PARSER.format(python=sys.executable, root=str(ROOT), tools=tools, lines=str(lines)))
    python.chmod(0o755)
    daemon = tmp_path / "nvidia-cuda-mps-control"  # a real one would serve this machine
    daemon.write_text("#!/bin/sh\nexit 1\n")
    daemon.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([SCRIPT, tmp_path / "out", *parts], capture_output=True, text=True, env=environment)
    return done, lines


@pytest.mark.parametrize("part", PARTS)
def test_every_line_is_one_that_the_tool_takes(tmp_path, part):
    done, lines = measure(tmp_path, part)
    assert re.search(rf"^{part} ended with 0 after \d+ s$", done.stdout, re.M), done.stdout + done.stderr
    assert done.returncode == 0
    assert lines.read_text()
    for log in (tmp_path / "out").glob("*.log"):
        assert "error" not in log.read_text(), "the compilations beside each other"


def test_the_parts_are_those_that_the_script_describes(tmp_path):
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    described = re.findall(r"^  (\S+) {2,}", done.stderr, re.M)
    assert described == [part.replace("scenes", "NAME").replace("quadmamba", "FAMILY") for part in PARTS]
    done, lines = measure(tmp_path, "nothing")
    assert (done.returncode, done.stderr, lines.exists()) == (2, "there is no part nothing\n", False)
