"""A classifier's predictions for a test set as a file."""

import json
from collections.abc import Sequence

import numpy as np
import torch

from ssm_train.runtime.class_report import as_csv
from ssm_train.runtime.files import write_text_atomically
from ssm_train.tasks.predictions import PredictionWriter

YES = 0.5  # probability from which an image of several classes has one


class ScoreWriter(PredictionWriter):
    """Writes the true class, the predicted class and the probability of every class of all images, by CSV or JSON.

    Where an image can have several classes, their names have ``;`` between them.

    Args:
        out: a file ``.csv`` or ``.json``.
    """

    suffixes = (".csv", ".json")

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store index, label and probabilities of every image."""
        for sample in data_samples:
            scores = sample["probabilities"].cpu().numpy()
            label = sample["label"]
            several = isinstance(label, torch.Tensor) and label.ndim > 0
            own = label.nonzero()[:, 0].tolist() if several else int(label)
            self.results.append((int(sample["index"]), own, scores))

    def write(self, results: list[tuple[int, int | list[int], np.ndarray]]) -> None:
        """Write a row for every image, in the order of the dataset."""
        classes = list(self.dataset.metainfo["classes"])
        rows = []
        for index, label, scores in sorted(results, key=lambda row: row[0]):
            probabilities = [float(f"{score:.6g}") for score in scores]
            if isinstance(label, list):
                true = ";".join(classes[number] for number in label)
                found = ";".join(classes[number] for number in np.flatnonzero(scores >= YES))
            else:
                true, found = classes[label], classes[int(scores.argmax())]
            rows.append((self.dataset.name(index), true, found, probabilities))
        if self.out.suffix == ".csv":
            head = ["image", "label", "predicted", *(f"score {name}" for name in classes)]
            text = as_csv([head, *([image, label, found, *scores] for image, label, found, scores in rows)])
        else:
            keys = ("image", "label", "predicted", "scores")
            content = {"classes": classes, "images": [dict(zip(keys, row, strict=True)) for row in rows]}
            text = json.dumps(content, ensure_ascii=False)
        write_text_atomically(self.out, text)
