"""The part of a visualizer that draws a sample: what is annotated beside what is predicted."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.structures import BaseDataElement
from PIL import Image

from ssm_train.tasks.drawing.text import beside, captioned


class SideBySide:
    """A base class to put before a visualizer of mmdet or mmseg, whose own drawing it replaces.

    Theirs buries small images under names, and mmdet draws masks in other colours in each run.
    """

    dataset_meta: dict[str, Any]

    @property
    def palette(self) -> Sequence[Sequence[int]] | None:
        """The colours that the data come with; None if there are none."""
        found = self.dataset_meta.get("palette")
        return None if isinstance(found, str) else found  # mmdet's inferencer writes the name of a palette here

    @abstractmethod
    def draw_part(self, image: np.ndarray, sample: BaseDataElement, predicted: bool, named: bool) -> Image.Image | None:
        """Draw the annotation or the prediction of a sample.

        Args:
            image: ``[H, W, 3]`` uint8.
            sample: the sample.
            predicted: whether the prediction is drawn, rather than the annotation.
            named: whether names of classes are written.

        Returns:
            The picture; None if the sample has no such part.
        """

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3], 0 … 255
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw a sample, and pass the picture to a file, a window or the backends.

        The arguments are those of mmdet and of mmseg.

        Args:
            name: name of the picture.
            image: the image.
            data_sample: the sample; None for the image alone.
            draw_gt: whether to draw the annotation. If both are drawn, they stand side by side.
            draw_pred: whether to draw the prediction.
            show: whether to open a window with the picture, in place of passing it to the backends.
            wait_time: seconds that the window stays open; 0 until a key is pressed.
            out_file: the file to write, whose folder is made, in place of passing the picture to the backends.
            pred_score_thr: predicted objects with a lower score are left out.
            step: number of completed iterations.
            with_labels: whether names of classes are written, in the picture or in a legend.
        """
        image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
        parts = []
        for wanted, predicted, words in ((draw_gt, False, "annotated"), (draw_pred, True, "predicted")):
            if wanted and data_sample is not None:
                chosen = _sure(data_sample.cpu(), pred_score_thr) if predicted else data_sample.cpu()
                if (picture := self.draw_part(image, chosen, predicted, with_labels)) is not None:
                    parts.append((words, picture))
        if len(parts) > 1:
            drawn = beside([captioned(picture, words) for words, picture in parts])
        else:
            drawn = np.array(parts[0][1]) if parts else image
        self.set_image(drawn)  # type: ignore[attr-defined]  a visualizer's
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)  # type: ignore[attr-defined]
        if out_file is not None:
            Path(out_file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(out_file)
        elif not show:
            self.add_image(name, drawn, step)  # type: ignore[attr-defined]


def _sure(sample: BaseDataElement, lowest: float) -> BaseDataElement:
    """The sample without predicted objects whose score is too low."""
    found = sample.get("pred_instances")
    if found is None or "scores" not in found or lowest <= 0:
        return sample
    kept = sample.new()
    kept.set_field(found[found.scores >= lowest], "pred_instances")
    return kept
