"""Gives nonsense to the command lines: python tests/hostile/lines.py --count 2000 --seed 1

Every line is given to its tool in a process of its own, with limits of memory and time. The parts of torch and mmengine
are imported once, before that. An answer is good if it is one sentence that names what is wrong, an exit status that
says so, and no file that was not there before. The exit status is 1 if an answer is bad.
"""

import argparse
import functools
import gc
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import command_line  # noqa: E402
from hostile import good_lines, nonsense  # noqa: E402
from hostile.nonsense import Line  # noqa: E402

MEMORY = 12 << 30  # bytes of address space, of which importing torch takes several
TIME = 60  # seconds
FOLD = 5  # lines of a tool for one of a part of a config
LONGEST = 1000  # characters of a sentence
SHOWN = 90  # characters of a line's beginning and end that are printed
KINDS = ("refused", "taken", "TAKEN", "TRACEBACK", "LONG", "UNNAMED", "LEFT FILES", "NO END", "KILLED")


class Answer(NamedTuple):
    """What became of a line: one of ``KINDS``, and the last line that it printed to stderr."""

    line: Line
    kind: str
    said: str
    seconds: float


def all_lines(folder: Path) -> Iterator[Line]:
    """Every line that the generator knows."""
    from ssm_train.runtime.config import load_config

    paths = good_lines.make_places(folder)
    for tool, arguments in good_lines.of_tools(folder).items():
        for line in nonsense.lines_of_tool(tool, arguments, paths, tool in good_lines.STARTS_OTHERS):
            if line.wrong or tool not in good_lines.SLOW:
                yield line
    for config, options in good_lines.trainings(folder).items():
        cfg = load_config(config, options)
        yield from nonsense.lines_of_config("train", [str(config), "--cfg-options", *options], cfg.to_dict())


def import_everything() -> None:
    """Import what tools import, so that no line does."""
    import cv2  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import mmcv.ops  # noqa: F401
    import mmengine.config.utils as utils
    import peft  # noqa: F401
    import setuptools  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import ssm_train.apis.explore
    import ssm_train.apis.export
    import ssm_train.apis.infer
    import ssm_train.apis.publish
    import ssm_train.apis.sweep_runs
    import ssm_train.apis.train
    import ssm_train.apis.visualize
    import ssm_train.tasks.detection.task
    import ssm_train.tasks.language.task
    import ssm_train.tasks.segmentation.task  # noqa: F401
    import tree_ssm.language  # noqa: F401

    torch.set_num_threads(1)
    utils.load = functools.cache(utils.load)  # mmengine reads all metafiles of a library for each base config
    gc.freeze()


