"""Parts of a dataset for cross-validation."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from ssm_core.errors import ConfigError


class Fold(TypedDict, total=False):
    """Which part of a dataset is used.

    Attributes:
        of: number of folds, 5 by default.
        number: the fold that is held out, from 0; 0 by default.
        part: ``"train"`` for all other folds, which is the default, or ``"held_out"``.
        seed: seed of the split, 0 by default. It is not the seed of the run, so that runs can share a split.
    """

    of: int
    number: int
    part: Literal["train", "held_out"]
    seed: int


def in_fold(labels: Sequence[int | Sequence[int]], fold: Fold | None) -> list[int]:
    """Indices of the images in a part of a split into folds, in ascending order.

    The images of every class are shuffled by the seed and dealt to the folds in turns, so that each fold has the same
    share of every class. An image of several classes goes with its first class.

    Args:
        labels: class or classes of every image.
        fold: the part; None for all images.

    Raises:
        ConfigError: a value of ``fold`` is not allowed, or a part has no images.
    """
    if fold is None:
        return list(range(len(labels)))
    unknown = [key for key in fold if key not in Fold.__annotations__]
    if unknown:
        raise ConfigError(f"a dataset's fold has {', '.join(Fold.__annotations__)}, and no {unknown[0]!r}")
    of, number, part, seed = fold.get("of", 5), fold.get("number", 0), fold.get("part", "train"), fold.get("seed", 0)
    wrong = [
        key for key, value in (("of", of), ("number", number), ("seed", seed)) if type(value) is not int or value < 0
    ]
    if wrong:
        raise ConfigError(f"a dataset's fold takes whole numbers from 0 on, not {wrong[0]}={fold[wrong[0]]!r}")
    if of < 2 or not 0 <= number < of or part not in ("train", "held_out"):
        raise ConfigError(
            f"a dataset's fold needs of >= 2, a number below it, and part 'train' or 'held_out', not {dict(fold)}"
        )
    draw = np.random.default_rng(seed)
    first = np.array([own if isinstance(own, int) else own[0] if own else -1 for own in labels])
    # Shuffled, then sorted by class without changing the order within one.
    order = draw.permutation(len(labels))
    order = order[np.argsort(first[order], kind="stable")]
    fold_of = np.empty(len(labels), dtype=int)
    fold_of[order] = np.arange(len(labels)) % of
    chosen = np.flatnonzero((fold_of == number) == (part == "held_out")).tolist()
    if not chosen:
        raise ConfigError(f"{len(labels)} images are too few for {of} folds")
    return chosen
