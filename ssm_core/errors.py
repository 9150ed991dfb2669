"""Errors that a user can act on. The message is one sentence. The command-line tools print it without a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something outside the code is wrong: the config, the data, a checkpoint or the environment."""


class ConfigError(UserError):
    """An unknown key, name or value in a config or on the command line."""


class DataError(UserError):
    """A dataset is missing or damaged."""


class InputError(DataError, ValueError):
    """Images that a network cannot take, because of their size or their number of channels."""


class CheckpointError(UserError):
    """A checkpoint is missing, is damaged or belongs to another model."""


# The extra of this project that installs a package. Others that are missing are a matter of the extra "train".
EXTRAS = {
    "mmengine": "train", "tifffile": "train", "matplotlib": "train", "sklearn": "train", "tensorboard": "train",
    "torchmetrics": "train", "wandb": "train",
    "mmdet": "det", "pycocotools": "det", "mmcv": "det", "mmseg": "seg", "transformers": "lm", "peft": "lm",
    "tokenizers": "lm", "lm_eval": "lm", "datasets": "huggingface", "huggingface_hub": "lm", "gradio": "explore",
    "onnx": "export", "onnxscript": "export", "onnxruntime": "export",
}  # fmt: skip


class MissingPackageError(UserError):
    """An optional package is not installed."""

    def __init__(self, package: str, purpose: str, extra: str | None = None):
        extra = extra or EXTRAS.get(package.split(".")[0], "train")
        super().__init__(f"{purpose} needs {package}, which is not installed: {how_to_install(extra)}")


def how_to_install(extra: str = "") -> str:
    """Where packages come from, in words that are right for a clone of the repository and for a wheel of it.

    This project is on no package index, so pip takes the file of a wheel.

    Args:
        extra: of this project, which has the packages; empty for those that every installation has.
    """
    wheel = f"dist/FILE.whl[{extra}]" if extra else "dist/FILE.whl"
    return f'`make setup` has it, or run `pip install "{wheel}"` (`make wheel` makes the file)'


class NonFiniteError(ValueError):
    """A computation cannot go on because of a NaN or an infinity, such as in the edge weights of a spanning tree."""


class DivergedError(UserError):
    """Training met a NaN or an infinity and stopped."""


class StoppedError(UserError):
    """Something from outside stopped a training, such as a signal, and its state is saved: it can be resumed."""


def listed(names: Sequence[str], most: int = 20) -> str:
    """Join the first ``most`` names with commas and say how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` with the candidate most similar to ``name``, or ``""`` if none is similar."""
    by_lower = {c.lower(): c for c in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean '{by_lower[matches[0]]}'?)" if matches else ""
