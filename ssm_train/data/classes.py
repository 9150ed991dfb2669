"""Which classes the samples of a dataset have, without loading them, and how these are numbered."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ssm_core.errors import ConfigError


def classes_of(dataset: Any, index: int) -> list[int]:
    """Numbers of the classes of a sample, each once, in ascending order.

    Args:
        dataset: a dataset of labelled images or of mmdet's instances, also in mmengine's wrappers.
        index: index of the sample.

    Raises:
        ConfigError: the dataset does not know the classes of a sample without loading it.
    """
    info = dataset.get_data_info(index) if hasattr(dataset, "get_data_info") else {}
    if "label" in info:
        label = info["label"]
        return sorted(set(label)) if isinstance(label, list) else [label]
    if "instances" in info:
        return sorted({instance["bbox_label"] for instance in info["instances"] if not instance.get("ignore_flag")})
    raise ConfigError(f"{type(dataset).__name__} does not say which classes an image has, and they cannot be counted")


def class_counts(dataset: Any) -> list[int]:
    """Number of the samples of every class.

    Args:
        dataset: see :func:`classes_of`.

    Raises:
        ConfigError: see :func:`classes_of`.
    """
    numbers = Counter(label for index in range(len(dataset)) for label in classes_of(dataset, index))
    return [numbers[label] for label in range(len(dataset.metainfo["classes"]))]


def renumber(dataset: Any, classes: Sequence[str], number: Callable[[Any, Sequence[str]], None]) -> None:
    """Number the classes of a dataset in another order, also where mmengine's wrappers or ours are around it.

    Args:
        dataset: the dataset.
        classes: its classes, in the order of their new numbers.
        number: numbers the classes of a dataset without wrappers.
    """
    inner = [dataset.dataset] if "dataset" in vars(dataset) else vars(dataset).get("datasets", [])
    for part in inner:
        renumber(part, classes, number)
    if not inner:
        if list(dataset.metainfo["classes"]) != list(classes):  # a dataset can be there twice
            number(dataset, classes)
    elif "_metainfo" in vars(dataset):
        dataset._metainfo = inner[0].metainfo
