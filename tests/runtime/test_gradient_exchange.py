"""Gradients in bfloat16 between two processes: what is sent, how near the weights stay, and how runs resume."""

from types import SimpleNamespace

import pytest
import runs
import torch
from mmengine.hooks import Hook

from ssm_core.errors import ConfigError
from ssm_train.runtime.gradient_exchange import HalfGradientsHook

OPTIONS = (
    *("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet_gn"),
    *runs.EVERYTHING_RANDOM,
    "train_dataloader.batch_size=4",
    "optim_wrapper.clip_grad=None",
)
HALF = dict(type="HalfGradientsHook")
PARTS = ("state_dict", "optimizer", "param_schedulers")


class GradientsHook(Hook):
    """Saves the gradients of the first update of this process."""

    def __init__(self, folder):
        self.folder = folder

    def before_train(self, runner):
        def save(optimizer, *_):
            path = f"{self.folder}/gradients_{runner.rank}.pth"
            if runner.iter == 0:
                torch.save({n: p.grad for n, p in runner.model.module.named_parameters()}, path)

        runner.optim_wrapper.optimizer.register_step_pre_hook(save)


def train(tmp_path, name, hooks, resume=False):
    port = runs.free_port()
    ranks = [
        (runs.start(runs.train_distributed, log, OPTIONS[0], tmp_path / name, rank, 2, port, *OPTIONS[1:],
                    hooks=[*hooks, dict(type=f"{__name__}.GradientsHook", folder=str(log.parent))], resume=resume), log)
        for rank, log in enumerate((tmp_path / f"{name}_0" / "log", tmp_path / f"{name}_1" / "log"))
        if log.parent.mkdir(exist_ok=True) is None
    ]  # fmt: skip
    for process, log in ranks:
        runs.finish(process, log)
    return [torch.load(log.parent / f"gradients_{rank}.pth") for rank, (_, log) in enumerate(ranks)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    return folder, train(folder, "whole", []), train(folder, "half", [HALF])


def test_gradients_are_sent_in_bfloat16(trained):
    _, whole, half = trained
    assert runs.differing(half[0], half[1]) == []
    rounded = [torch.equal(gradient, gradient.bfloat16().float()) for gradient in half[0].values()]
    assert all(rounded)
    assert not all(torch.equal(gradient, gradient.bfloat16().float()) for gradient in whole[0].values())
    for name, gradient in half[0].items():
        # Each of two gradients is rounded, and their sum: three times half a unit in the last of 8 bits.
        error = (gradient - whole[0][name]).norm() / whole[0][name].norm().clamp_min(1e-6)
        assert error < 3 * 2**-9, f"{name}: {error:.1e}"


def test_weights_stay_near(trained):
    folder, *_ = trained
    whole, half = (runs.last_state(folder / name)["state_dict"] for name in ("whole", "half"))
    assert runs.differing(whole, half)
    for name, expected in whole.items():
        torch.testing.assert_close(half[name], expected, rtol=0.1, atol=0.02, msg=name)


def test_a_resumed_run_is_the_same_bit_for_bit(trained, tmp_path):
    folder, *_ = trained
    resume = folder / "half" / "epoch_1.pth"
    for rank in range(2):
        (tmp_path / f"resumed_{rank}").mkdir()
        torch.save({}, tmp_path / f"resumed_{rank}" / f"gradients_{rank}.pth")
    train(tmp_path, "resumed", [HALF], resume=resume)
    states = [
        {part: runs.last_state(place)[part] for part in PARTS} for place in (tmp_path / "resumed", folder / "half")
    ]
    assert runs.differing(*states) == []


def test_another_wrapper_is_refused():
    runner = SimpleNamespace(distributed=True, model=torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="is for models in torch's DistributedDataParallel, not Linear"):
        HalfGradientsHook().before_train(runner)


def test_one_process_exchanges_nothing(tmp_path):
    runs.call(runs.train, tmp_path / "log", OPTIONS[0], tmp_path / "run", *OPTIONS[1:], "train_cfg.max_epochs=1",
              hooks=[HALF])  # fmt: skip
    assert "HalfGradientsHook has no effect: one process exchanges no gradients" in (tmp_path / "log").read_text()
