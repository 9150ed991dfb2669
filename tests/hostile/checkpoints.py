"""Hostile checkpoint files: programs, sizes out of proportion, wrong numbers, and descriptions that no model has.

Each function writes a file. ``python tests/hostile/attack.py --count 500 --seed 1`` gives them to every tool.
"""

import functools
import io
import itertools
import os
import pickle
import random
import struct
import zipfile
from collections import Counter, OrderedDict

import torch

from ssm_core import weights

DIMS, CLASSES = (8, 16, 16, 16), 10
BASE = None  # a checkpoint of a run, which then stands for that of :func:`model`


class Program:
    """Makes a folder when it is unpickled by a reader that runs programs."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.makedirs, (self.mark, 0o777, True)


class Raw:
    """Calls a function of a name, with any arguments, when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def model():
    """A small model with its description, in the form of tools/train.py."""
    if BASE is not None:
        return weights.read_file(BASE)
    from quadtree_ssm import QuadMamba

    sizes = {"depths": (1, 1, 1, 1), "dims": DIMS, "num_classes": CLASSES, "in_chans": 1}
    state = {f"backbone.{k}": v for k, v in QuadMamba(**sizes).state_dict().items()}
    meta = {
        "model": {"type": "ImageClassifier", "backbone": {"type": "quadtree_ssm.QuadMamba", **sizes}},
        "test_transform": {"type": "TestTransform", "size": 32, "mean": (0.5,), "std": (0.5,)},
        "dataset_meta": {"classes": tuple("0123456789")},
        "epoch": 1,
        "iter": 6,
    }
    return {"state_dict": state, "meta": meta, "optimizer": {}, "message_hub": {}}


def _write_archive(path, content, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values)
        archive.writestr("archive/version", "3\n")


class _Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return item.identity if isinstance(item, Storage) else None


class Storage:
    """Stands for the bytes of a tensor in a pickle."""

    def __init__(self, key, count):
        self.identity = ("storage", torch.FloatStorage, key, "cpu", count)


class Described:
    """A tensor with a size and strides of one's choice."""

    def __init__(self, storage, size, stride, offset=0):
        self.arguments = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


def pickled(value):
    file = io.BytesIO()
    _Pickler(file, 2).dump(value)
    return file.getvalue()


def program(path, draw, mark):
    torch.save({**model(), "extra": Program(mark)}, path)


def legacy_program(path, draw, mark):
    torch.save({**model(), "extra": Program(mark)}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path, draw, mark):
    path.write_bytes(pickle.dumps(Program(mark)))


def text_of_a_config(path, draw, mark):
    state = model()
    state["meta"]["config"] = f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
    torch.save(state, path)


def imported_scope(path, draw, mark):
    state = model()
    state["meta"]["model"]["backbone"][draw.choice(["_scope_", "custom_imports"])] = "antigravity"
    torch.save(state, path)


def imported_type(path, draw, mark):
    state = model()
    state["meta"]["model"]["backbone"]["type"] = draw.choice(
        ["os.makedirs", "antigravity.fly", "this.s", ["a"], {"b": 1}]
    )
    torch.save(state, path)


def compressed_zeros(path, draw, mark):
    path.write_bytes(_zeros(1 << 27))


@functools.cache
def _zeros(count):
    file = io.BytesIO()
    _write_archive(file, pickled({"w": Described(Storage("0", count), (count,), (1,))}), {}, zipfile.ZIP_DEFLATED)
    with (
        zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as entry,
    ):
        for _ in range(count * 4 >> 24):
            entry.write(bytes(1 << 24))
    return file.getvalue()


def enlarged_storage(path, draw, mark):
    count = draw.choice([10**9, 3 * 10**9, 10**12])
    _write_archive(path, pickled({"w": Described(Storage("0", 4), (count,), (1,))}), {"0": bytes(16)})


def repeated_elements(path, draw, mark):
    size = (draw.choice([10**5, 10**6]), 10**4)
    _write_archive(path, pickled({"w": Described(Storage("0", 4), size, (0, 0))}), {"0": bytes(16)})


