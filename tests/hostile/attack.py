"""Gives hostile checkpoints to the tools: python tests/hostile/attack.py --count 200 --seed 1

Each is given as a file or by an address of a server on this machine, in a process with limits of memory and time. An
answer is good if it is one sentence and no mark of a program is left. The exit status is 1 if one is bad.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import command_line  # noqa: E402
import runs  # noqa: E402
from hostile import checkpoints  # noqa: E402

CONFIG = "configs/quadmamba/quadmamba-nano_digits.py"
SMALL = ("model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)")
MEMORY = 12 << 30  # bytes of address space, of which importing torch takes several
TIME = 120  # seconds


def entrances(file, folder):
    """Return the command lines that read a checkpoint, by name. Those with ``by_address`` take an address, too."""
    work, options = str(folder / "work"), ("--cfg-options", *SMALL)
    config = (CONFIG, file)
    short = ("train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=1", "val_dataloader.num_batch_per_epoch=1")
    return {
        "load_from": ("train.py", CONFIG, "--work-dir", work, *options, *short, f"load_from={file}"),
        "resume": ("train.py", CONFIG, "--work-dir", work, "--resume", file, *options, *short),
        "test": ("test.py", *config, "--work-dir", work, *options),
        "infer": ("infer.py", *config, str(folder / "photo.png"), "--out", work, *options),
        "export": ("export.py", *config, "--format", "torch_export", "--out", f"{work}.pt2", *options),
        "open": ("analysis/visualize.py", "quadtree", file, str(folder / "photo.png"), "--out", f"{work}.png"),
        "convert": ("convert_checkpoint.py", file, f"{work}.pth"),
        "publish": ("publish_checkpoint.py", file, "--out", work),
    }


FILES_ALONE = ("convert", "publish")


def use(log, folder, tool, *arguments):
    """Run a tool in this process, which is a fresh one, within its limits."""
    for descriptor, name in ((1, log), (2, f"{log}.err")):
        with open(name, "w") as file:
            os.dup2(file.fileno(), descriptor)
    import torch

    torch.set_num_threads(1)
    torch.hub.set_dir(folder)
    os.environ["no_proxy"] = "127.0.0.1"
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.exit(command_line.run(tool.removesuffix(".py"), *arguments))


def judge(status, errors, mark, attack, entrance):
    """Say in a word what became of an attack, from the exit status (None if there was no end) and the errors."""
    if mark.exists():
        return "RAN CODE"
    if status is None:
        return "NO END"
    if status not in (0, 1) or "Traceback" in errors:
        return "TRACEBACK"
    if status == 0 and attack not in checkpoints.MAY_BE_READ and not ignored(attack, entrance):
        return "TAKEN"
    return "refused" if status else "taken"


def ignored(attack, entrance):
    """Whether an entrance never looks at the hostile part: who has a config builds nothing from a description."""
    described = {checkpoints.deep_model, checkpoints.wide_model, checkpoints.imported_type, checkpoints.imported_scope}
    return (attack in described and entrance != "open") or (
        attack is checkpoints.wrong_numbers and entrance == "publish"
    )


def attack_once(number, seed, folder, root, names):
    """Write one hostile file and give it to one tool. Return the names of both and what became of it."""
    draw = random.Random(f"{seed}-{number}")
    attack = checkpoints.ATTACKS[number % len(checkpoints.ATTACKS)]
    entrance = draw.choice(names)
    name = f"{number}.pth"
    mark, path = folder / f"mark{number}", folder / name
    checkpoints.write(attack, path, f"{seed}-{number}", mark)
    place = f"{root}/{name}" if entrance not in FILES_ALONE and draw.random() < 0.5 else str(path)
    command = entrances(place, folder)[entrance]
    log = folder / f"log{number}"
    process = runs.context().Process(target=use, args=(str(log), str(folder), *command))
    process.start()
    process.join(TIME)
    ended = process.exitcode
    if ended is None:
        process.kill()
        process.join()
    errors = log.with_suffix(".err").read_text() if log.with_suffix(".err").exists() else ""
    verdict = judge(ended, errors, mark, attack, entrance)
    said = errors.strip().splitlines()[-1][:200] if errors.strip() else ""
    path.unlink(missing_ok=True)
    return attack.__name__, entrance, verdict, said


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line for every request."""

    def log_message(self, *arguments):
        """Say nothing."""


def run(count, seed, folder, names):
    """Attack ``count`` times and yield what became of each."""
    from PIL import Image

    Image.new("L", (32, 32), 128).save(folder / "photo.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for number in range(count):
            yield attack_once(number, seed, folder, f"http://127.0.0.1:{server.server_port}", names)
    finally:
        server.shutdown()


def main():
    """Attack, and print a line for every bad answer and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="number of attacks (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="which attacks (default: 0)")
    parser.add_argument("--entrance", nargs="+", choices=tuple(entrances("", Path())), help="default: all")
    args = parser.parse_args()
    names = args.entrance or list(entrances("", Path()))
    verdicts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for attack, entrance, verdict, said in run(args.count, args.seed, Path(folder), names):
            verdicts[entrance, verdict] += 1
            if verdict.isupper():
                print(f"{verdict}: {attack} through {entrance}: {said}", flush=True)
    kinds = ("refused", "taken", "TAKEN", "TRACEBACK", "NO END", "RAN CODE")
    print("entrance   " + "".join(f"{kind:>11}" for kind in kinds))
    for name in names:
        print(f"{name:<11}" + "".join(f"{verdicts[name, kind]:>11}" for kind in kinds))
    return int(any(kind.isupper() for _, kind in verdicts))


if __name__ == "__main__":
    sys.exit(main())
