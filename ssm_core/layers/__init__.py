"""The building blocks of the backbones: stem, downsampling, mixer, block, head and the base of the scan modules."""

from .convolution import MIN_SIDE, Downsample, Stem, to_channels_first, to_channels_last
from .head import ClassifierHead, GlobalPool
from .mixer import Block, ScanMixer
from .record import record_scans
from .ssm import SelectiveInputs, SelectiveSSM
from .stage import Stage

__all__ = [
    "MIN_SIDE",
    "Block",
    "ClassifierHead",
    "Downsample",
    "GlobalPool",
    "ScanMixer",
    "SelectiveInputs",
    "SelectiveSSM",
    "Stage",
    "Stem",
    "record_scans",
    "to_channels_first",
    "to_channels_last",
]
