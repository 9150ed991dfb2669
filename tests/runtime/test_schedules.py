"""Tests that a schedule of another length than the training is told of, and of the rate for the batch of an update."""

import pytest
import runs
from command_line import CONFIGS, error_of, run

from ssm_train.runtime.config import load_config
from ssm_train.runtime.schedules import check_units, schedule_warning

LEAVES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
DIGITS = CONFIGS / "resnet" / "resnet18_digits.py"
SECOND = "param_scheduler.1.begin=1 param_scheduler.1.end=2"
FOLDER = CONFIGS / "quadmamba" / "quadmamba-tiny_image-folder.py"


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_schedules_of_all_configs_are_as_long_as_the_training(leaf):
    assert schedule_warning(load_config(CONFIGS / leaf)) == ""


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (DIGITS, ["train_cfg.max_epochs=50"], "is for 25 epochs, and the training has 50: param_scheduler.1.end=50 "),
        (DIGITS, ["train_cfg.max_epochs=4"], "is for 25 epochs, and the training has 4: param_scheduler.1.end=4 "),
        (DIGITS, ["train_cfg.max_epochs=50", "param_scheduler.1.end=50"], ""),
        (
            FOLDER,
            ["train_cfg.max_epochs=1"],
            "param_scheduler=[] trains at one rate, since the warm-up alone takes longer",
        ),
        (FOLDER, ["train_cfg.max_epochs=2"], f"param_scheduler.0.end=1 {SECOND} make it as long, with a warm-up of 1"),
        (DIGITS, ["train_cfg.max_epochs=50", "param_scheduler=[]"], ""),
        ("mambatree/upernet_mambatree-nano_nuclei-128x128.py", ["train_cfg.max_iters=10"], "and the training has 10: "),
    ],
)
def test_another_length(config, options, words):
    said = schedule_warning(load_config(CONFIGS / config, options))
    assert (words in said) if words else said == ""


@pytest.mark.parametrize("leaf", LEAVES)
def test_all_configs_count_one_unit(leaf):
    check_units(load_config(CONFIGS / leaf))


ITERATIONS = "dict(_delete_=True, type='ResumableIterLoop', max_iters=4, val_interval=2)"
SAVED = "default_hooks.checkpoint.by_epoch=False with default_hooks.checkpoint.interval in iterations"


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ("", f"{SAVED}, log_processor.by_epoch=False"),
        ("log_processor = dict(by_epoch=False)", SAVED),
        (
            "default_hooks = dict(checkpoint=dict(by_epoch=False))\n"
            "param_scheduler = dict(_delete_=True, type='ConstantLR')",
            "param_scheduler.by_epoch=False with its begin and end in iterations, log_processor.by_epoch=False",
        ),
        ("log_processor = dict(by_epoch=False)\nparam_scheduler = [dict(type='ConstantLR', by_epoch=False), "
         "dict(type='ConstantLR')]", f"{SAVED}, param_scheduler.1.by_epoch=False with its begin and end in iterations"),
    ],
)  # fmt: skip
def test_a_training_of_iterations_with_parts_that_count_epochs_is_refused(tmp_path, capsys, more, keys):
    """It would save ``epoch_1.pth`` after its last iteration, and nothing before."""
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = {str(DIGITS)!r}\ntrain_cfg = {ITERATIONS}\n{more}\n")
    line = error_of(capsys, "train", config, "--work-dir", tmp_path / "run")
    begin = "error: train_cfg counts iterations, and other parts of the config count epochs: set "
    assert line == begin + keys
    assert not (tmp_path / "run").exists()


def test_a_training_of_iterations_names_its_checkpoints_by_them(tmp_path):
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = {str(DIGITS)!r}\ntrain_cfg = {ITERATIONS}\n")
    options = ["train_dataloader.batch_size=4", "model.backbone.name=test_efficientnet", "log_processor.by_epoch=False"]
    options += ["default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=2"]
    options += ["default_hooks.pictures.count=0", "val_dataloader.num_batch_per_epoch=1"]
    assert run("train", config, "--work-dir", tmp_path / "run", "--cfg-options", *options) == 0
    assert {path.name for path in (tmp_path / "run").glob("iter_*.pth")} == {"iter_2.pth", "iter_4.pth"}
    assert not list((tmp_path / "run").glob("epoch_*"))


def test_a_schedule_that_is_no_list():
    cfg = load_config(DIGITS, ["train_cfg.max_epochs=50"])
    cfg.param_scheduler = cfg.param_scheduler[1]
    assert "the training has 50: param_scheduler.end=50 " in schedule_warning(cfg)
    cfg.train_cfg.max_epochs = cfg.param_scheduler.begin
    assert "param_scheduler.begin=1 param_scheduler.end=2 make it as long" in schedule_warning(cfg)


def test_the_user_reads_it(tmp_path):
    options = ["train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=1", "train_dataloader.batch_size=8"]
    options += ["model.backbone.name=test_efficientnet", "default_hooks.pictures.count=0"]
    assert run("train", DIGITS, "--work-dir", tmp_path, "--cfg-options", *options) == 0
    log = next(tmp_path.rglob("*.log")).read_text()
    assert "WARNING - the schedule of the learning rate is for 25 epochs, and the training has 1" in log


def check_rates(work_dir):
    from ssm_train.runtime.runner import Runner

    def rate(*options):
        cfg = runs.configure(*runs.RESNET[:1], work_dir, *runs.RESNET[1:], "optim_wrapper.optimizer.lr=0.01", *options)
        runner = Runner.from_cfg(cfg)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        return runner.optim_wrapper.param_groups[0]["lr"]

    scaled = ["auto_scale_lr.base_batch_size=32", "auto_scale_lr.enable=True"]
    half, twice = "train_dataloader.batch_size=4", "optim_wrapper.accumulative_counts=2"
    assert rate(*scaled) == pytest.approx(0.01 * 8 / 32)
    assert rate(*scaled, half) == pytest.approx(0.01 * 4 / 32)
    assert rate(*scaled, twice) == pytest.approx(0.01 * 16 / 32)
    assert rate(*scaled, half, twice) == rate(*scaled)
    assert rate(twice) == rate("auto_scale_lr.enable=False", "auto_scale_lr.base_batch_size=32", twice) == 0.01


def test_the_rate_is_scaled_to_the_samples_of_an_update(tmp_path):
    """Half of the batch and twice the iterations make the same update, and so the same rate."""
    runs.call(check_rates, tmp_path / "log", tmp_path / "run")
