"""Sharded weights in two processes: the updates are those of data parallelism, and the files those of every run."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import runs
import torch
from language_runs import CONFIG, ITERATIONS, options_for, set_rank, train, train_two
from mmengine.hooks import Hook
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from ssm_core.errors import ConfigError
from ssm_core.weights import read_file
from ssm_train.apis.train import test as run_test
from ssm_train.runtime import sharding
from ssm_train.runtime.config import load_config
from ssm_train.runtime.gradient_norms import norms_of
from ssm_train.runtime.runner import Runner

PARTS = ("state_dict", "optimizer", "param_schedulers")
SHARDING = ("sharding.reshard_after_forward=True", "model.backbone.gradient_checkpointing=True")
# The gradients of two processes are rounded alike. Their norms are added up in another order.
TOLERANCE = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def trained(lm_folder, tmp_path_factory):
    """Train by data parallelism and with shards. Return the folder and the options."""
    folder, options = tmp_path_factory.mktemp("sharding"), options_for(lm_folder)
    train_two(folder / "whole", options)
    train_two(folder / "sharded", [*options, *SHARDING])
    return folder, [*options, *SHARDING]


def losses(folder):
    return [point["loss"] for point in json.loads((folder / "curves.json").read_text())["train"]]


def test_the_updates_are_those_of_data_parallelism(trained):
    folder, _ = trained
    whole, sharded = (runs.last_state(folder / name) for name in ("whole", "sharded"))
    assert losses(folder / "sharded") == pytest.approx(losses(folder / "whole"), rel=1e-5)
    assert len(losses(folder / "whole")) == ITERATIONS
    for name, expected in whole["state_dict"].items():
        torch.testing.assert_close(sharded["state_dict"][name], expected, **TOLERANCE, msg=name)
    assert sharded["optimizer"]["param_groups"] == whole["optimizer"]["param_groups"]
    assert sharded["optimizer"]["state"].keys() == whole["optimizer"]["state"].keys()
    for number, expected in whole["optimizer"]["state"].items():
        torch.testing.assert_close(sharded["optimizer"]["state"][number], expected, **TOLERANCE)


class SharesHook(Hook):
    """Writes how many numbers of weights and of the optimizer's state a process keeps after the first iteration."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        state = runner.optim_wrapper.optimizer.state
        kept = [*runner.model.parameters(), *(value for entry in state.values() for value in entry.values())]
        kept = [tensor.to_local() for tensor in kept if tensor.dim()]
        (self.folder / f"share_{runner.rank}").write_text(
            str(sum(tensor.untyped_storage().nbytes() for tensor in kept))
        )


class OneProcessHook(Hook):
    """Kills one of the processes, or makes its loss NaN, in an iteration."""

    def __init__(self, iteration, rank, kill):
        self.iteration, self.rank, self.kill = iteration, rank, kill

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.iter + 1, runner.rank) != (self.iteration, self.rank):
            return
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        runner.model.register_forward_hook(lambda module, inputs, out: {"loss": out["loss"] * float("nan")})


def resumed(folder, name, options):
    """Resume a run of two processes, and return what differs from the run without a break."""
    train_two(folder / name, options, resume=True)
    states = [{part: runs.last_state(folder / n)[part] for part in PARTS} for n in (name, "sharded")]
    return runs.differing(*states)


def test_each_process_keeps_its_share(trained, tmp_path):
    _, options = trained
    train_two(
        tmp_path / "run",
        [*options, "train_cfg.max_epochs=1"],
        hooks=[dict(type=f"{__name__}.SharesHook", folder=str(tmp_path))],
    )
    shares = [int((tmp_path / f"share_{rank}").read_text()) for rank in range(2)]
    state = runs.last_state(tmp_path / "run")
    names = state["state_dict"].keys() - {"backbone.lm_head.weight"}  # it is that of the embeddings
    whole = 3 * sum(state["state_dict"][name].nbytes for name in names)  # a weight and its two moments
    assert shares[0] + shares[1] == pytest.approx(whole, rel=0.02)
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_stopped_by_a_signal_and_resumed(trained, tmp_path):
    folder, options = trained
    hooks = [dict(type="runs.SignalHook", iteration=4)]
    said = train_two(folder / "stopped", options, expected=75, hooks=hooks)
    assert "stopped by SIGTERM after iteration" in said[0]
    assert 4 <= runs.last_state(folder / "stopped")["meta"]["iter"] < ITERATIONS
    assert resumed(folder, "stopped", options) == []


