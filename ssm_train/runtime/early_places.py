"""Finds a work folder that is taken and data that are missing, before torch and mmengine are imported.

What a config says of its data is read from its text, as in :mod:`.early_check`. The datasets say the same later on.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssm_train.data import missing
from ssm_train.runtime.config_files import find_config
from ssm_train.runtime.config_keys import option_key
from ssm_train.runtime.config_text import read_text
from ssm_train.runtime.occupants import check_vacant

_PLACES = ("root", "split", "data_root", "ann_file")  # arguments of datasets that lead to their files
_OTHERS = ("mmdet", "mmseg")  # packages with datasets


def check_work_folder(path: str | Path, options: Iterable[str], work_dir: str | None) -> None:
    """Check that a run can begin in its work folder.

    Args:
        path: the config.
        options: changes ``key=value``.
        work_dir: the folder that the user named, if there is one.

    Raises:
        ConfigError: it has the files of another run.
    """
    if work_dir is None:
        if any(option_key(option) == "work_dir" for option in options):
            return
        text = read_text(find_config(path))
        work_dir = text.values.get("work_dir") or f"work_dirs/{Path(path).stem}" if text.complete else None
    if isinstance(work_dir, str):
        check_vacant(Path(work_dir))


def check_data(path: str | Path, options: Iterable[str], loaders: Iterable[str]) -> None:
    """Check that the folders and files are there that a config names for its datasets.

    Args:
        path: the config.
        options: changes ``key=value``.
        loaders: the keys of the data loaders.

    Raises:
        DataError: one is not.
    """
    text = read_text(find_config(path))
    for loader in loaders if text.complete else ():
        dataset = text.values.get(loader)
        dataset = dataset.get("dataset") if isinstance(dataset, dict) else None
        if isinstance(dataset, dict) and (places := _places(dataset, f"{loader}.dataset", options)) is not None:
            _check_dataset(f"{loader}.dataset", dataset, places)


def _places(dataset: Mapping[str, Any], place: str, options: Iterable[str]) -> dict[str, str] | None:
    """The arguments that lead to the files of a dataset; None if an option changes what they mean."""
    found = {key: dataset[key] for key in _PLACES if key in dataset}
    for option in options:
        key = option_key(option)
        holder, _, last = key.rpartition(".")
        if holder == place and last in _PLACES:
            found[last] = option.removeprefix(f"{key}=")
        elif place == key or place.startswith(f"{key}.") or key == f"{place}.type":
            return None
    plain = all(isinstance(value, str) and "://" not in value and value[:1] not in "\"'([" for value in found.values())
    return found if plain else None


def _check_dataset(place: str, dataset: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Check a dataset whose class is known to read what is there, and to make nothing."""
    kind = str(dataset.get("type")).removeprefix("ssm_train.")
    root, split, data_root = (places.get(key) for key in ("root", "split", "data_root"))
    if kind in missing.HOW_TO_MAKE and root is not None:
        if not os.path.isdir(folder := Path(root) / (split or "train")):
            raise missing.no_class_folders(folder, missing.HOW_TO_MAKE[kind])
    elif kind == "FashionMNIST" and root is not None:
        for name in missing.FASHION_MNIST.get(split or "train", ()):
            if not os.path.exists(file := Path(root) / name):
                raise missing.no_fashion_mnist(file)
    elif kind == "tasks.detection.CocoInstances" and data_root is not None and "ann_file" in places:
        if not os.path.exists(file := os.path.join(data_root, places["ann_file"])):
            raise missing.no_annotation_file(file)
    elif dataset.get("_scope_") in _OTHERS and data_root is not None and not os.path.isdir(data_root):
        raise missing.no_folder(data_root, f"{place}.data_root")
