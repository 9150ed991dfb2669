"""Tests of tools/ablate.py: the grid, the runs and the table."""

import csv
import json
import os
import subprocess
import sys

import pytest
from command_line import error_of, run
from short_sweeps import DIGITS, SHORT, write_study

from ssm_core.errors import ConfigError
from ssm_train.apis.run_processes import environments
from ssm_train.apis.sweep import Outcome, as_markdown, combinations, folder_names, parse_grid, short_names


def test_grid():
    grid = parse_grid(["model.backbone.dims=(8,16),[8,32]", "seed=0,1"])
    assert grid == {"model.backbone.dims": ["(8,16)", "[8,32]"], "randomness.seed": ["0", "1"]}
    runs = combinations(grid)
    assert [list(settings.values()) for settings in runs][1:3] == [["(8,16)", "1"], ["[8,32]", "0"]]
    assert folder_names(runs) == ["dims=8-16,seed=0", "dims=8-16,seed=1", "dims=8-32,seed=0", "dims=8-32,seed=1"]


def test_names_are_as_long_as_they_must_be():
    keys = ["train_dataloader.batch_size", "val_dataloader.batch_size", "optim_wrapper.optimizer.lr"]
    assert list(short_names(keys).values()) == ["train_dataloader.batch_size", "val_dataloader.batch_size", "lr"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["lr"], "takes KEY=A,B,C"),
        (["lr=1,,2"], "takes KEY=A,B,C"),
        (["seed=1", "randomness.seed=2"], "names randomness.seed twice"),
        (["seed=1,1"], "a value is there twice"),
    ],
)
def test_faulty_grids(entries, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(entries)


def test_values_that_look_alike_as_folders():
    with pytest.raises(ConfigError, match="cannot name two runs"):
        folder_names(combinations({"a": ["(1,2)", "[1,2]"]}))


def test_table_over_seeds():
    def outcome(order, seed, status, last=None, error=""):
        settings = {"model.backbone.token_order": order, "randomness.seed": seed}
        best = None if last is None else last + 1
        return Outcome(settings, f"{order}{seed}", status, 1_500_000, last, best, 3, 100.0, error)

    table = as_markdown(
        [
            outcome("quadtree", "0", "done", 90.0),
            outcome("quadtree", "1", "done", 92.0),
            outcome("quadtree", "2", "failed", error="training stopped at iteration 3"),
            outcome("released", "0", "done", 80.0),
            outcome("released", "1", "waiting"),
            outcome("raster", "0", "waiting"),
        ],
        "quadmamba",
        "top1",
    )
    assert "| token_order | seeds | top1, last | top1, best | parameters | time |" in table
    assert "| quadtree | 2 of 3 | 91 ± 1.4 | 92 ± 1.4 | 1.500 M | 1 min 40 s |" in table
    assert "| released | 1 of 2 | 80 | 81 | 1.500 M | 1 min 40 s |" in table
    assert "| raster | 0 of 1 | waiting |  | 1.500 M |  |" in table
    assert table.endswith("- **quadtree2** failed: training stopped at iteration 3\n")


def ablate(folder, *options):
    return ["ablate", DIGITS, "--work-dir", folder, *options, "--cfg-options", *SHORT]


def test_a_run_of_the_engine_is_tabulated_and_kept(tmp_path, quick_python, capsys):
    grid = ["--grid", "train_dataloader.batch_size=4"]
    assert run(*ablate(tmp_path, *grid)) == 0
    curve = json.loads((tmp_path / "batch_size=4" / "curves.json").read_text())["val"]
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    assert row["status"] == "done"
    assert [float(row[key]) for key in ("last", "best", "best_after")] == [curve[-1]["top1"]] * 2 + [1]
    assert int(row["parameters"]) > 1_000
    assert f"| 4 | {curve[-1]['top1']:.4g} |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["runs"][0]["settings"] == {
        "train_dataloader.batch_size": "4"
    }

    # The same command again leaves the finished run as it is.
    checkpoint = tmp_path / "batch_size=4" / "epoch_1.pth"
    before = checkpoint.stat().st_mtime_ns
    capsys.readouterr()
    assert run(*ablate(tmp_path, *grid)) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert "[1/1] batch_size=4 done" in capsys.readouterr().out
    line = error_of(capsys, *ablate(tmp_path, "--amp", *grid))
    assert "holds a run with other settings (now amp True instead of False)" in line
    line = error_of(capsys, *ablate(tmp_path, *grid), "train_cfg.max_epochs=2")
    assert "(now with train_cfg.max_epochs=2)" in line


