"""A hook that shows a model its training data before the first iteration."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.registry import HOOKS


@HOOKS.register_module()
class ModelStartHook(Hook):
    """Lets a classifier count its training images and load its teacher, if its config asks for that."""

    priority = "LOW"  # after the check of the number of classes

    def before_train(self, runner: Runner) -> None:
        """Call the model's ``start``, if it has one.

        Raises:
            ConfigError: see :meth:`.ImageClassifier.start`.
            CheckpointError: see :meth:`.ImageClassifier.start`.
        """
        start = getattr(runner.bare_model, "start", None)
        if start is not None:
            start(runner.train_dataloader.dataset)
