"""Catches a head that does not match the data before the first batch does."""

from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS
from ssm_train.runtime.runner import Runner


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
        classes = len(loader.dataset.metainfo["classes"])
        for key, outputs in class_counts(runner.bare_model).items():
            if outputs != classes:
                raise ConfigError(
                    f"the {split} dataset has {classes} classes and the model {outputs} outputs: set {key}={classes}"
                )


def class_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of classes that the heads of a model are made for, by their keys in its config.

    In detectors and segmentors every head has its own, but for the region proposals, which know no classes; an image
    classifier has one.
    """
    heads = {
        f"model.{name}.num_classes": module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, "num_classes", None), int)
        and name.split(".")[0] not in ("", "backbone", "rpn_head")
    }
    return heads or {"model.backbone.num_classes": model.num_classes}
