"""A run is resumed as it was, or it is refused with what is different, or a switch says what may be."""

import json
import math
import os

import pytest
import runs
import torch

from ssm_core.errors import CheckpointError

HALF = {"train_dataloader.batch_size": 4, "train_dataloader.num_batch_per_epoch": 12}
TWICE = {"optim_wrapper.accumulative_counts": 2}
# The gradients are added in another order. The float32 rounding grows over three updates.
TOLERANCE = 1e-4


def configure(work_dir, changes=None):
    """Return the config of a training of nine iterations, without epochs, that keeps a state of each third one."""
    cfg = runs.configure("resnet/resnet18_digits.py", work_dir, "model.backbone.name=test_efficientnet_gn",
                         "train_dataloader.dataset.transform.random_erasing=0.5", "default_hooks.checkpoint.interval=3",
                         "default_hooks.checkpoint.by_epoch=False")  # fmt: skip
    cfg.custom_hooks = []
    cfg.train_cfg = {"type": "ResumableIterLoop", "max_iters": 9, "val_interval": 100}
    cfg.train_dataloader.update(sampler={"type": "InfiniteSampler", "shuffle": True}, drop_last=False)
    cfg.param_scheduler = [{"type": "CosineAnnealingLR", "T_max": 12, "by_epoch": False}]
    cfg.merge_from_dict(changes or {})
    return cfg


