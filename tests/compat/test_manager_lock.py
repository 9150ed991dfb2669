"""mmengine's lock is free after an error, so that other threads need not wait for it without end."""

import threading

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer

from ssm_train.compat.manager_lock import give_back_after_errors
from ssm_train.runtime import config  # noqa: F401  It is what mends mmengine.


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch):
    for kind in (MMLogger, MessageHub, DefaultScope):
        monkeypatch.setattr(kind, "_instance_dict", kind._instance_dict.copy())


class Failing(ManagerMixin):
    """Cannot be made, and makes a logger before it says so."""

    def __init__(self, name, file):
        super().__init__(name)
        MMLogger.get_instance(name, log_file=file)
        raise OSError("no luck")


def works_elsewhere():
    """Say whether another thread gets a message hub within ten seconds."""
    thread = threading.Thread(target=MessageHub.get_instance, args=("elsewhere",), daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: Failing.get_instance("failing", file=folder / "log"), OSError),
        (lambda folder: Failing.get_instance("failing", file=folder / "missing" / "log"), FileNotFoundError),
        (lambda folder: Failing.get_current_instance(), RuntimeError),
        (lambda folder: MMLogger.get_instance("of no level", log_level="LOUD"), KeyError),
        (lambda folder: Visualizer.get_instance(7), AssertionError),
        (lambda folder: DefaultScope.get_instance("scope", scope_name=7), AssertionError),
    ],
)
def test_an_error_gives_the_lock_back(make, error, tmp_path):
    with pytest.raises(error):
        make(tmp_path)
    assert works_elsewhere()


def test_it_is_taken_and_given_back_as_before():
    """A lock that was given back too often would raise."""
    give_back_after_errors()
    for number in range(3):
        assert MessageHub.get_instance(f"hub {number}") is MessageHub.get_current_instance()
    assert works_elsewhere()
