"""Hooks for every task, one in each file."""

from ssm_train.runtime.hooks.checkpoint import AtomicCheckpointHook
from ssm_train.runtime.hooks.class_report import ClassReportHook
from ssm_train.runtime.hooks.curves import CurvesHook
from ssm_train.runtime.hooks.iteration_seed import IterationSeedHook
from ssm_train.runtime.hooks.non_finite import NonFiniteHook
from ssm_train.runtime.hooks.timed_checkpoint import TimedCheckpointHook
from ssm_train.runtime.hooks.unreadable import UnreadableImagesHook

__all__ = [
    "AtomicCheckpointHook",
    "ClassReportHook",
    "CurvesHook",
    "IterationSeedHook",
    "NonFiniteHook",
    "TimedCheckpointHook",
    "UnreadableImagesHook",
]
