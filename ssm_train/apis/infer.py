"""Trained models on images from files: predictions as plain data, and drawn."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from ssm_core.errors import ConfigError, DataError, InputError
from ssm_core.writing import WriteError
from ssm_train.apis import cli
from ssm_train.apis.devices import usable_device
from ssm_train.data.images import find_images
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import check_folder, write_text_atomically
from ssm_train.tasks import image_task_of


class Inferred(NamedTuple):
    """What came of running a model on images.

    Attributes:
        predictions: name of every image to its prediction as plain data.
        unreadable: number of the images that could not be read.
    """

    predictions: dict[str, dict[str, Any]]
    unreadable: int


class Predictor:
    """A trained model that takes image files.

    Args:
        cfg: the config that it was trained with.
        checkpoint: a file of tree-ssm train or tree-ssm convert.
        device: where to run it; a GPU by default, if there is one.
        min_score: detected objects with a lower score are left out.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
        ConfigError: the config cannot be built, has no test data, or has a model of text.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path,
        device: torch.device | str | None = None,
        min_score: float = 0.3,
    ):
        self.task = image_task_of(cfg)
        model, meta = self.task.load(checkpoint)
        self.labels = self.task.labels(meta)
        self.min_score = min_score
        self.model = model.to(usable_device(device))

    def __call__(self, path: Path, out: Path) -> dict[str, Any]:
        """Predict for one image and write pictures.

        Args:
            path: the image.
            out: path of the pictures without a suffix.

        Returns:
            The prediction as plain data.

        Raises:
            DataError: the image cannot be read, or its size is none that the network takes.
        """
        try:
            prediction = self.task.predict(self.model, self.task.batch(path))[0]
        except InputError as error:
            raise DataError(f"cannot use the image {path}: {error}") from error
        prediction = self.task.select(prediction, self.min_score)
        self.task.draw(path, prediction, self.labels, out)
        return self.task.as_data(prediction, self.labels)


def inferencer_config(path: str | Path) -> Config:
    """Read a config for mmdet's ``DetInferencer`` and mmseg's ``MMSegInferencer``.

    They look for mmcv's steps that load images and label maps. These take the place of this project's steps, so that
    images have three channels of eight bits.

    Args:
        path: the config file.

    Raises:
        ConfigError: see :func:`.load_config`; or the images of the config have other channels.
    """
    cfg = load_config(path)
    steps = cfg.test_dataloader.dataset.pipeline
    for place, step in enumerate(steps):
        if step["type"] == "ssm_train.LoadImage":
            if step.get("channels", 3) != 3 or step.get("value_range"):
                raise ConfigError(f"{path} reads images that mmcv does not read: use tree-ssm infer")
            steps[place] = {"type": "LoadImageFromFile"}
        elif step["type"] == "ssm_train.LoadLabelMap":
            steps[place] = {"type": "LoadAnnotations"}
    return cfg


def predict_all(
    predictor: Predictor, images: Sequence[Path], root: Path, out: Path
) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """Predict for every image of a folder and draw each.

    Args:
        predictor: the model.
        images: the files.
        root: a folder above them. Their names are relative to it.
        out: where the pictures go, in the same sub-folders as the images.

    Yields:
        The image's name, and its prediction or the error if it cannot be read.
    """
    stems = Counter(path.with_suffix("") for path in images)
    for path in images:
        name = path.relative_to(root)
        # Where a folder has a.jpg and a.png, the suffix stays in the names.
        stem = name.with_suffix("") if stems[path.with_suffix("")] == 1 else name
        try:
            yield str(name), predictor(path, out / stem)
        except DataError as error:
            yield str(name), error


def infer(predictor: Predictor, place: Path, out: Path, say: Callable[[str], None] = cli.say) -> Inferred:
    """Predict for an image or for all images of a folder, draw each, and write ``predictions.json``.

    Args:
        predictor: the model.
        place: an image, or a folder of images.
        out: where pictures and predictions go.
        say: gets a line about every image of a folder that cannot be read.

    Raises:
        DataError: there are no images, or the only one cannot be read.
        WriteError: a picture or the predictions cannot be written.
    """
    check_folder(out)
    images = find_images(place)
    root = place if place.is_dir() else place.parent
    predictions, unreadable = {}, 0
    try:
        for name, found in predict_all(predictor, images, root, out):
            if not isinstance(found, DataError):
                predictions[name] = found
            elif len(images) == 1:
                raise found
            else:
                unreadable += 1
                say(f"skipped: {found}")
        write_text_atomically(out / "predictions.json", json.dumps(predictions, indent=1, ensure_ascii=False))
    except WriteError as error:
        done = f"the pictures of {len(predictions)} of {len(images)} images are in {out}, and no new predictions.json"
        raise WriteError(f"{error}; {done}", error.full) from error
    return Inferred(predictions, unreadable)
