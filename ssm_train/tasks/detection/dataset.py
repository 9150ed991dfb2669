"""Objects with boxes and masks in COCO's format."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from ssm_core.errors import DataError
from ssm_train.data.classes import check_classes
from ssm_train.data.collate import data_samples_of
from ssm_train.tasks.detection.annotations import BadAnnotations, CocoAnnotations
from ssm_train.tasks.detection.index import FROM, Indexing, open_annotations


class AnnotatedList(Sequence[dict]):
    """Images with their instances, each of which is read when it is asked for.

    Args:
        places: of the images in their file [N].
        read: makes the dictionary of an image of a place.
    """

    def __init__(self, places: np.ndarray, read: Callable[[int], dict]):
        self.places, self.read = places, read

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return AnnotatedList(self.places[index], self.read)
        return self.read(int(self.places[index]))

    def __deepcopy__(self, memo: dict[int, Any]) -> "AnnotatedList":
        return AnnotatedList(self.places.copy(), self.read)

    def subset(self, indices: int | Sequence[int]) -> "AnnotatedList":
        """The first or the last images, if ``indices`` is a number from 0 on or below, or those of some indices."""
        if isinstance(indices, int):
            return self[:indices] if indices >= 0 else self[indices:]
        return AnnotatedList(self.places[np.asarray(indices, int)], self.read)


class CocoInstances(CocoDataset):
    """mmdet's COCO dataset for any categories, which finds bad annotations when it reads the file.

    Objects without a mask are left out if a step of the pipeline loads masks.

    Args:
        args: arguments of mmdet's and mmengine's datasets. The classes are those of the file, unless ``metainfo`` names
            some of them, in any order.
        bad_annotations: ``"skip"`` leaves them out and counts them, ``"raise"`` stops at the first. See
            :func:`.read_annotations`.
        index_from: size in bytes of the smallest annotation file that gets an index, from which later starts and other
            processes of the machine take its content; None for no index. See :mod:`.index`.
        index_folder: where the index is kept. By default it is beside the annotation file, or in
            ``~/.cache/tree-ssm`` where that folder cannot be written to.
        options: keyword arguments of mmdet's and mmengine's datasets. ``serialize_data`` changes nothing.
    """

    METAINFO: dict[str, Any] = {}  # noqa: RUF012, as the base classes have it

    def __init__(
        self,
        *args: Any,
        bad_annotations: BadAnnotations = "skip",
        index_from: int | None = FROM,
        index_folder: str | None = None,
        **options: Any,
    ):
        self.bad_annotations = bad_annotations
        self.indexing = Indexing(index_from, index_folder)
        self._content: CocoAnnotations | None = None
        self._numbers: list[int] | None = None  # of the classes, by their numbers when the file was read
        # mmdet would keep the content of the file in memory once more.
        super().__init__(*args, **{**options, "serialize_data": False})

    def load_data_list(self) -> Sequence[dict]:
        """Read the images with their instances, in mmdet's form. An image is read when it is used.

        Raises:
            ConfigError: ``metainfo`` names a class twice, or has no list of names.
            DataError: see :func:`.read_annotations`, or ``metainfo`` names a class that the file does not have.
        """
        content = self.coco_annotations()
        classes = tuple(check_classes(self._metainfo.setdefault("classes", tuple(content.classes))))
        self.cat_ids = content.category_ids(classes)
        self.cat2label = {number: label for label, number in enumerate(self.cat_ids)}
        return AnnotatedList(np.arange(content.columns.images), self._image_at)

    def _image_at(self, place: int) -> dict:
        image, objects = self.coco_annotations().image(place)
        return self.parse_data_info({"raw_img_info": {**image, "img_id": image["id"]}, "raw_ann_info": objects})

    def load_proposals(self) -> None:
        """Read mmdet's proposals, which are in memory with the content of the file."""
        self.data_list = list(self.data_list)
        super().load_proposals()

    def coco_annotations(self) -> CocoAnnotations:
        """The annotations, as this dataset uses them.

        Raises:
            DataError: see :func:`.read_annotations`.
        """
        if self._content is None:
            masks = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
            folder = self.data_prefix.get("img")
            self._content = open_annotations(self.ann_file, self.bad_annotations, folder, masks, self.indexing)
        return self._content

    def get_data_info(self, idx: int) -> dict:
        """The image at an index with its instances, in mmdet's form."""
        self.full_init()
        if isinstance(self.data_list, AnnotatedList):  # mmdet would copy what is made anew for each call
            info = {**self.data_list[idx], "sample_idx": idx % len(self)}
        else:
            info = super().get_data_info(idx)
        if self._numbers is not None:
            for instance in info["instances"]:
                instance["bbox_label"] = self._numbers[instance["bbox_label"]]
        return info

    def renumber(self, classes: Sequence[str]) -> None:
        """Number the classes in another order.

        Args:
            classes: the names of the dataset's classes in that order.
        """
        self.full_init()
        places = [list(classes).index(name) for name in self._metainfo["classes"]]
        self._numbers = places if self._numbers is None else [places[number] for number in self._numbers]
        ids = dict(zip(self._metainfo["classes"], self.cat_ids, strict=True))
        self.cat_ids = [ids[name] for name in classes]
        self._metainfo["classes"] = tuple(classes)

    def filter_data(self) -> Sequence[dict]:
        """Choose the images to use. In training these are the images that ``filter_cfg`` leaves.

        Raises:
            DataError: no image is left.
        """
        if self.test_mode or self.filter_cfg is None:
            return self.data_list
        content = self.coco_annotations()
        good = content.columns.arrays["size"].min(axis=1) >= self.filter_cfg.get("min_size", 0)
        if self.filter_cfg.get("filter_empty_gt", False):
            good &= content.with_objects(self.cat_ids)
        kept = np.flatnonzero(good).tolist()
        if not kept:
            raise DataError(f"none of the {len(self.data_list)} images of {self.ann_file} has an object to train on")
        if len(kept) < len(self.data_list):
            MMLogger.get_current_instance().info(
                f"{len(self.data_list) - len(kept)} of {len(self.data_list)} images of {self.ann_file} have no objects "
                "or are too small, and are left out of training"
            )
        return self._get_unserialized_subset(kept)

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> Sequence[dict]:
        if isinstance(self.data_list, AnnotatedList):
            return self.data_list.subset(indices)
        chosen: list[dict] = super()._get_unserialized_subset(indices)
        return chosen

    def prepare_data(self, idx: int) -> dict | None:
        """Make a sample by the pipeline.

        Raises:
            ValueError: the image has another size than its annotations say.
        """
        info = self.get_data_info(idx)
        expected = info["height"], info["width"]
        sample = self.pipeline(info)
        # Test-time augmentation makes several samples of an image.
        if sample is not None and (found := tuple(data_samples_of(sample)[0].ori_shape)) != expected:
            raise ValueError(f"it is {found[1]}x{found[0]} and its annotations are for {expected[1]}x{expected[0]}")
        return sample
