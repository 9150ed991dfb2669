"""A hook that counts the training images of every class, for weights that balance the classes."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.data.classes import class_counts
from ssm_train.registry import HOOKS


@HOOKS.register_module()
class ClassWeightHook(Hook):
    """Sets the weights of the loss where the config has ``model.class_weight="balanced"``, and logs them."""

    priority = "LOW"  # after the check of the number of classes

    def before_train(self, runner: Runner) -> None:
        """Count the images.

        Raises:
            ConfigError: the dataset does not know the classes of its images.
        """
        model = runner.bare_model
        if getattr(model, "balanced", False):
            dataset = runner.train_dataloader.dataset
            model.balance(class_counts(dataset), len(dataset))
            weights = zip(dataset.metainfo["classes"], model.class_weight.tolist(), strict=True)
            runner.logger.info(f"weights of the classes: {', '.join(f'{name} {w:.4g}' for name, w in weights)}")
