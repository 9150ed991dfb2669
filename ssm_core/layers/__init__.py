"""The building blocks of the backbones: stem, downsampling, mixer, block, head, norms and the base of the scans."""

from .convolution import MIN_SIDE, Downsample, Stem, to_channels_first, to_channels_last
from .gelu import GELU, gelu
from .head import ClassifierHead, GlobalPool
from .mixer import Block, ScanMixer, fuse_convolutions
from .mlp import FusedMlp, OneOperator, fuse_mlps
from .norm import FusedLayerNorm, GatedNorm, Pending, fuse_norms
from .record import record_scans
from .ssm import SelectiveInputs, SelectiveSSM, apart, norms_and_gates, reads_apart
from .stage import Stage

__all__ = [
    "GELU",
    "MIN_SIDE",
    "Block",
    "ClassifierHead",
    "Downsample",
    "FusedLayerNorm",
    "FusedMlp",
    "GatedNorm",
    "GlobalPool",
    "OneOperator",
    "Pending",
    "ScanMixer",
    "SelectiveInputs",
    "SelectiveSSM",
    "Stage",
    "Stem",
    "apart",
    "fuse_convolutions",
    "fuse_mlps",
    "fuse_norms",
    "gelu",
    "norms_and_gates",
    "reads_apart",
    "record_scans",
    "to_channels_first",
    "to_channels_last",
]
