"""The documents of the task ``response_choice``."""

import json
import random
from pathlib import Path
from typing import Any

from datasets import Dataset

CHOICES = 4
INTRO = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request.\n\n### Instruction:\n"


def load(
    path: str, held_out_every: int = 10, characters: int = 200, version: float = 1.0, **_unused: Any
) -> dict[str, Dataset]:
    """Read the held-out rows of a file in Alpaca's format, each with its own response and those of three other rows.

    Args:
        path: a file with a JSON list of rows with ``instruction``, ``input`` and ``output``.
        held_out_every: N, if every N-th row of the file belongs to the task. Training leaves out the same rows.
        characters: largest number of characters of a response. Longer responses are cut.
        version: not used; version of the task, which the harness passes.
        _unused: other arguments that the harness passes to every task.

    Returns:
        Documents with ``prompt``, ``choices`` and ``label``, as the split ``"test"``.
    """
    rows = json.loads(Path(path).read_text(encoding="utf-8"))[held_out_every - 1 :: held_out_every]
    rows = [(prompt(row), row["output"].strip()[:characters]) for row in rows if row["output"].strip()]
    draw = random.Random(0)
    documents = []
    for text, response in rows:
        others = sorted({other for _, other in rows} - {response})
        choices = [response, *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        documents.append({"prompt": text, "choices": choices, "label": choices.index(response)})
    return {"test": Dataset.from_list(documents)}


def prompt(row: dict[str, str]) -> str:
    """Alpaca's prompt for a row, as in the configs."""
    if row.get("input"):
        middle = f", paired with an input that provides further context. {REQUEST}{row['instruction']}"
        return f"{INTRO}{middle}\n\n### Input:\n{row['input']}\n\n### Response:\n"
    return f"{INTRO}. {REQUEST}{row['instruction']}\n\n### Response:\n"
