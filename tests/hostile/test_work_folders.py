"""A short run of the attack on work folders; ``work_folders.py --count`` does more of the same."""

import pytest
from hostile import work_folders


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    return work_folders.Attack(tmp_path_factory.mktemp("attack"))


def test_harmed_folders_are_resumed_from_the_newest_good_state(attack):
    answers = [attack.once(number, "test") for number in range(12)]
    assert [(done, wrong) for done, wrong in answers if wrong] == []
    assert len({done for done, _ in answers}) > 8, "the folders were harmed in many ways"
