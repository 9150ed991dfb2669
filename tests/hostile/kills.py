"""Kills trainings and tools by SIGKILL: python tests/hostile/kills.py --count 100 --seed 1

Each is killed at a random moment, or right before one of its operations on files. No file under its final name may then
be another than that of an undisturbed process, and the same command has to end as if nothing had happened: a training
goes on bit for bit, a tool leaves the same files. The exit status is 1 if one does not.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools")]

import command_line  # noqa: E402
import runs  # noqa: E402

TRAINING = (*runs.RESNET, *runs.EVERYTHING_RANDOM, "default_hooks.checkpoint.by_epoch=False",
            "default_hooks.checkpoint.interval=2", "default_hooks.checkpoint.max_keep_ckpts=2",
            "default_hooks.timed_checkpoint.minutes=1e-6", "default_hooks.curves.interval=5")  # fmt: skip
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KINDS = ("killed", "ended before", "HALF-WRITTEN", "NO SUCCESS", "DIFFERENT")


class Whole(NamedTuple):
    """What an undisturbed process does.

    Attributes:
        files: names and digests of what it leaves. A file that is never the same twice has no digest.
        operations: on files in its folder.
        seconds: that it takes.
    """

    files: dict[str, str | None]
    operations: int
    seconds: float


def count_operations(folder, fatal, report):
    """Count this process's operations on files in a folder, write the count at the end, and die before one of them."""
    count = 0
    places = str(folder), str(folder.with_name(f".{folder.name}."))  # the second is that of its temporary files

    def hook(event, arguments):
        nonlocal count
        if event != "open" and event not in CHANGES:
            return
        path = arguments[0]
        if isinstance(path, int) or not os.fsdecode(path).startswith(places):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: report.write_text(str(count))


def train(folder, fatal, report):
    finish = count_operations(folder, fatal, report)
    runs.train(TRAINING[0], folder, *TRAINING[1:], hooks=[runs.EMA], resume=True)
    finish()


def use(folder, fatal, report, tool, arguments):
    finish = count_operations(folder, fatal, report)
    os.chdir(report.parent)
    status = command_line.run(tool, *arguments)
    finish()
    sys.exit(status)


def is_temporary(path):
    return any(part.startswith(".") and part.endswith(".tmp") for part in path.parts)


