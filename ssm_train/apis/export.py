"""Trained networks in forms that run elsewhere: torch.export, AOTInductor packages, ONNX.

What is exported takes normalised images and gives a classifier's logits, or the maps of a detector's or segmentor's
backbone. Sizes of batch and images stay free unless they are fixed.
"""

import importlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ssm_core import _ext
from ssm_core.backbone import MIN_SIDE
from ssm_core.errors import ConfigError, MissingPackageError, UserError
from ssm_core.ops.registry import decompositions, onnx_translations
from ssm_train.data.images import read_image, to_array
from ssm_train.data.preparation import Preparation, of_config
from ssm_train.tasks import image_task_of

Format = Literal["torch_export", "aoti", "onnx"]
SUFFIXES: dict[Format, str] = {"torch_export": ".pt2", "aoti": ".aoti.pt2", "onnx": ".onnx"}
# The smallest side that stays free: at 32 the last map is a single token, which the exporter takes for a constant.
MIN_FREE_SIDE = 33
# The largest difference from the network, over its largest output, that an exported file may have.
TOLERANCE = 1e-3
# What the graph is traced with: a batch and two sides that nothing can be mistaken for.
_TRACED = (2, 96, 128)
Runner = Callable[[Tensor], list[Tensor]]


class Agreement(NamedTuple):
    """How an exported network compares with the one it was made of.

    Attributes:
        difference: the largest one of any output, over that output's largest value.
        milliseconds: of an image, exported.
        eager: milliseconds of an image, as it was.
    """

    difference: float
    milliseconds: float
    eager: float