def give(line: Line, work: Path, training: bool = True, limit: float = TIME) -> Answer:
    """Give one line to its tool, in a process of its own in the folder ``work``, which is emptied before and after.

    Args:
        line: the line.
        work: the folder.
        training: whether a line that sets a key to what is accepted goes on, rather than ends before anything is built.
        limit: seconds after which the process is killed.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    log = work.with_suffix(".err")
    log.unlink(missing_ok=True)  # a process that outlives its tool may write to the one before
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        _run(line, work, log, training, limit)
    ended = 0
    while not ended and time.monotonic() - start < limit:
        ended, status = os.waitpid(process, os.WNOHANG)
        time.sleep(0 if ended else 0.01)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)  # also what it has started
    if not ended:
        os.waitpid(process, 0)
    left = [path for path in work.rglob("*") if path.is_file() and not _is_log(path)]
    errors = log.read_text(errors="replace") if log.exists() else ""
    kind = judge(line, os.waitstatus_to_exitcode(status) if ended else None, errors, bool(left))
    shutil.rmtree(work, ignore_errors=True)
    return Answer(line, kind, errors.strip().splitlines()[-1] if errors.strip() else "", time.monotonic() - start)


def _is_log(path: Path) -> bool:
    """Whether a file is what a run says about itself, as failed runs do: its lock, log, config or scalars."""
    return path.suffix in (".log", ".py") or path.name == ".lock" or "vis_data" in path.parts


def _run(line: Line, work: Path, log: Path, training: bool, limit: float) -> None:
    """Run a tool in this process, which is a fresh one, and end it."""
    status = 70
    try:
        os.setsid()
        for descriptor, name in ((0, os.devnull), (1, os.devnull), (2, str(log))):
            opened = os.open(name, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, descriptor)
        os.environ.update(no_proxy="127.0.0.1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
        os.chdir(work)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        if line.named and not training:
            from ssm_train.runtime.runner import Runner

            Runner.from_cfg = _stop
        sys.argv = [f"{line.tool}.py", *line.arguments]
        status = command_line.run(line.tool, *line.arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _stop(*_: object) -> None:
    raise SystemExit(0)


def judge(line: Line, status: int | None, errors: str, left: bool) -> str:
    """Say in a word what became of a line.

    Args:
        line: the line.
        status: exit status; None if there was no end, and negative after a signal.
        errors: what was printed to stderr.
        left: whether there are files afterwards that were not there before.
    """
    if status is None:
        return "NO END"
    if status < 0:
        return "KILLED"
    if "Traceback" in errors:
        return "TRACEBACK"
    if status == 0:
        return "TAKEN" if line.wrong else "taken"
    said = errors.strip().splitlines()
    if not said or "error" not in said[-1] or len(said) > 60 or len(said[-1]) > LONGEST:
        return "LONG"
    value = line.arguments[-1].partition("=")[2] if line.arguments else ""
    if line.named not in said[-1] and (len(value) < 4 or value not in said[-1]):
        return "UNNAMED"
    return "LEFT FILES" if left else "refused"


def choose(lines: list[Line], count: int, seed: int) -> list[Line]:
    """Draw lines in turns: five of every tool, and one of every part of every config that is trained with."""
    shuffled = random.Random(seed).sample(lines, len(lines))
    parts: dict[tuple, list[Line]] = {}
    for number, line in enumerate(shuffled):
        if line.tool == "train" and line.named:
            part = (line.tool, line.arguments[0], line.arguments[-1].partition(".")[0])
        else:
            part = (line.tool, number % FOLD)
        parts.setdefault(part, []).append(line)
    in_turn = sorted(parts, key=len)  # the tools come first
    turns = itertools.chain.from_iterable(itertools.zip_longest(*(parts[part] for part in in_turn)))
    return list(itertools.islice((line for line in turns if line is not None), count))


def run(lines: list[Line], folder: Path, training: bool = True) -> Iterator[Answer]:
    """Give every line and yield the answers."""
    for line in lines:
        yield give(line, folder / "work", training)


def table(answers: list[Answer]) -> str:
    """Tools and what became of their lines."""
    counts = Counter((answer.line.tool, answer.kind) for answer in answers)
    rows = [f"{'tool':<24}" + "".join(f"{kind:>11}" for kind in KINDS)]
    for tool in dict.fromkeys(answer.line.tool for answer in answers):
        rows.append(f"{tool:<24}" + "".join(f"{counts[tool, kind]:>11}" for kind in KINDS))
    return "\n".join(rows)


def main() -> int:
    """Give lines, print every bad answer, and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=204, help="number of lines (default: 204)")
    parser.add_argument("--seed", type=int, default=0, help="which lines (default: 0)")
    parser.add_argument("--tool", nargs="+", help="such as train or analysis/cost (default: all)")
    parser.add_argument("--having", help="only lines that have this text in them")
    parser.add_argument("--no-training", action="store_true", help="build nothing of a config that is accepted")
    parser.add_argument("--all", action="store_true", help="print good answers as well")
    args = parser.parse_args()
    import_everything()
    with tempfile.TemporaryDirectory() as name:
        lines = list(dict.fromkeys(all_lines(Path(name))))
        lines = [x for x in lines if x.tool in (args.tool or (x.tool,)) and (args.having or "") in str(x)]
        print(f"{len(lines)} lines are known", flush=True)
        answers = []
        for answer in run(choose(lines, args.count, args.seed), Path(name), not args.no_training):
            answers.append(answer)
            if args.all or answer.kind.isupper():
                shown = str(answer.line).replace(name, "TMP").replace(str(ROOT), ".")
                shown = shown if len(shown) < 2 * SHOWN else f"{shown[:SHOWN]} … {shown[-SHOWN:]}"
                print(f"{answer.kind} ({answer.seconds:.1f} s): {shown}\n    {answer.said[:300]}", flush=True)
    print(table(answers))
    return int(any(answer.kind.isupper() for answer in answers))


if __name__ == "__main__":
    # The interpreter does not tidy up: libraries whose objects are frozen would complain.
    status = main()
    sys.stdout.flush()
    os._exit(status)
