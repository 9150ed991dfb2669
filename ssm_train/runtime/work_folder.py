"""The work folder of a run: whose it is, who may write to it, and what a new run may do where another one was."""

import itertools
import json
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process

from ssm_core import addresses
from ssm_core.errors import CheckpointError, ConfigError, UserError
from ssm_core.weights import read_file
from ssm_train.runtime import folder_lock
from ssm_train.runtime.checkpoints import POINTER, Outline, outline
from ssm_train.runtime.curve_files import CURVES, CURVES_PICTURE
from ssm_train.runtime.files import make_folder, remove_file, set_aside, write_text_atomically
from ssm_train.runtime.occupants import BEST, MARKER, STATE, occupants, occupied
from ssm_train.runtime.trackers.wandb import IDENTITY, keep_identity

_OTHERS = {POINTER, CURVES, CURVES_PICTURE, IDENTITY, MARKER}  # what a run writes beside checkpoints and logs
_FRESH = re.compile(r"run_([0-9]+)")  # folders that --fresh makes within the work folder
# Seconds after which a file server has noticed that a machine died, with which a run to resume was lost. NFS says 90.
# A run of this machine that is told to stop has then saved its state.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Start:
    """How a run starts where another one may have been. At most one of the first three is chosen.

    Attributes:
        resume: go on with the run that was there, or with the run of this checkpoint file.
        overwrite: delete the files of the run that was there, and begin anew.
        fresh: begin in a new folder within the work folder.
        or_begin: with ``resume``: begin without a warning if there is no run to go on with, and wait for one that is
            about to end.
    """

    resume: bool | str | Path = False
    overwrite: bool = False
    fresh: bool = False
    or_begin: bool = False

    def __post_init__(self) -> None:
        if (self.resume is not False) + self.overwrite + self.fresh > 1:
            raise ConfigError("choose one of --resume, --overwrite and --fresh")
        if self.or_begin and self.resume is not True:
            raise ConfigError("--or-begin goes with a --resume that names no checkpoint")

    @property
    def file(self) -> str | Path | None:
        """The checkpoint to resume; None if it has to be found, or nothing is resumed."""
        return None if isinstance(self.resume, bool) else self.resume


@dataclass
class WorkFolder:
    """A folder and its run.

    Attributes:
        path: the folder.
        run: a random name of the run, which is also in the checkpoints that it writes.
        before: the runs whose states this one continues, each with the last iteration that is continued. The name of a
            run before runs had names is None.
        known: whether the folder says already whose it is.
        fresh: whether ``--fresh`` made the folder.
        to_remove: files of the run that was there, to be deleted when this one begins.
        tracked_as: id of the run at Weights & Biases; None if it is not tracked there.
    """

    path: Path
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    before: dict[str | None, int] = field(default_factory=dict)
    known: bool = False
    fresh: bool = False
    to_remove: list[Path] = field(default_factory=list)
    tracked_as: str | None = None

    def holds(self, file: str | Path) -> bool:
        """Whether a file lies in the folder."""
        return _holds(self.path, file)

    def stranger(self, run: str | None, iteration: int) -> str:
        """Why this run does not continue a state.

        Args:
            run: the run that saved it, as far as it is known.
            iteration: number of completed iterations.

        Returns:
            The reason; an empty text if this run continues it.
        """
        if not self.known or run == self.run:
            return ""
        if run not in self.before:
            return "is of another run than the one in this folder"
        last = self.before[run]
        return "" if iteration <= last else f"was abandoned: this run goes on from iteration {last}"

    def begin(self) -> None:
        """Make the folder this run's, and delete the files of the run that was there if it is to be overwritten."""
        new, self.known = not self.known, True
        if not is_main_process():
            return
        # The marker is first: if this process dies meanwhile, the files that are left are of another run.
        self._write()
        for path in self.to_remove:
            remove_file(path)
        if new and self.tracked_as is None:
            remove_file(self.path / IDENTITY)

    def continues(self, state: Outline, named: bool) -> None:
        """Note which state this run continues.

        Args:
            state: what the state says about itself.
            named: whether the user named the file. States of later iterations in the folder are then abandoned.
        """
        if named:
            kept = {name: min(last, state.iteration) for name, last in self.before.items()}
            self.before = {**kept, state.run: state.iteration}
        elif not self.known and state.run is None:
            self.before = {None: state.iteration}
        elif not self.known:
            self.run = state.run
        self.known = True
        if is_main_process():
            self._write()

    def _write(self) -> None:
        for path in self.path.iterdir():
            own = path.name in _OTHERS or STATE.fullmatch(path.name) or BEST.fullmatch(path.name)
            if own and not path.is_file():  # a folder or a pipe, whose place no file of this run could take
                set_aside(path)
        before = [[name, last] for name, last in self.before.items()]
        content = {"run": self.run, "before": before, "fresh": self.fresh}
        known = _read_marker(self.path)
        if known is None or (known.run, known.before, known.fresh) != (self.run, self.before, self.fresh):
            write_text_atomically(self.path / MARKER, json.dumps(content))
        if self.tracked_as is not None:
            keep_identity(self.path, self.tracked_as)


