"""The documents of the task ``response_choice``."""

import random
from typing import Any

from datasets import Dataset

from ssm_core.errors import DataError
from ssm_train.data.datasets.text_rows import Instruction, understand
from ssm_train.data.faults import Unusable
from ssm_train.data.json_rows import JsonRow, json_rows

CHOICES = 4
INTRO = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request.\n\n### Instruction:\n"


def load(
    path: str, held_out_every: int = 10, characters: int = 200, version: float = 1.0, **_unused: Any
) -> dict[str, Dataset]:
    """Read the held-out instructions of a file, each with its own response and those of three other rows.

    Args:
        path: a file that :class:`~ssm_train.data.datasets.text.InstructionRows` reads. Conversations are left out.
        held_out_every: N, if every N-th row of the file belongs to the task. Training leaves out the same rows.
        characters: largest number of characters of a response. Longer responses are cut.
        version: not used; version of the task, which the harness passes.
        _unused: other arguments that the harness passes to every task.

    Returns:
        Documents with ``prompt``, ``choices`` and ``label``, as the split ``"test"``.

    Raises:
        DataError: the file is missing or damaged, or has too few different responses for a choice.
    """
    held_out = [instruction(row) for row in json_rows(path) if row.number % held_out_every == held_out_every - 1]
    rows = [(prompt(row), row.output.strip()[:characters]) for row in held_out if row is not None]
    if len({response for _, response in rows}) < CHOICES:
        raise DataError(
            f"{path} has fewer than {CHOICES} different responses to instructions among every {held_out_every}th row, "
            "and the task response_choice needs as many for a choice"
        )
    draw = random.Random(0)
    documents = []
    for text, response in rows:
        others = sorted({other for _, other in rows} - {response})
        choices = [response, *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        documents.append({"prompt": text, "choices": choices, "label": choices.index(response)})
    return {"test": Dataset.from_list(documents)}


def instruction(row: JsonRow) -> Instruction | None:
    """The instruction of a row; None for a conversation or a faulty row."""
    try:
        found = None if isinstance(row.value, Unusable) else understand(row.value)
    except Unusable:
        return None
    return found if isinstance(found, Instruction) else None


def prompt(row: Instruction) -> str:
    """Alpaca's prompt for a row, as in the configs."""
    if row.input:
        middle = f", paired with an input that provides further context. {REQUEST}{row.instruction}"
        return f"{INTRO}{middle}\n\n### Input:\n{row.input}\n\n### Response:\n"
    return f"{INTRO}. {REQUEST}{row.instruction}\n\n### Response:\n"
