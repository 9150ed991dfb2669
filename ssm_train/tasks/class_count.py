"""A hook that compares the classes of checkpoints, data and models by name, before the first batch is loaded."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError
from ssm_train.data.classes import differ, differing, listed, number_alike
from ssm_train.data.workers import StoppableLoader
from ssm_train.registry import HOOKS
from ssm_train.runtime.runner import Runner
from ssm_train.tasks import image_task_of


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Sees to it that a number stands for the same class in the model, its checkpoint and all data.

    A run goes on with the classes of its checkpoint, and a test has them, too. Validation data have the classes of the
    training data, and joined data those of their first part. Data with the same classes in another order are
    renumbered, and data with other classes refused. A training that starts from the weights of another one takes over
    its order if the classes are the same.

    The number of classes of each dataset is compared with the outputs of the model. The task of the config says which
    outputs count classes, see :meth:`.ImageTask.class_counts`.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data and the validation data, and renumber them if need be.

        Raises:
            ConfigError: the model has another number of outputs than a dataset has classes, or two of checkpoint,
                training data and validation data have different classes.
        """
        loader, words = runner.train_dataloader, "the training data"
        self._join(runner, loader, words)
        trained = self._trained(runner)
        if runner.resumed_from is not None:
            self._settle(runner, loader, words, trained, "the run to resume")
        elif trained is not None and _is_same_kind(runner):
            own, file = _classes(loader), runner.loaded_from
            if sorted(trained) == sorted(own):
                self._settle(runner, loader, words, trained, file)
            else:
                kept = len(trained) == len(own)
                runner.logger.warning(
                    f"{file} was trained on other classes ({listed(trained)}) than this training has "
                    f"({listed(own)}): the layers that tell them apart "
                    + ("go on from its weights, since the number is the same" if kept else "start anew")
                )
        self._check_count(runner, "train", loader)
        if runner.val_loop is not None:
            self._join(runner, runner.val_dataloader, "the validation data")
            self._settle(runner, runner.val_dataloader, "the validation data", _classes(loader), words)
            self._check_count(runner, "val", runner.val_dataloader)
            _tell(runner, runner.val_dataloader, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Check the test data, and renumber them if need be.

        Raises:
            ConfigError: the model has another number of outputs than the dataset has classes, or the dataset has other
                classes than the checkpoint.
        """
        loader = runner.test_dataloader
        self._join(runner, loader, "the test data")
        self._settle(runner, loader, "the test data", self._trained(runner), f"the checkpoint {runner.loaded_from}")
        self._check_count(runner, "test", loader)
        _tell(runner, loader, runner.test_evaluator)

    @staticmethod
    def _join(runner: Runner, loader: DataLoader, words: str) -> None:
        """Number the classes of joined datasets alike."""
        number_alike(loader.dataset, image_task_of(runner.cfg).renumber_bare, words)

    @staticmethod
    def _trained(runner: Runner) -> Sequence[str] | None:
        """The classes of the checkpoint that was loaded; None if there is none, or it does not name them."""
        return (runner.loaded_meta.get("dataset_meta") or {}).get("classes") or None

    @staticmethod
    def _settle(runner: Runner, loader: DataLoader, words: str, expected: Sequence[str] | None, source: str) -> None:
        """Number the classes of a dataset as others are."""
        own = _classes(loader)
        if expected is None or own == list(expected):
            return
        if differ(own, expected):
            raise ConfigError(
                f"{words} have the classes {listed(own)} and {source} has {listed(expected)}: they must be the same"
                f"{differing(own, expected)}"
            )
        image_task_of(runner.cfg).renumber(loader.dataset, expected)
        if isinstance(loader, StoppableLoader):
            loader.stop_workers()  # they have the numbers of before
        runner.logger.warning(
            f"{words} have the classes of {source} in another order ({listed(own)}), and are numbered like those "
            f"({listed(expected)})"
        )

    @staticmethod
    def _check_count(runner: Runner, split: str, loader: DataLoader) -> None:
        classes = len(_classes(loader))
        counts = image_task_of(runner.cfg).class_counts(runner.bare_model)
        wrong = {key: outputs for key, outputs in counts.items() if outputs != classes}
        if wrong:
            numbers = " and ".join(map(str, sorted(set(wrong.values()))))
            settings = " ".join(f"{key}={classes}" for key in wrong)
            raise ConfigError(
                f"the {split} dataset has {classes} classes and the model {numbers} outputs: set {settings}"
            )


def _classes(loader: DataLoader) -> list[str]:
    return list(loader.dataset.metainfo["classes"])


def _is_same_kind(runner: Runner) -> bool:
    """Whether the checkpoint is of a model of the same type, as far as it says so."""
    trained, own = ((config or {}).get("type") for config in (runner.loaded_meta.get("model"), runner.cfg.model))
    return not isinstance(trained, str) or trained.rpartition(".")[2] == str(own).rpartition(".")[2]


def _tell(runner: Runner, loader: DataLoader, evaluator: object) -> None:
    """Tell metrics and visualizer the order of the classes."""
    evaluator.dataset_meta = runner.visualizer.dataset_meta = loader.dataset.metainfo
