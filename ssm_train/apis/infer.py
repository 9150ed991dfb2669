"""Predictions for image files as pictures and as JSON."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ssm_core.errors import ConfigError, DataError
from ssm_core.writing import WriteError
from ssm_train.apis import cli
from ssm_train.apis.predictor import Predictor
from ssm_train.data.images import find_images
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import check_folder, write_text_atomically


class Inferred(NamedTuple):
    """What came of running a model on images.

    Attributes:
        predictions: name of every image to its prediction as plain data.
        unreadable: number of the images that could not be read.
        empty: number of the images without an object of the lowest score that is kept, or of a higher one. It is 0 for
            tasks without separate objects.
        highest: the highest score in the images that ``empty`` counts; None if there is no score.
    """

    predictions: dict[str, dict[str, Any]]
    unreadable: int
    empty: int
    highest: float | None


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


def infer(predictor: Predictor, place: Path, out: Path, say: Callable[[str], None] = cli.say) -> Inferred:
    """Predict for an image or for all images of a folder, draw each, and write ``predictions.json``.

    Pictures go to the same sub-folders as the images.

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
    stems = Counter(path.with_suffix("") for path in images)
    predictions, unreadable, empty = {}, 0, 0
    below: list[float] = []  # scores of objects in images of which no object is kept
    try:
        for path, found in predictor.predict(images):
            name = path.relative_to(root)
            # Where a folder has a.jpg and a.png, the suffix stays in the names.
            stem = name.with_suffix("") if stems[path.with_suffix("")] == 1 else name
            try:
                if isinstance(found, DataError):
                    raise found
                scores = predictor.task.scores(found)
                predictions[str(name)] = _drawn(predictor, path, found, out / stem)
                if scores is not None and max(scores, default=-1.0) < predictor.min_score:
                    empty += 1
                    below += scores
            except DataError as error:
                if len(images) == 1:
                    raise
                unreadable += 1
                say(f"skipped: {error}")
        if not predictions:
            raise DataError(f"not one of the {len(images)} images in {place} could be used: there are no predictions")
        write_text_atomically(out / "predictions.json", json.dumps(predictions, indent=1, ensure_ascii=False))
    except WriteError as error:
        done = f"the pictures of {len(predictions)} of {len(images)} images are in {out}, and no new predictions.json"
        raise WriteError(f"{error}; {done}", error.full) from error
    return Inferred(predictions, unreadable, empty, max(below, default=None))


def _drawn(predictor: Predictor, path: Path, found: Any, out: Path) -> dict[str, Any]:
    """Draw the objects of a prediction that are sure enough, and return them as plain data."""
    found = predictor.task.select(found, predictor.min_score)
    predictor.task.draw(path, found, predictor.labels, out)
    return predictor.task.as_data(found, predictor.labels)
