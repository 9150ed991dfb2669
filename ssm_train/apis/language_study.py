"""Does the tree help a language model? One small Mamba, pretrained once, is fine-tuned with and without the tree.

Every training and test is a process of its own, started by the commands of ``tree-ssm``. What is there already is
kept, so that a stopped study goes on where it was.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import MMLogger

from ssm_core.errors import DataError, UserError
from ssm_train.apis import cli
from ssm_train.runtime.curve_files import read_curves
from ssm_train.runtime.files import write_text_atomically
from ssm_train.runtime.resuming import newest_good
from ssm_train.runtime.strict_json import strict_json

AS_PRETRAINED = "as pretrained"  # what the pretrained model is called in the results
_SPLITS = ("train", "val", "test")
_LAST = 2000  # characters of a failed command's output that are shown


class Recipes(NamedTuple):
    """The configs of the study.

    Attributes:
        pretraining: of the small Mamba.
        base: tests the pretrained model on the held-out rows.
        tunings: name of every way to fine-tune it to the config.
    """

    pretraining: str
    base: str
    tunings: Mapping[str, str]


@dataclass(frozen=True)
class StudySettings:
    """What is studied, and where.

    Attributes:
        text: UTF-8 text to pretrain on.
        rows: JSON list of instruction, input and output to fine-tune and test on.
        work_dir: where tokenizer, pretrained model, runs and ``results.json`` go.
        seeds: of the fine-tunings.
        parallel: how many fine-tunings run at a time.
        vocab_size: tokens of the vocabulary.
        pretraining_options: ``KEY=VALUE`` for what is changed in the pretraining's config.
        tuning_options: ``KEY=VALUE`` for what is changed in the fine-tunings' configs.
    """

    text: Path
    rows: Path
    work_dir: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    parallel: int = 1
    vocab_size: int = 4096
    pretraining_options: tuple[str, ...] = ()
    tuning_options: tuple[str, ...] = ()


class Study:
    """The steps of the study.

    Args:
        settings: what is studied.
        recipes: the configs.
        say: gets a line about each step as soon as it is done.
    """

    def __init__(self, settings: StudySettings, recipes: Recipes, say: Callable[[str], None] = cli.say) -> None:
        self.settings, self.recipes, self.say = settings, recipes, say

    def run(self) -> dict[str, list[float]]:
        """Do every step that is not done, and write all figures to ``results.json``.

        Returns:
            The held-out perplexity of the responses: one value of the pretrained model, and for every way to fine-tune
            one value a seed, after the last epoch.

        Raises:
            UserError: a command failed.
        """
        results = self.perplexities(self.pretrain())
        content = {"seeds": list(self.settings.seeds), **results}
        write_text_atomically(self.settings.work_dir / "results.json", strict_json(content, indent=2))
        return results

    def pretrain(self) -> Path:
        """Learn a tokenizer and pretrain the model.

        Returns:
            The folder of both.
        """
        settings, recipe = self.settings, self.recipes.pretraining
        tokenizer, pretrained = settings.work_dir / "tokenizer", settings.work_dir / "pretrained"
        if not (tokenizer / "tokenizer.json").exists():
            printed = self._command("train-tokenizer", tokenizer, settings.text, "--vocab-size", settings.vocab_size)
            self.say(printed.rstrip("\n"))
        if not (pretrained / "config.json").exists():
            changes = [f"model.backbone.tokenizer={tokenizer}", *_data_options(_SPLITS, settings.text, tokenizer)]
            changes += settings.pretraining_options
            folder = settings.work_dir / "pretraining"
            printed = self._command("train", recipe, "--work-dir", folder, "--resume", "--cfg-options", *changes)
            self.say(f"pretraining: {printed.splitlines()[-1]}")
            checkpoint = newest_good(folder, MMLogger.get_current_instance())
            self._command("merge-adapters", recipe, checkpoint, pretrained, "--cfg-options", *changes)
        return pretrained

    def perplexities(self, pretrained: Path) -> dict[str, list[float]]:
        """Test the pretrained model, then fine-tune it in every way under every seed.

        Args:
            pretrained: the model's folder.
        """
        results = {AS_PRETRAINED: [self._test(pretrained)]}
        self.say(f"{AS_PRETRAINED}: {results[AS_PRETRAINED][0]:.2f}")
        runs = [(name, seed) for name in self.recipes.tunings for seed in self.settings.seeds]
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            values = pool.map(lambda run: self._tune(*run, pretrained), runs)
            for (name, _), value in zip(runs, values, strict=True):
                results.setdefault(name, []).append(value)
        return results

    def _test(self, pretrained: Path) -> float:
        folder = self.settings.work_dir / "base"
        changes = [f"model.backbone.path={pretrained}", *_data_options(_SPLITS[1:], self.settings.rows, pretrained)]
        printed = self._command("test", self.recipes.base, "--work-dir", folder, "--cfg-options", *changes)
        return float(printed.splitlines()[-1].split("perplexity ")[1])

    def _tune(self, name: str, seed: int, pretrained: Path) -> float:
        folder = self.settings.work_dir / f"{name.lower()}_seed{seed}"
        changes = [f"randomness.seed={seed}", f"model.backbone.path={pretrained}"]
        changes += [*_data_options(_SPLITS, self.settings.rows, pretrained), *self.settings.tuning_options]
        config = self.recipes.tunings[name]
        printed = self._command("train", config, "--work-dir", folder, "--resume", "--cfg-options", *changes)
        self.say(f"{name}, seed {seed}: {printed.splitlines()[-1]}")
        values = [point["perplexity"] for point in read_curves(folder)["val"] if "perplexity" in point]
        if not values:
            raise DataError(f"the curves of {folder} have no perplexity: remove the folder, and the run is done again")
        return values[-1]

    def _command(self, name: str, *arguments: object) -> str:
        """Run a command of ``tree-ssm`` and return what it printed."""
        command = [sys.executable, "-m", "ssm_train.commands", name, *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            self.say(done.stdout[-_LAST:])
            raise UserError(f"{shlex.join(command)} failed with exit status {done.returncode}")
        return done.stdout


def _data_options(splits: Sequence[str], path: Path, tokenizer: Path) -> list[str]:
    """Options that set the file and the tokenizer of the datasets of some splits."""
    values = (("path", path), ("tokenizer.path", tokenizer))
    return [f"{split}_dataloader.dataset.{key}={value}" for split in splits for key, value in values]
