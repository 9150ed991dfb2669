"""A segmentor's predictions for a test set as label maps."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ssm_train.data.images import write_png
from ssm_train.tasks.predictions import PredictionWriter
from ssm_train.tasks.segmentation.labels import label_image, labels_of_files


class LabelMapWriter(PredictionWriter):
    """Writes a label map of every image as a PNG, in the same sub-folders as the images.

    Labels are numbered like those of the data: where the dataset has ``reduce_zero_label``, the first class is 1.

    Args:
        out: a folder.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the label maps of a batch. Every process writes its own."""
        for sample in data_samples:
            path = sample["img_path"]
            labels = sample["pred_sem_seg"]["data"].squeeze(0).long().cpu().numpy()
            labels = labels_of_files(labels, self.dataset.metainfo.get("label_map"))
            labels = labels + bool(sample.get("reduce_zero_label"))
            write_png(self.out / self._names[path], label_image(labels))
            self.results.append(path)

    def write(self, results: list[str]) -> None:
        """Do nothing, since everything is written."""

    @cached_property
    def _names(self) -> dict[str, Path]:
        """Path of the label map below ``out`` by that of the image."""
        paths = [self.dataset.get_data_info(index)["img_path"] for index in range(len(self.dataset))]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        stems = Counter(os.path.splitext(path)[0] for path in dict.fromkeys(paths))
        # Where a folder has a.jpg and a.png, the suffix stays in the names.
        return {
            path: Path(os.path.relpath(path if stems[stem] > 1 else stem, root) + ".png")
            for path in paths
            for stem in (os.path.splitext(path)[0],)
        }