@contextmanager
def claimed(work_dir: str | Path, start: Start) -> Iterator[WorkFolder]:
    """Choose and lock the folder of a run, in all processes of the run. The first process locks it for all.

    Args:
        work_dir: the folder that the user named.
        start: what to do if a run was there.

    Raises:
        ConfigError: a run was there or is going on, and ``start`` does not say what to do.
    """
    lock: int | None = None
    found: list[WorkFolder | UserError | None] = [None]
    if is_main_process():
        try:
            found[0], lock = _claim(Path(work_dir), start)
        except UserError as error:
            found[0] = error
    try:
        broadcast_object_list(found)
        if isinstance(found[0], UserError):
            raise found[0]
        yield found[0]
    finally:
        if lock is not None:
            folder_lock.release(lock)


def _claim(work_dir: Path, start: Start) -> tuple[WorkFolder, int]:
    for path in _choices(work_dir, start):
        make_folder(path)
        try:
            # A program that gives its command again can be faster than the end of the run before.
            lock = folder_lock.acquire(path, _PATIENCE if start.resume else 0.0, also_here=start.or_begin)
        except folder_lock.LockedError:
            if not start.fresh:
                raise
            continue
        try:
            return _enter(path, start), lock
        except BaseException:
            folder_lock.release(lock)
            raise
    raise AssertionError("the numbers of new folders have no end")


def _choices(work_dir: Path, start: Start) -> Iterator[Path]:
    """Folders for the run, in order: the work folder, or those that ``--fresh`` has made or may make within it."""
    runs = fresh_runs(work_dir)
    if start.fresh:
        last = max((number for number, path in runs.items() if occupants(path)), default=1)
        if last == 1 and not occupants(work_dir):
            yield work_dir
        yield from (work_dir / f"run_{number}" for number in itertools.count(last + 1))
    elif start.file is not None:
        yield next((path for path in runs.values() if _holds(path, start.file)), work_dir)
    elif start.resume and runs:
        yield runs[max(runs)]
    elif runs:
        raise ConfigError(
            f"{work_dir} has several runs, the newest in {runs[max(runs)].name}: go on with that one by --resume, "
            "begin another one by --fresh, or name the folder of one with --work-dir"
        )
    else:
        yield work_dir


def _enter(path: Path, start: Start) -> WorkFolder:
    """What a locked folder is for a run that starts there."""
    there, before = occupants(path), _read_marker(path)
    if not start.resume:
        if there and not start.overwrite:
            raise occupied(path, there)
        fresh = before.fresh if before else start.fresh and _FRESH.fullmatch(path.name) is not None
        return WorkFolder(path, fresh=fresh, to_remove=_files_of_a_run(path) if start.overwrite else [])
    if start.file is None:
        # A damaged marker does not say who made the folder.
        made = (path / MARKER).is_file() and _FRESH.fullmatch(path.name) is not None
        return before or WorkFolder(path, fresh=made)
    if there and (_is_foreign(before, start.file) if before else not _holds(path, start.file)):
        raise ConfigError(
            f"{path} has the files of a run, and {start.file} is of another one: name another --work-dir to go on "
            "from that file"
        )
    if before is None:
        return WorkFolder(path)
    return WorkFolder(path, before={**before.before, before.run: sys.maxsize}, fresh=before.fresh)


def fresh_runs(work_dir: Path) -> dict[int, Path]:
    """The folders of runs that ``--fresh`` made within a work folder, by their numbers."""
    found = ((_FRESH.fullmatch(path.name), path) for path in work_dir.glob("run_*") if (path / MARKER).is_file())
    numbered = {int(match[1]): path for match, path in found if match}
    # Other folders of such a name are runs that were given this --work-dir. A damaged marker does not say.
    marked = {number: (path, _read_marker(path)) for number, path in numbered.items()}
    return {number: path for number, (path, marker) in marked.items() if marker is None or marker.fresh}


def _files_of_a_run(folder: Path) -> list[Path]:
    """The files that a run writes and another run would not write anew, without sound files of something else."""
    saved = [path for path in folder.glob("*.pth") if STATE.fullmatch(path.name) or BEST.fullmatch(path.name)]
    others = [folder / name for name in _OTHERS - {MARKER, IDENTITY}]
    return [path for path in others if path.is_file()] + [path for path in saved if _is_of_a_run(path)]


def _is_of_a_run(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = read_file(path, tensors=False)
    except CheckpointError:
        return True  # a damaged one, by its name
    return isinstance(content, Mapping) and {"meta", "state_dict"} <= content.keys()


def _holds(folder: Path, file: str | Path) -> bool:
    """Whether a file lies in a folder."""
    return not addresses.is_address(file) and Path(file).parent.resolve() == folder.resolve()


def _is_foreign(folder: WorkFolder, file: str | Path) -> bool:
    """Whether a file is of another run than a folder's. A file that cannot be read is not: reading it will say why."""
    if addresses.is_address(file):
        return True
    try:
        state = outline(file)
    except CheckpointError:
        return False
    return bool(folder.stranger(state.run, 0))


def _read_marker(folder: Path) -> WorkFolder | None:
    """The folder as its marker describes it; None if there is no marker or it is damaged."""
    if not (folder / MARKER).is_file():
        return None
    try:
        content = json.loads((folder / MARKER).read_text())
        run, fresh, before = content["run"], content["fresh"], dict(content["before"])
        sound = isinstance(run, str) and isinstance(fresh, bool)
        sound = sound and all(isinstance(name, str | None) and isinstance(last, int) for name, last in before.items())
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return WorkFolder(folder, run, before, known=True, fresh=fresh) if sound else None