def test_runs_that_cannot_begin_are_not_all_tried(tmp_path, monkeypatch, capsys):
    """Nothing is trained without data. The first two runs say so, and the others are not started."""
    monkeypatch.chdir(tmp_path)
    line = error_of(
        capsys, "ablate", "quadmamba/quadmamba-nano_fmnist-20k", "--grid", "seed=0,1,2,3", "--at-once", "1",
        "--work-dir", "runs",
    )  # fmt: skip
    assert line.startswith(
        "error: the first runs failed with the same error, so that 2 others were not started: there is no file data/"
    )
    assert "`tree-ssm prepare-data --help` tells how to make or arrange datasets" in line
    assert sorted(path.name for path in (tmp_path / "runs").glob("seed=*")) == ["seed=0", "seed=1"]
    table = (tmp_path / "runs" / "table.md").read_text()
    assert table.count("failed: there is no file") == 2


def test_a_run_is_not_taken_for_one_of_a_changed_config(tmp_path, quick_python, capsys):
    """Neither when it is done nor when it was killed, which only a record from its beginning can tell."""
    config = tmp_path / "own.py"
    config.write_text(f'_base_ = "{DIGITS}"\n')
    line = ["ablate", config, "--work-dir", tmp_path / "runs", "--grid", "seed=0", "--cfg-options", *SHORT]
    assert run(*line) == 0
    record = tmp_path / "runs" / "seed=0" / "ablation.json"
    for status in ("done", "waiting"):
        known = json.loads(record.read_text())
        record.write_text(json.dumps(known | {"status": status}))
        config.write_text(f'_base_ = "{DIGITS}"\nmodel = dict(label_smoothing=0.4)\n')
        assert "holds a run with other settings (now the config itself has changed)" in error_of(capsys, *line)
        config.write_text(f'_base_ = "{DIGITS}"\n')
    del known["given"]["content"], known["given"]["compiled"]
    record.write_text(json.dumps(known | {"status": "done"}))
    assert run(*line) == 0, "records of earlier versions have neither"
    for given in (7, {}, ["config", "options", "amp"]):
        record.write_text(json.dumps(known | {"given": given}))
        assert f"{record} is damaged: remove it" in error_of(capsys, *line)


@pytest.mark.parametrize("seed", ["4294967296", "²"])
def test_seeds_that_no_run_can_have_stop_before_anything_runs(tmp_path, seed, capsys):
    line = error_of(capsys, *ablate(tmp_path / "none", "--grid", f"seed=0,{seed}"))
    assert "randomness.seed" in line
    assert not (tmp_path / "none").exists()


def test_an_error_in_a_cell_names_the_cell(tmp_path, capsys):
    path = write_study(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("train_dataloader.batch_size: 8", "train_dataloader.batchsize: 8"))
    line = error_of(capsys, "ablate", path, "--work-dir", tmp_path / "none")
    assert line.startswith(f"error: {path}, cell 'eight' of the table 'sizes': train_dataloader.batchsize: ")
    assert "did you mean 'batch_size'" in line


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_a_config_without_a_model(tmp_path, command, capsys):
    path = tmp_path / "none.py"
    path.write_text("default_scope = 'ssm_train'\ntrain_cfg = dict(max_epochs=1)\n")
    grid = ["--grid", "seed=0,1"] if command == "ablate" else []
    line = error_of(capsys, command, path, "--work-dir", tmp_path / "runs", *grid)
    assert line == f"error: the config {path} has no model"


@pytest.mark.parametrize("name", ["studies/fashion-minst.yaml", "fashion-mnist.yaml"])
def test_a_study_that_is_not_there_has_a_nearest_one(name, capsys):
    line = error_of(capsys, "ablate", name)
    assert line == f"error: there is no study {name} (did you mean 'studies/fashion-mnist.yaml'?)"


def test_a_misspelt_key_stops_before_anything_runs(tmp_path, capsys):
    line = error_of(capsys, *ablate(tmp_path / "none", "--grid", "train_dataloader.batchsize=4"))
    assert "did you mean 'batch_size'" in line
    assert not (tmp_path / "none").exists()