def digests(folder):
    """Names and digests of the files in a folder, temporary ones left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not is_temporary(name):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Subject:
    """A tool that is killed.

    Args:
        place: an empty folder.
        tool: its name.
        arguments: makes its arguments from the folder that it writes to.
    """

    def __init__(self, place, tool, arguments):
        self.place, self.tool, self.arguments = place, tool, arguments
        place.mkdir()
        process, report = self.start("whole", 0)
        process.join()
        assert process.exitcode == 0, self.said("whole")
        start = time.monotonic()  # the first process also waited for the imports of its server
        again, _ = self.start("again", 0)
        again.join()
        seconds = time.monotonic() - start
        same = digests(place / "again")
        files = {name: d if same.get(name) == d else None for name, d in digests(place / "whole").items()}
        self.whole = Whole(files, int(report.read_text()), seconds)

    def start(self, name, fatal):
        """Start the tool, to write to the folder ``name``. Return the process and its report."""
        folder, report = self.place / name, self.place / f"{name}.report"
        return runs.start(use, self.place / f"{name}.log", folder, fatal, report, self.tool,
                          self.arguments(folder)), report  # fmt: skip

    def said(self, name):
        """The last words of the process that wrote to a folder."""
        return (self.place / f"{name}.log.err").read_text().strip()[-300:]

    def wrong_files(self, folder):
        """What is wrong about the files after a kill."""
        found = digests(folder)
        if strange := found.keys() - self.whole.files.keys():
            return f"{sorted(strange)} are none of the tool's files"
        half = [name for name, d in found.items() if self.whole.files[name] not in (None, d)]
        if half:
            return f"{half} are half-written"
        if found and len(found) < len(self.whole.files) and self.is_one_whole:
            return f"{sorted(found)} are there, and {sorted(self.whole.files.keys() - found.keys())} are not"
        return ""

    @property
    def is_one_whole(self):
        """Whether the files are of use together alone."""
        return self.tool in ("merge_adapters", "train_tokenizer")

    def differences(self, folder):
        """What differs from the files of an undisturbed process."""
        found = digests(folder)
        if found.keys() != self.whole.files.keys():
            return f"the files are {sorted(found)}"
        return ", ".join(name for name, d in found.items() if self.whole.files[name] not in (None, d))


class Training(Subject):
    """A training of two short epochs that saves often, by iterations and by time."""

    def __init__(self, place):
        super().__init__(place, "train", lambda folder: ())
        self.state, self.curves = self.result(place / "whole")

    def start(self, name, fatal):
        folder, report = self.place / name, self.place / f"{name}.report"
        return runs.start(train, self.place / f"{name}.log", folder, fatal, report), report

    def result(self, folder):
        state = runs.last_state(folder)
        return {part: state.get(part) for part in PARTS}, (folder / "curves.json").read_text()

    def wrong_files(self, folder):
        from ssm_core.errors import CheckpointError
        from ssm_core.weights import read_file

        for path in sorted(folder.glob("*")):
            try:
                if path.suffix == ".pth":
                    read_file(path)
                elif path.suffix == ".json":
                    json.loads(path.read_text())
            except (CheckpointError, ValueError) as error:
                return f"{path.name} is half-written: {error}"
        pointer = folder / "last_checkpoint"
        if pointer.exists() and not (folder / Path(pointer.read_text()).name).is_file():
            return f"last_checkpoint says {pointer.read_text()!r}"
        return ""

    def differences(self, folder):
        state, curves = self.result(folder)
        left = [path.name for path in folder.glob(".*.tmp")]
        places = runs.differing(state, self.state)
        more = [f"and {len(places) - 2} more"] if len(places) > 2 else []
        return ", ".join([*places[:2], *more, *["curves.json"] * (curves != self.curves), *left])


def attack(subject, number, seed):
    """Kill a process, up to three times, and give the command again. Return a kind, and what is wrong."""
    draw = random.Random(f"{seed}-{number}")
    name, killed = str(number), []
    for _ in range(draw.choice((1, 1, 2, 3))):
        at_operation = draw.random() < 0.6
        fatal = draw.randint(1, subject.whole.operations) if at_operation else 0
        process, _ = subject.start(name, fatal)
        process.join(None if at_operation else draw.uniform(0, subject.whole.seconds))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        killed.append(f"before operation {fatal}" if at_operation else "at a moment")
        if wrong := subject.wrong_files(subject.place / name):
            return "HALF-WRITTEN", f"killed {', '.join(killed)}: {wrong}"
    process, _ = subject.start(name, 0)
    process.join(120)
    if process.exitcode:
        process.kill()
        return "NO SUCCESS", f"killed {', '.join(killed)}: {subject.said(name)}"
    if wrong := subject.differences(subject.place / name):
        return "DIFFERENT", f"killed {', '.join(killed)}: {wrong}"
    return ("killed" if killed else "ended before"), ""


def tools(inputs):
    """What tools are killed, by name, with the arguments that they get for a folder to write to."""
    from test_bad_places import DIGITS, OPTIONS, TOOLS

    names = ("publish_checkpoint", "export", "merge_adapters", "train_tokenizer")
    found = {name: (name, lambda out, name=name: TOOLS[name][0](inputs, out)) for name in names}
    hub = ("--config", DIGITS, *OPTIONS)
    found["publish --hub"] = (
        "publish_checkpoint", lambda out: (inputs / "model.pth", "--out", out, "--hub", out / "hub", *hub)
    )  # fmt: skip
    found["publish --half"] = (
        "publish_checkpoint", lambda out: (inputs / "model.pth", "--out", out, "--half")
    )  # fmt: skip
    found["prepare_data digits"] = ("prepare_data", lambda out: ("digits", "--root", out, "--images"))
    found["prepare_data cityscapes"] = ("prepare_data", lambda out: TOOLS["prepare_data"][0](inputs, out))
    found["prepare_data shards"] = (
        "prepare_data", lambda out: ("shards", "--root", out, "--from", inputs / "images", "--per-shard", "7")
    )  # fmt: skip
    return found


def make_inputs(folder):
    from PIL import Image
    from test_bad_places import inputs

    folder.mkdir()
    inputs(folder)
    for split in ("train", "val"):
        for number in range(16):
            place = folder / "images" / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, 0, 0)).save(place / f"{number}.png")
    return folder


def main():
    """Kill, and print every wrong answer and a row of a table for each that is killed."""
    names = ("training", *tools(Path()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="processes of each that are killed (default: 20)")
    parser.add_argument("--seed", default="0", help="which moments (default: 0)")
    parser.add_argument("--of", nargs="+", choices=names, default=names, help="what is killed (default: all)")
    args = parser.parse_args()
    verdicts = Counter()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        inputs = make_inputs(place / "inputs")
        print("| killed | " + " | ".join(KINDS) + " |\n" + "|---" * (len(KINDS) + 1) + "|", flush=True)
        for number, subject_name in enumerate(args.of):
            if subject_name == "training":
                subject = Training(place / "training")
            else:
                subject = Subject(place / str(number), *tools(inputs)[subject_name])
            for one in range(args.count):
                kind, wrong = attack(subject, one, args.seed)
                verdicts[subject_name, kind] += 1
                if wrong:
                    print(f"{kind}: {subject_name} {one}: {wrong}", flush=True)
            row = " | ".join(str(verdicts[subject_name, kind]) for kind in KINDS)
            print(f"| {subject_name} | {row} |", flush=True)
    return int(any(kind.isupper() for _, kind in verdicts))


if __name__ == "__main__":
    sys.exit(main())
