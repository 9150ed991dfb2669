"""Stages of timm's models that are not trained."""

import copy

import pytest
import torch

from ssm_core.errors import ConfigError
from ssm_train.tasks.classification.classifier import ImageClassifier
from ssm_train.tasks.classification.timm_model import timm_model

# Beginnings of the names of what is frozen, read off the modules of the networks.
RESNET = ["conv1.", "bn1."], ["layer1."], ["layer2."], ["layer3."], ["layer4."]
# timm counts the last norm of a plain transformer to its last block.
VIT = ["cls_token", "pos_embed", "patch_embed."], *([f"blocks.{n}."] for n in range(5)), ["blocks.5.", "norm."]
SWIN = ["patch_embed."], ["layers.0."], ["layers.1."], ["layers.2."], ["layers.3."]


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("test_resnet", {}, RESNET),
        ("test_vit", {}, VIT),
        ("swin_s3_tiny_224", {"embed_dim": 12, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1)}, SWIN),
    ],
)
def test_what_is_frozen(name, options, groups):
    for count in (-1, 0, 1, len(groups) - 1):
        model = timm_model(name, 3, options=options, frozen_stages=count)
        names = [parameter_name for parameter_name, _ in model.named_parameters()]
        for start in (start for group in groups for start in group):
            assert any(parameter_name.startswith(start) for parameter_name in names), start
        frozen = tuple(start for group in groups[: count + 1] for start in group)
        for parameter_name, parameter in model.named_parameters():
            assert parameter.requires_grad != parameter_name.startswith(frozen), (count, parameter_name)
        assert all(parameter.requires_grad for parameter in model.get_classifier().parameters())


def test_the_rest_is_trained_as_without():
    """Compares loss, gradients and statistics with a model whose first parts are in evaluation by hand."""
    torch.manual_seed(0)
    backbone = {"type": "timm", "name": "test_resnet", "num_classes": 3}
    plain, model = ImageClassifier(backbone), ImageClassifier({**backbone, "frozen_stages": 2})
    model.load_state_dict(plain.state_dict())
    before = copy.deepcopy(model.state_dict())
    images, label = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    first = ("conv1", "bn1", "layer1", "layer2")
    model.train()
    plain.train()
    for part in first:
        getattr(plain.backbone, part).eval()
    losses = [network.loss(images, label)["loss"] for network in (model, plain)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    starts = tuple(f"backbone.{part}." for part in first)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == name.startswith(starts), name
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad), name
    after = model.state_dict()
    statistics = [name for name in after if "running_" in name]
    for name in statistics:
        assert torch.equal(after[name], before[name]) == name.startswith(starts), name
    assert any(name.startswith(starts) for name in statistics)
    twin = copy.deepcopy(model).train()
    assert not twin.backbone.layer2.training
    assert twin.backbone.layer3.training
    assert not any(module.training for module in model.eval().modules())


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("test_resnet", 5, "frozen_stages is a number from -1 to 4, the stages of ResNet: 5"),
        ("test_resnet", -2, "frozen_stages is a number from -1 to 4"),
        ("pit_ti_224", 1, "timm does not say what the stages of PoolingVisionTransformer are"),
        ("rdnet_tiny", 1, "timm does not say what the stages of RDNet are"),
    ],
)
def test_what_is_refused(name, count, words):
    with pytest.raises(ConfigError, match=words):
        timm_model(name, 3, frozen_stages=count)
