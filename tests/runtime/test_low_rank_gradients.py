"""PowerSGD between two processes: what is sent, that the loss falls, and how runs resume."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import runs
import torch
from language_runs import options_for, train_two
from mmengine.hooks import Hook

from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.weights import read_file
from ssm_train.runtime.low_rank_gradients import KEY, LowRankGradientsHook

START, ITERATIONS, RANK = 3, 12, 2
OPTIONS = (
    "train_cfg.max_epochs=4",
    "optim_wrapper.clip_grad=None",
    # Several buckets, which torch lays out anew after the first exchange of a process.
    "model_wrapper_cfg={'type':'MMDistributedDataParallel','bucket_cap_mb':0.01,'gradient_as_bucket_view':True}",
    *(f"default_hooks.checkpoint.{option}" for option in ("by_epoch=False", "interval=1", "max_keep_ckpts=-1")),
)
PARTS = ("state_dict", "optimizer", "param_schedulers", KEY)


def low_rank(**values):
    return dict(type="LowRankGradientsHook", **{"rank": RANK, "start": START, **values})


class SentHook(Hook):
    """Writes down how many numbers each iteration sums over the processes, and the gradients of the last one."""

    priority = "VERY_HIGH"

    def __init__(self, folder):
        self.folder = Path(folder)

    def before_train(self, runner):
        self.sent, real = [], torch.distributed.all_reduce

        def counted(tensor, *arguments, **options):
            if tensor.is_floating_point():
                self.sent[-1] += tensor.nbytes
            return real(tensor, *arguments, **options)

        def keep(optimizer, *_):
            gradients = {name: p.grad for name, p in runner.model.module.named_parameters()}
            torch.save(gradients, self.folder / f"gradients_{runner.rank}.pth")

        torch.distributed.all_reduce = counted
        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.sent.append(0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (self.folder / f"sent_{runner.rank}").write_text(json.dumps(self.sent))


def train(lm_folder, work_dir, hooks, *options, **settings):
    """Train in the folder ``run``. Return what the first process printed."""
    work_dir.mkdir(exist_ok=True)
    hooks = [*hooks, dict(type=f"{__name__}.SentHook", folder=str(work_dir))]
    return train_two(work_dir / "run", [*options_for(lm_folder), *OPTIONS, *options], hooks=hooks, **settings)[0]


@pytest.fixture(scope="module")
def trained(lm_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    train(lm_folder, folder / "whole", [])
    train(lm_folder, folder / "thin", [low_rank()])
    return folder


def losses(folder):
    return [point["loss"] for point in json.loads((folder / "run" / "curves.json").read_text())["train"]]


def test_fewer_bytes_are_sent(trained):
    whole = sum(gradient.nbytes for gradient in torch.load(trained / "whole" / "gradients_0.pth").values())
    for rank in range(2):
        sent = json.loads((trained / "thin" / f"sent_{rank}").read_text())
        assert len(sent) == ITERATIONS
        assert all(number >= whole for number in sent[:START])
        assert all(0 < number < whole / 3 for number in sent[START:])


def test_gradients_are_of_the_rank_and_the_same_in_both(trained):
    whole, thin = (torch.load(trained / name / "gradients_0.pth") for name in ("whole", "thin"))
    assert runs.differing(thin, torch.load(trained / "thin" / "gradients_1.pth")) == []
    large = [name for name, gradient in whole.items() if gradient.dim() == 2 and min(gradient.shape) > 10]
    assert len(large) > 3
    for name in large:
        assert torch.linalg.matrix_rank(thin[name], rtol=1e-4) <= RANK
        assert torch.linalg.matrix_rank(whole[name], rtol=1e-4) > RANK


def test_the_loss_falls(trained):
    whole, thin = (losses(trained / name) for name in ("whole", "thin"))
    assert thin[:START] == pytest.approx(whole[:START], rel=1e-4)
    assert thin[START + 1 :] != pytest.approx(whole[START + 1 :], rel=1e-4)
    assert sum(thin[-3:]) / 3 < 0.7 * thin[0]


@pytest.mark.parametrize("iteration", [2, START, START + 1, 8])
def test_a_resumed_run_is_the_same_bit_for_bit(iteration, trained, lm_folder, tmp_path):
    """torch has other buckets in the first exchange of a process than later, before and after compression begins."""
    rarely = "default_hooks.checkpoint.interval=12"  # saving takes the state out of the buckets, too
    train(lm_folder, tmp_path, [low_rank()], rarely, resume=trained / "thin" / "run" / f"iter_{iteration}.pth")
    states = [
        {part: runs.last_state(folder / "run")[part] for part in PARTS} for folder in (tmp_path, trained / "thin")
    ]
    assert runs.differing(*states) == []
    assert states[0][KEY]["exchanges"] == ITERATIONS
    errors = states[0][KEY]["errors"]
    assert len(errors) == 2
    assert runs.differing(errors[0], errors[1])


def test_weights_alone_have_no_state_of_the_exchange(trained):
    best = next((trained / "thin" / "run").glob("best_*.pth"))
    assert KEY not in read_file(best)


REFUSED = {
    "another rank": ([low_rank(rank=4)], (), "LowRankGradientsHook with rank=2, now 4"),
    "no hook": ([], (), "the run to resume had LowRankGradientsHook: add it to custom_hooks"),
    "another way": ([low_rank(), dict(type="HalfGradientsHook")], (), "gradients can be exchanged in one way only"),
    "a loss scale": ([low_rank()], ("optim_wrapper.dtype=float16",), "LowRankGradientsHook has no loss scale"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case, trained, lm_folder, tmp_path):
    hooks, options, words = REFUSED[case]
    said = train(lm_folder, tmp_path, hooks, *options, expected=1, resume=trained / "thin" / "run" / "iter_8.pth")
    assert words in said


def test_a_run_that_had_none_is_refused(trained, lm_folder, tmp_path):
    said = train(lm_folder, tmp_path, [low_rank()], expected=1, resume=trained / "whole" / "run" / "iter_8.pth")
    assert "the run to resume had no LowRankGradientsHook: remove it" in said


def as_resumed(checkpoint, processes=2):
    """Let a hook read a checkpoint as in a run of so many processes."""
    model = torch.nn.Linear(8, 8)
    runner = SimpleNamespace(_resume=True, distributed=processes > 1, world_size=processes, bare_model=model)
    LowRankGradientsHook(RANK, START).after_load_checkpoint(runner, checkpoint)


def test_other_processes_and_damaged_states_are_refused():
    good = {"rank": RANK, "start": START, "processes": 2, "exchanges": 5, "bases": {"weight": torch.ones(8, 2)},
            "errors": [{"weight": torch.ones(8, 8)}] * 2}  # fmt: skip
    as_resumed({KEY: good})
    as_resumed({}, processes=1)
    for processes in (1, 3):
        with pytest.raises(CheckpointError, match=f"LowRankGradientsHook with processes=2, now {processes}"):
            as_resumed({KEY: good}, processes)
    for key, value in {
        "errors": [{"weight": torch.ones(8, 8)}],
        "bases": {"weight": torch.full((8, 2), torch.nan)},
        "exchanges": -1,
    }.items():
        with pytest.raises(CheckpointError, match="is damaged"):
            as_resumed({KEY: {**good, key: value}})
    with pytest.raises(CheckpointError, match="is damaged"):
        as_resumed({KEY: {**good, "errors": [{"weight": torch.ones(8)}] * 2}})
    with pytest.raises(CheckpointError, match="is damaged"):
        as_resumed({KEY: {**good, "errors": [{"other": torch.ones(8, 8)}] * 2}})


@pytest.mark.parametrize("values", [{"rank": 0}, {"start": 1}])
def test_numbers_are_checked(values):
    with pytest.raises(ConfigError, match="LowRankGradientsHook needs rank >= 1 and start >= 2"):
        LowRankGradientsHook(**values)
