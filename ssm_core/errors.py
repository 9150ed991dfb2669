"""Errors a user can act on: each is one sentence, and the command-line tools print it instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the code is wrong: the config, the data, a checkpoint or the environment."""


class ConfigError(UserError):
    """An unknown key, name or value in a config or on the command line."""


class DataError(UserError):
    """A dataset is missing or damaged."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another model."""


# The extra of this project that has a package, where it is not "train".
EXTRAS = {
    "mmdet": "det", "pycocotools": "det", "mmcv": "det", "mmseg": "seg", "transformers": "lm", "peft": "lm",
    "tokenizers": "lm", "lm_eval": "lm", "datasets": "lm", "huggingface_hub": "lm", "gradio": "explore",
    "onnx": "export", "onnxscript": "export", "onnxruntime": "export",
}  # fmt: skip


class MissingPackageError(UserError):
    """An optional package is not installed."""

    def __init__(self, package: str, purpose: str, extra: str | None = None):
        extra = extra or EXTRAS.get(package.split(".")[0], "train")
        super().__init__(
            f"{purpose} needs {package}, which is not installed: run `pip install 'tree-ssm-train[{extra}]'`"
        )


class NonFiniteError(ValueError):
    """A NaN or infinity where the computation cannot go on, such as in the edge weights of a spanning tree."""


class DivergedError(UserError):
    """Training met a NaN or an infinity and stopped."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the candidate that resembles ``name`` most, or nothing when none does."""
    by_lower = {c.lower(): c for c in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean '{by_lower[matches[0]]}'?)" if matches else ""
