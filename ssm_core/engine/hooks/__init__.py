"""Hooks of the training loop, one a file."""

from ssm_core.engine.hooks.checkpoint import AtomicCheckpointHook
from ssm_core.engine.hooks.class_count import ClassCountHook
from ssm_core.engine.hooks.curves import CurvesHook
from ssm_core.engine.hooks.extra_evaluation import ExtraEvaluationHook
from ssm_core.engine.hooks.iteration_seed import IterationSeedHook
from ssm_core.engine.hooks.non_finite import NonFiniteHook
from ssm_core.engine.hooks.pictures import PicturesHook
from ssm_core.engine.hooks.text_samples import TextSamplesHook
from ssm_core.engine.hooks.unreadable import UnreadableImagesHook

__all__ = [
    "AtomicCheckpointHook",
    "ClassCountHook",
    "CurvesHook",
    "ExtraEvaluationHook",
    "IterationSeedHook",
    "NonFiniteHook",
    "PicturesHook",
    "TextSamplesHook",
    "UnreadableImagesHook",
]
