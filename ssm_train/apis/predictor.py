"""Trained models in Python: images from files and memory in, arrays out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from numbers import Real
from pathlib import Path
from threading import Lock
from typing import Any, overload

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from ssm_core import weights
from ssm_core.errors import ConfigError, DataError, InputError
from ssm_train.apis.devices import usable_device
from ssm_train.apis.open_model import classifier_config
from ssm_train.apis.prediction import prediction_config
from ssm_train.apis.shipped_weights import shipped_with
from ssm_train.data.images import find_images
from ssm_train.data.pixels import ImageSource
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of
from ssm_train.tasks.base import Labels

Prediction = dict[str, Any]
_TAKEN = "images are paths, images of Pillow's or arrays of NumPy"
_BUILDING = Lock()  # the registries that models are built from have one default scope for all threads


class Predictor:
    """A trained model of images: a classifier, a detector or a segmentor.

    It writes nothing, and changes nothing outside of itself: no folder, no log, no random state. Calls from several
    threads take turns.

    An image is a path, an image of Pillow's, or an array [H, W] or [H, W, C] of the values that its file would have:
    8 bits, 16 bits without a sign, or floating point from 0 to 1 (or what the config's ``value_range`` says), red
    first. It is turned upright, scaled and cut as the config does it with its test images. A path to a folder stands
    for all images below it, in the order of their names.

    The prediction for an image is a dictionary. It has ``path`` if the image is a file, and

    - of a classifier: ``scores`` [classes] float32, the probability of every class; ``label``, the number of the
      likeliest class, and its ``name``. Where images can have several classes (``multi_label``): ``labels``, the
      numbers of all classes with a probability of 0.5 and more, and their ``names``.
    - of a detector, for N objects by falling scores: ``boxes`` [N, 4] float32, left, top, right and bottom in pixels of
      the image; ``scores`` [N] float32; ``labels`` [N], the numbers of their classes, and ``names``; if the model has
      masks, ``masks`` [N, H, W] of truth values. With ``tile``, the masks are in ``run_lengths``: N dictionaries as
      pycocotools decodes them, because the masks of a large image would not fit into memory.
    - of a segmentor: ``labels`` [H, W] uint8 (uint16 with more than 256 classes), the number of the class of every
      pixel. With ``probabilities`` also these, [classes, H, W] float32.

    Args:
        model: the config that the model was trained with, or its file. Or the checkpoint of a classifier of one of the
            two families, which says itself what it is of.
        checkpoint: a file of tree-ssm train or tree-ssm convert; left out if ``model`` is one, or to take the weights
            that come with the package for this config.
        device: where to run it; a GPU by default, if there is one.
        min_score: detected objects with a lower score are left out.
        batch_size: how many images are computed at once; by default as many as in a batch of the config's test data.
            Images of different sizes are never padded to one size, so that a prediction does not depend on the other
            images of its batch, but for the rounding of sums.
        probabilities: of a segmentor, return the probability of every class in every pixel, too.
        tta: merge the predictions for several versions of every image, see :func:`.prediction_config`.
        tile: side in pixels of the tiles of an image that the model sees; None for whole images.
        overlap: pixels that tiles share, a quarter of their side if left out.

    Attributes:
        checkpoint: the file or the address of the weights.
        classes: names of the classes, or None if neither the checkpoint nor the config has them.

    Raises:
        CheckpointError: the file is missing, damaged or of another model, or does not say enough about its model.
        ConfigError: the config cannot be built, has no test data, or has a model of text; or one of ``device``,
            ``min_score``, ``batch_size``, ``probabilities``, ``tta``, ``tile`` and ``overlap`` does not fit.
    """

    def __init__(
        self,
        model: Config | str | Path,
        checkpoint: str | Path | None = None,
        device: torch.device | str | None = None,
        min_score: float = 0.3,
        batch_size: int | None = None,
        probabilities: bool = False,
        tta: bool = False,
        tile: int | None = None,
        overlap: int | None = None,
    ):
        cfg, self.checkpoint = _config_of(model, checkpoint)
        place = usable_device(device)
        self.task = image_task_of(prediction_config(cfg, tta, tile, overlap))
        if probabilities and not self.task.labels_pixels:
            raise ConfigError("probabilities of pixels are of segmentors: leave out probabilities=True")
        if probabilities and tile is not None:
            raise ConfigError("tiles keep no probabilities of pixels: leave out probabilities=True, or tile")
        batch_size = cfg.get("test_dataloader", {}).get("batch_size", 1) if batch_size is None else batch_size
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size is a number of images of 1 or more, not {batch_size!r}")
        if not (isinstance(min_score, Real) and 0 <= min_score <= 1):
            raise ConfigError(f"min_score is a number from 0 to 1, not {min_score!r}")
        self.batch_size, self.min_score, self.probabilities = batch_size, min_score, probabilities
        with _BUILDING, torch.random.fork_rng(devices=()):  # weights are drawn before those of the file replace them
            network, meta = self.task.load(self.checkpoint)
            self.labels: Labels = self.task.labels(meta)
            self.task.get_ready()
        self.model = network.to(place)
        self._turn = Lock()

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, in the order of their numbers."""
        return None if self.labels.classes is None else list(self.labels.classes)

    @overload
    def __call__(self, images: Image.Image | np.ndarray) -> Prediction: ...
    @overload
    def __call__(self, images: str | Path) -> Prediction | list[Prediction]: ...
    @overload
    def __call__(self, images: Iterable[ImageSource]) -> list[Prediction]: ...

    def __call__(self, images: ImageSource | Iterable[ImageSource]) -> Prediction | list[Prediction]:
        """Predict for an image, or for several in batches.

        Args:
            images: an image, a folder, or a list or an iterator of them.

        Returns:
            The prediction for an image. For a folder, a list or an iterator, the list of the predictions in its order.

        Raises:
            DataError: an image cannot be read, or has a size or channels that the model does not take.
        """
        if _is_image(images):
            return next(self.each([images]))
        return list(self.each([images] if isinstance(images, str | Path) else images))

    def each(
        self, images: Iterable[ImageSource], unusable: Callable[[DataError], None] | None = None
    ) -> Iterator[Prediction | None]:
        """Predict for many images and return one prediction after the other, so that they need not fit into memory.

        Args:
            images: images and folders. They are taken from here a batch at a time.
            unusable: is called with the error of every image or folder that cannot be used. Left out, the first is
                raised.

        Yields:
            The predictions in the order of the images; None for an image that cannot be used.

        Raises:
            DataError: see :meth:`__call__`, unless ``unusable`` is given.
        """
        for source, found in self.predict(_unfolded(images)):
            if isinstance(found, DataError):
                if unusable is None:
                    raise found
                unusable(found)
                yield None
                continue
            prediction = self.task.as_arrays(self.task.select(found, self.min_score), self.labels)
            if self.probabilities:
                prediction["probabilities"] = self.task.probabilities(found)
            yield prediction | ({"path": Path(source)} if isinstance(source, str | Path) else {})

    def predict(self, images: Iterable[ImageSource | DataError]) -> Iterator[tuple[ImageSource | DataError, Any]]:
        """Predict for images in the form that the task draws, with the objects of all scores.

        Args:
            images: images, and no folders; or in the place of an image the error that was met on the way to it.

        Yields:
            Every image with its prediction, see :meth:`.ImageTask.predict`, or with a :class:`DataError` if it cannot
            be used.
        """
        remaining = enumerate(images, 1)
        while batch := list(islice(remaining, self.batch_size)):
            names = [str(s) if isinstance(s, str | Path) else f"number {number}" for number, s in batch]
            sources = [source for _, source in batch]
            with self._turn:
                found = self._batch(sources, names)
            yield from zip(sources, found, strict=True)

    def _batch(self, sources: list[ImageSource | DataError], names: list[str]) -> list[Any]:
        """The predictions for images, or their errors. Images whose inputs have one size are computed together."""
        found: list[Any] = [None] * len(sources)
        groups: dict[tuple[tuple[int, ...], ...], dict[int, dict]] = {}
        for place, (source, name) in enumerate(zip(sources, names, strict=True)):
            try:
                if isinstance(source, DataError):
                    raise source
                sample = self.task.sample(source, name)
                groups.setdefault(_shapes(sample["inputs"]), {})[place] = sample
            except DataError as error:
                found[place] = error
        for group in groups.values():
            try:
                predictions = self.task.predict(self.model, self.task.collate(list(group.values())))
                for place, prediction in zip(group, predictions, strict=True):
                    found[place] = prediction
            except InputError as error:  # all images of the group have the size that is refused
                for place in group:
                    found[place] = DataError(f"cannot use the image {names[place]}: {error}")
        return found


def _config_of(model: Config | str | Path, checkpoint: str | Path | None) -> tuple[Config, str | Path]:
    """The config and the checkpoint that a caller named."""
    if isinstance(model, Config):
        cfg = model
    elif checkpoint is None and Path(model).suffix in weights.SUFFIXES:
        return classifier_config(model), model
    else:
        cfg = load_config(model)
    if checkpoint is None and (row := shipped_with(cfg)) is not None:
        checkpoint = row.checked()
    if checkpoint is None:
        raise ConfigError("there are no weights to predict with: name a checkpoint beside the config")
    return cfg, checkpoint


def _shapes(inputs: Tensor | Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """The shapes of the inputs for one image, of which augmented predictions have several."""
    return tuple(tuple(one.shape) for one in ([inputs] if isinstance(inputs, Tensor) else inputs))


def _is_image(images: Any) -> bool:
    if isinstance(images, str | Path):
        return not os.path.isdir(images)
    return isinstance(images, Image.Image | np.ndarray)


def _unfolded(images: Iterable[ImageSource]) -> Iterator[ImageSource | DataError]:
    """Images, with those of a folder in its place, and an error in the place of what is neither."""
    try:
        items = iter(images)
    except (TypeError, ValueError):  # a file that is closed raises the second
        raise DataError(f"{_TAKEN}, or a list of them, and no {type(images).__name__}") from None
    for number, image in enumerate(items, 1):
        if isinstance(image, str) and not image:  # Path would make the current folder of it
            yield DataError("the path of an image is empty: name a file or a folder")
        elif isinstance(image, str | Path):
            try:
                yield from find_images(Path(image)) if os.path.isdir(image) else [image]
            except DataError as error:
                yield error
        elif isinstance(image, Image.Image | np.ndarray):
            yield image
        else:
            yield DataError(f"image number {number} is a {type(image).__name__}: {_TAKEN}")
