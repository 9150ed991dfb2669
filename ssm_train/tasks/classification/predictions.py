"""A classifier's predictions for a test set as a file."""

import json
from collections.abc import Sequence

import numpy as np

from ssm_train.runtime.class_report import as_csv
from ssm_train.runtime.files import write_text_atomically
from ssm_train.tasks.predictions import PredictionWriter


class ScoreWriter(PredictionWriter):
    """Writes the true class, the predicted class and the probability of every class of all images, by CSV or JSON.

    Args:
        out: a file ``.csv`` or ``.json``.
    """

    suffixes = (".csv", ".json")

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store index, label and probabilities of every image."""
        for sample in data_samples:
            scores = sample["scores"].softmax(0).cpu().numpy()
            self.results.append((int(sample["index"]), int(sample["label"]), scores))

    def write(self, results: list[tuple[int, int, np.ndarray]]) -> None:
        """Write a row for every image, in the order of the dataset."""
        classes = list(self.dataset.metainfo["classes"])
        rows = []
        for index, label, scores in sorted(results, key=lambda row: row[0]):
            probabilities = [float(f"{score:.6g}") for score in scores]
            rows.append((self.dataset.name(index), classes[label], classes[int(scores.argmax())], probabilities))
        if self.out.suffix == ".csv":
            head = ["image", "label", "predicted", *(f"score {name}" for name in classes)]
            text = as_csv([head, *([image, label, found, *scores] for image, label, found, scores in rows)])
        else:
            keys = ("image", "label", "predicted", "scores")
            content = {"classes": classes, "images": [dict(zip(keys, row, strict=True)) for row in rows]}
            text = json.dumps(content, ensure_ascii=False)
        write_text_atomically(self.out, text)
