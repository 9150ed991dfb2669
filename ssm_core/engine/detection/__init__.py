"""What detection needs beyond mmdet. Configs name these classes by their full path, so that only they import mmdet."""

from ssm_core.engine.detection.dataset import CocoInstances
from ssm_core.engine.detection.metric import CocoInstanceMetric
from ssm_core.engine.detection.roi_extractor import Float32RoIExtractor
from ssm_core.engine.detection.visualizer import DetectionVisualizer

__all__ = ["CocoInstanceMetric", "CocoInstances", "DetectionVisualizer", "Float32RoIExtractor"]
