"""Reads the files that Weights & Biases writes offline. They hold protocol buffers in the framing of LevelDB's log."""

import json
import struct
from collections import defaultdict

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, HEADER = 2**15, 7, struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = range(1, 5)


def records(path):
    """Yield the records of a ``run-….wandb`` file."""
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    place, parts = FILE_HEADER, b""
    while place + HEADER.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[place : place + length]
        place += length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def read_run(path):
    """Read the file of a run.

    Returns:
        A tuple of the run's id, its config, ``[(iteration, value)]`` by the name that was logged, and the axis by the
        pattern of names.
    """
    identity, config, history, axes = "", {}, defaultdict(list), {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            identity = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "metric":
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() - {"iteration"}:
                history[name].append((row.get("iteration"), row[name]))
    return identity, config, dict(history), axes
