"""Predictions for a whole test set as files."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from mmengine.evaluator import BaseMetric
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError
from ssm_train.runtime.files import check_file, check_folder


class PredictionWriter(BaseMetric):
    """A metric without figures, which writes the predictions that it is given.

    Args:
        out: a file with one of ``suffixes``, or a folder if there are none. It is replaced.

    Raises:
        ConfigError: the path has another suffix.
        WriteError: it cannot be written to.
    """

    default_prefix = ""
    suffixes: ClassVar[tuple[str, ...]] = ()

    dataset: Dataset  # the test data, set before the test starts

    def __init__(self, out: Path):
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(collect_device="gpu")
        if self.suffixes and out.suffix not in self.suffixes:
            raise ConfigError(f"predictions of this task are a file {' or '.join(self.suffixes)}, and not {out}")
        (check_file if self.suffixes else check_folder)(out)
        self.out = out

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Write the predictions of all processes. There are no figures."""
        self.write(results)
        return {}

    @abstractmethod
    def write(self, results: list) -> None:
        """Write what :meth:`process` has stored in all processes."""
