"""What segmentation needs beyond mmseg. Configs name these by their full path, so that only they import mmseg."""

from ssm_core.engine.segmentation.batches import StackedSegDataPreProcessor, stack_samples
from ssm_core.engine.segmentation.heads import FastFCNHead, FastUPerHead
from ssm_core.engine.segmentation.visualizer import SegmentationVisualizer

__all__ = ["FastFCNHead", "FastUPerHead", "SegmentationVisualizer", "StackedSegDataPreProcessor", "stack_samples"]
