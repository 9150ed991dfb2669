"""Compares every format of tools/export.py with the model on photographs, and runs it without this project's Python."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import skimage.data
import torch
from command_line import CONFIGS, ROOT, error_of, run
from PIL import Image
from torch import nn

from quadtree_ssm import QuadMamba
from ssm_core.layers import SelectiveSSM
from ssm_train.apis import export
from ssm_train.data.normalization import of_transform
from ssm_train.runtime.config import load_config
from ssm_train.tasks import task_of
from tree_ssm import MambaTreeV

# At the authors' standard deviation, scans change so narrow networks by less than any tolerance.
STD = 1.0
LIVELY = [f"model.backbone.linear_std={STD}"]
# QuadMamba's cross scans begin at the third stage.
RGB = ["model.backbone.in_chans=3", *LIVELY]
RGB += [f"test_dataloader.dataset.transform.{key}=(0.5,0.4,0.3)" for key in ("mean", "std")]
SMALL = {
    "quadmamba": ["model.backbone.dims=(8,8,16)", "model.backbone.depths=(2,1,1)", *RGB],
    "mambatree": ["model.backbone.dims=(8,16)", "model.backbone.depths=(1,1)", *RGB],
}
DIGITS = {name: CONFIGS / name / f"{name}-nano_digits.py" for name in ("quadmamba", "mambatree")}
NUCLEI = {
    "detection": CONFIGS / "quadmamba" / "mask-rcnn_quadmamba-nano_nuclei-128x128.py",
    "segmentation": CONFIGS / "mambatree" / "upernet_mambatree-nano_nuclei-128x128.py",
}
IMAGENET = of_transform({})
LIBRARY = next((ROOT / "ssm_core").glob("_C*.so"))
# This code stands for another program, which cannot import this project's packages or timm.
ELSEWHERE = """
import sys
for name in ("ssm_core", "quadtree_ssm", "tree_ssm", "ssm_train", "timm"):
    sys.modules[name] = None
