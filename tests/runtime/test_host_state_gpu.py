"""The copy of a run's state is queued behind an iteration: the host does not wait, and later changes are not in it."""

import pytest
import torch

from ssm_train.runtime import checkpoints
from ssm_train.runtime.host_state import HostState

pytestmark = pytest.mark.gpu


class OneWeight:
    """Stands for a Runner whose state is one tensor of a GPU."""

    epoch = 1

    def __init__(self):
        self.weight = torch.zeros(1 << 20, device="cuda")

    def checkpoint_state(self, meta, detached):
        assert detached
        return checkpoints.detached({"meta": meta, "state_dict": {"weight": self.weight}})


def test_the_copy_is_of_its_place_in_the_stream():
    run = OneWeight()
    run.weight.add_(0)  # loading a kernel and pinning memory wait for the device, the first time
    HostState(run, 0).read()
    torch.cuda._sleep(1_000_000_000)
    run.weight.add_(1)
    state = HostState(run, 7)
    run.weight.add_(1)
    assert not state.arrived
    content = state.read()
    assert state.arrived
    assert content["meta"] == {"epoch": 1, "iter": 7}
    assert content["state_dict"]["weight"].is_pinned()
    assert content["state_dict"]["weight"].unique().tolist() == [1]
