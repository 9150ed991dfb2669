"""Harms the work folder of a run and resumes it: python tests/hostile/work_folders.py --count 500 --seed 1

A run leaves four states. Some of its files are damaged, or replaced by sound files of something else or of another run.
Then the run has to go on from the newest state that was left alone, and to name what it passed over. The exit status is
1 if it took another state, or ended in an error.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import runs  # noqa: E402
import torch  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402

OPTIONS = (*runs.RESNET, "default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=2",
           "default_hooks.checkpoint.max_keep_ckpts=-1")  # fmt: skip
STATES = ("iter_2.pth", "iter_4.pth", "epoch_1.pth", "state_8.pth")  # in the order of their iterations


def flipped_bits(path, draw, sound):
    content = bytearray(sound)
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut_off(path, draw, sound):
    path.write_bytes(sound[: draw.choice([0, 1, 4, draw.randrange(len(sound)), len(sound) - 1])])


def zeros(path, draw, sound):
    start = draw.randrange(len(sound))
    path.write_bytes(sound[:start] + bytes(len(sound) - start))


def a_page_of_another_place(path, draw, sound):
    content, size = bytearray(sound), 4096
    to, start = (draw.randrange(len(content) - size) for _ in range(2))
    content[to : to + size] = sound[start : start + size]
    path.write_bytes(content)


def more_at_the_end(path, draw, sound):
    path.write_bytes(sound + draw.randbytes(draw.choice([1, 100, 100_000])))


def text(path, draw, sound):
    path.write_text(draw.choice(["", "iter_8.pth", "\x00" * 100, "<html>503</html>" * 100]))


def folder(path, draw, sound):
    path.mkdir()


def link_to_nothing(path, draw, sound):
    path.symlink_to(draw.choice([path.name, "gone", "/dev/null"]))


def pipe(path, draw, sound):
    os.mkfifo(path)


def compressed(path, draw, sound):
    with tempfile.NamedTemporaryFile() as file:
        file.write(sound)
        file.flush()
        with zipfile.ZipFile(file.name) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))


def _changed(change):
    def harm(path, draw, sound):
        path.write_bytes(sound)
        state = torch.load(path, weights_only=True)
        torch.save(change(state, draw), path)

    harm.__name__ = change.__name__
    return harm


def weights_only(state, draw):
    return draw.choice([{k: state[k] for k in ("state_dict", "meta")}, state["state_dict"]])


def a_tensor(state, draw):
    return draw.choice([torch.rand(100, 28, 28), [torch.rand(3)], {"images": torch.rand(3), "labels": torch.ones(3)}])


def averaged_model(state, draw):
    average = {f"module.{k}": v for k, v in state["state_dict"].items()}
    return {"state_dict": {**average, "n_averaged": torch.tensor(3)}, "meta": state["meta"]}


def another_model(state, draw):
    name = draw.choice([k for k, v in state["state_dict"].items() if v.ndim > 1])
    return {**state, "state_dict": {**state["state_dict"], name: torch.rand(3, 5, 7)}}


def not_finite(state, draw):
    name = draw.choice([k for k, v in state["state_dict"].items() if v.is_floating_point()])
    value = torch.full_like(state["state_dict"][name], draw.choice([float("nan"), float("inf")]))
    return {**state, "state_dict": {**state["state_dict"], name: value}}


def another_run(state, draw):
    return {**state, "meta": {**state["meta"], "run": "0123", "iter": draw.choice([1, 7, 1000])}}


def wrong_counts(state, draw):
    key = draw.choice(["epoch", "iter"])
    value = draw.choice([-1, "8", None, 2.0, True, 10**30, [8], torch.tensor(8)])
    return {**state, "meta": {**state["meta"], key: value}}


def a_part_is_missing(state, draw):
    key = draw.choice(["state_dict", "meta", "optimizer", "message_hub"])
    return {k: v for k, v in state.items() if k != key}


def a_part_is_something_else(state, draw):
    key = draw.choice(["state_dict", "meta", "optimizer", "message_hub", "param_schedulers"])
    return {**state, key: draw.choice([None, 7, "x", [1], torch.ones(2), {"a": 1}, [[]], {1: {}}])}


def another_optimizer(state, draw):
    optimizer = state["optimizer"]
    group = optimizer["param_groups"][0]
    number = draw.choice(list(optimizer["state"]))
    return {**state, "optimizer": draw.choice([
        {**optimizer, "param_groups": [*optimizer["param_groups"], group]},
        {**optimizer, "param_groups": []},
        {**optimizer, "param_groups": [{**group, "lr": "high"}, *optimizer["param_groups"][1:]]},
        {**optimizer, "param_groups": [{**group, "params": group["params"][1:]}, *optimizer["param_groups"][1:]]},
        {**optimizer, "param_groups": [{"params": group["params"]}, *optimizer["param_groups"][1:]]},
        {**optimizer, "state": {**optimizer["state"], number: {"exp_avg": torch.ones(3, 1, 4)}}},
        {**optimizer, "state": {**optimizer["state"], 10**6: {"exp_avg": torch.ones(3)}}},
        {**optimizer, "state": {**optimizer["state"], number: 3}},
    ])}  # fmt: skip


def another_message_hub(state, draw):
    hub = state["message_hub"]
    name = draw.choice(list(hub["log_scalars"]))
    values = draw.choice([[], 3, ([1.0], []), (["a"], [1]), (None, None)])
    info = draw.choice([{"best_score": "high"}, {"epoch_length": None}, {"last_epoch_validated": "a"}])
    return {**state, "message_hub": draw.choice([
        {**hub, "log_scalars": {**hub["log_scalars"], name: values}},
        {**hub, "runtime_info": {**hub["runtime_info"], **info}},
        {**hub, "resumed_keys": 3},
    ])}  # fmt: skip


# They may leave a state as it was, because not every byte of a file has a meaning.
MAY_BE_SOUND = (flipped_bits, zeros, a_page_of_another_place, more_at_the_end, link_to_nothing)
HARMS = (
    flipped_bits, flipped_bits, cut_off, zeros, a_page_of_another_place, more_at_the_end, text, folder, link_to_nothing,
    pipe, compressed, *map(_changed, (
        weights_only, a_tensor, averaged_model, another_model, not_finite, another_run, wrong_counts, a_part_is_missing,
        a_part_is_something_else, another_optimizer, another_message_hub,
    )),
)  # fmt: skip


NOT_OURS = (
    '{"train": {}, "val": 3}', '{"train": [], "val": [{"iter": "a"}]}', "[" * 10**5, "{}", "null",
    '{"train": [{"iter": 2, "epoch": 1, "loss": "x"}], "val": []}', '{"run": 3, "before": [], "fresh": false}',
    '{"run": "a", "before": [3]}', '{"run": "a", "before": [["b", "c"]], "fresh": false}',
)  # fmt: skip


def harm_text(path, draw):
    """Damage a small file: a pointer, a marker, curves."""
    sound = path.read_bytes()
    path.unlink()
    kind = draw.randrange(8)
    if kind == 0:
        (path / "in it").mkdir(parents=True)
    elif kind == 1:
        path.write_bytes(sound[: draw.randrange(len(sound))])
    elif kind == 2:
        path.write_bytes(draw.randbytes(draw.choice([10, 1 << 17])))
    elif kind == 3:
        path.write_text(draw.choice(["/elsewhere/iter_4.pth", "iter_2.pth", "../iter_4.pth", "state_99.pth", "\0"]))
    elif kind == 6:
        os.mkfifo(path)
    elif kind == 4:
        path.write_text("a" * draw.choice([300, 10**6]))
    elif kind == 5:
        path.write_text(draw.choice(NOT_OURS))
    return f"{path.name} {kind}"


class ReadyHook(Hook):
    """Ends a training when everything is built and nothing is loaded."""

    def before_run(self, runner):
        raise Ready(runner)


class Ready(BaseException):
    """Carries the Runner."""


def leave_a_run(work):
    """Make the folder of a run with four states, whose names count different things."""
    options = ("train_cfg.max_epochs=2", "default_hooks.checkpoint.save_best=None", "experiment_name=left")
    runs.train(OPTIONS[0], work, *OPTIONS[1:], *options)
    for iteration, name in ((6, "epoch_1.pth"), (8, "state_8.pth")):
        (work / f"iter_{iteration}.pth").rename(work / name)
    for name in ("iter_10.pth", "iter_12.pth"):
        (work / name).unlink()
    (work / "last_checkpoint").write_text("state_8.pth")


def prepare(work):
    """A Runner for a work folder, as it is when it looks for the state to go on from."""
    hook = dict(type=f"{ReadyHook.__module__}.ReadyHook")
    try:
        runs.train(OPTIONS[0], work, *OPTIONS[1:], hooks=[hook], resume=True)
    except Ready as ready:
        runner = ready.args[0]
    return runner


class Attack:
    """Harms copies of a work folder.

    Args:
        place: an empty folder.
    """

    def __init__(self, place):
        self.place, self.original = place, place / "original"
        leave_a_run(self.original)
        self.sound = {name: (self.original / name).read_bytes() for name in STATES}
        self.states = {name: torch.load(self.original / name, weights_only=True) for name in STATES}
        empty = place / "prepared"
        self.runner = prepare(empty)

    def resume(self, work):
        """Resume in a folder. Return the iteration and what was said, or the error."""
        from ssm_train.runtime.hooks import AtomicCheckpointHook, CurvesHook
        from ssm_train.runtime.work_folder import Start, claimed

        runner, said = self.runner, []
        runner._work_dir, runner._resume, runner._load_from, runner._has_loaded = str(work), True, None, False
        runner.__dict__.pop("states", None)
        warning, runner.logger.warning = runner.logger.warning, lambda words, *rest: said.append(str(words))
        try:
            with claimed(work, Start(resume=True)) as runner.folder:
                runner.load_or_resume()
                for hook in runner.hooks:
                    if isinstance(hook, AtomicCheckpointHook | CurvesHook):
                        hook.before_train(runner)
        finally:
            runner.logger.warning = warning
        return runner.iter if runner._resume else None, " ".join(said)

    def once(self, number, seed):
        """Harm one copy. Return what was done, and what is wrong about the answer."""
        from ssm_core.errors import CheckpointError

        draw = random.Random(f"{seed}-{number}")
        work = self.place / f"{draw.choice(['work', 'w o r k', 'iter_9.pth'])}{number}"
        shutil.copytree(self.original, work)
        done, harmed = [], {}
        for name in draw.sample(STATES, draw.choice([0, 1, 1, 2, 3, 4])):
            harm = draw.choice(HARMS)
            (work / name).unlink()
            harm(work / name, draw, self.sound[name])
            harmed[name] = harm
            done.append(f"{harm.__name__} {name}")
        if draw.random() < 0.3:
            shutil.copy(
                self.original / STATES[-1], work / draw.choice(["best_top1_iter_8.pth", "mine.pth", "iter_x.pth"])
            )
        done += [harm_text(work / name, draw) for name in ("last_checkpoint", "curves.json") if draw.random() < 0.4]
        if another_run.__name__ not in str(done) and draw.random() < 0.3:
            done.append(harm_text(work / "run.json", draw))
        for path in work.glob("*.pth"):
            os.utime(path, (draw.randrange(10**9),) * 2, follow_symlinks=False)
        left = [name for name in STATES if name not in harmed]
        expected = self.states[left[-1]]["meta"]["iter"] if left else None
        try:
            found, said = self.resume(work)
            wrong = self.judge(found, said, expected, harmed) or self.judge_pointer(work, found)
        except CheckpointError as error:
            wrong = "" if not left and "no state in" in str(error) else f"refused: {error}"
        except Exception:  # whatever it is, the user would see it raw
            wrong = traceback.format_exc()
        shutil.rmtree(work)
        return ", ".join(done), wrong

    def judge(self, found, said, expected, harmed):
        """What is wrong about the state that was taken, compared with the newest that was left alone."""
        taken = next((name for name in STATES if self.states[name]["meta"]["iter"] == found), None)
        if found is None or taken is None:
            return f"iteration {found} was taken and not {expected}"
        if expected is not None and found < expected:
            return f"the state of iteration {found} was taken and not that of {expected}"
        if taken in harmed and harmed[taken] not in MAY_BE_SOUND:
            return f"{taken} was taken"
        state = {k: v.cpu() for k, v in self.runner.bare_model.state_dict().items()}
        if runs.differing(dict(self.states[taken]["state_dict"]), state):
            return f"the weights of {taken} were changed"
        newer = [name for name in harmed if STATES.index(name) > STATES.index(taken)]
        silent = [name for name in newer if name not in said]
        return f"it does not say that it passed over {silent[0]}" if silent else ""

    def judge_pointer(self, work, found):
        """What is wrong about the pointer to the last checkpoint, which other tools read."""
        from ssm_train.runtime.checkpoints import pointed

        taken = next(name for name in STATES if self.states[name]["meta"]["iter"] == found)
        if (work / "last_checkpoint").is_dir() or pointed(work) == work / taken:
            return ""
        return f"{taken} was taken, and the pointer names {pointed(work)}"


def main():
    """Attack, and print every wrong answer and a count at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="number of harmed folders (default: 100)")
    parser.add_argument("--seed", default="0", help="which ones (default: 0)")
    args = parser.parse_args()
    verdicts = Counter()
    with tempfile.TemporaryDirectory() as place:
        attack = Attack(Path(place))
        for number in range(args.count):
            done, wrong = attack.once(number, args.seed)
            verdicts["wrong" if wrong else "right"] += 1
            if wrong:
                print(f"{number}: {done or 'nothing'}: {wrong}", flush=True)
    print(json.dumps(verdicts))
    return int(verdicts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
