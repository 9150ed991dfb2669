"""Training of detectors and segmentors beside mmdet's and mmseg's own Swin-T, each with its own config, on made images.

    python tools/benchmarks/dense.py --task detection
    python tools/benchmarks/dense.py --task segmentation --json segmentation.json
    python tools/benchmarks/dense.py --task detection --device cpu --size 64 --batch 2 --iterations 2 --warm-up 1

Detection is Mask R-CNN at 1333x800 with 4 images of 640x480 and 7 objects an iteration. Segmentation is UPerNet at
512x512 with 16 images of 683x512. All run in bfloat16, ours with compile, each in a process of its own that loads JPEG
files with the same number of processes. The files are made once, in --folder. Printed are the median seconds of an
iteration, the shares of the time in which the data were waited for and in which the GPU was busy, the most memory, and
the rate divided by that of Swin-T. A line of --cfg-options holds for ours, such as compile.mode=reduce-overhead.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli
from ssm_train.data.prepare.processes import usable_cores
from ssm_train.runtime.files import make_folder

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from mmengine.config import Config

REFERENCE = "swin"
CONFIGS = {
    "detection": {
        REFERENCE: "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
        "mambatree": "mambatree/mask-rcnn_mambatree-tiny_fpn_8xb2-1x_coco",
        "quadmamba": "quadmamba/mask-rcnn_quadmamba-small_fpn_8xb2-1x_coco",
    },
    "segmentation": {
        REFERENCE: "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
        "mambatree": "mambatree/upernet_mambatree-tiny_8xb2-160k_ade20k-512x512",
        "quadmamba": "quadmamba/upernet_quadmamba-small_8xb2-160k_ade20k-512x512",
    },
}
SPARE = 6  # iterations after those that are timed: some are traced
BATCHES = {"detection": 4, "segmentation": 16}


@dataclass
class Row:
    """What a training took.

    Attributes:
        model: name of the model.
        seconds: median of an iteration.
        waiting: share of the time in which the data were waited for.
        busy: share of the time in which the GPU computed; None on a CPU.
        gibibytes: the most memory of the GPU; None on a CPU.
        to_reference: rate divided by that of Swin-T; None without it.
    """

    model: str
    seconds: float
    waiting: float
    busy: float | None
    gibibytes: float | None
    to_reference: float | None = None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, whole = parser.add_argument, kinds.whole_number
    add("--task", choices=CONFIGS, default="detection", help="what is trained (default: detection)")
    add("--models", nargs="+", choices=CONFIGS["detection"], default=list(CONFIGS["detection"]), help="default: all")
    add("--iterations", type=whole(2), default=40, help="that are measured (default: 40)")
    add("--warm-up", type=whole(), default=25, help="iterations before, in which kernels are compiled (default: 25)")
    add("--batch", type=whole(), help="images of an iteration (default: 4 for detection, 16 for segmentation)")
    add("--size", type=whole(32), help="side of the images that are trained on (default: those of the recipes)")
    add("--workers", type=whole(0), help="loading processes (default: one a core, less two)")
    add("--folder", type=Path, default=Path(tempfile.gettempdir()) / "dense-benchmark", help="of the files")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="on a CPU nothing is compiled (default: cuda)")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for the configs of this project")
    add("--json", type=Path, help="write all figures to this file")
    add("--only", metavar="FILE", type=Path, help=argparse.SUPPRESS)  # measure one model in this process
    options = parser.parse_args(argv)
    if options.cfg_options and set(options.models) == {REFERENCE}:
        parser.error(f"--cfg-options are for the configs of this project, and --models names {REFERENCE} alone")
    options.batch = options.batch or BATCHES[options.task]
    options.workers = max(usable_cores() - 2, 0) if options.workers is None else options.workers
    return options


def files(task: str, folder: Path, count: int) -> Path:
    """The folder with so many images, which is made if it is not there. Several processes may ask for it at once."""
    from ssm_train.data.prepare import dense_like

    kept = folder / f"{task}-{count}"
    if kept.is_dir():
        return kept
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        made = Path(unfinished) / "files"
        if task == "detection":
            from mmdet.datasets import CocoDataset

            dense_like.make_instances(made, count, CocoDataset.METAINFO["classes"])
        else:
            dense_like.make_label_maps(made, count)
        try:
            made.rename(kept)
        except OSError:
            if not kept.is_dir():  # otherwise another process was faster
                raise
    return kept


def common(cfg: "Config", options: argparse.Namespace, data: Path) -> "Config":
    """Change what both sides have: the data, the length, no validation and no pretrained weights."""
    total = options.warm_up + options.iterations + SPARE
    loader, step = cfg.train_dataloader, {"type": "ssm_train.runtime.step_times.StepTimes", "warm_up": options.warm_up}
    loader.update(batch_size=options.batch, num_workers=options.workers, persistent_workers=options.workers > 0)
    if options.task == "detection":
        loader.dataset.update(data_root=f"{data}/", ann_file="train.json", data_prefix={"img": "images/"})
        loader.num_batch_per_epoch, cfg.train_cfg.max_epochs = total, 1
    else:
        loader.dataset.update(data_root=str(data))
        cfg.train_cfg.max_iters = total
    for part in ("val", "test"):
        for key in ("dataloader", "cfg", "evaluator"):
            cfg[f"{part}_{key}"] = None
    cfg.custom_hooks = [{**step, "iterations": options.iterations, "out": str(options.only)}]
    cfg.load_from = None
    if options.size:
        shrink(cfg, options.size)
    return cfg


def shrink(cfg: "Config", size: int) -> None:
    """Train on smaller images, for a test on a CPU."""
    for step in cfg.train_dataloader.dataset.pipeline:
        for key in ("scale", "crop_size"):
            if key in step:
                step[key] = (size, size)
    if cfg.model.data_preprocessor.get("size") is not None:
        cfg.model.data_preprocessor.size = (size, size)


def train_ours(options: argparse.Namespace, data: Path, work_dir: Path) -> None:
    """Train with a config of this project, as tree-ssm train does."""
    from ssm_train.apis.train import train
    from ssm_train.runtime.config import run_config

    on_gpu = options.device == "cuda"
    name = CONFIGS[options.task][options.models[0]]
    cfg = run_config(name, options.cfg_options, str(work_dir), amp=on_gpu, compiled=on_gpu)
    train(common(cfg, options, data))


def train_theirs(options: argparse.Namespace, data: Path, work_dir: Path) -> None:
    """Train with a config of mmdet or mmseg, in mmengine's Runner."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    package, _, path = CONFIGS[options.task][REFERENCE].partition("::")
    cfg = Config.fromfile(Path(import_module(package).__file__).parent / ".mim" / "configs" / path)
    cfg = common(cfg, options, data)
    cfg.model.backbone.init_cfg = None
    cfg.model.pop("pretrained", None)
    cfg.work_dir = str(work_dir)
    if options.device == "cuda":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    else:
        cfg.model = json.loads(json.dumps(cfg.model.to_dict()).replace("SyncBN", "BN"))
    cfg.default_hooks.pop("visualization", None)
    Runner.from_cfg(cfg).train()


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure every model in a process of its own, print a table and return its rows."""
    options = parse(argv)
    if not options.only:
        check(options)
    total = (options.warm_up + options.iterations + SPARE) * options.batch
    data = files(options.task, options.folder, total)
    with tempfile.TemporaryDirectory() as folder:
        if options.only:
            own = train_theirs if options.models[0] == REFERENCE else train_ours
            own(options, data, Path(folder))
            return []
        # Imported here so that others can run this file without its folder in the path.
        from measured.programs import run_program

        rows: list[Row] = []
        print(f"{options.task:14s}{'s/iteration':>12}{'waiting':>9}{'GPU busy':>10}{'GiB':>7}{'rate to Swin-T':>16}")
        for model in sorted(options.models, key=lambda name: name != REFERENCE):
            out = Path(folder) / f"{model}.json"
            again = [*(sys.argv[1:] if argv is None else argv), "--models", model, "--only", str(out)]
            run_program([sys.executable, __file__, *again], f"the training of {model}", stdout=subprocess.DEVNULL)
            row = Row(model, **json.loads(out.read_text()))
            rows.append(row)
            row.to_reference = rows[0].seconds / row.seconds if rows[0].model == REFERENCE else None
            report(rows, options)
    return rows


def check(options: argparse.Namespace) -> None:
    """Raise what the trainings would only say after the files have been made."""
    # Imported here so that --help stays fast.
    from ssm_train.apis.devices import usable_device
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.files import check_file

    usable_device(options.device)
    if options.json:
        check_file(options.json)
    for model in options.models:
        if model != REFERENCE:
            load_config(CONFIGS[options.task][model], options.cfg_options)


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the last row, and write all of them. Each is kept as soon as it is known: the whole takes minutes."""
    row = rows[-1]
    columns = [f"{row.model:14s}{row.seconds:12.4f}{row.waiting:9.0%}", _or_dash(row.busy, "10.0%")]
    print(*columns, _or_dash(row.gibibytes, "7.1f"), _or_dash(row.to_reference, "16.2f"), sep="", flush=True)
    # Imported here so that --help stays fast.
    from measured.report import write_report
    from ssm_core.timing import machine

    write_report(options.json, {"machine": machine(options.device)}, rows)


def _or_dash(value: float | None, form: str) -> str:
    return f"{'-':>{form.split('.')[0]}}" if value is None else f"{value:{form}}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
