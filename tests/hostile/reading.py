"""Ways in that are no tools: functions for scripts, and pages. They raise the errors that tools print."""

import json
from pathlib import Path

TEXT = "Every word of it is read. " * 200


def explore(source, photo):
    """Open a model for the explorer's page and show it a photo."""
    from ssm_train.apis.explore import Explorer, open_models

    Explorer(open_models([source]), max_megapixels=1).look(photo)


def init_cfg(place):
    """Read a file as ``init_cfg=dict(type="Pretrained")`` of OpenMMLab's models does."""
    from mmengine.runner.checkpoint import CheckpointLoader

    import ssm_train  # noqa: F401
    from ssm_train.compat.safe_loading import read_checkpoints_safely

    read_checkpoints_safely()
    CheckpointLoader.load_checkpoint(place, "cpu")


def hub(folder):
    """Load a model of the Hub's layout."""
    from quadtree_ssm import QuadMamba

    QuadMamba.from_pretrained(folder)


def network(folder):
    """Load a language model and let it answer."""
    import torch

    from tree_ssm.language import load_network

    load_network(folder)(torch.ones(1, 4, dtype=torch.long))


def tokenizer(folder):
    """Load a tokenizer and read a text with it."""
    from tree_ssm.language import load_tokenizer

    found = load_tokenizer(folder)
    tokens = found.encode(TEXT)
    if len(tokens) > 100 * len(TEXT):
        raise AssertionError(f"{len(TEXT)} letters became {len(tokens)} tokens")
    found.decode(tokens)


def ablate(config, folder, *options):
    """Take up a sweep whose only run is in a folder."""
    from ssm_train.apis.run_records import RECORD
    from ssm_train.apis.sweep import combinations, parse_grid
    from ssm_train.apis.sweep_runs import Launch, Sweep, SweepSettings

    work = Path(folder).with_name("sweep")
    work.mkdir()
    run = Path(folder).rename(work / "seed=0")
    settings = SweepSettings(config, ("seed=0",), tuple(options), work)
    if not (run / RECORD).exists():
        given = settings.identity_of(combinations(parse_grid(settings.grid))[0])
        (run / RECORD).write_text(json.dumps({"given": given, "status": "done", "seconds": 1.0, "error": ""}))
    Sweep(settings, Launch()).table()
