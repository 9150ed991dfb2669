"""Datasets of mmengine's kind with bad samples, which are replaced and named instead of ending an epoch."""

from typing import Literal

from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.collate import UNREADABLE_KEY, data_samples_of
from ssm_train.data.datasets.wrapped import WrappedImages, has_labelled_images
from ssm_train.data.images import UNREADABLE, check_whole, reason
from ssm_train.data.wrapper import DatasetWrapper

# The exceptions that a bad file causes in decoders and in transforms.
FAULTS = (*UNREADABLE, TypeError, AttributeError, KeyError, IndexError)
# If this many samples in a row are bad, the pipeline or the folder in the config is wrong, not the files.
_LIMIT = 50
_MMENGINE_DATASETS = (BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset)


def guarded(dataset: Dataset, unreadable: Literal["skip", "raise"] = "skip") -> Dataset:
    """Wrap a dataset of mmengine's kind in a :class:`GuardedDataset`, and return any other as it is.

    The datasets of this project replace their own bad samples. In mmengine's wrappers they become
    :class:`.WrappedImages`.

    Args:
        dataset: any dataset.
        unreadable: see :class:`GuardedDataset`.
    """
    if not isinstance(dataset, _MMENGINE_DATASETS):
        return dataset
    return WrappedImages(dataset) if has_labelled_images(dataset) else GuardedDataset(dataset, unreadable)


class GuardedDataset(DatasetWrapper):
    """A dataset of mmengine's kind whose bad samples are replaced by the next good ones.

    A sample is bad if its image is missing, empty or cut off. It is bad if its label map has another size than the
    image, or has labels that are no class of the dataset. It is also bad if the pipeline fails on it in any other way.
    The sample that replaces it says what was wrong in its metainfo ``unreadable``. Training counts such samples, and
    evaluation leaves them out.

    Args:
        dataset: a dataset whose samples are ``{"inputs": ..., "data_samples": ...}``.
        unreadable: ``"skip"`` replaces bad samples, ``"raise"`` stops at the first.

    Raises:
        ConfigError: ``unreadable`` is something else.
    """

    def __init__(self, dataset: Dataset, unreadable: Literal["skip", "raise"] = "skip"):
        if unreadable not in ("skip", "raise"):
            raise ConfigError(f"a data loader's unreadable is 'skip' or 'raise', not {unreadable!r}")
        super().__init__(dataset)
        self.unreadable = unreadable

    def __getitem__(self, index: int) -> dict:
        """The sample at an index, or the next good one.

        Raises:
            DataError: the sample is bad and ``unreadable`` is ``"raise"``, or no good sample follows within 50.
        """
        problem = ""
        for step in range(min(len(self), _LIMIT)):
            candidate = (index + step) % len(self)
            try:
                sample = self._load(candidate)
            except FAULTS as error:
                words = reason(error)
                if self.unreadable == "raise":
                    raise DataError(f"cannot use the image {self.name(candidate)}: {words}") from error
                problem = problem or f"{self.name(candidate)} ({words})"
                continue
            for data_sample in data_samples_of(sample):
                data_sample.set_metainfo({UNREADABLE_KEY: problem})
            return sample
        raise DataError(f"not one of {min(len(self), _LIMIT)} images in a row can be used, the first being {problem}")

    def name(self, index: int) -> str:
        """The file of a sample, or its index in the dataset where it has none."""
        return str(self.dataset.get_data_info(index).get("img_path", f"number {index}"))

    def _load(self, index: int) -> dict:
        path = self.dataset.get_data_info(index).get("img_path")
        if path is not None:
            check_whole(path)
        sample = self.dataset[index]
        check_labels(sample, len(self.metainfo.get("classes") or ()), getattr(self.dataset, "ignore_index", 255))
        return sample


def check_labels(sample: dict, classes: int, ignored: int) -> None:
    """Check that the label maps of a sample fit their images and the classes of the dataset.

    Args:
        sample: a sample of mmengine's kind. One without label maps passes.
        classes: the number of classes.
        ignored: the label of pixels that belong to no class.

    Raises:
        ValueError: a label map has another size than its image, or a label that is no class.
    """
    for number, data_sample in enumerate(data_samples_of(sample)):
        if "gt_sem_seg" not in data_sample:
            continue
        labels = data_sample.gt_sem_seg.data
        inputs = sample["inputs"][number] if isinstance(sample["inputs"], list) else sample["inputs"]
        # Training transforms a label map with its image. Testing leaves it in the size of the image file.
        allowed = (tuple(inputs.shape[-2:]), tuple(data_sample.metainfo.get("ori_shape", ())))
        if labels.ndim != 3 or tuple(labels.shape[-2:]) not in allowed:
            raise ValueError(f"its label map is {tuple(labels.shape)} and the image {tuple(inputs.shape)}")
        wrong = labels[(labels >= classes) & (labels != ignored)]
        if wrong.numel():
            raise ValueError(f"its label map has the label {int(wrong.max())}, and there are {classes} classes")
