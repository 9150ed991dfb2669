"""A short run of the kills; ``kills.py --count`` kills trainings and all tools that write, at more moments."""

import signal

import pytest
import runs
import torch
from hostile import kills

from ssm_train.runtime.files import assembling

NAMES = {"a", "b", "in/c"}


def assemble(folder, fatal, report):
    """Write the files of a folder, and die before one of the operations."""
    finish = kills.count_operations(folder, fatal, report)
    with assembling(folder) as place:
        for name in NAMES:
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(name * 1000)
    finish()


def test_a_new_folder_has_all_files_or_none_at_every_kill(tmp_path):
    ends = []
    while 0 not in ends:
        folder = tmp_path / str(len(ends))
        process = runs.start(assemble, tmp_path / "log", folder, len(ends) + 1, tmp_path / "report")
        process.join(60)
        ends.append(process.exitcode)
        assert set(kills.digests(folder)) in ((set(), NAMES) if process.exitcode else (NAMES,))
    assert len(ends) > 6
    assert set(ends[:-1]) == {-signal.SIGKILL}


@pytest.fixture(scope="module")
def publishing(tmp_path_factory):
    place = tmp_path_factory.mktemp("kills")
    torch.save({"state_dict": {"weight": torch.ones(3, 3)}, "meta": {}}, place / "model.pth")
    return kills.Subject(
        place / "runs", "publish_checkpoint", lambda out: (place / "model.pth", "--out", out, "--name", "net")
    )


def test_a_killed_tool_is_given_again_as_if_nothing_had_happened(publishing):
    answers = [kills.attack(publishing, number, "test") for number in range(4)]
    assert [wrong for _, wrong in answers if wrong] == []
    assert "killed" in [kind for kind, _ in answers]


def test_files_are_judged(publishing, tmp_path):
    (name,) = publishing.whole.files
    assert publishing.wrong_files(tmp_path) == ""
    assert publishing.differences(tmp_path) == "the files are []"
    (tmp_path / f".{name}.7.tmp").write_bytes(b"half")
    assert publishing.wrong_files(tmp_path) == ""
    (tmp_path / name).write_bytes(b"half")
    assert "half-written" in publishing.wrong_files(tmp_path)
    assert publishing.differences(tmp_path) == name
    (tmp_path / "other").touch()
    assert "none of the tool's files" in publishing.wrong_files(tmp_path)