def more_than_is_there(path, draw, mark):
    count = draw.choice([5, 1 << 20, 1 << 40])
    _write_archive(path, pickled({"w": Described(Storage("0", count), (4,), (1,))}), {"0": bytes(16)})


def negative_sizes(path, draw, mark):
    described = Described(
        Storage("0", 4), *draw.choice([((-1,), (1,)), ((2,), (-1,)), ((2, 2), (1,)), ((2**70,), (1,))])
    )
    _write_archive(path, pickled({"w": described}), {"0": bytes(16)})


def byte_array(path, draw, mark):
    _write_archive(path, pickled({"w": torch.Size, "b": Raw(bytearray, draw.choice([3 * 10**9, 10**12]))}), {})


def nested_lists(path, draw, mark):
    value = [1] * 10
    for _ in range(draw.randint(20, 90)):
        value = [value] * 10
    state = model()
    state["meta"][draw.choice(["dataset_meta", "model", "extra"])] = {"classes": value, "type": value, "backbone": {}}
    torch.save(state, path)


def itself_within(path, draw, mark):
    value = {}
    value["classes"] = [value]
    torch.save({**model(), "meta": value}, path)


def memo_index(path, draw, mark):
    _write_archive(path, b"\x80\x02]r" + struct.pack("<I", draw.choice([1 << 28, 1 << 31])) + b".", {})


