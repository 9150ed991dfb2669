"""The training loop on a GPU: it waits for no step that it has just queued, and its results are those of waiting."""

from pathlib import Path

import pytest
import runs
import torch
from mmengine.hooks import Hook
from test_late_reports import assert_same, records, train

from ssm_train.runtime.batches import Batches

pytestmark = pytest.mark.gpu
LOADER = ("train_dataloader.num_workers=1", "train_dataloader.pin_memory=True")


class WaitHook(Hook):
    """Lets the loop wait for every step."""

    runs_late = True

    def before_train(self, runner):
        runner.reports.beside = False


class NoWaitHook(Hook):
    """Makes whatever waits for the GPU an error, from the third iteration to the end of an epoch."""

    runs_late = True
    priority = "HIGHEST"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        assert runner.reports.late
        assert data_batch["inputs"].is_cuda
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")
        if batch_idx == len(runner.train_dataloader) - 1:
            torch.cuda.set_sync_debug_mode("default")


class PoisonInputHook(runs.PoisonInputHook):
    runs_late = True


@pytest.mark.parametrize("model", [runs.RESNET, runs.QUADMAMBA, runs.MAMBATREE], ids=["resnet", "quad", "tree"])
def test_no_step_is_waited_for(tmp_path, model):
    # Mixing is on. The checkpoints are at the ends of epochs. A line is logged after every iteration, and the state is
    # copied to the host.
    options = (*LOADER, *runs.EVERYTHING_RANDOM, "default_hooks.checkpoint.by_epoch=True",
               "default_hooks.checkpoint.interval=1", "default_hooks.non_finite.interval=1")  # fmt: skip
    train(tmp_path, "run", model, *options, hooks=[dict(type=f"{__name__}.NoWaitHook")])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_late_run_is_the_same(tmp_path, dtype):
    options = (*LOADER, f"optim_wrapper.dtype={dtype}", "randomness.deterministic=True")
    late = train(tmp_path, "late", runs.RESNET, *options)
    at_once = train(tmp_path, "once", runs.RESNET, *options, hooks=[dict(type=f"{__name__}.WaitHook")])
    assert_same(late, at_once)
    kept = [[{k: v for k, v in line.items() if k != "memory"} for line in records(run)] for run in (late, at_once)]
    assert str(kept[0]) == str(kept[1])


def test_a_nan_leaves_what_it_leaves_at_once(tmp_path):
    poison, said = dict(type=f"{__name__}.PoisonInputHook", iteration=9), []
    for name, hooks in (("late", [poison]), ("once", [dict(type=f"{__name__}.WaitHook"), poison])):
        folder = train(tmp_path, name, runs.RESNET, *LOADER, "randomness.deterministic=True", hooks=hooks,
                       tool=runs.train_tool, expected=1)  # fmt: skip
        lines = Path(f"{tmp_path / name}.log.err").read_text().replace(str(folder), "FOLDER").splitlines()
        said.append([line for line in lines if line.startswith("error")])
    assert said[0] == said[1]
    assert "stopped at iteration 9 (epoch 2)" in said[0][0]
    assert "1 of 8 inputs not finite: digit" in said[0][0]
    assert_same(tmp_path / "late", tmp_path / "once")


@pytest.mark.parametrize("model", [runs.QUADMAMBA, runs.MAMBATREE], ids=["quad", "tree"])
def test_graphs_train_as_compiled_without_them(tmp_path, model):
    # Without stochastic depth, since the random numbers of a graph are others.
    options = (*LOADER, "model.backbone.drop_path_rate=0.0", "val_dataloader.batch_size=100")
    states = []
    for name, compiled in (("graphs", "compile=True"), ("plain", "compile.mode=default")):
        folder = train(tmp_path, name, model, *options, compiled)
        (log,) = folder.glob("*/*.log")
        assert ("as CUDA graphs" in log.read_text()) == (name == "graphs")
        states.append(runs.last_state(folder)["state_dict"])
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_batches_arrive_whole_while_the_gpu_is_busy():
    loader = [{"inputs": torch.full((64, 3, 224, 224), float(number)).pin_memory()} for number in range(20)]
    busy, sums = torch.randn(4096, 4096, device="cuda"), []
    for batch in Batches(loader, "cuda"):
        busy = (busy @ busy).clamp(-1, 1)
        sums.append(batch["inputs"].double().mean())
        del batch
    assert torch.stack(sums).tolist() == list(range(20))
