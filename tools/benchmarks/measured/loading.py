"""Measures how many images a core loads a second, and what the device does for the rest: ../loading.py."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from measured.report import write_report
from ssm_core.timing import machine, summarize, timed
from ssm_train.apis.devices import usable_device
from ssm_train.data.augmentation import finish
from ssm_train.data.augmentation.kinds import Kind
from ssm_train.data.collate import collate_images
from ssm_train.data.datasets import ImageFolder
from ssm_train.data.images import decode
from ssm_train.data.transforms import TrainTransform
from ssm_train.runtime.files import check_file
from ssm_train.runtime.reproducibility import SeededDataset, make_reproducible

RECIPE = {"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25}


@dataclass
class Row:
    """The time of one part."""

    part: str
    milliseconds_per_image: float
    spread: float
    images_per_second: float  # of one core, or of the device


def decoders(files: list[Path], size: int) -> dict[str, Callable[[int], Any]]:
    """Functions that decode one of the files, by the library."""
    contents = [file.read_bytes() for file in files]
    found: dict[str, Callable[[int], Any]] = {"decode": lambda i: decode(files[i])}
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    found["decode: torchvision"] = lambda i: decode_jpeg(tensors[i], ImageReadMode.RGB)
    if find_spec("simplejpeg"):
        import simplejpeg

        found["decode: simplejpeg"] = lambda i: simplejpeg.decode_jpeg(contents[i], "RGB")
        found["decode: simplejpeg, fast and inexact"] = lambda i: simplejpeg.decode_jpeg(
            contents[i], "RGB", fastdct=True, fastupsample=True
        )
    if find_spec("spdl"):
        from spdl.io import get_video_filter_desc, load_image, to_numpy

        small = get_video_filter_desc(scale_width=size, scale_height=size, scale_mode=None)
        found["decode: SPDL"] = lambda i: to_numpy(load_image(contents[i]))
        found["decode and scale the whole image: SPDL"] = lambda i: to_numpy(load_image(contents[i], filter_desc=small))
    return found


def dali_parts(files: list[Path], size: int) -> dict[str, Callable[[], Any]]:
    """DALI's operators on the CPU, by numbers of its own."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug.rand_augment import rand_augment

    # Nothing runs ahead, so that a call does the work of one batch, and all of it.
    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None, exec_async=False, exec_pipelined=False)
    def pipeline(crop: bool, augment: bool) -> Any:
        contents, _ = fn.readers.file(files=list(map(str, files)))
        images = fn.decoders.image(contents)
        if crop:
            images = fn.random_resized_crop(images, size=size, interp_type=types.INTERP_CUBIC)
            images = fn.flip(images, horizontal=fn.random.coin_flip())
        return rand_augment(images, n=2, m=9) if augment else images

    stages = {
        "decode: DALI": (False, False),
        "decode, crop and flip: DALI": (True, False),
        "decode, crop, flip and RandAugment: DALI": (True, True),
    }
    return {name: pipeline(*stage, enable_conditionals=True).run for name, stage in stages.items()}


