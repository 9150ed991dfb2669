"""Figures beside those of the metrics at the end of a test, from whatever takes a network and its tokenizer."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS, TASK_UTILS


@HOOKS.register_module()
class ExtraEvaluationHook(Hook):
    """Adds a test suite's figures to those of the test, such as lm-evaluation-harness's.

    Args:
        evaluate: config of a callable that takes the network and the tokenizer of the test set, and returns figures by
            name; an empty result adds nothing.
    """

    def __init__(self, evaluate: dict):
        self.evaluate = evaluate

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Evaluate in the main process."""
        tokenizer = getattr(runner.test_dataloader.dataset, "tokenizer", None)
        if tokenizer is None:
            raise ConfigError("default_hooks.harness is for language models: this test set has no tokenizer")
        if is_main_process() and metrics is not None:
            metrics |= TASK_UTILS.build(self.evaluate)(runner.bare_model.backbone, tokenizer)
