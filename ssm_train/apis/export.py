"""Trained networks in forms that run elsewhere: torch.export, AOTInductor packages, ONNX.

An exported network takes normalised images. It returns a classifier's logits, or the maps of the backbone of a detector
or segmentor. Batches and images may have any size, unless the images' size is fixed.
"""

import importlib
import io
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ssm_core import _ext
from ssm_core.errors import ConfigError, MissingPackageError, UserError
from ssm_core.layers import MIN_SIDE
from ssm_core.ops.registry import decompositions, onnx_translations
from ssm_core.timing import timed
from ssm_train.apis.shipped_weights import shipped_with
from ssm_train.data.images import resize, to_array
from ssm_train.data.normalization import Normalization, of_config
from ssm_train.runtime.files import assembling, check_file, write_atomically
from ssm_train.tasks import image_task_of

# The smallest side that stays free. At 32 the last map is a single token, which the exporter takes for a constant.
MIN_FREE_SIDE = 33
# The largest difference from the network, over its largest output, that an exported file may have.
TOLERANCE = 1e-3
# Batch, height and width of the images that the graph is traced with: numbers that occur nowhere else in a network.
_TRACED = (2, 96, 128)
Runner = Callable[[Tensor], list[Tensor]]  # images [B, C, H, W] to the outputs


class Format(ABC):
    """A form in which a network can be written and run."""

    name: ClassVar[str]  # on the command line
    suffix: ClassVar[str]  # of the file's name

    def check(self) -> None:
        """Say what is missing for the format before anything is computed.

        Raises:
            UserError: the compiled library is missing, or a compiler or package that the format needs.
        """
        if not _ext.load():
            raise UserError(
                f"exporting needs the compiled library, whose operators a graph can hold: {_ext.HOW_TO_BUILD}"
            )

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a graph.

        Args:
            program: see :func:`trace`.
            path: the file.
        """

    @abstractmethod
    def load(self, path: Path) -> Runner:
        """A written file as a function, from images to the list of outputs."""


class TorchExport(Format):
    """What ``torch.export.load`` reads once the compiled library is loaded."""

    name, suffix = "torch_export", ".pt2"

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write the graph without operators in Python, see :meth:`Format.write`."""
        _write(path, lambda file: torch.export.save(without_python(program), file))

    def load(self, path: Path) -> Runner:
        """The graph as a function, see :meth:`Format.load`."""
        run = torch.export.load(path).module()
        return lambda images: list(run(images))