def empty_objects(path, draw, mark):
    """Objects that take 60 to 400 times the memory of the instructions that make them."""
    make = draw.choice([b"\x8f", b"}", b"h\x00)R"])
    content = b"\x80\x04ccollections\nOrderedDict\nq\x000](" + make * (draw.choice([3, 6]) * 10**6 // len(make))
    _write_archive(path, content + b"e.", {})


def attributes_of_a_tensor(path, draw, mark):
    """A tensor of four numbers that gets another shape as an attribute, for which torch enlarges its bytes."""
    tensor = pickled(Described(Storage("0", 4), (4,), (1,)))[2:-1]
    size = pickled((draw.choice([10**8, 3 * 10**9, 10**12]),))[2:-1]
    content = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"q\x64(h\x64K\x00" + size + b"K\x01\x85tbs."
    _write_archive(path, content, {"0": bytes(16)})


def many_dimensions(path, draw, mark):
    """A shape whose product is a number of megabytes, if somebody computes it."""
    count = draw.choice([100_000, 300_000])
    described = Described(Storage("0", 4), (2**62,) * count, (0,) * count)
    _write_archive(path, pickled({"w": described}), {"0": bytes(16)})


def keys_of_one_hash(path, draw, mark):
    """Python compares a key with all those before it that have the same hash."""
    count, target = draw.choice([50_000, 100_000]), draw.getrandbits(60)
    if draw.random() < 0.5:
        keys = list(itertools.islice(_pairs_of_one_hash(target), count))
    else:
        keys = [complex(target % 10**9 - 1000003 * n, n) for n in range(count)]
    kind = draw.choice([dict, set, Counter, OrderedDict])
    if kind is dict:
        content = b"\x80\x02}" + b"".join(pickle.dumps(key, 2)[2:-1] + b"K\x00s" for key in keys) + b"."
    else:
        content = pickled(Raw(kind, [(key, 0) for key in keys] if kind is OrderedDict else keys))
    _write_archive(path, content, {})


def _pairs_of_one_hash(target):
    """Pairs of integers for which Python's hash of tuples (xxHash) is in the same state behind the second one."""
    first, second, fifth = 11400714785074694791, 14029467366897019727, 2870177450012600261
    whole, inverse = 1 << 64, pow(second, -1, 1 << 64)
    for n in itertools.count():
        state = (fifth + n * second) % whole
        state = ((state << 31 | state >> 33) % whole) * first % whole
        other = (target - state) * inverse % whole
        if other < (1 << 61) - 1:  # the hash of such an integer is the integer
            yield n, other


def copied_lists(path, draw, mark):
    values = list(range(100_000))
    state = model()
    state["meta"]["extra"] = [Raw(OrderedDict, [(n, n) for n in values])]
    content = (
        b"\x80\x02("
        + pickle.dumps(values, 2)[2:-1]
        + b"q\x64"
        + b"c__builtin__\nset\nh\x64\x85R" * draw.choice([10**4, 10**5])
    )
    _write_archive(path, content + b"l.", {})


def wrong_numbers(path, draw, mark):
    state = model()
    kind = draw.choice([torch.bool, torch.int64, torch.uint8, torch.complex64])
    for name in state["state_dict"]:
        state["state_dict"][name] = state["state_dict"][name].to(kind)
    torch.save(state, path)


def not_finite(path, draw, mark):
    state = model()
    not_finite_in(state["state_dict"], draw)
    torch.save(state, path)


def not_finite_in(state, draw):
    name = draw.choice([name for name in sorted(state) if state[name].is_floating_point()])
    state[name] = torch.full_like(state[name], draw.choice([float("nan"), float("inf")]))


def deep_model(path, draw, mark):
    state = model()
    state["meta"]["model"]["backbone"]["depths"] = draw.choice([(1, 1, 10**7, 1), [10**9] * 4, [1] * 10**6, "many", 7])
    torch.save(state, path)


def wide_model(path, draw, mark):
    state = model()
    key, value = draw.choice([
        ("dims", [10**9] * 4), ("dims", [30_000] * 4), ("num_classes", 10**9), ("in_chans", 10**8), ("d_state", 10**7),
        ("ssm_ratio", 1e300), ("mlp_ratio", float("nan")), ("dims", [-1] * 4), ("dims", [[1]] * 4),
        ("arch", "a" * 10**6),
    ])  # fmt: skip
    state["meta"]["model"]["backbone"][key] = value
    torch.save(state, path)


def large_photo(path, draw, mark):
    state = model()
    state["meta"]["test_transform"]["size"] = draw.choice([10**6, -1, 0, 1.5, True, "large"])
    torch.save(state, path)


def numbered_block(path, draw, mark):
    """A file in the released form, in which a name's number says how deep the network is."""
    state = {
        "patch_embed.proj.weight": torch.ones(8, 3, 3, 3),
        f"{draw.choice(['levels', 'layers', 'stages'])}.0.blocks.{10**7}.norm.weight": torch.ones(8),
        "patch_embed.conv1.weight": torch.ones(8, 3, 3, 3),
    }
    torch.save({"model": state}, path)


def damaged(path, draw, mark):
    torch.save(model(), path)
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])


def optimizer_values(path, draw, mark):
    """Settings of the optimizer that are no settings."""
    state = model()
    group = draw.choice(state["optimizer"]["param_groups"])
    key = draw.choice([key for key in sorted(group) if key != "params"])
    group[key] = draw.choice([float("nan"), float("inf"), "x", [1], {"a": 1}, torch.ones(2), (0.9, "x"), "os.system"])
    torch.save(state, path)


def optimizer_state(path, draw, mark):
    """What the optimizer knows of a parameter: shapes, kinds, numbers and names."""
    state = model()
    entries = state["optimizer"]["state"]
    number = draw.choice(sorted(entries))
    name = draw.choice(sorted(entries[number]))
    value = entries[number][name]
    change = draw.randrange(6)
    if change == 0:
        entries[number][name] = torch.full_like(value, float("nan"))
    elif change == 1:
        entries[number][name] = torch.zeros(draw.choice([(3, 5), (10**6,), (0,), (7, 1, 1, 1, 1)]))
    elif change == 2:
        entries[number][name] = draw.choice([value.bool(), value.to(torch.complex64), "x", None, [1.0], {}])
    elif change == 3:
        del entries[number][name]
    elif change == 4:
        entries[draw.choice([10**9, -1, "x", (1, 2)])] = entries.pop(number)
    else:
        state["optimizer"]["state"] = draw.choice([[], 7, {number: 7}, {number: [value]}])
    torch.save(state, path)


