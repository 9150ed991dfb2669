"""Bad samples of detection and segmentation data: passed over and named, instead of ending an epoch."""

from collections.abc import Mapping
from typing import Any, Literal

from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.images import UNREADABLE, check_whole, reason

# What transforms raise over a bad file, beside what decoders raise.
_FAULTS = (*UNREADABLE, TypeError, AttributeError, KeyError, IndexError)
# More bad samples in a row than this are no accident: the config's pipeline or the folder is wrong.
_LIMIT = 50
_MMENGINE_DATASETS = (BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset)
MARK = "unreadable"  # the metainfo of a replaced sample


def guarded(dataset: Dataset, unreadable: Literal["skip", "raise"] = "skip") -> Dataset:
    """A dataset of mmengine's kind in a :class:`GuardedDataset`; ours look after themselves.

    Args:
        dataset: any dataset.
        unreadable: see :class:`GuardedDataset`.
    """
    return GuardedDataset(dataset, unreadable) if isinstance(dataset, _MMENGINE_DATASETS) else dataset


class GuardedDataset(Dataset):
    """A dataset of mmengine's kind whose bad samples are replaced by the next good ones.

    Bad is an image that is missing, empty or cut off, a label map of another size than its image or with labels that
    are no class, and whatever else the pipeline stumbles over. A replaced sample says what was wrong in its metainfo
    ``unreadable``: training counts it, and evaluation leaves it out.

    Args:
        dataset: gives ``{"inputs": ..., "data_samples": ...}``, as mmdet's and mmseg's do.
        unreadable: ``"skip"`` as above; ``"raise"`` stops at the first.

    Raises:
        ConfigError: ``unreadable`` is something else.
    """

    def __init__(self, dataset: Dataset, unreadable: Literal["skip", "raise"] = "skip"):
        if unreadable not in ("skip", "raise"):
            raise ConfigError(f"a data loader's unreadable is 'skip' or 'raise', not {unreadable!r}")
        self.dataset = dataset
        self.unreadable = unreadable

    def __getattr__(self, name: str) -> Any:
        # As in SeededDataset: unpickling asks for dunder names before there is an inner dataset.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        problem = ""
        for step in range(min(len(self), _LIMIT)):
            candidate = (index + step) % len(self)
            try:
                sample = self._load(candidate)
            except _FAULTS as error:
                words = reason(error)
                if self.unreadable == "raise":
                    raise DataError(f"cannot use the image {self.name(candidate)}: {words}") from error
                problem = problem or f"{self.name(candidate)} ({words})"
                continue
            for data_sample in data_samples_of(sample):
                data_sample.set_metainfo({MARK: problem})
            return sample
        raise DataError(f"not one of {min(len(self), _LIMIT)} images in a row can be used, the first being {problem}")

    def name(self, index: int) -> str:
        """The file of a sample, or its place in the dataset."""
        return str(self.dataset.get_data_info(index).get("img_path", f"number {index}"))

    def _load(self, index: int) -> dict:
        path = self.dataset.get_data_info(index).get("img_path")
        if path is not None:
            check_whole(path)
        sample = self.dataset[index]
        check_labels(sample, len(self.metainfo.get("classes") or ()), getattr(self.dataset, "ignore_index", 255))
        return sample


def data_samples_of(batch: Mapping) -> list[BaseDataElement]:
    """The data samples in a sample or a batch, several for each image under test-time augmentation; none of others."""
    found, rest = [], [batch.get("data_samples")]
    while rest:
        item = rest.pop()
        if isinstance(item, BaseDataElement):
            found.append(item)
        elif isinstance(item, list | tuple):
            rest += reversed(item)
    return found


def check_labels(sample: dict, classes: int, ignored: int) -> None:
    """Raise a ``ValueError`` unless the label map of a segmentation sample fits its image and its dataset's classes."""
    for number, data_sample in enumerate(data_samples_of(sample)):
        if "gt_sem_seg" not in data_sample:
            continue
        labels = data_sample.gt_sem_seg.data
        inputs = sample["inputs"][number] if isinstance(sample["inputs"], list) else sample["inputs"]
        # In training it is transformed with the image; in tests it keeps the size that the image had.
        allowed = (tuple(inputs.shape[-2:]), tuple(data_sample.metainfo.get("ori_shape", ())))
        if labels.ndim != 3 or tuple(labels.shape[-2:]) not in allowed:
            raise ValueError(f"its label map is {tuple(labels.shape)} and the image {tuple(inputs.shape)}")
        wrong = labels[(labels >= classes) & (labels != ignored)]
        if wrong.numel():
            raise ValueError(f"its label map has the label {int(wrong.max())}, and there are {classes} classes")
