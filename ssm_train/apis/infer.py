"""Trained models on images from files: predictions as plain data, and drawn."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ssm_core.errors import DataError
from ssm_train.tasks import image_task_of


class Predictor:
    """A trained model that takes image files.

    Args:
        cfg: the config that it was trained with.
        checkpoint: a file of tools/train.py or tools/convert_checkpoint.py.
        device: where to run it; a GPU by default, if there is one.
        min_score: detected objects that are less certain are left out.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
        ConfigError: the config cannot be built, has no test data, or is none of images.
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
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __call__(self, path: Path, out: Path) -> dict[str, Any]:
        """Predict for one image and write pictures.

        Args:
            path: the image.
            out: what the pictures are called, without a suffix.

        Returns:
            The prediction as plain data.

        Raises:
            DataError: the image cannot be read.
        """
        prediction = self.task.predict(self.model, self.task.batch(path))[0]
        prediction = self.task.select(prediction, self.min_score)
        out.parent.mkdir(parents=True, exist_ok=True)
        self.task.draw(path, prediction, self.labels, out)
        return self.task.as_data(prediction, self.labels)


def predict_all(
    predictor: Predictor, images: Sequence[Path], root: Path, out: Path
) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """Predict for every image of a folder and draw each.

    Args:
        predictor: the model.
        images: the files.
        root: the folder that they are named relative to.
        out: where the pictures go, in the same sub-folders.

    Yields:
        The image's name, and its prediction or why it cannot be read.
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
