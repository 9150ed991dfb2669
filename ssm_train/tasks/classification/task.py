"""Image classification as a task."""

import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import TRANSFORMS
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ssm_core.errors import ConfigError
from ssm_core.hub import HubModel
from ssm_core.image_data import ImageData
from ssm_train.data.collate import collate_images
from ssm_train.data.datasets.base import Transform
from ssm_train.data.images import decode_channels, write_png
from ssm_train.data.normalization import of_config, of_transform, picture_of
from ssm_train.data.pixels import ImageSource
from ssm_train.data.transforms import TestTransform, TrainTransform
from ssm_train.data.wrapper import bare_datasets
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.config import with_model_around
from ssm_train.tasks.augmented import name_of
from ssm_train.tasks.base import ImageTask, Labels, Size
from ssm_train.tasks.classification.predictions import YES, ScoreWriter
from ssm_train.tasks.classification.preprocessor import ImagePreprocessor

_TOP = 5  # number of classes that are named for an image
_TOP_SHOWN = 3  # number of classes that are written into a picture of a validation image
_ZOOM = 1.15  # by which the second view of an augmented test is larger
_HFLIP, _CROP_RATIO, _INTERPOLATION = (
    inspect.signature(kind).parameters[name].default
    for kind, name in ((TrainTransform, "hflip"), (TestTransform, "crop_ratio"), (TestTransform, "interpolation"))
)
_MIN_DRAWN = 256  # shorter side of a picture with text, in pixels


