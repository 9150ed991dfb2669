"""mmdet's visualizer with switches for its backends."""

from mmdet.visualization import DetLocalVisualizer

from ssm_train.runtime.trackers.visualizer import BackendsBySwitch


class DetectionVisualizer(BackendsBySwitch, DetLocalVisualizer):
    """mmdet's visualizer with the arguments of :class:`~ssm_train.runtime.trackers.visualizer.BackendsBySwitch`."""
