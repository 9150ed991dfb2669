"""What segmentation needs beyond mmseg. Configs name these by their full path, so that only they import mmseg."""

from ssm_core.engine.segmentation.visualizer import SegmentationVisualizer

__all__ = ["SegmentationVisualizer"]