class Aoti(Format):
    """What ``torch._inductor.aoti_load_package`` reads: machine code, which calls the compiled library."""

    name, suffix = "aoti", ".aoti.pt2"

    def check(self) -> None:
        """Look for a C++ compiler, too, see :meth:`Format.check`."""
        super().check()
        if shutil.which(os.environ.get("CXX", "c++")) is None:
            raise UserError(
                "--format aoti needs a C++ compiler: install one, or name it in the environment variable CXX"
            )

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Compile the graph, see :meth:`Format.write`."""
        # Without this the code starts as many threads on every machine as the one has on which it was compiled.
        options: dict[str, Any] = {"cpp.dynamic_threads": True}
        if _has_free_sides(program):
            # To find an element's place in a map of unknown size, Inductor's loops divide integers, which takes longer
            # than they save. In this mode the code calls PyTorch's kernels instead.
            options |= torch._inductor.list_mode_options().get("lite", {})
        program = without_python(program)
        logger = logging.getLogger("torch._inductor.ir")
        logger.addFilter(_is_no_fallback)
        try:
            _write(
                path,
                lambda file: torch._inductor.aoti_compile_and_package(
                    program, package_path=file, inductor_configs=options
                ),
            )
        finally:
            logger.removeFilter(_is_no_fallback)

    def load(self, path: Path) -> Runner:
        """The machine code as a function, see :meth:`Format.load`."""
        run = torch._inductor.aoti_load_package(str(path))
        # The code expects the strides of the images that it was made with.
        return lambda images: list(run(images.contiguous()))


class Onnx(Format):
    """An ONNX model of standard operators alone."""

    name, suffix = "onnx", ".onnx"

    def check(self) -> None:
        """Import the packages for ONNX, too, see :meth:`Format.check`."""
        super().check()
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                raise MissingPackageError(package, "--format onnx") from error

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Translate the graph, see :meth:`Format.write`."""
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

    def load(self, path: Path) -> Runner:
        """The model in ONNX Runtime as a function, see :meth:`Format.load`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]


def _is_no_fallback(record: logging.LogRecord) -> bool:
    """Whether a record is another one than that of a kernel called through PyTorch, of which there are hundreds."""
    return "using proxy executor as fallback" not in record.getMessage()


def _has_free_sides(program: ExportedProgram) -> bool:
    """Whether a graph takes images of more than one height or width."""
    images = program.graph_signature.user_inputs[0]
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == images)
    return not all(isinstance(side, int) for side in shape[2:])


def _write(path: Path, save: Callable[[io.BytesIO], Any]) -> None:
    """Write what torch saves. On a full disk, torch's own writer of these files ends the process."""
    content = io.BytesIO()
    save(content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


FORMATS: dict[str, Format] = {kind.name: kind for kind in (TorchExport(), Aoti(), Onnx())}


class Agreement(NamedTuple):
    """How an exported network compares with the one it was made of.

    Attributes:
        difference: the largest difference in any output, divided by the largest value of that output.
        milliseconds: time of an image in the exported network.
        eager: time of an image in the network itself, in milliseconds.
    """

    difference: float
    milliseconds: float
    eager: float


class Outputs(nn.Module):
    """A network in evaluation mode and without gradients, whose outputs are always a tuple.

    Args:
        network: returns a tensor, or a sequence of maps.
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
    checkpoint: str | Path | None,
    form: Format,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[Path] = (),
) -> tuple[Path, Agreement]:
    """Write a trained network in a format, and compare the file with the network.

    Args:
        cfg: the config that the network was trained with.
        checkpoint: its weights; None for those that come with the package for this config.
        form: one of :data:`FORMATS`.
        out: the file; by default the checkpoint's path with the format's suffix, or, for weights of the package, their
            name in the present folder.
        size: height and width of all images to come. If left out, images may have any size.
        images: photos to compare with; random images of two sizes if there are none.

    Returns:
        The file, and how it compares with the network.

    Raises:
        ConfigError: the size or the file's name does not fit, or the config has no model of images.
        CheckpointError: the checkpoint is missing, damaged or of another model.
        DataError: a photo cannot be read.
        WriteError: the file cannot be written.
        UserError: something that the format needs is missing, or the file would differ from the network. Then there is
            none.
    """
    if size and min(size) < MIN_SIDE:
        raise ConfigError(f"--size takes sides of {MIN_SIDE} and more, got {size[0]} {size[1]}")
    ending = Path(f"net{form.suffix}").suffix
    if out and out.suffix != ending:
        raise ConfigError(f"--out has to end in {ending} for --format {form.name}, got {out}")
    default = checkpoint
    if checkpoint is None:
        if (row := shipped_with(cfg)) is None:
            raise ConfigError("no weights come with the package for this config: name a checkpoint beside it")
        checkpoint = row.checked()
        default = checkpoint.name
    path = out or Path(default).with_suffix(form.suffix)
    check_file(path)
    form.check()
    network = load_network(cfg, checkpoint)
    channels = cfg.model.backbone.get("in_chans", 3)
    normalization = of_config(cfg)
    if images and normalization is None:
        raise ConfigError(f"{cfg.filename} does not say how images are scaled: leave out --image")
    if images and len(normalization.mean) != channels:
        raise ConfigError(f"the config's images have {len(normalization.mean)} channels and its model takes {channels}")
    batches = [photo(image, normalization, size) for image in images] or random_images(channels, size)
    with assembling(path.parent, path) as place:
        file = place / path.name
        form.write(trace(network, channels, size), file)
        found = compare(network, form.load(file), batches)
        if not found.difference <= TOLERANCE:
            raise UserError(f"{path} would differ from the model by {found.difference:.1e}, more than {TOLERANCE:g}")
    return path, found


def random_images(channels: int, size: tuple[int, int] | None) -> list[Tensor]:  # [B, C, H, W] each
    """Two batches of random images, of two sizes unless the size is fixed."""
    generator = torch.Generator().manual_seed(0)
    sizes = [size, size] if size else [(96, 160), (224, 224)]
    return [torch.randn(b, channels, *s, generator=generator) for b, s in zip((2, 1), sizes, strict=True)]


def load_network(cfg: Config, checkpoint: str | Path) -> Outputs:
    """The network of a config's model, with a checkpoint's weights.

    Args:
        cfg: the config.
        checkpoint: the file.

    Raises:
        ConfigError: the config has no model of images, or it cannot be built.
        CheckpointError: the file is missing, damaged or of another model.
    """
    model, _ = image_task_of(cfg).load(checkpoint)
    return Outputs(model.backbone)


def trace(network: nn.Module, channels: int, size: tuple[int, int] | None = None) -> ExportedProgram:
    """The graph of a network, with the operators of the compiled library in it.

    Args:
        network: takes images and returns a tuple.
        channels: number of the images' channels.
        size: height and width of all images to come. If left out, images may have any size. Batches always may.
    """
    batch, *sides = _TRACED if size is None else (_TRACED[0], *size)
    free = {} if size else {2: Dim.DYNAMIC(min=MIN_FREE_SIDE), 3: Dim.DYNAMIC(min=MIN_FREE_SIDE)}
    shapes = {"images": {0: Dim.DYNAMIC(min=1), **free}}
    with torch.no_grad():
        return torch.export.export(network, (torch.randn(batch, channels, *sides),), dynamic_shapes=shapes)


def without_python(program: ExportedProgram) -> ExportedProgram:
    """The graph without the operators that this project implements in Python. It needs only the compiled library."""
    replaced = decompositions()
    if not any(node.target in replaced for node in program.graph.nodes):
        return program
    return program.run_decompositions(replaced)


def photo(
    path: str | Path, normalization: Normalization, size: tuple[int, int] | None = None
) -> Tensor:  # [1, C, H, W]
    """An image file as a batch of one, scaled as the model's images are.

    Args:
        path: the file.
        normalization: how the model's images are scaled.
        size: height and width to resize the image to; the image keeps its own if left out.

    Raises:
        DataError: the image cannot be read, or has another number of channels than the model takes.
    """
    image = normalization.read(path)
    return normalization.inputs(to_array(image if size is None else resize(image, *size)))


def compare(network: nn.Module, exported: Runner, batches: Sequence[Tensor], repeats: int = 3) -> Agreement:
    """Run a network and its exported form on the same images.

    Args:
        network: takes images and returns a tuple.
        exported: see :meth:`Format.load`.
        batches: images ``[B, C, H, W]``; sizes may differ.
        repeats: how often each batch is timed. The shortest time counts.
    """
    difference, ours, theirs, images = 0.0, 0.0, 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            expected, results = network(batch), exported(batch)
            for a, b in zip(expected, results, strict=True):
                difference = max(difference, ((a - b).abs().max() / a.abs().max().clamp_min(1e-12)).item())
            theirs += min(timed(partial(exported, batch), "cpu") for _ in range(repeats))
            ours += min(timed(partial(network, batch), "cpu") for _ in range(repeats))
            images += len(batch)
    return Agreement(difference, theirs / images, ours / images)