def test_a_seed_that_is_none_stops_before_anything_runs(tmp_path, capsys):
    line = error_of(capsys, *ablate(tmp_path / "none", "--grid", "seed=0,some"))
    assert "randomness.seed" in line
    assert not (tmp_path / "none").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Install a queue that records what is submitted. The job of seed 1 fails until a file ``mended`` exists."""
    (tmp_path / "sbatch").write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/submitted
case "$*" in *seed=1) [ -e {tmp_path}/mended ] || {{ echo "error: no GPU is left" >&2; exit 1; }};; esac
"""
    )
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: sorted((tmp_path / "submitted").read_text().splitlines())


def test_submits_to_slurm_and_survives_a_failed_run(tmp_path, slurm, capsys):
    grid = ["--partition", "gpu", "--grid", "seed=0,1,2"]
    line = error_of(capsys, *ablate(tmp_path / "runs", *grid))
    assert line == "error: 1 of 3 runs failed; the same command tries them again"
    for seed, submitted in enumerate(slurm()):
        assert submitted.startswith("--partition gpu ")
        assert f"slurm_job.sh {DIGITS} --work-dir {tmp_path}/runs/seed={seed} --cfg-options" in submitted
        assert submitted.endswith(f"randomness.seed={seed}")
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| 2 of 3 | – | – |" in table, "jobs that left no curves have no figures"
    assert table.endswith("- **seed=1** failed: no GPU is left\n")

    (tmp_path / "mended").touch()
    line = error_of(capsys, *ablate(tmp_path / "runs", *grid))
    assert line == "error: there is nothing to compare: no validation of the 3 runs measured top1"
    assert len(slurm()) == 4, "the failed run alone was tried again"
    assert "failed" not in (tmp_path / "runs" / "table.md").read_text()


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path)


def test_a_folder_has_one_study_at_a_time(tmp_path, study, capsys):
    """The lock is that of another process, as a second command has it."""
    work = tmp_path / "runs"
    work.mkdir()
    code = "import sys; from pathlib import Path; from ssm_train.runtime.folder_lock import acquire\n"
    code += "acquire(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        line = error_of(capsys, "ablate", study, "--work-dir", work, "--at-once", "2", "--cfg-options", *SHORT)
        assert line.startswith(f"error: another run is going on in {work} (host ")
        assert f"pid {other.pid})" in line
        assert [path.name for path in work.iterdir()] == [".lock"], "nothing was run"
    finally:
        other.communicate()


def test_processes_share_the_gpus_and_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = environments(5, ["0", "3"])
    assert [own["CUDA_VISIBLE_DEVICES"] for own in found] == ["0", "3", "0", "3", "0"]
    assert {own["OMP_NUM_THREADS"] for own in found} == {str(max(1, len(os.sched_getaffinity(0)) // 5))}
    assert "CUDA_VISIBLE_DEVICES" not in environments(2, [])[0]


@pytest.mark.parametrize("line", [[DIGITS], ["study.yaml", "--grid", "seed=0,1"]])
def test_a_config_has_a_grid_and_a_study_has_none(line, capsys):
    with pytest.raises(SystemExit):
        run("ablate", *line)
    assert "a config needs a --grid, and the file of a study takes none" in capsys.readouterr().err


def test_a_study_goes_to_slurm_as_well(tmp_path, slurm, study, capsys):
    error_of(capsys, "ablate", study, "--work-dir", tmp_path / "runs", "--partition", "gpu", "--cfg-options", *SHORT)
    submitted = slurm()
    assert len(submitted) == 4
    assert all(f"slurm_job.sh {DIGITS} --work-dir {tmp_path}/runs/" in line for line in submitted)
    ends = [f"train_dataloader.batch_size={size} randomness.seed={seed}" for size in (4, 8) for seed in (0, 1)]
    assert [line[-len(ends[0]) :] for line in submitted] == ends


def test_cells_of_two_metrics_are_not_compared(tmp_path, study, capsys):
    study.write_text(
        study.read_text().replace("{train_dataloader.batch_size: 8}", "{default_hooks.checkpoint.save_best: f1}")
    )
    line = error_of(capsys, "ablate", study, "--work-dir", tmp_path / "none", "--at-once", "2")
    assert line == "error: the runs cannot be compared: some are measured by top1, others by f1"
    assert not (tmp_path / "none").exists()