class Classification(ImageTask):
    """Assigns a class to an image."""

    def default_size(self) -> Size:
        """Height and width of the test images."""
        if "image_size" in self.cfg:
            return tuple(self.cfg.image_size)
        transform = (self.cfg.get("test_dataloader") or {}).get("dataset", {}).get("transform")
        return super().default_size() if transform is None else (transform.size, transform.size)

    @cached_property
    def transform(self) -> Transform:
        """The test transform of the config."""
        settings = self._test_data().transform
        with building_in_scope(self.scope):
            return TRANSFORMS.build(settings)

    def get_ready(self) -> None:
        """Build the transform, see :meth:`.ImageTask.get_ready`."""
        _ = self.transform

    def augmented(self) -> Config:
        """Copy the config, with its ``tta_transform`` and a mean of probabilities, see :meth:`.Task.augmented`.

        By default the views are the centre in two sizes, also flipped if training flips images.
        """
        own = self._test_data().get("transform", {})
        views = self.cfg.get("tta_transform")
        if views is None:
            if not own or name_of(own) != "TestTransform":
                raise ConfigError("the test data have no TestTransform to vary: write a tta_transform into the config")
            trained = bare_datasets((self.cfg.get("train_dataloader") or {}).get("dataset", {}))[0]
            flip = trained.get("transform", {}).get("hflip", _HFLIP) > 0
            ratio = own.get("crop_ratio", _CROP_RATIO)
            views = {**own, "type": "ssm_train.TestViews", "crop_ratios": (ratio, ratio / _ZOOM), "flip": flip}
            views.pop("crop_ratio", None)
        copied = with_model_around(self.cfg, {"type": "ssm_train.AugmentedClassifier"})
        for dataset in bare_datasets(copied.test_dataloader.dataset):
            dataset.transform = ConfigDict(views)
        return copied

    def image_data(self, network: HubModel, meta: dict[str, Any]) -> ImageData | None:
        """How the config prepares test images, and the names of the classes; see :meth:`.ImageTask.image_data`."""
        found = super().image_data(network, meta)
        if found is None:
            return None
        classes, transform = self.labels(meta).classes, self._test_data().transform
        return found._replace(
            crop_ratio=transform.get("crop_ratio", _CROP_RATIO),
            interpolation=transform.get("interpolation", _INTERPOLATION),
            classes=tuple(map(str, classes)) if classes and len(classes) == network.num_classes else None,
            multi_label=bool(self.trained_model.get("multi_label")),
        )

    def class_counts(self, model: nn.Module) -> dict[str, int]:
        """The length of the network's output, see :meth:`.ImageTask.class_counts`."""
        return {"model.backbone.num_classes": model.num_classes}

    def prepare(self, source: ImageSource) -> dict[str, Any]:
        """Make a sample of an image, with a label that means nothing."""
        image = decode_channels(source, self.channels, self.value_range)
        return {"inputs": self.transform(image), "data_samples": {"label": 0, "unreadable": ""}}

    def collate(self, samples: list[dict]) -> dict[str, Any]:
        """Make a batch of samples."""
        return collate_images(samples)

    def as_arrays(self, prediction: dict, labels: Labels) -> dict[str, Any]:
        """The probabilities of all classes, and the likeliest class; see :meth:`.ImageTask.as_arrays`."""
        scores = prediction["probabilities"].cpu().numpy()
        if self.trained_model.get("multi_label"):
            found = np.flatnonzero(scores >= YES)
            return {"scores": scores, "labels": found, "names": [labels.name(number) for number in found.tolist()]}
        label = int(scores.argmax())
        return {"scores": scores, "label": label, "name": labels.name(label)}

    def as_data(self, prediction: dict, labels: Labels) -> dict[str, Any]:
        """The likeliest classes with their probabilities."""
        names, scores = _likeliest(prediction["probabilities"], labels, _TOP)
        return {"classes": names, "scores": [round(score, 5) for score in scores]}

    def draw(self, path: Path, prediction: dict, labels: Labels, out: Path) -> None:
        """Write the likeliest classes over the image."""
        likeliest = zip(*_likeliest(prediction["probabilities"], labels, _TOP), strict=True)
        write_png(out.with_name(f"{out.name}.png"), write_classes(self.picture_of(path), list(likeliest)))

    def prediction_writer(self, out: Path) -> ScoreWriter:
        """Write the probabilities of all classes, see :meth:`.Task.prediction_writer`."""
        return ScoreWriter(out)

    def show(self, visualizer: Visualizer, name: str, inputs: Tensor, prediction: dict, step: int) -> None:
        """Pass on the image, with its label and the likeliest classes, see :meth:`.ImageTask.show`."""
        labels = Labels(visualizer.dataset_meta["classes"], None)
        likeliest = list(zip(*_likeliest(prediction["probabilities"], labels, _TOP_SHOWN), strict=True))
        picture = Image.fromarray(picture_of(inputs, of_config(self.cfg), self.bands)).convert("RGB")
        truth = ", ".join(labels.name(number) for number in _numbers(prediction["label"]))
        written = write_classes(picture, likeliest, truth)
        visualizer.add_image(name, np.asarray(written), step)

    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Write the transformed image into a file whose name has the label."""
        inputs = ImagePreprocessor()(self.collate([sample]))["inputs"][0]
        normalization = of_transform(bare_datasets(settings)[0].get("transform", {}), len(inputs))
        numbers = "-".join(map(str, _numbers(sample["data_samples"]["label"])))
        path = place.with_name(f"{place.name}_class{numbers}.png")
        write_png(path, Image.fromarray(picture_of(inputs, normalization, self.bands)))
        return path


def _numbers(label: int | Tensor) -> list[int]:
    """The classes of a label, which is a number or, where there can be several classes, zeros and ones."""
    if isinstance(label, Tensor) and label.ndim:
        return label.nonzero()[:, 0].tolist()
    return [int(label)]


def _likeliest(probabilities: Tensor, labels: Labels, count: int) -> tuple[list[str], list[float]]:
    """Names and probabilities of the ``count`` likeliest classes."""
    top = probabilities.topk(min(count, len(probabilities)))
    return [labels.name(i) for i in top.indices.tolist()], top.values.tolist()


def write_classes(picture: Image.Image, likeliest: Sequence[tuple[str, float]], truth: str = "") -> Image.Image:
    """Enlarge a small picture and write classes with their probabilities into its corner.

    Args:
        picture: a picture in mode RGB.
        likeliest: names and probabilities of classes.
        truth: name of the true class, which gets a line of its own; none if empty.
    """
    scale = max(_MIN_DRAWN / min(picture.size), 1)
    picture = picture.resize([round(side * scale) for side in picture.size])
    words = "\n".join([f"({truth})"] * bool(truth) + [f"{name} {score:.3f}" for name, score in likeliest])
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.rectangle(draw.multiline_textbbox((4, 4), words, font), fill="black")
    draw.multiline_text((4, 4), words, "white", font)
    return picture
