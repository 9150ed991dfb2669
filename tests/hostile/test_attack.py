"""A short run of the attack: hostile checkpoints through the tools, each in a process of its own."""

import pytest
from hostile import attack, checkpoints


@pytest.mark.parametrize("seed", ["a", "b"])
def test_hostile_checkpoints_run_nothing_and_are_one_sentence(seed, tmp_path):
    """Each seed draws other files; ``attack.py --count`` does more of the same through all entrances."""
    names = ["load_from", "visualize", "publish", "convert"]
    bad = [found for found in attack.run(4, seed, tmp_path, names) if found[2].isupper()]
    assert bad == []


def test_an_answer_is_judged(tmp_path):
    mark, kind = tmp_path / "mark", checkpoints.program
    answers = [
        (None, "", "NO END"),
        (0, "", "TAKEN"),
        (1, "Traceback (most recent call last)", "TRACEBACK"),
        (-9, "", "TRACEBACK"),
        (1, "error: x", "refused"),
    ]
    for status, errors, verdict in answers:
        assert attack.judge(status, errors, mark, kind, "test") == verdict
    mark.mkdir()
    assert attack.judge(1, "error: x", mark, kind, "test") == "RAN CODE"
