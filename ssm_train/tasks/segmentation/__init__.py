"""What segmentation needs besides mmseg. Configs name these classes by full path, so that others need no mmseg."""

from ssm_train.tasks.segmentation.augmented import AugmentedSegmentor
from ssm_train.tasks.segmentation.batches import StackedSegDataPreProcessor, stack_samples
from ssm_train.tasks.segmentation.dataset import SegmentationFolder
from ssm_train.tasks.segmentation.heads import FastFCNHead, FastUPerHead
from ssm_train.tasks.segmentation.metric import SegmentationMetric
from ssm_train.tasks.segmentation.tiled import TiledSegmentor
from ssm_train.tasks.segmentation.visualizer import SegmentationVisualizer

__all__ = [
    "AugmentedSegmentor",
    "FastFCNHead",
    "FastUPerHead",
    "SegmentationFolder",
    "SegmentationMetric",
    "SegmentationVisualizer",
    "StackedSegDataPreProcessor",
    "TiledSegmentor",
    "stack_samples",
]
