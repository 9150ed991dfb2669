"""A hook that catches a model whose outputs do not match the classes of the data, before the first batch is loaded."""

from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS
from ssm_train.runtime.runner import Runner
from ssm_train.tasks import image_task_of


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compares the number of classes of each dataset with the outputs of the model.

    The task of the config says which outputs count classes, see :meth:`.ImageTask.class_counts`.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data and the validation data.

        Raises:
            ConfigError: the model has another number of outputs than a dataset has classes, or the two datasets have
                different classes.
        """
        self._check(runner, "train", runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, "val", runner.val_dataloader)
            train, val = (
                loader.dataset.metainfo["classes"] for loader in (runner.train_dataloader, runner.val_dataloader)
            )
            if train != val:
                only = sorted(set(train) ^ set(val))
                raise ConfigError(f"training and validation data differ in their classes: {', '.join(only[:5])}")

    def before_test(self, runner: Runner) -> None:
        """Check the test data.

        Raises:
            ConfigError: the model has another number of outputs than the dataset has classes.
        """
        self._check(runner, "test", runner.test_dataloader)

    def _check(self, runner: Runner, split: str, loader: DataLoader) -> None:
        classes = len(loader.dataset.metainfo["classes"])
        for key, outputs in image_task_of(runner.cfg).class_counts(runner.bare_model).items():
            if outputs != classes:
                raise ConfigError(
                    f"the {split} dataset has {classes} classes and the model {outputs} outputs: set {key}={classes}"
                )
