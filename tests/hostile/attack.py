"""Gives hostile files and folders to the tools: python tests/hostile/attack.py --count 200 --seed 1

Each is given as a file, as a folder or by an address of a server on this machine, in a process with limits of memory
and time. An answer is good if it is one sentence, if no mark of a program is left, and if nothing outside is deleted.
The exit status is 1 if one is bad.
"""

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import command_line  # noqa: E402
import runs  # noqa: E402
from hostile import checkpoints, folders, reading  # noqa: E402

CONFIG = "configs/quadmamba/quadmamba-nano_digits.py"
LANGUAGE = "configs/mambatree_l/wiki/mamba-4m_alpaca-demo.py"
SMALL = ("model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)")
SHORT = (
    "train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=2", "train_dataloader.batch_size=8",
    "val_dataloader.num_batch_per_epoch=1", "visualizer.tensorboard=False", "default_hooks.curves.plot=False",
    "default_hooks.pictures.count=0", "log_level=ERROR", "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
)  # fmt: skip
MEMORY = 12 << 30  # bytes of address space, of which importing torch takes several
TIME = 300  # seconds, since an export that is taken takes a minute on a busy machine
KINDS = {
    "file": (*checkpoints.ATTACKS,),
    "state": (*checkpoints.ATTACKS, *checkpoints.STATES, *checkpoints.STATES),
    "hub": folders.HUB,
    "language": folders.LANGUAGE,
    "tokenizer": folders.TOKENIZER,
    "run": folders.RUNS,
    "curves": folders.CURVES,
}


class Entrance(NamedTuple):
    """A way in.

    Attributes:
        kind: what is given to it, a key of KINDS.
        call: a tool and its arguments, or a function of :mod:`hostile.reading` and its arguments.
        by_address: whether it takes an address, too.
    """

    kind: str
    call: tuple
    by_address: bool = True


def entrances(place, folder):
    """Return the ways in, by name."""
    work, options = str(folder / "work"), ("--cfg-options", *SMALL)
    photo = str(folder / "photo.png")
    text = ("--cfg-options", f"model.backbone.path={place}", *language_options(folder))
    base = folder / "base" / "epoch_1.pth"
    train = ("train.py", CONFIG, "--work-dir", work)
    return {
        "load_from": Entrance("file", (*train, *options, *SHORT, f"load_from={place}")),
        "resume": Entrance("state", (*train, "--resume", place, *options, *SHORT)),
        "test": Entrance("file", ("test.py", CONFIG, place, "--work-dir", work, *options)),
        "infer": Entrance("file", ("infer.py", CONFIG, place, photo, "--out", work, *options)),
        "export": Entrance("file", ("export.py", CONFIG, place, "--format", "torch_export", "--out", f"{work}.pt2",
                                    *options)),
        "visualize": Entrance("file", ("analysis/visualize.py", "quadtree", place, photo, "--out", f"{work}.png")),
        "explore": Entrance("file", (reading.explore, place, photo)),
        "opened with its config": Entrance("file", (reading.explore, f"{CONFIG}={place}", photo), by_address=False),
        "init_cfg": Entrance("file", (reading.init_cfg, place)),
        "convert": Entrance("file", ("convert_checkpoint.py", place, f"{work}.pth")),
        "publish": Entrance("file", ("publish_checkpoint.py", place, "--out", work)),
        "publish --hub": Entrance("file", ("publish_checkpoint.py", place, "--out", work, "--hub", f"{work}_hub",
                                           "--config", CONFIG, *options)),
        "merge_adapters": Entrance("file", ("merge_adapters.py", LANGUAGE, place, f"{work}_merged", *text_of(folder))),
        "hub": Entrance("hub", (reading.hub, place), by_address=False),
        "load_network": Entrance("language", (reading.network, place), by_address=False),
        "load_tokenizer": Entrance("tokenizer", (reading.tokenizer, place), by_address=False),
        "test a language model": Entrance("language", ("test.py", LANGUAGE, "--work-dir", work, *text),
                                          by_address=False),
        "curves": Entrance("curves", ("analysis/visualize.py", "curves", place, "--out", f"{work}.png"),
                           by_address=False),
        "ablate": Entrance("run", (reading.ablate, CONFIG, place, *SMALL, *SHORT), by_address=False),
        "resume beside curves": Entrance("curves", ("train.py", CONFIG, "--work-dir", place, "--resume", str(base),
                                                    *options, *SHORT), by_address=False),
    }  # fmt: skip


def language_options(folder):
    """Options of a config of a language model: its data, and nothing that takes time."""
    settings = []
    for part in ("val", "test"):
        settings += [
            f"{part}_dataloader.{setting}"
            for setting in (f"dataset.path={folder / 'language' / 'rows.json'}", "num_workers=0", "batch_size=4",
                            f"dataset.tokenizer.path={folder / 'language' / 'pretrained'}")
        ]  # fmt: skip
    return (*settings, "visualizer.tensorboard=False", "log_level=ERROR", "default_hooks.samples.count=0")


def text_of(folder):
    """Options of a sound language model."""
    return ("--cfg-options", f"model.backbone.path={folder / 'language' / 'pretrained'}", *language_options(folder))


def use(log, folder, call, *arguments):
    """Run a tool or a function in this process, which is a fresh one, within its limits."""
    for descriptor, name in ((1, log), (2, f"{log}.err")):
        with open(name, "w") as file:
            os.dup2(file.fileno(), descriptor)
    import torch

    from ssm_train.apis import cli

    torch.set_num_threads(1)
    torch.hub.set_dir(folder)
    os.environ.update(no_proxy="127.0.0.1", HF_HUB_OFFLINE="1")
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if isinstance(call, str):
        sys.exit(command_line.run(call.removesuffix(".py"), *arguments))
    sys.exit(cli.run(lambda: call(*arguments)))


