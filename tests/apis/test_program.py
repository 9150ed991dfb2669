"""Tests of the program ``tree-ssm``: its commands, and the configs that it finds by name."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONFIGS, ROOT, load_tool

from ssm_core import __version__
from ssm_core.errors import ConfigError
from ssm_train.apis.analyse import open_config
from ssm_train.commands import program
from ssm_train.commands.slurm_train import submission
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_files import find_config, is_config, shipped_names

DIGITS = "quadmamba/quadmamba-nano_digits"


def said(capsys, *arguments):
    status = program.main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_help_has_every_command(capsys):
    status, out, _ = said(capsys, "--help")
    assert status == 0
    lines = [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ")]
    assert lines == list(program.COMMANDS)


def test_help_of_a_group(capsys):
    status, out, _ = said(capsys, "analyse", "--help")
    assert status == 0
    assert "  analyse cost " in out
    assert "  train " not in out


def test_without_a_command_the_commands_are_shown(capsys):
    for arguments in ([], ["analyse"]):
        status, out, err = said(capsys, *arguments)
        assert (status, out) == (2, "")
        assert "  analyse cost " in err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("tran", "there is no command 'tran' (did you mean 'train'?)"),
        ("analyse costs x", "there is no command 'analyse costs' (did you mean 'analyse cost'?)"),
        ("--nonsense", "there is no command '--nonsense'; `tree-ssm --help` lists all commands"),
    ],
)
def test_commands_that_are_none(capsys, line, sentence):
    status, out, err = said(capsys, *line.split())
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == f"tree-ssm: error: {sentence}"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["train", "quadmamba/quadmamba-nano_digits", "--resume", ""], "the argument after --resume"),
        (["train", "quadmamba/quadmamba-nano_digits", "--work-dir="], "--work-dir="),
        (["infer", "", "a.pth"], "the argument after infer"),
        (["infer", "a.py", "a.pth", "photo.jpg", ""], "the argument after photo.jpg"),
        (["analyse", "cost", ""], "the argument after cost"),
        (["", "train"], "the command"),
    ],
)
def test_no_argument_is_empty(capsys, line, named):
    assert program.main(line) == 2
    assert capsys.readouterr().err == f"tree-ssm: error: {named} is empty; is a variable of the shell not set?\n"


@pytest.mark.parametrize("title", [["--title", ""], ["--title="]])
def test_a_picture_may_have_no_title(title):
    assert program.empty_argument(["analyse", "visualize", "curves", "run", *title]) == ""
    assert program.empty_argument(["analyse", "visualize", "curves", "run", *title, ""]) != ""


def test_names_that_are_not_in_utf8(tmp_path):
    """A name in Latin-1, such as an old archive may have, reaches the program as its bytes."""
    command = [sys.executable, "-m", "ssm_train.commands", "test", "a.py", "a.pth", "--work-dir", b"caf\xe9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == r"tree-ssm: error: the name 'caf\udce9' is not in UTF-8, and logs cannot hold it; rename it" + "\n"
    )


def test_version(capsys):
    assert said(capsys, "--version") == (0, f"tree-ssm-train {__version__}\n", "")


def test_names_are_those_of_the_repository():
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.py")}
    assert set(shipped_names()) == {name for name in files if not name.startswith("_base_/")}


def test_a_config_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (DIGITS, f"{DIGITS}.py", CONFIGS / f"{DIGITS}.py"):
        assert find_config(name).samefile(CONFIGS / f"{DIGITS}.py")
    assert load_config(DIGITS).model == load_config(CONFIGS / f"{DIGITS}.py").model
    assert open_config(DIGITS).model == load_config(DIGITS).model
    assert is_config(DIGITS)
    assert not is_config("quadmamba_nano")


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quadmamba").mkdir()
    Path(f"{DIGITS}.py").touch()
    assert find_config(f"{DIGITS}.py") == Path(f"{DIGITS}.py")


@pytest.mark.parametrize("name", ["../quadmamba/quadmamba-nano_digits", "_base_/models", "", "results.yml", "x\0y"])
def test_names_that_are_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no config"):
        find_config(name)


def test_a_misspelt_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no config quadmamba/nano_digits .did you mean '{DIGITS}'.."):
        find_config("quadmamba/nano_digits")


def test_a_config_of_ones_own_inherits_from_anywhere(tmp_path):
    """Also where it uses a value of its base: mmengine marks such values with a scope if the base is of a package."""
    path = tmp_path / "own.py"
    path.write_text(
        f'_base_ = "ssm_train::{DIGITS}.py"\nmodel = _base_.model\nmodel.backbone.drop_path_rate = 0.5\n'
        "val_dataloader = dict(batch_size=_base_.val_dataloader.batch_size + 1)\n"
    )
    own, base = load_config(path), load_config(DIGITS)
    assert own.val_dataloader.batch_size == base.val_dataloader.batch_size + 1
    assert own.model.backbone == {**base.model.backbone, "drop_path_rate": 0.5}
    assert own.train_dataloader == base.train_dataloader


def test_a_base_that_is_not_there(tmp_path):
    path = tmp_path / "own.py"
    path.write_text('_base_ = "ssm_train::quadmamba/nowhere.py"\n')
    with pytest.raises(ConfigError, match=r"own.py inherits from ssm_train::quadmamba/nowhere.py, which is no file"):
        load_config(path)


def test_a_job_of_slurm(monkeypatch):
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.setenv("SBATCH_ARGS", "--mem 4G")
    command = submission("gpu", DIGITS, ["--amp"])
    assert command[: command.index("--requeue")] == [
        "sbatch", "--partition", "gpu", "--job-name", "quadmamba-nano_digits", "--ntasks", "2", "--ntasks-per-node",
        "2", "--gres", "gpu:2", "--cpus-per-task", "10",
    ]  # fmt: skip
    assert command[-5:-3] == ["--mem", "4G"]
    assert Path(command[-3]).is_file()
    assert command[-2:] == [DIGITS, "--amp"]


@pytest.mark.parametrize("command", ["dist_train", "dist_test", "slurm_train"])
def test_arguments_of_the_processes_are_checked_before_they_start(command, capsys):
    places = ["x", "y", "2"][-2 if command == "dist_train" else -3 :][: 2 if command == "slurm_train" else 3]
    with pytest.raises(SystemExit) as ended:
        load_tool(command).main([*places, "--nonsense"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def script(name, environment):
    return subprocess.run([ROOT / "tools" / name], capture_output=True, text=True, env=environment)


def test_scripts_use_the_environment_that_they_are_in(tmp_path):
    """An active environment comes before that of ``make setup``, and PYTHON before both."""
    for name in ("active", "chosen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name / "python").chmod(0o755)
    active = {"PATH": f"{tmp_path / 'active'}:/usr/bin:/bin", "VIRTUAL_ENV": "x"}
    for name in ("dist_train.sh", "dist_test.sh", "slurm_train.sh"):
        rest = f"-m ssm_train.commands {name.removesuffix('.sh').replace('_', '-')}\n"
        assert script(name, active).stdout == f"active {rest}"
        assert script(name, {**active, "PYTHON": str(tmp_path / "chosen/python")}).stdout == f"chosen {rest}"


def test_the_program_is_an_entry_point():
    """What ``pip`` makes of pyproject.toml calls this function."""
    entry = '\n[project.scripts]\ntree-ssm = "ssm_train.commands.program:main"\n'
    assert entry in (ROOT / "pyproject.toml").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "ssm_train.commands", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == f"tree-ssm-train {__version__}\n"
