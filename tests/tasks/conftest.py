"""Fixtures of several tests of tasks."""

import json

import blobs
import pytest


@pytest.fixture
def coco(tmp_path):
    """Write a data set. Return a function that changes its training annotations and has its folder as ``root``."""
    content = blobs.write(tmp_path)
    path = tmp_path / "train.json"

    def change(**keys):
        path.write_text(json.dumps({**content, **keys}))
        return path

    change.root, change.content, change.path = tmp_path, content, path
    return change
