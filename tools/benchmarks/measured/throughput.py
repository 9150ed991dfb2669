"""Measures images a second of whole models: ../throughput.py."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from timm.models import SwinTransformer
from torch import Tensor, nn

import tree_ssm  # noqa: F401  registers the models with timm
from measured.report import write_report
from quadtree_ssm import QuadMamba
from quadtree_ssm.modules import CrossScan, QuadtreeScan
from ssm_core.errors import ConfigError
from ssm_core.kernel_times import kernel_times, table
from ssm_core.timing import machine, summarize, timed
from ssm_core.visualization import style
from ssm_train.apis.devices import usable_device
from ssm_train.apis.study import read_study
from ssm_train.apis.visualize import write_figure
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import check_file, write_text_atomically
from ssm_train.tasks import task_of

OURS = ("quadmamba", "mambatree")
WARM_UP_STEPS = 5
CLASSES = 1000  # of timm's models
CHANNELS = 3


@dataclass
class Row:
    """One model's measurement."""

    model: str
    size: int  # height and width of the images
    batch: int  # images a step
    parameters_millions: float
    images_per_second: float
    spread_images_per_second: float
    milliseconds_per_step: float
    peak_memory_gib: float | None  # weights, optimizer and activations of this model; None on the CPU
    to_last: float  # its rate divided by that of the last model at this size


class Subject(NamedTuple):
    """A model that is measured."""

    network: nn.Module
    channels: int = CHANNELS
    classes: int = CLASSES