class Outputs(nn.Module):
    """A network whose results are a tuple, in evaluation and without gradients.

    Args:
        network: gives a tensor, or maps.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(
        self,
        images: Tensor,  # [B, C, H, W]
    ) -> tuple[Tensor, ...]:
        """Logits ``[B, classes]``, or maps ``[B, C', H', W']``."""
        outputs = self.network(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def export_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    kind: Format,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[Path] = (),
) -> tuple[Path, Agreement]:
    """Write a trained network in a format, and compare the file with the network.

    Args:
        cfg: the config that it was trained with.
        checkpoint: its weights.
        kind: the format.
        out: the file; by default the checkpoint's name with the format's suffix.
        size: height and width of all images to come; free if left out.
        images: photos to compare with; random images of two sizes if there are none.

    Returns:
        The file, and how it compares with the network.

    Raises:
        ConfigError: the size or the file's name does not fit, or the config has no model of images.
        CheckpointError: the checkpoint is missing, damaged or of another model.
        DataError: a photo cannot be read.
        UserError: something that the format needs is missing, or the file differs from the network.
    """
    if size and min(size) < MIN_SIDE:
        raise ConfigError(f"--size takes sides of {MIN_SIDE} and more, got {size[0]} {size[1]}")
    suffix = SUFFIXES[kind]
    ending = Path(f"net{suffix}").suffix
    if out and out.suffix != ending:
        raise ConfigError(f"--out has to end in {ending} for --format {kind}, got {out}")
    check_format(kind)
    network = load_network(cfg, checkpoint)
    channels = cfg.model.backbone.get("in_chans", 3)
    preparation = of_config(cfg)
    if images and preparation is None:
        raise ConfigError(f"{cfg.filename} does not say how images are scaled: leave out --image")
    if images and len(preparation.mean) != channels:
        raise ConfigError(f"the config's images have {len(preparation.mean)} channels and its model takes {channels}")
    path = out or Path(checkpoint).with_suffix(suffix)
    batches = [photo(image, preparation, size) for image in images] or random_images(channels, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](trace(network, channels, size), path)
    found = compare(network, load_exported(path, kind), batches)
    if not found.difference <= TOLERANCE:
        raise UserError(f"{path} differs from the model by {found.difference:.1e}, more than {TOLERANCE:g}")
    return path, found


def random_images(channels: int, size: tuple[int, int] | None) -> list[Tensor]:  # [B, C, H, W] each
    """Two batches of random images, of two sizes unless the size is fixed."""
    generator = torch.Generator().manual_seed(0)
    sizes = [size, size] if size else [(96, 160), (224, 224)]
    return [torch.randn(b, channels, *s, generator=generator) for b, s in zip((2, 1), sizes, strict=True)]


def load_network(cfg: Config, checkpoint: str | Path) -> Outputs:
    """The network of a config's model, with a checkpoint's weights.

    Raises:
        ConfigError: the config has no model of images, or it cannot be built.
        CheckpointError: the file is missing, damaged or of another model.
    """
    model, _ = image_task_of(cfg).load(checkpoint)
    return Outputs(model.backbone)


def check_format(kind: Format) -> None:
    """Say what is missing for a format before anything is computed.

    Raises:
        UserError: the compiled library is missing, which every format is made from, or the C++ compiler.
        MissingPackageError: a package for ONNX is not installed.
    """
    if not _ext.load():
        raise UserError("exporting needs the compiled library, whose operators a graph can hold: run `make setup`")
    if kind == "aoti" and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise UserError("--format aoti needs a C++ compiler: install one, or name it in the environment variable CXX")
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingPackageError(package, "--format onnx") from error


def trace(network: nn.Module, channels: int, size: tuple[int, int] | None = None) -> ExportedProgram:
    """The graph of a network, with the operators of the compiled library in it.

    Args:
        network: from images to a tuple.
        channels: of the images.
        size: height and width of all images to come; free if left out, as the batch always is.
    """
    batch, *sides = _TRACED if size is None else (_TRACED[0], *size)
    free = {} if size else {2: Dim.DYNAMIC(min=MIN_FREE_SIDE), 3: Dim.DYNAMIC(min=MIN_FREE_SIDE)}
    shapes = {"images": {0: Dim.DYNAMIC(min=1), **free}}
    with torch.no_grad():
        return torch.export.export(network, (torch.randn(batch, channels, *sides),), dynamic_shapes=shapes)


def without_python(program: ExportedProgram) -> ExportedProgram:
    """The graph without the operators that this project implements in Python; it needs the compiled library alone."""
    replaced = decompositions()
    if not any(node.target in replaced for node in program.graph.nodes):
        return program
    return program.run_decompositions(replaced)


def write_torch_export(program: ExportedProgram, path: Path) -> None:
    """Write what ``torch.export.load`` reads once the compiled library is loaded."""
    torch.export.save(without_python(program), path)


def write_aoti(program: ExportedProgram, path: Path) -> None:
    """Write what ``torch._inductor.aoti_load_package`` reads: machine code beside the compiled library."""
    # By itself the code would start as many threads wherever it runs as the machine has that compiled it.
    options = {"cpp.dynamic_threads": True}
    torch._inductor.aoti_compile_and_package(without_python(program), package_path=str(path), inductor_configs=options)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX model of standard operators alone."""
    outputs = len(program.graph_signature.user_outputs)
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        custom_translation_table=onnx_translations(),
        input_names=["images"],
        output_names=["logits"] if outputs == 1 else [f"map{i}" for i in range(outputs)],
        verbose=False,
    )
    onnx_program.save(str(path), include_initializers=True)


WRITERS: dict[Format, Callable[[ExportedProgram, Path], None]] = {
    "torch_export": write_torch_export,
    "aoti": write_aoti,
    "onnx": write_onnx,
}


def load_exported(path: Path, kind: Format) -> Runner:
    """What a written file computes, from images to the list of outputs."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]
    run = torch._inductor.aoti_load_package(str(path)) if kind == "aoti" else torch.export.load(path).module()
    # A package takes the strides for granted that it was made with.
    return lambda images: list(run(images.contiguous()))


def photo(path: str | Path, preparation: Preparation, size: tuple[int, int] | None = None) -> Tensor:  # [1, C, H, W]
    """An image file as a batch of one, scaled as the model's images are.

    Args:
        path: the file.
        preparation: what the model's images need.
        size: height and width to scale it to; its own if left out.

    Raises:
        DataError: it cannot be read.
        ConfigError: the model takes other than 1 or 3 channels.
    """
    channels = len(preparation.mean)
    if channels not in (1, 3):
        raise ConfigError(f"photos have 1 or 3 channels and the model takes {channels}: leave out --image")
    image = read_image(path, preparation.mode)
    return preparation.inputs(to_array(image if size is None else image.resize(size[::-1], Image.Resampling.BICUBIC)))


def compare(network: nn.Module, exported: Runner, batches: Sequence[Tensor], repeats: int = 3) -> Agreement:
    """Run a network and its exported form on the same images.

    Args:
        network: from images to a tuple.
        exported: see :func:`load_exported`.
        batches: images ``[B, C, H, W]``, each in its size.
        repeats: how often each batch is timed; the quickest counts.
    """
    difference, ours, theirs, images = 0.0, 0.0, 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            expected, results = network(batch), exported(batch)
            for a, b in zip(expected, results, strict=True):
                difference = max(difference, ((a - b).abs().max() / a.abs().max().clamp_min(1e-12)).item())
            theirs += min(_seconds(exported, batch) for _ in range(repeats))
            ours += min(_seconds(network, batch) for _ in range(repeats))
            images += len(batch)
    return Agreement(difference, 1e3 * theirs / images, 1e3 * ours / images)


def _seconds(run: Callable[[Tensor], object], batch: Tensor) -> float:
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start
