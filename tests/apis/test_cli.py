"""Tests of how the command-line tools' threads wait, and of what they print when something is wrong."""

import os
import re
import subprocess
import sys

import pytest
import torch
from command_line import CONFIGS, ROOT, error_of
from torch.utils.data import DataLoader, Dataset

from ssm_core.errors import DataError
from ssm_train.apis import cli


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise DataError("cannot use the image x.jpg: the file is empty")


@pytest.mark.parametrize("workers", [0, 1])
def test_one_line_from_workers_too(capsys, workers):
    assert cli.run(lambda: list(DataLoader(Broken(), num_workers=workers))) == 1
    assert capsys.readouterr().err == "error: cannot use the image x.jpg: the file is empty\n"


PRINT_CONFIG = (ROOT / "tools/analysis/print_config.py", CONFIGS / "quadmamba/quadmamba-nano_digits.py")
SMALLEST = ("-c", "import sys; from ssm_train.apis import cli; sys.exit(cli.run(lambda: __import__('torch')))")


@pytest.mark.parametrize(
    ("tool", "chosen", "expected"),
    [
        (PRINT_CONFIG, {}, ("PASSIVE", 1000)),
        (SMALLEST, {"OMP_WAIT_POLICY": "active"}, ("ACTIVE", 30_000_000_000)),
        (SMALLEST, {"OMP_WAIT_POLICY": "passive"}, ("PASSIVE", 0)),
        (SMALLEST, {"GOMP_SPINCOUNT": "77"}, ("PASSIVE", 77)),
    ],
    ids=["nothing chosen", "policy", "sleep", "spins"],
)
def test_threads_soon_sleep_while_they_wait_unless_the_user_chose_otherwise(tool, chosen, expected):
    """OpenMP itself prints its settings when a tool loads it. It reads them only once."""
    command = [sys.executable, *tool]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **chosen}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    settings = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", done.stderr))
    assert (settings["OMP_WAIT_POLICY"], int(settings["GOMP_SPINCOUNT"])) == expected


@pytest.mark.parametrize(
    ("reader", "words"),
    [("> /dev/full", "error: cannot write the output"), ("| true", "")],
    ids=["full disk", "closed pipe"],
)
@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_cannot_be_written_is_no_traceback(reader, words, lines):
    code = f"import sys; from ssm_train.apis import cli; sys.exit(cli.run(lambda: print('x\\\\n' * {lines})))"
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" {reader}', shell=True, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == bool(words)
    assert done.returncode == bool(words)


def test_too_little_memory_is_one_sentence(capsys):
    def main():
        torch.empty(2**60)

    assert cli.run(main) == 1
    assert capsys.readouterr().err == "error: there is not enough memory for another 4294967296.0 GiB\n"
    with pytest.raises(RuntimeError, match=r"size mismatch|shapes"):
        cli.run(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "2> /dev/full"])
def test_the_exit_status_is_the_same_where_nothing_can_be_said(closed):
    code = (
        "import sys; from ssm_core.errors import StoppedError; from ssm_train.apis import cli\n"
        "def main(): print('x'); raise StoppedError('stopped')\n"
        "sys.exit(cli.run(main))"
    )
    done = subprocess.run(f'"{sys.executable}" -c "{code}" {closed}', shell=True, cwd=ROOT, env=os.environ)
    assert done.returncode == cli.STOPPED


@pytest.mark.parametrize("package", ["mmengine", "torchmetrics", "mmdet"])
def test_a_missing_package_is_one_sentence(package):
    """What is None among the modules cannot be imported, as if it were not installed."""
    code = f"import sys; sys.modules['{package}'] = None; from ssm_train.apis import cli\n"
    code += f"def main(): import {package}\nsys.exit(cli.run(main))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    extra = "det" if package == "mmdet" else "train"
    assert done.stderr == (
        f"error: this tool needs {package}, which is not installed: `make setup` has it, or run "
        f'`pip install "dist/FILE.whl[{extra}]"` (`make wheel` makes the file)\n'
    )
    assert done.returncode == 1


@pytest.mark.parametrize("argument", ["--root", "--from"])
def test_a_name_that_is_too_long_is_one_sentence(argument, capsys, tmp_path):
    name = tmp_path / ("a" * 300)
    assert error_of(capsys, "prepare_data", "fashion-mnist", argument, name).startswith(f"error: cannot open {name}")