def test_a_process_dies_after_a_timed_state(trained):
    """The other one cannot save, because the shards of the dead one are gone, and says where to go on from."""
    folder, options = trained
    hooks = [dict(type=f"{__name__}.OneProcessHook", iteration=6, rank=1, kill=True)]
    timed = [*options, "default_hooks.timed_checkpoint.minutes=1e-6", "process_timeout=6"]
    port, log = runs.free_port(), folder / "died.log"
    ranks = [runs.start(train, f"{log}{rank}", folder / "died", timed, rank, port, hooks=hooks) for rank in range(2)]
    runs.finish(ranks[0], f"{log}0", 75)
    runs.finish(ranks[1], f"{log}1", -signal.SIGKILL)
    assert "process 1 (host" in (said := Path(f"{log}0.err").read_text())
    assert re.search(r"the state of iteration [34] is in .*died, and --resume goes on from there", said)
    assert runs.last_state(folder / "died")["meta"]["iter"] in (4, 5)
    assert resumed(folder, "died", options) == []


def test_a_loss_that_is_not_finite_stops_all(trained, tmp_path):
    _, options = trained
    hooks = [dict(type=f"{__name__}.OneProcessHook", iteration=5, rank=1, kill=False)]
    said = train_two(tmp_path / "run", options, expected=1, hooks=hooks)
    assert "training stopped at iteration 5" in said[0]
    assert "the loss is nan" in said[0]
    state = runs.last_state(tmp_path / "run")
    assert f"the last good state is in {tmp_path}" in said[0]
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_files_are_those_of_every_run(trained, tmp_path):
    folder, options = trained
    sharded, whole = (read_file(folder / name / "epoch_1.pth") for name in ("sharded", "whole"))
    assert sharded.keys() == whole.keys()
    assert all(type(value) is torch.Tensor for value in sharded["state_dict"].values())
    assert sharded["state_dict"].keys() == whole["state_dict"].keys()
    # Data parallelism goes on from shards, and shards from data parallelism.
    plain = [option for option in options if not option.startswith("sharding")]
    train_two(tmp_path / "on", plain, resume=folder / "sharded" / "epoch_1.pth")
    train_two(tmp_path / "back", options, resume=folder / "whole" / "epoch_1.pth")
    for name in ("on", "back"):
        state = runs.last_state(tmp_path / name)
        assert state["meta"]["iter"] == ITERATIONS
        for key, expected in runs.last_state(folder / "whole")["state_dict"].items():
            torch.testing.assert_close(state["state_dict"][key], expected, **TOLERANCE, msg=key)


def test_a_run_starts_from_a_file(trained, tmp_path):
    """Weights to start from may lack a tensor, of which the network then keeps its own."""
    folder, options = trained
    content = {"state_dict": read_file(folder / "whole" / "epoch_1.pth")["state_dict"]}
    content["state_dict"].pop("backbone.backbone.norm_f.weight")
    torch.save(content, tmp_path / "weights.pth")
    plain = [option for option in options if not option.startswith("sharding")]
    for name, given in (("plain", plain), ("sharded", options)):
        train_two(tmp_path / name, [*given, "train_cfg.max_epochs=1", f"load_from={tmp_path}/weights.pth"])
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert losses(tmp_path / "plain") != pytest.approx(losses(folder / "whole")[:3], rel=1e-2)


