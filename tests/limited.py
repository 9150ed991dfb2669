"""What a process does that may take little more memory than it has."""

import gc
import json
import resource
from pathlib import Path

ROOM = 96 * 2**20  # bytes that it may take


def limit_memory(room=ROOM):
    """Let this process, and those that it starts, have no more than ``room`` bytes beyond what it has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def write_rows(path, size):
    """Write rows of short texts with a long column that is not read, until the file has so many bytes."""
    from small_language import text_and_rows

    rows = text_and_rows(500)[1]
    with open(path, "w") as file:
        number = 0
        while file.tell() < size:
            file.write(json.dumps({**rows[number % 500], "page": "x" * 2**17}) + "\n")
            number += 1
    return number


def train_within(config, options, work_dir, resume=False):
    """Train with a limit on memory, on a file that is larger than that."""
    import torch
    from mmengine.registry import DefaultScope

    from ssm_train.apis.train import train
    from ssm_train.registry import TASK_UTILS
    from ssm_train.runtime.config import load_config

    cfg = load_config(config, options)
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    with DefaultScope.overwrite_default_scope("ssm_train"):  # what is loaded once is no part of the limit
        TASK_UTILS.build(cfg.train_dataloader.dataset.tokenizer)("one")
    torch.nn.Linear(64, 64)(torch.zeros(64, 64)).sum().backward()
    limit_memory()
    path = cfg.train_dataloader.dataset.path
    assert Path(path).stat().st_size > 2 * ROOM
    try:
        Path(path).read_bytes()
    except MemoryError:
        train(cfg, resume=resume)
    else:
        raise AssertionError("the limit has no effect")


def read_tokens(count, length):
    """Read rows of a store that is larger than the memory. Return how many bytes it has."""
    import numpy as np

    from ssm_train.data.token_store import TokenStore

    limit_memory()
    store = TokenStore()
    for number in range(count):
        store.append(np.full(length, number, np.int32), [(0, length)], number)
    for number in (0, count - 1, count // 2):
        row = store[number]
        assert (row.tokens == number).all()
        assert (row.number, len(row.tokens), row.responses) == (number, length, [(0, length)])
    assert 4 * count * length > 2 * ROOM
