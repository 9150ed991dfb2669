"""Trains a small QuadMamba and a small MambaTreeV on handwritten digits on the CPU, and draws what their scans saw.

    python tools/quickstart.py [--work-dir work_dirs/quickstart]

Under the work folder it writes a run folder for each model (log, checkpoints, curves.json), curves.png, and scans.png:
test images with the quadrants that each QuadMamba block chose and the spanning tree that each MambaTreeV block grew.
"""

import argparse
import sys
import time
from pathlib import Path

from ssm_train.apis import cli

CONFIGS = {
    "QuadMamba": "configs/quadmamba/quadmamba-nano_digits.py",
    "MambaTreeV": "configs/mambatree/mambatree-nano_digits.py",
}
ROOT = Path(__file__).resolve().parents[1]
PICTURED_CLASSES = (0, 3, 4, 7)


def train_one(config: str, work_dir: Path):
    """Train a config into a folder of its own; return the result and the seconds it took."""
    from ssm_train.apis.train import train
    from ssm_train.runtime.config import load_config

    cfg = load_config(ROOT / config)
    cfg.work_dir = str(work_dir)
    start = time.perf_counter()
    result = train(cfg)
    return result, time.perf_counter() - start


def draw_curves_of(results: dict, path: Path) -> None:
    """Training loss and test accuracy of all runs."""
    from ssm_train.runtime.curve_figures import draw_runs

    figure = draw_runs({name: result.curves for name, result in results.items()}, ("loss", "top1"))
    figure.savefig(path, dpi=120)


def draw_scans(results: dict, path: Path) -> None:
    """The first test digit of a few classes, with what the trained blocks chose on it."""
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    import quadtree_ssm.visualization  # noqa: F401  registers how its scans are drawn
    import tree_ssm.visualization  # noqa: F401  registers how its scans are drawn
    from ssm_core.visualization import caption, draw_choice, show_image

    rows = []
    for name, result in results.items():
        model, dataset = trained(CONFIGS[name], result)
        indices = [dataset.labels.index(c) for c in PICTURED_CLASSES]
        images = torch.stack([dataset[i]["inputs"] for i in indices])
        rows.append((name, [np.asarray(dataset.load(i)) / 255 for i in indices], scans_of(model, images)))

    columns = 1 + sum(len(scans) for _, _, scans in rows)
    figure = Figure(figsize=(1.7 * columns, 1.9 * len(PICTURED_CLASSES)), layout="constrained")
    grid = figure.subplots(len(PICTURED_CLASSES), columns, squeeze=False)
    column = 1
    for name, pictures, scans in rows:
        for block, chosen in scans.items():
            for row, axes in enumerate(grid[:, column]):
                title = f"{name}\n{caption(block)}" if row == 0 else ""
                draw_choice(chosen, axes, pictures[row], row, title)
            column += 1
    for row, axes in enumerate(grid[:, 0]):
        show_image(axes, rows[0][1][row], "image" if row == 0 else "")
    figure.savefig(path, dpi=130)


def trained(config: str, result):
    """The model of a run with its last weights, in evaluation mode, and its test set."""
    from mmengine.logging import MMLogger

    from ssm_core.weights import read_file
    from ssm_train.registry import DATASETS, MODELS
    from ssm_train.runtime.checkpoints import newest_good
    from ssm_train.runtime.config import load_config

    cfg = load_config(ROOT / config)
    model = MODELS.build(cfg.model)
    checkpoint = newest_good(result.work_dir, MMLogger.get_current_instance())
    model.load_state_dict(read_file(checkpoint)["state_dict"])
    return model.eval(), DATASETS.build(cfg.test_dataloader.dataset)


def scans_of(model, images) -> dict:
    """What every block with more than one row of tokens chose, by the block's name."""
    import torch

    from ssm_core.layers import record_scans

    with record_scans(model) as record, torch.no_grad():
        model(images)
    return {name: chosen for name, chosen in record.items() if chosen.height > 2}


def main(arguments: list[str] | None = None) -> None:
    """Train both, draw, and print the two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quickstart"))
    work_dir = parser.parse_args(arguments).work_dir

    results, seconds = {}, {}
    for name, config in CONFIGS.items():
        print(f"\n{name}: {config}", flush=True)
        results[name], seconds[name] = train_one(config, work_dir / name.lower())
    draw_curves_of(results, work_dir / "curves.png")
    draw_scans(results, work_dir / "scans.png")
    print()
    for name, result in results.items():
        print(f"{name:10}  held-out top-1 {result.last():.2f} %  ({seconds[name]:.0f} s)")
    print(f"curves: {work_dir / 'curves.png'}\nwhat the scans saw: {work_dir / 'scans.png'}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