def test_another_number_of_processes_goes_on(trained, tmp_path):
    """One process has the rows of both, and computes them one batch after the other."""
    folder, options = trained
    settings = dict(resume=folder / "sharded" / "epoch_1.pth", keep_updates=True)
    options = [*options, "train_dataloader.num_batch_per_epoch=6"]
    runs.call(train, tmp_path / "log", tmp_path / "one", options, None, None, **settings)
    assert "sharding has no effect: one process has all of the weights" in (tmp_path / "log").read_text()
    states = [runs.last_state(place) for place in (tmp_path / "one", folder / "sharded")]
    assert states[0]["meta"]["iter"] == states[1]["meta"]["iter"] == ITERATIONS
    for name, expected in states[1]["state_dict"].items():
        torch.testing.assert_close(states[0]["state_dict"][name], expected, **TOLERANCE, msg=name)


def measure(work_dir, options, checkpoint, rank, port):
    """Test a checkpoint as one of two processes, or alone. Write the perplexity into the work folder."""
    cfg = load_config(CONFIG, options)
    cfg.work_dir = str(work_dir)
    if rank is not None:
        set_rank(rank, port)
        cfg.launcher = "pytorch"
    measured = run_test(cfg, checkpoint)["perplexity"]
    (work_dir / f"perplexity_{rank}").write_text(str(measured))


def test_a_file_is_tested_without_shards(trained, tmp_path):
    folder, options = trained
    port, checkpoint = runs.free_port(), folder / "sharded" / "epoch_2.pth"
    ranks = [
        runs.start(measure, tmp_path / f"log{rank}", tmp_path, options, checkpoint, rank, port) for rank in (0, 1, None)
    ]
    for rank, process in zip((0, 1, None), ranks, strict=True):
        runs.finish(process, tmp_path / f"log{rank}")
    curves = json.loads((folder / "sharded" / "curves.json").read_text())
    for rank in (0, 1, None):
        measured = float((tmp_path / f"perplexity_{rank}").read_text())
        assert measured == pytest.approx(curves["val"][-1]["perplexity"], rel=1e-4)


def test_late_reports_change_nothing(trained, tmp_path):
    folder, options = trained
    timed = [*options, "default_hooks.timed_checkpoint.minutes=1e-6"]
    train_two(tmp_path / "late", timed, hooks=[dict(type="runs.LateHook")])
    states = [
        {part: runs.last_state(place)[part] for part in PARTS} for place in (tmp_path / "late", folder / "sharded")
    ]
    assert runs.differing(*states) == []


def test_bfloat16_and_adapters(trained, lm_folder, tmp_path):
    """Adapters alone are trained. Weights that are gathered in bfloat16 give nearly the same losses."""
    _, options = trained
    lora = [option for option in options if option != "model.backbone.lora=None"] + ["optim_wrapper.dtype=bfloat16"]
    lora += ["optim_wrapper.accumulative_counts=3"]
    plain = [option for option in lora if not option.startswith("sharding")]
    half = [*lora, "sharding.param_dtype=bfloat16", "sharding.reduce_dtype=bfloat16"]
    for name, given in (("plain", plain), ("lora", lora), ("half", half)):
        train_two(tmp_path / name, given)
    expected = losses(tmp_path / "plain")
    assert losses(tmp_path / "lora") == pytest.approx(expected, rel=1e-3)
    assert losses(tmp_path / "half") == pytest.approx(expected, rel=0.02)
    states = [runs.last_state(tmp_path / name)["state_dict"] for name in ("plain", "half")]
    frozen = [name for name in states[0] if "lora_" not in name]
    assert runs.differing(*({name: state[name] for name in frozen} for state in states)) == []
    assert all(value.dtype is torch.float32 for value in states[1].values())


