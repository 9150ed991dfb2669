"""Compares the cost of a language model with a count by hand."""

import pytest
from mmengine.config import Config

from ssm_train.apis.analyse import count_cost, default_size


def of(folder, scale):
    backbone = {"type": "tree_ssm.language.load_network", "path": str(folder / "pretrained"), "tree_scale": scale}
    dataset = {"max_length": 24}
    model = {"type": "LanguageModel", "backbone": backbone}
    return Config({"default_scope": "ssm_train", "model": model, "test_dataloader": {"dataset": dataset}})


def test_cost(lm_folder):
    """The model has two layers of width 16, inner width 32, 4 states and rank 1.

    Half of the row is a prompt, and the prompt's tree costs extra.
    """
    cfg = of(lm_folder, 0.0)
    (length,) = size = default_size(cfg)
    chain, tree = (count_cost(of(lm_folder, scale), size) for scale in (0.0, 0.3))
    vocabulary = (chain.parameters - 2 * layer_parameters() - 16) // 16  # the embedding is tied to the head
    products = 16 * 64 + 32 * (1 + 8) + 32 + 32 * 16
    assert chain.flops.scans == 2 * length * 32 * (9 * 4 + 1)
    rest = chain.flops.total - chain.flops.scans - length * (2 * products + 16 * vocabulary)
    # Only the convolution of width 4 is left. It is counted if it runs as a product, and not if it runs elementwise.
    assert rest in (0, 2 * length * 32 * 4, 2 * (length + 3) * 32 * 4)
    assert tree.flops.scans > chain.flops.scans
    assert tree.flops.trees > 0 == chain.flops.trees
    assert tree.activations > chain.activations > 0


def layer_parameters():
    projections = 16 * 64 + 32 * (1 + 8) + (32 + 32) + 32 * 16
    return projections + 32 * 4 + 32 + 32 * 4 + 32 + 16


def test_size(lm_folder):
    with pytest.raises(Exception, match="--size takes a number of tokens"):
        count_cost(of(lm_folder, 0.0), (64, 64))
