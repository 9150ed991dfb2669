"""A hook that adds the scores of a test suite to the metrics of a test."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS, TASK_UTILS


@HOOKS.register_module()
class ExtraEvaluationHook(Hook):
    """Runs a test suite at the end of a test, such as lm-evaluation-harness, and adds its scores to the metrics.

    Args:
        evaluate: config of a callable that takes the network and the tokenizer of the test set, and returns scores by
            name. An empty result adds nothing.
    """

    def __init__(self, evaluate: dict):
        self.evaluate = evaluate

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Evaluate in the main process.

        Raises:
            ConfigError: the test set has no tokenizer.
        """
        tokenizer = getattr(runner.test_dataloader.dataset, "tokenizer", None)
        if tokenizer is None:
            raise ConfigError("default_hooks.harness is for language models: this test set has no tokenizer")
        if is_main_process() and metrics is not None:
            metrics |= TASK_UTILS.build(self.evaluate)(runner.bare_model.backbone, tokenizer)
