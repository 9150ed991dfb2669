"""The bare training step of a network beside whole trainings by tree-ssm train, on noise and on JPEG files.

    python tools/benchmarks/imagenet_files.py data/imagenet-like --train-count 128000
    python tools/benchmarks/loop.py --model mambatree --data data/imagenet-like
    python tools/benchmarks/loop.py --model quadmamba --device cpu --batch 4 --iterations 40 --size 64

The bare step is that of throughput.py: forward, backward and a fused update on one batch of noise, over and over. On a
GPU it is compiled, first with kernels that are launched one by one, then as CUDA graphs. The trainings are those of a
user: the ImageNet recipe with its default switches and --amp --compile, which makes CUDA graphs, and its network on
noise that needs no loading. The rate of a training is that of the mean over --iterations, after a quarter as many at
the start. By default the copy of the state that is made after 500 iterations is among them. With --processes, a
training has as many GPUs, or processes on CPUs, and its rate is divided by that of as many bare steps. A training also
prints where the time of its iterations goes (docs/bounds.md). Without --data there is no training on files.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measured.programs import run_program
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

# By family: the name in timm, the recipe, and the config of the same network on noise.
FAMILIES = {
    "mambatree": ("mambatree_tiny", "mambatree/mambatree-tiny_8xb128_in1k", "mambatree/mambatree-tiny_synthetic"),
    "quadmamba": ("quadmamba_small", "quadmamba/quadmamba-small_8xb128_in1k", "quadmamba/quadmamba-small_synthetic"),
}
BARE = "bare step"
LOG_EVERY = 10  # iterations between two logged times; each is the mean of as many


@dataclass
class Row:
    """One measurement."""

    what: str
    images_per_second: float
    milliseconds: float  # of an iteration
    to_bare: float  # rate divided by that of the fastest bare step so far, on as many GPUs


def bare(options: argparse.Namespace, folder: Path, graphs: bool) -> float:
    """Seconds of the bare step."""
    report = folder / "bare.json"
    command = [sys.executable, str(Path(__file__).with_name("throughput.py")), "--mode", "train", "--models"]
    command += [FAMILIES[options.model][0], "--batch", str(options.batch), "--size", str(options.size)]
    command += ["--device", options.device, "--json", str(report)]
    command += ["--dtype", "bfloat16", "--compile"] if options.device == "cuda" else ["--dtype", "float32"]
    command += ["--cuda-graphs"] if graphs else []
    run_program(command, "the bare step")
    return json.loads(report.read_text())["rows"][0]["milliseconds_per_step"] / 1e3


def training(options: argparse.Namespace, config: str, folder: Path, settings: list[str]) -> float:
    """Seconds of an iteration of a training."""
    start = options.iterations // 4
    several = options.processes > 1
    command = [sys.executable, "-m", "ssm_train.commands", "dist-train" if several else "train", config]
    command += [str(options.processes)] if several else []
    command += ["--work-dir", str(folder), "--overwrite"]
    command += ["--amp", "--compile"] if options.device == "cuda" else []
    command += ["--time-iterations", str(start), "--cfg-options", "train_cfg.max_epochs=1"]
    command += [f"train_dataloader.num_batch_per_epoch={start + options.iterations}"]
    command += ["val_dataloader.num_batch_per_epoch=1", f"train_dataloader.batch_size={options.batch}"]
    command += [f"default_hooks.logger.interval={LOG_EVERY}"]
    run_program([*command, "log_level=WARNING", *settings, *options.cfg_options], f"the training of {config}")
    scalars = max(folder.glob("*/vis_data/scalars.json")).read_text().splitlines()
    logged = (line for line in map(json.loads, scalars) if "train/time" in line)
    return statistics.fmean(line["train/time"] for line in logged if line["step"] > start)


def measurements(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """What is measured, and the seconds that it takes for an iteration, one after the other."""
    _, recipe, noise = FAMILIES[options.model]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        yield BARE, bare(options, folder, graphs=False)
        if options.device == "cuda":
            yield f"{BARE}, graphs", bare(options, folder, graphs=True)
        size = [f"{part}_dataloader.dataset.size={options.size}" for part in ("train", "val")]
        yield "training on noise", training(options, noise, folder / "noise", size)
        if options.data is not None:
            roots = [f"{part}_dataloader.dataset.root={options.data.resolve()}" for part in ("train", "val")]
            yield "training on files", training(options, recipe, folder / "files", roots)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, whole = parser.add_argument, kinds.whole_number
    add("--model", choices=FAMILIES, default="mambatree", help="family of the network (default: mambatree)")
    add("--data", type=Path, help="folder of files like ImageNet's, see imagenet_files.py")
    add("--batch", type=whole(2), default=128, help="images of an iteration (default: 128)")
    add("--size", type=whole(32), default=224, help="side of the images of noise (default: 224)")
    add("--iterations", type=whole(40), default=480, help="that are rated (default: 480)")
    add("--processes", type=whole(), default=1, metavar="N", help="of a training, one for each GPU (default: 1)")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="on a CPU nothing is compiled (default: cuda)")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="for both trainings")
    add("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    if options.data is not None and not (options.data / "train").is_dir():
        parser.error(f"--data {options.data} has no folder train: imagenet_files.py makes one")
    return options


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print a table and return its rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.report import write_report
    from ssm_core.timing import machine
    from ssm_train.apis.devices import usable_device
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.files import check_file

    usable_device(options.device)
    if options.json:
        check_file(options.json)
    for config in FAMILIES[options.model][1:]:
        load_config(config, options.cfg_options)  # its errors are known before anything is measured
    rows: list[Row] = []
    print(f"{'':18s}{'img/s':>10}{'ms':>10}{'to bare':>9}")
    for what, seconds in measurements(options):
        count = 1 if what.startswith(BARE) else options.processes
        rate = count * options.batch / seconds
        bare_rate = max((row.images_per_second for row in rows if row.what.startswith(BARE)), default=rate)
        rows.append(Row(what, rate, 1e3 * seconds, rate / (count * bare_rate)))
        row = rows[-1]
        # Each figure is kept as soon as it is known: the whole takes minutes.
        print(f"{what:18s}{row.images_per_second:10.1f}{row.milliseconds:10.2f}{row.to_bare:9.3f}", flush=True)
        write_report(options.json, {"machine": machine(options.device), "processes": options.processes}, rows)
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main))
