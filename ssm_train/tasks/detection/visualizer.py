"""Where scalars go, and how detections are drawn."""

from mmdet.visualization import DetLocalVisualizer

from ssm_train.runtime.trackers.visualizer import BackendsBySwitch


class DetectionVisualizer(BackendsBySwitch, DetLocalVisualizer):
    """mmdet's visualizer with :class:`~ssm_train.runtime.trackers.visualizer.BackendsBySwitch`'s arguments."""
