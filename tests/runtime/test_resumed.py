"""Tests of the checks of a run's state in a checkpoint: sound states pass, and others are named."""

import copy
import math

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, MultiStepLR
from runs import differing
from torch import nn

from ssm_train.runtime import resumed

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "LBFGS": lambda p: torch.optim.LBFGS(p),
}


def stepped(make):
    """An optimizer after two steps, and a new one of the same kind."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer, new = make(network.parameters()), make(copy.deepcopy(network).parameters())
    for _ in range(2):
        loss = network(torch.randn(5, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step(lambda loss=loss: loss)
    return optimizer.state_dict(), new


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optimizers_pass(name):
    state, new = stepped(OPTIMIZERS[name])
    before = copy.deepcopy(new.state_dict())
    resumed.check_optimizer(state, new.state_dict(), new)
    assert differing(new.state_dict(), before) == []


def changed(state, *place, value):
    *way, last = place
    for key in way:
        state = state[key]
    if value is KeyError:
        del state[last]
    else:
        state[last] = value


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("param_groups", 0, "lr"), math.nan, "optimizer.param_groups.0.lr is no finite number"),
        (("param_groups", 0, "lr"), "x", "optimizer.param_groups.0.lr is no finite number"),
        (("param_groups", 0, "lr"), KeyError, "optimizer.param_groups.0 has no lr"),
        (("param_groups", 0, "betas"), (0.9,), "betas has 1 entries, not 2"),
        (("param_groups", 0, "foreach"), "os.system", "foreach is a str"),
        (("param_groups", 0, "amsgrad"), 7, "amsgrad is a int, not a bool"),
        (("param_groups",), [], "optimizer.param_groups has 0 entries, not 1"),
        (("state",), [], "optimizer.state is no dictionary"),
        (("state", 0), 7, "optimizer.state.0 is no dictionary"),
        (("state", 99), {}, "optimizer.state.99 is of no parameter"),
        (("state", 0, "exp_avg"), torch.full((4, 3), math.nan), "optimizer.state.0.exp_avg is not finite"),
        (("state", 0, "exp_avg"), torch.zeros(5), r"exp_avg is \(5,\), not \(4, 3\)"),
        (("state", 0, "exp_avg"), torch.zeros(4, 3).bool(), "exp_avg has truth values"),
        (("state", 0, "exp_avg"), "x", "exp_avg is wrong"),
        (("state", 0, "exp_avg"), KeyError, "optimizer.state.0 has "),
        (("state", 0, "step"), torch.zeros(7), r"step is \(7,\) and not one number"),
    ],
)
def test_wrong_states_of_optimizers_are_named(place, value, words):
    state, new = stepped(OPTIMIZERS["AdamW"])
    changed(state, *place, value=value)
    with pytest.raises(ValueError, match=words):
        resumed.check_optimizer(state, new.state_dict(), new)


def test_schedules():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedules = [CosineAnnealingLR(optimizer, T_max=9), MultiStepLR(optimizer, milestones=[2, 2, 5])]
    states = [copy.deepcopy(schedule.state_dict()) for schedule in schedules]
    resumed.check_schedules(states, schedules)
    for value, words in (
        ({"step": 5}, r"param_schedulers\.0 has \['step'\]"),
        ({"last_step": math.inf}, "last_step is no finite number"),
        ({"last_step": "x"}, "last_step is no finite number"),
        ({"base_values": 7}, "base_values is no list"),
    ):
        with pytest.raises(ValueError, match=words):
            resumed.check_schedules([{**states[0], **value}, states[1]], schedules)
    with pytest.raises(ValueError, match="no list"):
        resumed.check_schedules(7, schedules)


def hub(**information):
    return {"log_scalars": {"loss": ([1.0], [1])}, "runtime_info": information, "resumed_keys": {"loss": True}}


def test_the_best_checkpoint_is_one_of_the_work_folder(tmp_path):
    """mmengine deletes the best checkpoint of before, whatever it is, when there is a better one."""
    for place in ("/etc", "/home/x/best.pth", "../best.pth", "..", "best.pth", "", None):
        found = resumed.message_hub(hub(best_ckpt=place, best_ckpt_top1=place), tmp_path)["runtime_info"]
        expected = str(tmp_path / "best.pth") if place and place.endswith(".pth") else None
        assert found == {"best_ckpt": expected, "best_ckpt_top1": expected}


@pytest.mark.parametrize(
    "state",
    [
        7, {}, {"log_scalars": {}, "runtime_info": 7, "resumed_keys": {}}, hub(best_ckpt=7), hub(best_score="x"),
        hub(best_score=math.nan), hub(keep_ckpt_ids="abc"), hub(keep_ckpt_ids=["../x"]), hub(epoch_length=1.5),
        {**hub(), "log_scalars": {"loss": 7}}, {**hub(), "log_scalars": {"loss": ([1.0], ["x"])}},
    ],
)  # fmt: skip
def test_wrong_message_hubs(state, tmp_path):
    with pytest.raises(ValueError, match=r"^its "):
        resumed.message_hub(state, tmp_path)
