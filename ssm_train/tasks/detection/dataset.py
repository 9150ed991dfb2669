"""Objects with boxes and masks in COCO's format."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from ssm_core.errors import DataError
from ssm_train.data.collate import data_samples_of
from ssm_train.tasks.detection.annotations import BadAnnotations, CocoAnnotations, read_annotations


class CocoInstances(CocoDataset):
    """mmdet's COCO dataset for any categories, which finds bad annotations when it reads the file.

    Objects without a mask are left out if a step of the pipeline loads masks.

    Args:
        args: arguments of mmdet's and mmengine's datasets. The classes are those of the file, unless ``metainfo`` names
            some of them, in any order.
        bad_annotations: ``"skip"`` leaves them out and counts them, ``"raise"`` stops at the first. See
            :func:`read_annotations`.
        options: keyword arguments of mmdet's and mmengine's datasets.
    """

    METAINFO: dict[str, Any] = {}  # noqa: RUF012, as the base classes have it

    def __init__(self, *args: Any, bad_annotations: BadAnnotations = "skip", **options: Any):
        self.bad_annotations = bad_annotations
        self._content: CocoAnnotations | None = None
        self._numbers: list[int] | None = None  # of the classes, by their numbers when the file was read
        super().__init__(*args, **options)

    def load_data_list(self) -> list[dict]:
        """Read the images with their instances, in mmdet's form.

        Raises:
            DataError: see :func:`read_annotations`, or ``metainfo`` names a class that the file does not have.
        """
        content = self.coco_annotations()
        if self.test_mode:  # the metric takes it from here; training data can be large
            self._content = content
        classes = self._metainfo.setdefault("classes", tuple(content.classes))
        self.cat_ids = content.category_ids(classes)
        self.cat2label = {number: label for label, number in enumerate(self.cat_ids)}
        self.cat_img_map = {number: [] for number in self.cat_ids}
        of_image = defaultdict(list)
        for annotation in content.annotations:
            of_image[annotation["image_id"]].append(annotation)
            if annotation["category_id"] in self.cat_img_map:
                self.cat_img_map[annotation["category_id"]].append(annotation["image_id"])
        return [
            self.parse_data_info(
                {"raw_img_info": {**image, "img_id": image["id"]}, "raw_ann_info": of_image[image["id"]]}
            )
            for image in content.images
        ]

    def coco_annotations(self) -> CocoAnnotations:
        """The annotations, as this dataset uses them.

        Raises:
            DataError: see :func:`read_annotations`.
        """
        if self._content is not None:
            return self._content
        masks = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        return read_annotations(self.ann_file, self.bad_annotations, self.data_prefix.get("img"), masks)

    def get_data_info(self, idx: int) -> dict:
        """The image at an index with its instances, in mmdet's form."""
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

    def filter_data(self) -> list[dict]:
        """Choose the images to use. In training these are the images that ``filter_cfg`` leaves.

        Raises:
            DataError: no image is left.
        """
        kept = super().filter_data()
        if not kept:
            raise DataError(f"none of the {len(self.data_list)} images of {self.ann_file} has an object to train on")
        if len(kept) < len(self.data_list):
            MMLogger.get_current_instance().info(
                f"{len(self.data_list) - len(kept)} of {len(self.data_list)} images of {self.ann_file} have no objects "
                "or are too small, and are left out of training"
            )
        return kept

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
