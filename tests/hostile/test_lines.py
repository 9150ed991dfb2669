"""A short run of the nonsense: a fixed choice of lines of all tools, and how answers are judged."""

import subprocess
from pathlib import Path

import pytest
from hostile import lines
from hostile.nonsense import Line

SCRIPT = Path(lines.__file__)


def test_nonsense_is_refused_in_one_sentence(quick_python):
    """``lines.py --count`` gives more lines. It is a process of its own, which imports everything and then forks."""
    command = [quick_python, SCRIPT, "--count", "204", "--seed", "1", "--no-training"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    given = done.stdout[done.stdout.rindex("\ntool") :].splitlines()[2:]
    assert sum(int(figure) for row in given for figure in row.split()[1:]) == 204
    assert len(given) == 23


@pytest.mark.parametrize(
    ("status", "errors", "left", "kind"),
    [
        (1, "error: lr has to be a number", False, "refused"),
        (2, "usage: x\nx: error: argument lr: 'x' is no number", False, "refused"),
        (1, "error: lr has to be a number", True, "LEFT FILES"),
        (1, "error: something is wrong", False, "UNNAMED"),
        (1, "error: lr " + "x" * 1000, False, "LONG"),
        (1, "Traceback (most recent call last)\nTypeError: lr", False, "TRACEBACK"),
        (1, "", False, "LONG"),
        (0, "", False, "TAKEN"),
        (-11, "", False, "KILLED"),
        (None, "", False, "NO END"),
    ],
)
def test_an_answer_is_judged(status, errors, left, kind):
    assert lines.judge(Line("train", (), "lr"), status, errors, left) == kind
    if status == 0:
        assert lines.judge(Line("train", (), "lr", wrong=False), status, errors, left) == "taken"