import torch
library, package, program, file = sys.argv[1:]
torch.ops.load_library(library)
runners = (torch._inductor.aoti_load_package(package), torch.export.load(program).module())
for images, expected in torch.load(file):
    for run in runners:
        for a, b in zip(expected, run(images), strict=True):
            print(((a - b).abs().max() / a.abs().max()).item())
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Write photographs of several sizes. Some are square and some are not."""
    folder = tmp_path_factory.mktemp("photos")
    for name, box in (("astronaut", (180, 0, 308, 128)), ("chelsea", (100, 60, 297, 181)), ("coffee", (0, 0, 99, 77))):
        Image.fromarray(getattr(skimage.data, name)()).crop(box).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def assert_scans_matter(network, images):
    """Without its states, the network has to give something else: a hundredth of the largest value at least."""
    silent = copy.deepcopy(network)
    for module in silent.modules():
        if isinstance(module, SelectiveSSM):
            nn.init.zeros_(module.x_proj.weight)
    with torch.inference_mode():
        for found, without in zip(network(images), silent(images), strict=True):
            assert (found - without).abs().max() > 0.01 * found.abs().max()


def checkpoint_of(config, options, path):
    """Write a checkpoint of a config's random model. Its scans are moved away from their initial values."""
    torch.manual_seed(0)
    model = task_of(load_config(config, options)).build()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith("A_log"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert_scans_matter(export.Outputs(model.backbone.eval()), torch.randn(1, 3, 64, 96))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return path


class Both(nn.Module):
    """Holds a network of each family, so that one compilation serves both."""

    def __init__(self):
        super().__init__()
        size = dict(depths=(1,), dims=(8,), out_indices=(0,), linear_std=STD)
        self.nets = nn.ModuleList([QuadMamba(**size), MambaTreeV(**size)])

    def forward(self, images):
        return tuple(net(images)[0] for net in self.nets)


@pytest.fixture
def quick_compiler(tmp_path, monkeypatch):
    """Compile code that runs only once.

    Trying and using vector instructions, optimising, and precompiling headers would take most of the time.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.cpu_vec_isa, "valid_vec_isa_list", list)
    settings = {
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.precompile_headers": False,
        "cpp_cache_precompile_headers": False,
    }
    with torch._inductor.config.patch(settings):
        yield


@pytest.mark.usefixtures("quick_compiler")
def test_a_package_of_one_size(photos, tmp_path):
    """Inductor writes loops of its own for it. It takes any batch."""
    torch.manual_seed(0)
    network = export.Outputs(Both())
    assert_scans_matter(network, export.photo(photos[0], IMAGENET, (64, 96)))
    export.FORMATS["aoti"].write(export.trace(network, 3, (64, 96)), tmp_path / "net.aoti.pt2")
    run = export.FORMATS["aoti"].load(tmp_path / "net.aoti.pt2")
    images = torch.cat([export.photo(path, IMAGENET, (64, 96)) for path in photos])
    with torch.inference_mode():
        for batch in (images, images[:1]):
            for found, expected in zip(run(batch), network(batch), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_compiler")
def test_without_our_python(photos, tmp_path, capfd):
    """torch.export's program and AOTInductor's package take any size and batch, and need only the compiled library."""
    torch.manual_seed(0)
    network = export.Outputs(Both())
    program = export.trace(network, 3)
    paths = tmp_path / "net.aoti.pt2", tmp_path / "net.pt2"
    export.FORMATS["aoti"].write(program, paths[0])
    assert "proxy executor" not in capfd.readouterr().err
    export.FORMATS["torch_export"].write(program, paths[1])
    batches = [export.photo(path, IMAGENET) for path in photos]
    batches.append(torch.cat([export.photo(photos[0], IMAGENET, (64, 96))] * 3))
    assert len({batch.shape for batch in batches}) == 4
    with torch.inference_mode():
        torch.save([(batch, network(batch)) for batch in batches], tmp_path / "expected.pt")
    command = [sys.executable, "-c", ELSEWHERE, LIBRARY, *paths, tmp_path / "expected.pt"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 16
    assert max(differences) < 1e-5


@pytest.mark.parametrize("family", DIGITS)
def test_onnx_classifier(family, photos, tmp_path, capsys):
    """The file has only standard operators. It gives the model's logits on photos of sizes that were not traced."""
    checkpoint = checkpoint_of(DIGITS[family], SMALL[family], tmp_path / "net.pth")
    options = ["--image", *photos, "--cfg-options", *SMALL[family]]
    assert run("export", DIGITS[family], checkpoint, "--format", "onnx", *options) == 0
    words = capsys.readouterr().out.split()
    assert float(words[words.index("difference") + 1]) < 1e-3
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    local = {function.domain for function in model.functions}
    nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
    assert {node.domain for node in nodes} <= {"", *local}
    assert [value.name for value in model.graph.output] == ["logits"]
    free = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert [bool(name) for name in free] == [True, False, True, True]


@pytest.mark.parametrize(("task", "kind"), [("detection", "onnx"), ("segmentation", "torch_export")])
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_maps_of_detectors_and_segmentors(task, kind, photos, tmp_path, capsys):
    options = ["model.backbone.depths=(1,1,1,1)", *LIVELY]
    checkpoint = checkpoint_of(NUCLEI[task], options, tmp_path / "net.pth")
    out = tmp_path / "elsewhere" / f"net{export.FORMATS[kind].suffix}"
    rest = ("--out", out, "--size", 64, 96, "--image", *photos[:2], "--cfg-options", *options)
    assert run("export", NUCLEI[task], checkpoint, "--format", kind, *rest) == 0
    words = capsys.readouterr().out.split()
    assert float(words[words.index("difference") + 1]) < 1e-3
    with torch.inference_mode():
        maps = export.FORMATS[kind].load(out)(torch.zeros(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 32 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]


def test_weights_of_the_package_are_written_into_the_present_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("export", "quadmamba/quadmamba-nano_photos-224x224", "--format", "torch_export", "--size", 64, 64) == 0
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("quadmamba_nano.photos-")
    assert file.suffix == ".pt2"
    assert f"written     {file.name}" in capsys.readouterr().out


def test_errors(tmp_path, capsys, monkeypatch):
    config, small, onnx_format = DIGITS["mambatree"], SMALL["mambatree"], ("--format", "onnx")
    checkpoint = checkpoint_of(config, small, tmp_path / "net.pth")

    def error(*arguments):
        return error_of(capsys, "export", *arguments)

    assert "did you mean" in error(Path(f"{config}").with_name("mambatree-nano_digit.py"), checkpoint, *onnx_format)
    assert "tensors differ, the first: backbone." in error(config, checkpoint, *onnx_format)
    fits = (config, checkpoint, *onnx_format, "--cfg-options", *small)
    assert "there is no such file" in error(config, tmp_path / "none.pth", *onnx_format)
    assert "no weights come with the package for this config" in error(config, *onnx_format)
    assert "--size takes sides of 32 and more, got 16 64" in error(*fits[:4], "--size", 16, 64, *fits[4:])
    for kind, ending in (("aoti", ".pt2"), ("torch_export", ".pt2"), ("onnx", ".onnx")):
        line = error(*fits[:2], "--format", kind, "--out", "net.bin")
        assert f"--out has to end in {ending} for --format {kind}, got net.bin" in line
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert "cannot read the image" in error(*fits[:4], "--image", tmp_path / "bad.png", *fits[4:])
    text = CONFIGS / "mambatree_l" / "mambatree-l-130m_alpaca.py"
    assert "tree-ssm merge-adapters" in error(text, checkpoint, *onnx_format)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = error(*fits)
    assert "--format onnx needs onnxscript" in line
    assert 'pip install "dist/FILE.whl[export]"' in line
    monkeypatch.setattr(export._ext, "load", lambda: False)
    assert "exporting needs the compiled library" in error(*fits)
