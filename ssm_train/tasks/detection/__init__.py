"""What detection needs besides mmdet. Configs name these classes by full path, so that others need no mmdet."""

from ssm_train.tasks.detection.augmented import AugmentedDetector
from ssm_train.tasks.detection.batches import stack_objects
from ssm_train.tasks.detection.dataset import CocoInstances
from ssm_train.tasks.detection.fixed_size import FixedSize
from ssm_train.tasks.detection.metric import CocoInstanceMetric
from ssm_train.tasks.detection.preprocessor import AnyDetDataPreprocessor
from ssm_train.tasks.detection.roi_extractor import Float32RoIExtractor
from ssm_train.tasks.detection.tiled import TiledDetector
from ssm_train.tasks.detection.two_stage.detector import FastTwoStageDetector
from ssm_train.tasks.detection.two_stage.roi_heads import FastCascadeRoIHead, FastRoIHead
from ssm_train.tasks.detection.two_stage.rpn import FastRPNHead
from ssm_train.tasks.detection.visualizer import DetectionVisualizer

__all__ = [
    "AnyDetDataPreprocessor",
    "AugmentedDetector",
    "CocoInstanceMetric",
    "CocoInstances",
    "DetectionVisualizer",
    "FastCascadeRoIHead",
    "FastRPNHead",
    "FastRoIHead",
    "FastTwoStageDetector",
    "FixedSize",
    "Float32RoIExtractor",
    "TiledDetector",
    "stack_objects",
]