def train(work_dir, changes=None, rank=None, port=None, **settings):
    from ssm_train.apis import train as run

    cfg = configure(work_dir, changes)
    if rank is not None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port))  # fmt: skip
        cfg.launcher = "pytorch"
    run.train(cfg, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a run of one process with batches of 8."""
    folder = tmp_path_factory.mktemp("finished")
    runs.call(train, folder / "log", folder / "run")
    return folder / "run"


def check_new_groups(checkpoint, resumed, other, stem):
    """Resume with other settings and groups. Every parameter that is still trained keeps its own state."""
    from ssm_core.weights import read_file

    def states_of(runner):
        optimizer = runner.optim_wrapper.optimizer
        names = {parameter: name for name, parameter in runner.model.named_parameters()}
        groups = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
        return {names[p]: state["exp_avg"] for p, state in optimizer.state.items()}, groups

    runner = resumed(other | {"optim_wrapper.optimizer.lr": 2e-3}, "new_schedule")
    shapes = {name: parameter.ndim for name, parameter in runner.model.named_parameters()}
    # The saved run has two groups: what does not decay, and what does.
    in_order = sorted(shapes, key=lambda name: shapes[name] > 1)
    saved = {in_order[number]: entry for number, entry in read_file(checkpoint)["optimizer"]["state"].items()}
    moments, groups = states_of(runner)
    assert all(torch.equal(moments[name], saved[name]["exp_avg"]) for name in shapes)
    assert {(tuple(group["betas"]), group["weight_decay"]) for group in groups.values()} == {
        ((0.8, 0.95), 0.0), ((0.8, 0.95), 0.1)}  # fmt: skip

    keys = stem["optim_wrapper.paramwise_cfg"]["custom_keys"] | {"classifier": {"lr_mult": 10.0}}
    changes = {"optim_wrapper.paramwise_cfg": {"custom_keys": keys}, "optim_wrapper.optimizer.weight_decay": 0.0}
    runner = resumed(changes, "new_schedule")
    moments, groups = states_of(runner)
    assert moments.keys() == groups.keys() == shapes.keys() - {"backbone.conv_stem.weight"}
    assert all(torch.equal(moments[name], saved[name]["exp_avg"]) for name in moments)
    assert {name for name, group in groups.items() if group["lr"] == pytest.approx(1e-2)} == {
        "backbone.classifier.weight", "backbone.classifier.bias"}  # fmt: skip
    assert {group["weight_decay"] for group in groups.values()} == {0.0}


def check_refusals(checkpoint, work_dir):
    from ssm_train.runtime.runner import Runner

    def resumed(changes, *switches):
        cfg = configure(work_dir)
        cfg.merge_from_dict(changes)
        cfg.update(resume=True, load_from=str(checkpoint))
        runner = Runner.from_cfg(cfg)
        for switch in switches:
            setattr(runner, switch, True)
        assert runner.train_loop is not None
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        runner.load_or_resume()
        return runner

    def refused(words, changes, *switches):
        with pytest.raises(CheckpointError, match=words):
            resumed(changes, *switches)

    small = {"train_dataloader.batch_size": 4}
    refused("had 48 training samples and this config gives 24", small)
    refused("1 process x batch size 8 x accumulation 1 = 8 samples .* x batch size 4 x accumulation 1 = 4", HALF)
    refused("= 4 samples an update: resume with the same, or with other sizes of the same prod", HALF, "keep_updates")
    refused("add --keep-updates", HALF | TWICE)
    refused("completed 6 iterations, and train_cfg.max_iters=5 asks for fewer", {"train_cfg.max_iters": 5})
    longer, faster = {"param_scheduler.0.T_max": 24}, {"optim_wrapper.optimizer.lr": 4e-3}
    refused("T_max of CosineAnnealingLR was 12, now 24.*--new-schedule", longer)
    refused(r"optim_wrapper\.optimizer\.lr was 0.002, now 0.004", faster)
    refused("1 schedules, now 2", {"param_scheduler": configure(work_dir).param_scheduler * 2})

    other = {"optim_wrapper.optimizer.weight_decay": 0.1, "optim_wrapper.optimizer.betas": (0.8, 0.95)}
    refused(
        r"optim_wrapper\.optimizer\.betas was \[0.9, 0.999\], now \[0.8, 0.95\]; "
        r"optim_wrapper\.optimizer\.weight_decay was 0.05, now 0.1; resume with the same, or add --new-schedule",
        other,
    )
    sgd = {"optim_wrapper.optimizer": {"_delete_": True, "type": "SGD", "lr": 2e-3, "weight_decay": 0.05}}
    refused("optimizer.type was AdamW, now SGD", sgd, "new_schedule")
    stem = {"optim_wrapper.paramwise_cfg": {"custom_keys": {"conv_stem": {"frozen": True}}}}
    refused("backbone.conv_stem.weight is no longer trained; resume with the same", stem)
    check_new_groups(checkpoint, resumed, other, stem)

    runner = resumed({"train_cfg.max_iters": 10, "train_dataloader.num_workers": 1})
    assert (runner.iter, runner.max_iters) == (6, 10)
    assert runner.optim_wrapper.get_lr()["lr"] == pytest.approx([1e-3] * 2)
    runner = resumed(longer | faster, "new_schedule")
    for step in (6, 7):
        expected = 4e-3 * (1 + math.cos(math.pi * step / 24)) / 2
        assert runner.optim_wrapper.get_lr()["lr"] == pytest.approx([expected] * 2)
        for scheduler in runner.param_schedulers:
            scheduler.step()


def test_what_is_refused_and_what_is_not(finished, tmp_path):
    runs.call(check_refusals, tmp_path / "log", finished / "iter_6.pth", tmp_path / "run")
    said = (tmp_path / "log").read_text()
    assert "the run to resume was to end after 9 iterations, and now goes on to 10" in said
    assert "the config is followed from here on" in said


def test_more_processes_with_smaller_batches_follow(finished, tmp_path):
    """Each process computes two pieces of two images, whose gradients it adds."""
    run, port = tmp_path / "run", runs.free_port()
    changes = {"train_dataloader.batch_size": 2, "train_dataloader.num_batch_per_epoch": 12} | TWICE
    settings = {"resume": finished / "iter_6.pth", "keep_updates": True}
    ranks = [runs.start(train, tmp_path / str(rank), run, changes, rank, port, **settings) for rank in range(2)]
    for rank, process in enumerate(ranks):
        runs.finish(process, tmp_path / str(rank))
    assert "each process now computes 2 x 2 samples in an iteration" in (tmp_path / "0").read_text()
    states = [runs.last_state(folder) for folder in (run, finished)]
    assert states[0]["meta"]["iter"] == states[1]["meta"]["iter"] == 9
    for key, expected in states[1]["state_dict"].items():
        if expected.is_floating_point():
            error = (states[0]["state_dict"][key] - expected).norm() / expected.norm().clamp_min(1e-3)
            assert error < TOLERANCE, f"{key}: {error:.1e}"
    curves = [json.loads((folder / "curves.json").read_text())["train"] for folder in (run, finished)]
    losses = [[point["loss"] for point in points if point["iter"] > 6] for points in curves]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