def images_of(subject: Subject, options: argparse.Namespace) -> Tensor:
    """The random batch that every step takes."""
    images = torch.randn(options.batch, subject.channels, options.size, options.size, device=options.device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    return images.to(dtype=options.dtype if options.cast else torch.float32, memory_format=layout)


def autocast(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Autocast, unless the arithmetic has the precision of the weights."""
    if options.cast or options.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(options.device, options.dtype)


def as_compiled(model: nn.Module, options: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """The network as the run asks for it: as it is, compiled, or compiled into CUDA graphs."""
    if not options.compile:
        return model
    return torch.compile(model, fullgraph=True, mode="reduce-overhead" if options.cuda_graphs else None)


def inference_step(subject: Subject, options: argparse.Namespace) -> Callable[[], None]:
    """A call that runs the model on one batch."""
    model = subject.network.eval()
    if options.cast:
        model.to(options.dtype)
    images = images_of(subject, options)
    forward = as_compiled(model, options)

    @torch.inference_mode()
    def step() -> None:
        with autocast(options):
            forward(images)

    return step


def training_step(subject: Subject, options: argparse.Namespace) -> Callable[[], None]:
    """A call that makes one step of training."""
    model = subject.network.train()
    images = images_of(subject, options)
    labels = torch.randint(subject.classes, (options.batch,), device=options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=options.device == "cuda")
    # float16 needs a scaled loss, as in training. With other types the scaler does nothing.
    scaler = torch.amp.GradScaler(options.device, enabled=options.dtype == torch.float16)
    forward = as_compiled(model, options)

    def step() -> None:
        with autocast(options):
            loss = F.cross_entropy(forward(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def build(subject: Subject, options: argparse.Namespace) -> tuple[Callable[[], None], float, float | None]:
    """A model's step after some steps for warming up, its parameters in millions, and its peak memory in GiB."""
    cuda = options.device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    model = subject.network.to(options.device)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    step = (training_step if options.mode == "train" else inference_step)(subject, options)
    step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP_STEPS):
        step()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else None
    return step, sum(p.numel() for p in model.parameters()) / 1e6, peak


def timm_subjects(options: argparse.Namespace) -> Iterator[tuple[str, Subject]]:
    """The models that are named on the command line."""
    for name in options.models:
        if options.plain and name.startswith(OURS):
            yield f"{name}, plain", Subject(timm.create_model(name, num_classes=CLASSES, fused=False))
        network = timm.create_model(name, num_classes=CLASSES)
        if options.cross and isinstance(network, QuadMamba):
            yield f"{name}, cross scans", Subject(with_cross_scans(timm.create_model(name, num_classes=CLASSES)))
        if not name.startswith(OURS):
            resize(network, options.size)
        yield name, Subject(network)


def resize(network: nn.Module, side: int) -> None:
    """Prepare a network of timm for images of another size, if it has to be told.

    Swin keeps its windows, as in detection: timm would enlarge them with the image.
    """
    if isinstance(network, SwinTransformer):
        network.set_input_size((side, side), window_size=network.layers[0].blocks[0].window_size)
    elif hasattr(network, "set_input_size"):
        network.set_input_size((side, side))


def with_cross_scans(network: QuadMamba) -> QuadMamba:
    """Put cross scans in the place of the quadtree scans, with new weights of as many channels and states."""
    for module in list(network.modules()):
        for name, scan in list(module.named_children()):
            if isinstance(scan, QuadtreeScan):
                module.add_module(name, CrossScan(scan.inner_dim, scan.d_state, scan.dt_rank))
    return network


def study_subjects(options: argparse.Namespace) -> Iterator[tuple[str, Subject]]:
    """The cells of a study, or of one of its tables.

    Raises:
        ConfigError: the study has no such table, or a cell is no classifier.
    """
    cells = read_study(options.study).cells
    tables = list(dict.fromkeys(cell.table for cell in cells))
    if options.table not in (None, *tables):
        raise ConfigError(f"{options.study} has no table {options.table!r}: it has {', '.join(map(repr, tables))}")
    for cell in cells:
        if options.table in (None, cell.table):
            cfg = load_config(cell.config, [f"{key}={value}" for key, value in cell.settings.items()])
            if cfg.model.type != "ImageClassifier":
                raise ConfigError(f"{cell.config} is no classifier: only classifiers are measured here")
            name = cell.name if options.table else f"{cell.table}: {cell.name}"
            network = task_of(cfg).build().backbone
            yield name, Subject(network, cfg.model.backbone.get("in_chans", CHANNELS), network.num_classes)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Build all models for images of one size, then time them in turns.

    Args:
        options: of the command line, with one size and the batch that goes with it.

    Raises:
        ConfigError: a model does not take images of this size.
    """
    subjects = study_subjects(options) if options.study else timm_subjects(options)
    built = {}
    for name, subject in subjects:
        try:
            built[name] = build(subject, options)
        except (ValueError, AssertionError) as error:  # of networks that do not take every size
            raise ConfigError(f"{name} cannot be measured at {options.size}×{options.size}: {error}") from error
    times: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(options.rounds):
        for name, (step, _, _) in built.items():

            def several(step: Callable[[], None] = step) -> None:
                for _ in range(options.steps):
                    step()

            times[name].append(timed(several, options.device) / options.steps)
    last = summarize(list(times.values())[-1]).median
    for name, (_, parameters, peak) in built.items():
        median, spread = summarize(times[name])
        rate, size = 1e3 * options.batch / median, (options.size, options.batch)
        yield Row(name, *size, parameters, rate, rate * spread / median, median, peak, last / median)
    if options.profile:
        with options.profile.open("a") as file:
            for name, (step, _, _) in built.items():
                title = f"{name}, {options.batch}×{options.size}×{options.size}"
                file.write(f"{title}\n{table(kernel_times(step, options.device))}\n\n")


def draw(rows: list[Row], conditions: str) -> Figure:
    """Draw the time per million pixels over the height of the images: a line for every model.

    A model whose time grows as the pixels do has a level line.

    Args:
        rows: of all sizes.
        conditions: how they were measured, in a line.
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=style.CYCLE)
    for name in dict.fromkeys(row.model for row in rows):
        own = sorted((row for row in rows if row.model == name), key=lambda row: row.size)
        times = [1e6 * row.milliseconds_per_step / (row.batch * row.size**2) for row in own]
        axes.plot([row.size for row in own], times, "o-", label=name)
    axes.set_xlabel("height = width of the images, pixels")
    axes.set_ylabel("ms per million pixels")
    axes.set_xticks(sorted({row.size for row in rows}))
    axes.set_ylim(bottom=0)
    axes.set_title(conditions)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def run(options: argparse.Namespace) -> list[Row]:
    """Measure, print a table, and return the rows.

    Args:
        options: of the command line.

    Raises:
        ConfigError: timm knows no such model, or see :func:`study_subjects`.
    """
    unknown = next((name for name in options.models if not timm.is_model(name)), None)
    if unknown is not None:
        raise ConfigError(f"timm knows no model {unknown!r}; see timm.list_models('*{unknown[:4]}*')")
    options.device = usable_device(options.device).type
    on_gpu = options.device == "cuda"
    options.batch = options.batch or (128 if on_gpu else 8)
    options.steps = options.steps or (10 if on_gpu else 1)
    options.dtype = getattr(torch, options.dtype or ("bfloat16" if on_gpu else "float32"))
    for path in filter(None, (options.json, options.plot, options.profile)):
        check_file(path)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    settings = {
        "mode": options.mode,
        "dtype": str(options.dtype)[6:] + (" weights" if options.cast else ""),
        "compile": options.compile,
        "cuda_graphs": options.cuda_graphs,
        "channels_last": options.channels_last,
        "batch": options.batch,
        "size": options.size,
    }
    about = machine(options.device) | {"timm": timm.__version__}
    print(", ".join(f"{k} {v}" for k, v in (about | settings).items()), flush=True)
    if options.profile:
        write_text_atomically(options.profile, "")
    print(
        f"{'model':40} {'size':>5} {'batch':>5} {'M params':>9} {'img/s':>9} {'±':>7} {'ms/step':>9} {'GiB':>6} "
        f"{'to last':>8}"
    )
    rows = []
    for size in dict.fromkeys(options.size):
        batch = max(1, round(options.batch * (options.size[0] / size) ** 2))
        for row in measure(argparse.Namespace(**vars(options) | {"size": size, "batch": batch})):
            rows.append(row)
            memory = "" if row.peak_memory_gib is None else f"{row.peak_memory_gib:.1f}"
            print(
                f"{row.model:40} {row.size:5} {row.batch:5} {row.parameters_millions:9.2f} "
                f"{row.images_per_second:9.1f} {row.spread_images_per_second:7.1f} {row.milliseconds_per_step:9.2f} "
                f"{memory:>6} {row.to_last:8.2f}",
                flush=True,
            )
        write_report(options.json, {"machine": about, "settings": settings}, rows)
        torch.compiler.reset()  # what was compiled for one size would be compiled anew for all sizes
    if options.plot:
        conditions = f"{'training' if options.mode == 'train' else 'inference'}, {settings['dtype']}, {about['device']}"
        write_figure(draw(rows, conditions), options.plot)
    return rows
