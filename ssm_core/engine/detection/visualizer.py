"""Where scalars go, and how detections are drawn."""

from mmdet.visualization import DetLocalVisualizer

from ssm_core.engine.visualizer import BackendsBySwitch


class DetectionVisualizer(BackendsBySwitch, DetLocalVisualizer):
    """mmdet's visualizer with :class:`~ssm_core.engine.visualizer.BackendsBySwitch`'s arguments."""
