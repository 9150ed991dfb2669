"""Building a dataset of a config, which must have samples."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from ssm_core.errors import DataError

# What joined datasets may have of their own: classes are compared by name, see :func:`.classes.number_alike`.
_OWN = ["classes", "palette", "label_map", "reduce_zero_label"]
_PLACES = ("root", "data_root", "ann_file", "path", "split", "indices")  # where datasets of a config have their data


def build_dataset(settings: Mapping[str, Any]) -> Dataset:
    """Build a dataset and read its list of samples.

    Args:
        settings: its config.

    Returns:
        The dataset. A stream has no length and may turn out to be empty.

    Raises:
        DataError: it has no samples. An epoch of none would end at once, and an endless sampler never.
    """
    try:
        dataset = DATASETS.build(_joinable(settings))
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    except ValueError as error:
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        if any(frame.f_code is BaseDataset._serialize_data.__code__ for frame in frames):  # mmengine packs no samples
            raise _empty(settings) from error
        raise
    if hasattr(dataset, "__len__") and not len(dataset):
        raise _empty(settings)
    return dataset


def _joinable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with which mmengine joins datasets whose classes differ or are in another order."""
    found = dict(settings)
    if isinstance(found.get("dataset"), Mapping):
        found["dataset"] = _joinable(found["dataset"])
    if isinstance(found.get("datasets"), list | tuple):
        found["datasets"] = [_joinable(part) if isinstance(part, Mapping) else part for part in found["datasets"]]
        if str(getattr(found["type"], "__name__", found["type"])).rpartition(".")[2] == "ConcatDataset":
            ignored = found.get("ignore_keys") or []
            found["ignore_keys"] = [*([ignored] if isinstance(ignored, str) else ignored), *_OWN]
    return found


def _empty(settings: Mapping[str, Any]) -> DataError:
    given = ((key, settings[key]) for key in _PLACES if isinstance(settings.get(key), str | int | Path))
    places = ", ".join(f"{key}={value}" for key, value in given if value != "")
    words = f"the dataset {settings['type']}{f' ({places})' if places else ''}"
    return DataError(f"{words} has no samples: check where its data are")
