"""What OpenMMLab's packages say that tells a user nothing is left out, and all else that they say is not."""

import subprocess
import sys
import warnings

import mmengine.logging
import pytest

from ssm_train.compat import quiet

pytestmark = [pytest.mark.needs("mmdet"), pytest.mark.needs("mmseg")]
# Everything that gave such lines in trainings, tests and predictions, in the order of a run.
RUN = """
import numpy as np, torch
from ssm_train.runtime import config
import mmdet.datasets, mmdet.evaluation, mmseg.datasets
from mmdet.models.task_modules import MlvlPointGenerator
from mmseg.models.losses import CrossEntropyLoss
from ssm_train.tasks.detection import DetectionVisualizer
from ssm_train.tasks.segmentation import FastFCNHead, SegmentationMetric
CrossEntropyLoss()
SegmentationMetric()
FastFCNHead(in_channels=4, channels=4, num_classes=2)
MlvlPointGenerator([8]).grid_priors([(2, 2)], device="cpu")
pictures = DetectionVisualizer()
pictures.set_image(np.zeros((8, 8, 3), np.uint8))
pictures.draw_bboxes(np.array([[0.0, 0.0, 8.0, 8.0]]))
pictures.draw_polygons([np.array([[0.0, 0.0], [8.0, 0.0], [8.0, 8.0]])])
"""


def test_a_run_says_nothing_of_this_kind():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("text", "module", "is_shown", "kind"),
    [
        ("faster_coco_eval is not installed, …", "mmdet.evaluation.metrics.faster_coco_metric", False, UserWarning),
        ("faster_coco_eval is not installed, …", "somebody.metrics", True, UserWarning),
        ("another word", "mmdet.evaluation.metrics.faster_coco_metric", True, UserWarning),
        ("Warning: The bbox is out of bounds, …", "mmengine.visualization.visualizer", False, UserWarning),
        ("Warning: The text is out of bounds, …", "mmengine.visualization.visualizer", True, UserWarning),
        ("Mean of empty slice", "mmseg.evaluation.metrics.iou_metric", False, RuntimeWarning),
        ("Mean of empty slice", "somebody.metrics", True, RuntimeWarning),
    ],
)
def test_a_warning_is_left_out_by_its_text_and_its_module(text, module, is_shown, kind):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet.leave_out()
        warnings.warn_explicit(text, kind, "file.py", 1, module=module, registry={})
    assert [str(one.message) for one in shown] == [text] * is_shown


def test_lines_without_a_logger_are_printed_from_information_on(capsys):
    quiet.leave_out()
    mmengine.logging.print_log("for debugging", level=10)
    mmengine.logging.print_log("for users")
    mmengine.logging.print_log("for users, too", None, 30)
    assert capsys.readouterr().out.splitlines() == ["for users", "for users, too"]
