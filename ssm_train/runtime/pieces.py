"""Training iterations that a process computes in several pieces; see :mod:`.layout`."""

from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from ssm_train.data.collate import split_batch
from ssm_train.runtime.layout import PieceSampler
from ssm_train.runtime.reproducibility import seed_iteration


def train_step(runner: Runner, batch: Any, place: int) -> dict[str, Tensor]:
    """Compute the gradients of a batch, and update the parameters if it is time.

    Args:
        runner: the Runner.
        batch: what the data loader gave.
        place: number of the batch in its epoch, from 0.

    Returns:
        The losses by name. Those of pieces are averaged as the gradients are.
    """
    model, wrapper = runner.model, runner.optim_wrapper
    sampler = getattr(runner.train_dataloader.batch_sampler, "batch_sampler", None)
    if not isinstance(sampler, PieceSampler):
        return model.train_step(batch, optim_wrapper=wrapper)
    buffers = list(runner.bare_model.buffers())
    kept: list[Tensor] = []
    losses: dict[str, Tensor] = {}
    parts = split_batch(batch, sampler.sizes(place))
    for piece, part, weight in zip(sampler.pieces, parts, sampler.weights(place), strict=True):
        seed_iteration(runner.seed, runner.iter, piece.seed)
        with wrapper.piece(weight, is_last=piece is sampler.pieces[-1]):
            of_piece = model.train_step(part, optim_wrapper=wrapper)
        for name, value in of_piece.items():
            losses[name] = losses.get(name, 0.0) + weight * value
        kept = kept or [buffer.clone() for buffer in buffers]
    # As in the first layout, the statistics of batch norms are those of one process's batches.
    if kept:
        torch._foreach_copy_(buffers, kept)
    return losses
