"""Catches a head that does not match the data before the first batch does."""

from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from ssm_core.engine.errors import ConfigError
from ssm_core.engine.runner import Runner
from ssm_core.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compares the classes of the datasets with the outputs of the model."""

    def before_train(self, runner: Runner) -> None:
        """Check the training data, and the validation data against it."""
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
        """Check the test data."""
        self._check(runner, "test", runner.test_dataloader)

    def _check(self, runner: Runner, split: str, loader: DataLoader) -> None:
        model, classes = runner.bare_model, len(loader.dataset.metainfo["classes"])
        heads = [name for name in ("decode_head", "auxiliary_head") if hasattr(model, name)] or ["backbone"]
        for head in heads:
            outputs = getattr(model, head).num_classes
            if outputs != classes:
                raise ConfigError(
                    f"the {split} dataset has {classes} classes and the model {outputs} outputs: "
                    f"set model.{head}.num_classes={classes}"
                )
