"""Stages that are not trained."""

import copy

import pytest
import torch
from torch import nn

from quadtree_ssm import QuadMamba
from tree_ssm import MambaTreeV

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), drop_path_rate=0.5)
IMAGES = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [QuadMamba, MambaTreeV])
@pytest.mark.parametrize(("count", "parts"), [(-1, []), (0, ["stem"]), (2, ["stem", "stages.0", "stages.1"])])
def test_what_is_frozen(family, count, parts):
    model = family(**TINY, num_classes=3, frozen_stages=count).train(False).train()
    frozen = tuple(f"{part}." for part in parts)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    for name, module in model.named_modules():
        assert module.training != f"{name}.".startswith(frozen), name
    assert not any(module.training for module in nn.Sequential(model).eval().modules())


@pytest.mark.parametrize("family", [QuadMamba, MambaTreeV])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_rest_is_trained_as_without(family, checkpointing):
    """Compares outputs and gradients with a model that has no frozen stages and the same parts in evaluation."""
    torch.manual_seed(0)
    plain = family(**TINY, out_indices=(1, 3))
    model = family(**TINY, out_indices=(1, 3), frozen_stages=2)
    model.load_state_dict(plain.state_dict())
    model.set_grad_checkpointing(checkpointing)
    model.train()
    plain.train()
    for part in (plain.stem, *plain.stages[:2]):
        part.eval()
    for network in (model, plain):
        torch.manual_seed(1)
        sum(one.square().sum() for one in network(IMAGES)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if name.startswith(("stem.", "stages.0.", "stages.1.")):
            assert ours.grad is None, name
        else:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_copy_stays_frozen():
    model = copy.deepcopy(QuadMamba(**TINY, frozen_stages=1)).train()
    assert not model.stages[0].training
    assert not model.stages[0].blocks[0].norm1.weight.requires_grad


def test_a_published_model_is_not_frozen(tmp_path):
    QuadMamba(arch="nano", num_classes=3, frozen_stages=4).save_pretrained(tmp_path)
    model = QuadMamba.from_pretrained(tmp_path)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("count", "stages"), [(5, (3,)), (-2, (3,)), (2, (0,))])
def test_there_are_no_such_stages(count, stages):
    with pytest.raises(ValueError, match=f"frozen_stages is a number from -1 to {stages[0] + 1}"):
        MambaTreeV(**TINY, out_indices=stages, frozen_stages=count)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_compiled():
    """The compiled network has the same gradients, and still none of its frozen stages."""
    torch.manual_seed(0)
    model = MambaTreeV(depths=(1, 1), dims=(8, 8), num_classes=3, frozen_stages=1).train()
    model(IMAGES).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, backend="aot_eager")(IMAGES).square().sum().backward()
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)
