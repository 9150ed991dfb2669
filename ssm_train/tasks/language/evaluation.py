"""Running tasks of lm-evaluation-harness from Python, as tree-ssm test does."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from ssm_core.errors import ConfigError, MissingPackageError

# The tasks of this project, which need no download.
TASKS = Path(__file__).parent / "harness_tasks"
LOCAL = {"response_choice"}


class Harness:
    """Runs tasks of lm-evaluation-harness on a network. It imports the harness only if there is a task.

    Args:
        tasks: name of a task, or names of several, such as the paper's piqa, arc_easy, sst2, winogrande,
            lambada_openai, race and openbookqa, or ``response_choice``, which reads a local file.
        batch_size: number of requests in a batch.
        max_length: largest number of tokens of a request. A longer prompt loses its beginning.
        limit: number of documents of each task; None for all.
        num_fewshot: number of examples in each prompt; None for the number that the task sets.
        path: file that ``response_choice`` reads.
    """

    def __init__(
        self,
        tasks: str | Sequence[str] = (),
        batch_size: int = 16,
        max_length: int = 2048,
        limit: int | None = None,
        num_fewshot: int | None = None,
        path: str | None = None,
    ) -> None:
        self.tasks = [tasks] if isinstance(tasks, str) else list(tasks)
        self.batch_size = batch_size
        self.max_length = max_length
        self.limit = limit
        self.num_fewshot = num_fewshot
        self.path = path

    def __call__(self, network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        """Run the tasks.

        Args:
            network: the language model.
            tokenizer: the tokenizer of the model.

        Returns:
            Scores by names of the form ``task/metric``.

        Raises:
            MissingPackageError: lm-evaluation-harness is not installed.
            ConfigError: a task is unknown, or ``response_choice`` has no file.
        """
        if not self.tasks:
            return {}
        if "response_choice" in self.tasks and not Path(self.path or "").is_file():
            raise ConfigError(
                f"the task response_choice reads a local file of rows: set path to one, {self.path!r} is no file"
            )
        try:
            from lm_eval import simple_evaluate
            from lm_eval.tasks import TaskManager

            from .harness import MambaTreeLM
        except ModuleNotFoundError as error:
            raise MissingPackageError(str(error.name), "a task of lm-evaluation-harness") from error
        # Listing the harness's own tasks takes longer than running a small one. They are left out if not needed.
        manager = TaskManager(
            include_path=str(TASKS),
            include_defaults=not set(self.tasks) <= LOCAL,
            metadata={} if self.path is None else {"path": self.path},
        )
        if unknown := [task for task in self.tasks if not manager.match_tasks([task])]:
            raise ConfigError(f"lm-evaluation-harness has no task {unknown[0]!r}; `lm_eval ls tasks` lists them")
        model = MambaTreeLM(network, tokenizer, batch_size=self.batch_size, max_length=self.max_length)
        report = simple_evaluate(
            model, tasks=self.tasks, task_manager=manager, num_fewshot=self.num_fewshot, limit=self.limit,
            log_samples=False, bootstrap_iters=0,
        )  # fmt: skip
        return {
            f"{task}/{name.removesuffix(',none')}": float(value)
            for task, figures in report["results"].items()
            for name, value in figures.items()
            if isinstance(value, int | float) and "stderr" not in name and "," in name
        }