def host_parts(files: list[Path], options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What one core does, for all files."""
    images = [decode(file) for file in files]
    transforms = {name: TrainTransform(options.size, **RECIPE, on_device=name) for name in (True, False)}
    datasets = {name: ImageFolder(transform, str(options.root)) for name, transform in transforms.items()}
    datasets = {name: SeededDataset(data, 0) for name, data in datasets.items()}
    samples = {name: [data[i] for i in range(len(files))] for name, data in datasets.items()}
    crop_and_flip = transforms[False].transform.transforms[:2]

    def cropped_by_pillow(i: int) -> Any:
        image = images[i]
        for transform in crop_and_flip:
            image = transform(image)
        return np.asarray(image)

    def batches(chosen: list[dict]) -> None:
        for start in range(0, len(chosen), options.batch):
            collate_images(chosen[start : start + options.batch])

    def for_all(run: Callable[[int], Any]) -> Callable[[], None]:
        return lambda: [run(i) for i in range(len(files))] and None

    return {
        **{name: for_all(run) for name, run in decoders(files, options.size).items()},
        **(dali_parts(files, options.size) if find_spec("nvidia") and find_spec("nvidia.dali") else {}),
        "crop, flip and draw": for_all(lambda i: transforms[True](images[i])),
        "crop and flip: Pillow": for_all(cropped_by_pillow),
        "crop, flip and augment: before": for_all(lambda i: transforms[False](images[i])),
        "whole sample": for_all(lambda i: datasets[True][i]),
        "whole sample: before": for_all(lambda i: datasets[False][i]),
        "collate": lambda: batches(samples[True]),
        "collate: before": lambda: batches(samples[False]),
    }


def device_parts(files: list[Path], options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What the device does for a batch."""
    data = SeededDataset(ImageFolder(TrainTransform(options.size, **RECIPE, on_device=True), str(options.root)), 0)
    batch = collate_images([data[i] for i in range(options.batch)])
    pixels: Tensor = batch["inputs"].to(options.device)
    drawn = batch["drawn"]
    found: dict[str, Callable[[], Any]] = {"finish a batch": lambda: finish(pixels, drawn)}
    others = {"": [], " and warps": [Kind.SLIDE_X, Kind.SLIDE_Y, Kind.ROTATE], " and colours": range(1, Kind.SLIDE_X)}
    for words, wanted in others.items():
        some = np.where(np.isin(drawn["kinds"], list(wanted)), drawn["kinds"], 0)
        part = {**drawn, "kinds": some, "erased": np.zeros_like(drawn["erased"])}
        found[f"normalise{words} alone"] = lambda part=part: finish(pixels, part)
    other = v2.Compose([v2.RandAugment(2, 9), v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(0.25)])
    found["the same for all images: torchvision"] = lambda: other(pixels)
    found["an image at a time: torchvision"] = lambda: torch.stack([other(image) for image in pixels])
    if find_spec("kornia"):
        from kornia.augmentation.auto import RandAugment

        policy = RandAugment(n=2, m=9).to(options.device)
        found["with ranges of its own: Kornia"] = lambda: policy(pixels.float() / 255)
    if options.device == "cuda":
        found["finish a batch, compiled"] = lambda: finish(pixels, drawn, "inductor")
        contents = [torch.frombuffer(bytearray(f.read_bytes()), dtype=torch.uint8) for f in files[: options.batch]]
        found["decode: nvJPEG of torchvision"] = lambda: decode_jpeg(contents, ImageReadMode.RGB, device="cuda")
    return found


def loader_rate(options: argparse.Namespace) -> float:
    """Images a second that a data loader gives, after its first batches."""
    data = ImageFolder(TrainTransform(options.size, **RECIPE, on_device=True), str(options.root))
    loader = make_reproducible(
        DataLoader(data, options.batch, shuffle=True, num_workers=options.processes, collate_fn=collate_images), seed=0
    )
    before, count, start = min(2 * options.processes, len(loader) // 2), 0, 0.0
    for number, batch in enumerate(loader):
        if number == before:
            start = time.perf_counter()
        elif number > before:
            count += len(batch["inputs"])
    return count / (time.perf_counter() - start)


def of_core(run: Callable[[], Any]) -> float:
    """Milliseconds of a core that a call takes."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def measure(
    parts: dict[str, Callable[[], Any]], images: int, rounds: int, clock: Callable[[Callable[[], Any]], float]
) -> list[Row]:
    """Time all parts in turns."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for run in parts.values():
        run()
    for _ in range(rounds):
        for name, run in parts.items():
            times[name].append(clock(run) / images)
    found = {name: summarize(own) for name, own in times.items()}
    return [Row(name, timing.median, timing.spread, 1e3 / timing.median) for name, timing in found.items()]


def show(rows: list[Row]) -> list[Row]:
    """Print rows as soon as they are measured: compiling the parts of a GPU takes a minute."""
    for row in rows:
        figures = f"{row.milliseconds_per_image:9.4f} {row.spread:7.4f} {row.images_per_second:9.0f}"
        print(f"{row.part:44} {figures}", flush=True)
    return rows


def run(options: argparse.Namespace) -> list[Row]:
    """Measure, print a table, and return its rows.

    Args:
        options: of the command line.
    """
    options.device = usable_device(options.device).type
    if options.json:
        check_file(options.json)
    torch.set_num_threads(1)
    about = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    data = ImageFolder(lambda image: image, str(options.root))
    options.images = min(options.images, len(data))
    options.batch = min(options.batch, len(data))
    # The first images of the folder are of one class: take some of every class.
    files = [Path(data.paths[i]) for i in range(0, len(data), len(data) // options.images)][: options.images]
    if options.processes:
        rate = loader_rate(options)
        each = rate / options.processes
        print(f"{options.processes} loading processes: {rate:.0f} img/s, {each:.0f} a process", flush=True)
    print(f"{'part':44} {'ms/image':>9} {'±':>7} {'img/s':>9}")
    rows = show(measure(host_parts(files, options), options.images, options.rounds, of_core))
    clock = of_core if options.device == "cpu" else partial(timed, device=options.device)
    parts = device_parts(files, options)
    rows += show(measure(parts, options.batch, options.rounds, clock))
    if options.device == "cuda":  # what the host does, without waiting for the device
        launching = {f"{name}: the host": run for name, run in parts.items() if name.startswith("finish")}
        rows += show(measure(launching, options.batch, options.rounds, of_core))
    write_report(options.json, {"machine": about}, rows)
    return rows