def optimizer_groups(path, draw, mark):
    state = model()
    groups = state["optimizer"]["param_groups"]
    state["optimizer"]["param_groups"] = draw.choice(
        [[], groups * 2, groups[:-1], 7, [{**groups[0], "params": list(range(10**6))}], [{}], None]
    )
    torch.save(state, path)


def schedules(path, draw, mark):
    """States of the schedules, which mmengine makes attributes."""
    state = model()
    found = state["param_schedulers"]
    inner = draw.choice(found)
    change = draw.randrange(3)
    if change == 0:
        inner[draw.choice(["step", "_get_value", "optimizer", "__class__"])] = draw.choice(["x", 5, None])
    elif change == 1:
        inner[draw.choice(sorted(inner))] = draw.choice([float("nan"), "x", [1, "y"], {"a": 1}, 10**400, [[]] * 10**6])
    else:
        state["param_schedulers"] = draw.choice([7, "x", [7] * len(found), [[]] * 10**6, {"a": 1}])
    torch.save(state, path)


def message_hub(path, draw, mark):
    state = model()
    hub = state["message_hub"]
    change = draw.randrange(5)
    if change == 0:
        name = draw.choice(sorted(hub["log_scalars"]))
        hub["log_scalars"][name] = draw.choice([7, ([1.0], ["x"]), ([[1]], [1]), ("x", "y"), ([1.0] * 10**6, [1])])
    elif change == 1:
        state["message_hub"] = draw.choice([7, [], {"log_scalars": []}, {"log_scalars": {}, "runtime_info": 7}])
    elif change == 2:
        key = draw.choice(["best_score", "best_ckpt", "keep_ckpt_ids", "last_epoch_validated", "epoch_length"])
        hub["runtime_info"][key] = draw.choice(["x", [1], {"a": 1}, float("nan"), torch.ones(3)])
    elif change == 3:
        hub["resumed_keys"] = draw.choice([7, [1], "x"])
    else:
        hub["runtime_info"]["keep_ckpt_ids"] = draw.choice([["../x"], "abc", [{}], list(range(10**6))])
    torch.save(state, path)


def best_elsewhere(path, draw, mark):
    """Names the best checkpoint, which is deleted when there is a better one."""
    state, victim = model(), victim_of(path)
    victim.mkdir()
    (victim / "file").touch()
    info = state["message_hub"]["runtime_info"]
    info["best_ckpt"] = str(draw.choice([victim, victim / "file"]))
    info["best_score"] = -1.0
    for key in ("last_epoch_validated", "last_iteration_validated"):
        info.pop(key, None)
    torch.save(state, path)


def victim_of(path):
    """The folder that must be left as it is after an attack with a file."""
    return path.with_suffix(".victim")


def far_away(path, draw, mark):
    """Numbers of epochs and iterations that no run has."""
    state = model()
    key = draw.choice(["epoch", "iter", "seed"])
    state["meta"][key] = draw.choice([10**9, -1, 2**70, "x", None, [1], True, 1.5])
    torch.save(state, path)


STATES = (optimizer_values, optimizer_state, optimizer_groups, schedules, message_hub, best_elsewhere, far_away)
ATTACKS = (
    program, legacy_program, bare_pickle, text_of_a_config, imported_scope, imported_type, compressed_zeros,
    enlarged_storage, repeated_elements, more_than_is_there, negative_sizes, byte_array, nested_lists, itself_within,
    memo_index, empty_objects, attributes_of_a_tensor, many_dimensions, keys_of_one_hash, copied_lists, wrong_numbers,
    not_finite, deep_model, wide_model, large_photo, numbered_block, damaged,
)  # fmt: skip
# What is harmless, if its reader ignores the hostile part, and may then be taken.
MAY_BE_READ = {text_of_a_config, imported_scope, damaged, large_photo, nested_lists, *STATES}


def write(attack, path, seed, mark):
    """Write one hostile file."""
    attack(path, random.Random(seed), mark)
