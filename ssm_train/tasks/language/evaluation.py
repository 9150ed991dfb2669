"""lm-evaluation-harness from Python, for tools/test.py: tasks by name, the local one among them."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from ssm_core.errors import ConfigError, MissingPackageError

# Tasks of our own, which need no download.
TASKS = Path(__file__).parent / "harness_tasks"
LOCAL = {"response_choice"}


class Harness:
    """Runs tasks on a network; imports lm-evaluation-harness only if there is a task.

    Args:
        tasks: their names, such as the paper's piqa, arc_easy, sst2, winogrande, lambada_openai, race and openbookqa,
            or ``response_choice``, which reads a local file.
        batch_size: requests together.
        max_length: tokens of a request; a longer prompt loses its beginning.
        limit: documents of each task; None for all.
        num_fewshot: examples in each prompt; None for the task's own number.
        path: the file of ``response_choice``.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
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
        """Figures as ``task/metric``.

        Raises:
            MissingPackageError: lm-evaluation-harness is not installed.
            ConfigError: a task is unknown, or ``response_choice`` has no file.
        """
        if not self.tasks:
            return {}
        if "response_choice" in self.tasks and not Path(self.path or "").is_file():
            raise ConfigError(f"the task response_choice reads a local file of rows: path={self.path!r} is none")
        try:
            from lm_eval import simple_evaluate
            from lm_eval.tasks import TaskManager

            from .harness import MambaTreeLM
        except ModuleNotFoundError as error:
            raise MissingPackageError(str(error.name), "a task of lm-evaluation-harness") from error
        # To list the harness's own tasks takes it longer than to run a small one.
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
