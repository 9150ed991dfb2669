"""Writes docs/model_zoo.md, the table of all configs: python tools/analysis/model_zoo.py.

Parameters and operations are counted, schedules are read from the configs; published figures are below.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from ssm_train.apis import cli

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "model_zoo.md"
# The papers' own figures, by config; classification top-1, box / mask AP, mIoU at one scale / at several and flipped.
PUBLISHED = {
    "quadmamba-small_8xb128_in1k": "82.2",
    "mambatree-tiny_8xb128_in1k": "83.4",
    "mambatree-small_8xb128_in1k": "84.2",
    "mambatree-base_8xb128_in1k": "84.8",
    "mask-rcnn_mambatree-tiny_fpn_8xb2-1x_coco": "47.0 / 42.7",
    "mask-rcnn_mambatree-small_fpn_8xb2-1x_coco": "48.6 / 43.6",
    "mask-rcnn_mambatree-tiny_fpn_8xb2-3x-ms_coco": "49.0 / 43.8",
    "mask-rcnn_mambatree-small_fpn_8xb2-3x-ms_coco": "50.1 / 44.6",
    "upernet_mambatree-tiny_8xb2-160k_ade20k-512x512": "48.5 / 49.4",
    "upernet_mambatree-small_8xb2-160k_ade20k-512x512": "50.7 / 51.7",
}
TASKS = {"ssm_train": "Image classification", "mmdet": "Detection and instance segmentation", "mmseg": "Segmentation"}
MEASURES = {"ssm_train": "top-1", "mmdet": "box / mask AP", "mmseg": "mIoU, one scale / several and flipped"}
HEAD = """# All configurations of images

Those of language models are in [language.md](language.md). Written by `python tools/analysis/model_zoo.py`, and checked
against the configs by a test. Parameters are those of the whole model in training, auxiliary heads included. Operations
are those of one image at test time, multiply-adds counted once and scans included; detectors with 1,000 proposals and
100 masks. **Published figures are the papers' own**, for their implementations (MambaTree's operations, published
without the scans, are in the README); what this repository has measured is in [results.md](results.md).
"""


class Row(NamedTuple):
    """A line of the table."""

    task: str  # a key of TASKS
    name: str  # the config's file name without its suffix
    path: str  # from docs/
    parameters: int
    flops: int
    size: tuple[int, int]
    schedule: str


def leaf_configs() -> list[Path]:
    """All configs of images that can be run; the language models' are listed in docs/language.md."""
    return sorted(p for p in (ROOT / "configs").rglob("*.py") if not {"_base_", "mambatree_l"} & set(p.parts))


def describe_schedule(cfg) -> str:
    """Length of the training and images of an iteration in a process, such as ``300 epochs, batch 128``."""
    loop = cfg.train_cfg
    epochs = loop.get("max_epochs")
    length = f"{epochs} epochs" if epochs else f"{loop.max_iters:,} iterations"
    return f"{length}, batch {cfg.train_dataloader.batch_size}"


def row_of(path: Path) -> Row:
    """Load a config, count its model's cost and read its schedule."""
    from ssm_train.apis.analyse import count_cost, default_size
    from ssm_train.runtime.config import load_config

    cfg = load_config(path)
    size = default_size(cfg)
    cost = count_cost(cfg, size)
    place = f"../{path.relative_to(ROOT).as_posix()}"
    return Row(cfg.default_scope, path.stem, place, cost.parameters, cost.flops.total, size, describe_schedule(cfg))


def render(rows: list[Row]) -> str:
    """The page."""
    lines = [HEAD]
    for task, title in TASKS.items():
        lines += [
            f"## {title}\n",
            f"| config | parameters | GFLOPs | at | schedule (batch of one process) | published {MEASURES[task]} |",
            "|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row.task == task):
            size = f"{row.size[0]} × {row.size[1]}"
            lines.append(
                f"| [{row.name}]({row.path}) | {row.parameters / 1e6:.3f} M | {row.flops / 1e9:.3f} | {size} "
                f"| {row.schedule} | {PUBLISHED.get(row.name, '')} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    argparse.ArgumentParser(description="Write docs/model_zoo.md.", allow_abbrev=False).parse_args(arguments)
    from ssm_train.runtime.files import write_text_atomically

    rows = [row_of(path) for path in leaf_configs()]
    write_text_atomically(TABLE, render(rows))
    print(f"{TABLE}: {len(rows)} configs")


if __name__ == "__main__":
    sys.exit(cli.run(main))
