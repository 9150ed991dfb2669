"""What segmentation needs beyond mmseg. Configs name these by their full path, so that only they import mmseg."""

from ssm_train.tasks.segmentation.batches import StackedSegDataPreProcessor, stack_samples
from ssm_train.tasks.segmentation.heads import FastFCNHead, FastUPerHead
from ssm_train.tasks.segmentation.visualizer import SegmentationVisualizer

__all__ = ["FastFCNHead", "FastUPerHead", "SegmentationVisualizer", "StackedSegDataPreProcessor", "stack_samples"]