def check_norms(rank, port):
    """Compare norms of shards with those of the whole gradients, of which one has fewer rows than processes."""
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = [torch.randn(5, 3), torch.randn(1, 4), torch.randn(8)]
    shards = [distribute_tensor(gradient, mesh, [Shard(0)]) for gradient in whole]
    for kind in (1.0, 2.0, 3.0, float("inf")):
        norm, norms = norms_of(shards, kind)
        torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(whole, kind))
        torch.testing.assert_close(norms, torch.stack([gradient.norm(kind) for gradient in whole]))
    whole[0][4, 0] = float("nan")  # it is in the shard of the second process
    shards = [distribute_tensor(gradient, mesh, [Shard(0)]) for gradient in whole]
    for kind in (2.0, float("inf")):
        norm, norms = norms_of(shards, kind)
        assert not norm.isfinite()
        assert norms.isfinite().tolist() == [False, True, True]


def test_norms_are_those_of_the_whole_gradients(tmp_path):
    port = runs.free_port()
    ranks = [runs.start(check_norms, tmp_path / str(rank), rank, port) for rank in range(2)]
    for rank, process in enumerate(ranks):
        runs.finish(process, tmp_path / str(rank))


REFUSED = {
    "compile=True": "sharding and compile cannot be used together",
    "optim_wrapper.dtype=float16": "sharding has no loss scale",
    "default_hooks.samples.count=4": "TextSamplesHook needs the whole weights in one process",
    "model.backbone.compile_layers=True": "sharding is not for compiled layers",
    "model_wrapper_cfg={'type':'MMDistributedDataParallel'}": "sharding and model_wrapper_cfg cannot be used together",
    "val_dataloader.sampler.round_up=False": "set val_dataloader.sampler.round_up=True",
    "optim_wrapper.type=AmpOptimWrapper": "sharding needs optim_wrapper.type=GuardedOptimWrapper",
}


def built(options, hooks=()):
    cfg = load_config(CONFIG, options)
    cfg.custom_hooks = list(hooks)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize("option", REFUSED)
def test_what_does_not_go_together_is_refused(option, trained, tmp_path):
    _, options = trained
    runner = built([*options, option, f"work_dir={tmp_path}", f"experiment_name={tmp_path.name}"])
    with pytest.raises(ConfigError, match=re.escape(REFUSED[option])):
        sharding.check(runner)


def test_an_average_of_weights_is_refused(trained, tmp_path):
    _, options = trained
    runner = built([*options, f"work_dir={tmp_path}", f"experiment_name={tmp_path.name}"], [runs.EMA])
    with pytest.raises(ConfigError, match="EMAHook needs the whole weights in one process: remove it, or sharding"):
        sharding.check(runner)


def test_a_model_without_blocks_is_refused(tmp_path):
    cfg = runs.configure(runs.RESNET[0], tmp_path, *runs.RESNET[1:], "sharding.param_dtype=float32")
    with pytest.raises(ConfigError, match="sharding is for models that name their blocks"):
        sharding.check(Runner.from_cfg(cfg))


def test_a_typo_is_refused(trained):
    with pytest.raises(ConfigError, match=r"sharding\.param_dtype has to be 'float32' or 'bfloat16', not 'half'"):
        load_config(CONFIG, [*trained[1], "sharding.param_dtype=half"])


class InTheWayHook(Hook):
    """Makes a folder where the first checkpoint would be."""

    def before_train(self, runner):
        (Path(runner.work_dir) / "epoch_1.pth" / "folder").mkdir(parents=True, exist_ok=True)


def test_a_state_that_cannot_be_written_is_known_to_all(trained, tmp_path):
    """The first process cannot write, and both go on to the next state."""
    folder, options = trained
    said = train_two(tmp_path / "run", options, hooks=[dict(type=f"{__name__}.InTheWayHook")])
    assert "the state of iteration 3 is not saved: cannot write" in said[0]
    places = (tmp_path / "run", folder / "sharded")
    states = [{part: runs.last_state(place)[part] for part in PARTS} for place in places]
    assert runs.differing(*states) == []