def judge(status, errors, mark, attack, entrance):
    """Say in a word what became of an attack, from the exit status (None if there was no end) and the errors."""
    if mark.exists():
        return "RAN CODE"
    if status is None:
        return "NO END"
    if status not in (0, 1) or "Traceback" in errors:
        return "TRACEBACK"
    may_be_read = checkpoints.MAY_BE_READ | folders.MAY_BE_READ
    if status == 0 and attack not in may_be_read and not ignored(attack, entrance):
        return "TAKEN"
    return "refused" if status else "taken"


def ignored(attack, entrance):
    """Whether an entrance never looks at the hostile part: who has a config builds nothing from a description."""
    described = {checkpoints.deep_model, checkpoints.wide_model, checkpoints.imported_type, checkpoints.imported_scope}
    if entrance == "init_cfg":  # it returns the content
        return attack in {*described, checkpoints.wrong_numbers, checkpoints.not_finite, checkpoints.numbered_block}
    if attack in described:
        return entrance not in ("visualize", "explore")
    return attack is checkpoints.wrong_numbers and entrance == "publish"


def attack_once(number, seed, folder, root, names):
    """Make one hostile file or folder and give it to one entrance. Return the names of both and what became of it."""
    draw = random.Random(f"{seed}-{number}")
    entrance = names[number % len(names)]
    own = folder / str(number)
    own.mkdir()
    for shared in ("photo.png", "base", "language"):
        (own / shared).symlink_to(folder / shared)
    way = entrances("", own)[entrance]
    attack = draw.choice(KINDS[way.kind])
    in_file = way.kind in ("file", "state")
    mark, path = own / "mark", own / ("x.pth" if in_file else "x")
    if in_file:
        checkpoints.write(attack, path, f"{seed}-{number}", mark)
    else:
        folders.write(attack, "run" if way.kind == "curves" else way.kind, path, draw, mark)
    address = f"{root}/{number}/x.pth"
    place = address if in_file and way.by_address and draw.random() < 0.5 else str(path)
    log = own / "log"
    process = runs.context().Process(target=use, args=(str(log), str(own), *entrances(place, own)[entrance].call))
    process.start()
    process.join(TIME)
    ended = process.exitcode
    if ended is None:
        process.kill()
        process.join()
    errors = log.with_suffix(".err").read_text() if log.with_suffix(".err").exists() else ""
    verdict = judge(ended, errors, mark, attack, entrance)
    if attack is checkpoints.best_elsewhere and not (checkpoints.victim_of(path) / "file").exists():
        verdict = "DELETED"
    said = errors.strip().splitlines()[-1][:200] if errors.strip() else ""
    shutil.rmtree(own)
    return attack.__name__, entrance, verdict, said


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line for every request."""

    def log_message(self, *arguments):
        """Say nothing."""


def prepare(folder, names):
    """Write what some entrances need: a photo, a language model, and a run whose checkpoint others are made of."""
    import small_language
    from PIL import Image

    Image.new("L", (32, 32), 128).save(folder / "photo.png")
    if {"merge_adapters", "test a language model"} & {*names}:
        (folder / "language").mkdir()
        small_language.write_folder(folder / "language")
    if not {"resume", "resume beside curves"} & {*names}:
        return
    options = ("--work-dir", str(folder / "base"), "--cfg-options", *SMALL, *SHORT)
    process = runs.context().Process(target=use, args=(str(folder / "log"), str(folder), "train.py", CONFIG, *options))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError((folder / "log.err").read_text())
    checkpoints.BASE = folder / "base" / "epoch_1.pth"


def run(count, seed, folder, names, processes=1):
    """Attack ``count`` times, each entrance in turn, and yield what became of each."""
    prepare(folder, names)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    try:
        with ThreadPoolExecutor(processes) as pool:
            once = partial(attack_once, seed=seed, folder=folder, root=root, names=names)
            yield from pool.map(once, range(count))
    finally:
        checkpoints.BASE = None
        server.shutdown()
        server.server_close()


def main():
    """Attack, and print a line for every bad answer and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="number of attacks (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="which attacks (default: 0)")
    parser.add_argument("--entrance", nargs="+", choices=tuple(entrances("", Path())), help="default: all")
    parser.add_argument("--processes", type=int, default=1, help="attacks at a time (default: 1)")
    args = parser.parse_args()
    names = args.entrance or list(entrances("", Path()))
    runs.context().set_forkserver_preload([*runs.PRELOADED, "hostile.reading", "tree_ssm.language", "ssm_train.tasks"])
    verdicts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for attack, entrance, verdict, said in run(args.count, args.seed, Path(folder), names, args.processes):
            verdicts[entrance, verdict] += 1
            if verdict.isupper():
                print(f"{verdict}: {attack} through {entrance}: {said}", flush=True)
    kinds = ("refused", "taken", "TAKEN", "TRACEBACK", "NO END", "RAN CODE", "DELETED")
    print("| entrance | " + " | ".join(kinds) + " |\n" + "|---" * (len(kinds) + 1) + "|")
    for name in [*names, "all"]:
        counts = [
            sum(n for (way, what), n in verdicts.items() if what == kind and name in (way, "all")) for kind in kinds
        ]
        print(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return int(any(kind.isupper() for _, kind in verdicts))


if __name__ == "__main__":
    sys.exit(main())
