"""Tests that the benchmarks measure, write their results, and refuse what they cannot measure."""

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
import timm
import torch
from command_line import CONFIGS, ROOT, error_of, load_tool
from PIL import Image

from ssm_core import timing as benchmark
from ssm_core.errors import ConfigError, DataError, UserError
from ssm_core.layers.ssm import SelectiveSSM

NEEDS_NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
NOISE = str(CONFIGS / "quadmamba/quadmamba-small_synthetic.py")
SMALL = [
    "train_dataloader.num_batch_per_epoch=20", "train_dataloader.dataset.size=32", "val_dataloader.dataset.size=32",
    "val_dataloader.dataset.length=8", "model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)",
]  # fmt: skip


def test_time_of_short_calls_is_that_of_one():
    calls = []
    timing = benchmark.milliseconds(lambda: calls.append(0), "cpu", seconds=0.01)
    assert len(calls) > 1000
    assert 0 < timing.median < 0.1


def test_operators(tmp_path):
    report, plot = tmp_path / "ops.json", tmp_path / "growth.svg"
    rows = load_tool("benchmarks/ops").main(
        ["--shapes", "1x4x4x8", "1x8x4x8", "--seconds", "0.001", "--device", "cpu",
         "--json", str(report), "--plot", str(plot)]
    )  # fmt: skip
    from measured.ops import CASES

    assert {row.op for row in rows} == set(load_tool("benchmarks/ops").OPERATORS) == set(CASES)
    assert [row["kernel_ms"] for row in json.loads(report.read_text())["rows"]] == [row.kernel_ms for row in rows]
    assert all(row.kernel_ms > 0 and row.floor_ms > 0 and row.reference_ms > 0 for row in rows)
    assert "linear in the tokens" in plot.read_text()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_operators_in_other_types(dtype):
    options = ["--shapes", "1x4x4x8", "--seconds", "0.001", "--device", "cpu", "--no-reference", "--dtype", dtype]
    assert {row.dtype for row in load_tool("benchmarks/ops").main(options)} == {dtype}


def test_norms(tmp_path):
    report = tmp_path / "norms.json"
    options = ["--shapes", "1x4x4x8", "1x2x4x5", "--seconds", "0.001", "--device", "cpu", "--no-compile"]
    rows = load_tool("benchmarks/norms").main([*options, "--json", str(report)])
    assert [(row.norm, row.shape, row.step) for row in rows][:3] == [
        ("residual", "1x4x4x8", "forward"),
        ("residual", "1x4x4x8", "both"),
        ("residual", "1x2x4x5", "forward"),
    ]
    assert len(rows) == 12
    assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]
    assert all(row.eager > 0 and row.ours > 0 and row.floor > 0 and row.compiled is None for row in rows)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_throughput(tmp_path, mode):
    report, profile = tmp_path / "throughput.json", tmp_path / "profile.txt"
    models = ["quadmamba_lite", "test_resnet"]
    plain = ["--plain"] if mode == "infer" else []
    rows = load_tool("benchmarks/throughput").main(
        ["--models", *models, "--mode", mode, "--dtype", "float32", "--batch", "2", "--size", "32", "--device", "cpu",
         "--rounds", "2", *plain, "--json", str(report), "--profile", str(profile)]
    )  # fmt: skip
    assert [row.model for row in rows] == ["quadmamba_lite, plain"] * bool(plain) + models
    assert all(row.parameters_millions == pytest.approx(5.470, abs=1e-3) for row in rows[:-1])
    assert rows[-1].to_last == 1
    assert all(row.images_per_second == pytest.approx(2000 / row.milliseconds_per_step) for row in rows)
    assert json.loads(report.read_text())["settings"]["mode"] == mode
    assert "selective_scan" in profile.read_text()


def test_throughput_over_sizes(tmp_path):
    """Every size has the batch of as many pixels, the peers run at it, and the picture has a line for each model."""
    report, picture, profile = (tmp_path / name for name in ("rows.json", "sides.svg", "profile.txt"))
    models = ["quadmamba_nano", "test_vit", "test_resnet"]
    rows = load_tool("benchmarks/throughput").main(
        ["--models", *models, "--cross", "--dtype", "float32", "--batch", "8", "--size", "32", "64", "--rounds", "2",
         "--device", "cpu", "--json", str(report), "--profile", str(profile), "--plot", str(picture)]
    )  # fmt: skip
    names = ["quadmamba_nano, cross scans", *models]
    assert [(row.model, row.size, row.batch) for row in rows] == [
        *((name, 32, 8) for name in names),
        *((name, 64, 2) for name in names),
    ]
    assert rows[3].to_last == rows[7].to_last == 1
    assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]
    assert profile.read_text().count("quadmamba_nano, cross scans") == 2
    texts = re.sub(r"<!--|-->", "", picture.read_text())
    assert all(name in texts for name in names)


def test_swin_keeps_its_windows_at_every_size():
    load_tool("benchmarks/throughput")  # and its folder, from which it imports
    from measured.throughput import resize

    network = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(2, 2, 2, 2))
    resize(network, 448)
    assert {block.window_size for stage in network.layers for block in stage.blocks} == {(7, 7)}
    assert network(torch.randn(1, 3, 448, 448)).shape == (1, 1000)
    other = timm.create_model("vit_tiny_patch16_224", depth=1)
    resize(other, 448)
    assert other(torch.randn(1, 3, 448, 448)).shape == (1, 1000)


def test_cross_scans_take_the_place_of_all_quadtrees():
    load_tool("benchmarks/throughput")  # and its folder, from which it imports
    from measured.throughput import with_cross_scans

    network = with_cross_scans(timm.create_model("quadmamba_nano"))
    scans = [type(module).__name__ for module in network.modules() if isinstance(module, SelectiveSSM)]
    assert scans == ["CrossScan"] * 5
    images = torch.randn(1, 3, 64, 64)
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_misspelt_model_is_named():
    with pytest.raises(ConfigError, match="timm knows no model 'swin_tinny'"):
        load_tool("benchmarks/throughput").main(["--models", "swin_tinny", "--device", "cpu"])


def test_language(tmp_path):
    report = tmp_path / "language.json"
    sizes = ["--width", "16", "--layers", "1", "--lengths", "8", "--rounds", "2", "--device", "cpu"]
    for mode in ("train", "prefill"):
        rows = load_tool("benchmarks/language").main(["--mode", mode, *sizes, "--json", str(report)])
        assert {"mambatree-l", "chain", "transformers"} <= {row.model for row in rows}
        assert all(row.tokens_per_second == pytest.approx(8e3 / row.milliseconds_per_step) for row in rows)
        assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]
        assert json.loads(report.read_text())["settings"]["dtype"] == "float32"


STUDY = """
seeds: [0, 1]
tables:
  both:
    config: resnet/resnet18_fmnist-20k
    cells:
      "small ResNet": {model.backbone.options: {channels: [8, 8, 8, 8]}}
      "tree": {config: mambatree/mambatree-nano_fmnist-20k}
  other:
    cells: {"quad": {config: quadmamba/quadmamba-nano_fmnist-20k}}
"""


def test_throughput_and_accuracy_of_a_study_in_one_picture(tmp_path):
    study, rates, picture = tmp_path / "study.yaml", tmp_path / "rates.json", tmp_path / "both.svg"
    study.write_text(STUDY)
    options = ["--mode", "train", "--batch", "2", "--size", "32", "--rounds", "2", "--device", "cpu"]
    rows = load_tool("benchmarks/throughput").main(
        ["--study", str(study), "--table", "both", *options, "--dtype", "float32", "--json", str(rates)]
    )
    assert [row.model for row in rows] == ["small ResNet", "tree"]
    assert rows[1].parameters_millions == pytest.approx(1.723, abs=1e-3)
    with pytest.raises(ConfigError, match="has no table 'neither': it has 'both', 'other'"):
        load_tool("benchmarks/throughput").main(["--study", str(study), "--table", "neither", *options])

    def cell(table, name, *values):
        return {"table": table, "name": name, "runs": [{"status": "done", "last": value} for value in values]}

    cells = [cell("both", "small ResNet", 90.0, 92.0), cell("both", "tree", 93.0), cell("other", "quad", 94.0)]
    (tmp_path / "table.json").write_text(json.dumps({"metric": "top1", "cells": cells}))
    draw = load_tool("benchmarks/accuracy").main
    arguments = [str(tmp_path / "table.json"), str(rates), "--out", str(picture)]
    points = draw([*arguments, "--table", "both"])
    assert [(p.name, p.rate, p.value, p.value_spread) for p in points] == [
        ("small ResNet", rows[0].images_per_second, 91.0, pytest.approx(2**0.5)),
        ("tree", rows[1].images_per_second, 93.0, 0.0),
    ]
    assert picture.stat().st_size > 1000
    with pytest.raises(DataError, match="no cell of the table 'models of one size' was both trained and timed"):
        draw(arguments)


def test_files_like_those_of_imagenet_and_how_fast_they_load(tmp_path, capsys):
    write = load_tool("benchmarks/imagenet_files").main
    counts = ["--train-count", "9", "--val-count", "4", "--classes", "4"]
    for name, processes in (("one", "1"), ("two", "2")):
        said = write([str(tmp_path / name), *counts, "--processes", processes])
    assert "9 images in 4 classes" in said
    files = {name: sorted((tmp_path / name).rglob("*.JPEG")) for name in ("one", "two")}
    contents = {name: [path.read_bytes() for path in found] for name, found in files.items()}
    assert contents["one"] == contents["two"]
    assert len(set(contents["one"])) == 13
    assert [Image.open(path).size for path in files["one"]] == [(500, 375)] * 13
    assert len(list((tmp_path / "one" / "train").iterdir())) == 4

    report = tmp_path / "loading.json"
    rows = load_tool("benchmarks/loading").main(
        [str(tmp_path / "one"), "--images", "4", "--batch", "4", "--size", "64", "--rounds", "2", "--device", "cpu",
         "--processes", "1", "--json", str(report)]
    )  # fmt: skip
    assert {"decode", "whole sample", "whole sample: before", "finish a batch"} <= {row.part for row in rows}
    assert all(row.images_per_second == pytest.approx(1e3 / row.milliseconds_per_image) for row in rows)
    assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]
    assert "1 loading processes:" in capsys.readouterr().out
    for arguments, message in (
        (["one"], "there is a folder"),
        (["new", "--val-count", "3"], "every class has an image"),
    ):
        with pytest.raises(ConfigError, match=message):
            write([str(tmp_path / arguments[0]), *counts, *arguments[1:]])


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("throughput", ["--mode", "train", "--cast"], "--cast is for inference"),
        ("throughput", ["--table", "both"], "--table names a table of a --study"),
        ("accuracy", ["a.json", "b.json", "--out", "c.jpg"], "--out is a file .pdf, .png, .svg, .webp, not c.jpg"),
        ("throughput", ["--plot", "sides.svg"], "--plot needs two sizes at least"),
        ("throughput", ["--plot", "sides.jpg"], "--plot is a file .pdf, .png, .svg, .webp, not sides.jpg"),
        ("throughput", ["--rounds", "1"], "--rounds must be 2 at least"),
        ("norms", ["--shapes", "4x56x160"], "a shape is written BxHxWxC"),
        ("ops", ["--shapes", "4x56x160"], "a shape is written BxHxWxD"),
        ("distributed", ["a.py", "--batch", "9"], "--batch 9 does not divide among 2 processes"),
        ("loop", ["--data", "nowhere"], "--data nowhere has no folder train"),
        ("throughput", ["--cuda-graphs"], "--cuda-graphs is for compiled networks: add --compile"),
        ("loop", ["--iterations", "4"], "'4' is no whole number from 40"),
        ("ops", ["--shapes", "1x-2x3x4"], "a shape is written BxHxWxD"),
        ("ops", ["--plot", "growth.jpg"], "--plot is a file .pdf, .png, .svg, .webp, not growth.jpg"),
        ("dense", ["--models", "swin", "--cfg-options", "compile=True"], "--models names swin alone"),
    ],
)
def test_what_cannot_be_measured_is_refused(tool, arguments, message, capsys):
    with pytest.raises(SystemExit):
        load_tool(f"benchmarks/{tool}").main(arguments)
    assert message in capsys.readouterr().err


NO_GPU = "error: --device 'cuda' is no device of this machine, which has cpu alone"
FEW = ["--device", "cpu", "--iterations", "2", "--batch", "1"]


@pytest.mark.parametrize(
    ("tool", "arguments", "line"),
    [
        ("annotations", ["file"], "error: cannot write file/images: {here}/file is a file and no folder"),
        ("dense", [*FEW, "--folder", "file"], "error: cannot write file: it is a file and no folder"),
        ("dense", [*FEW, "--json", "file/a.json"], "error: cannot write file: it is a file and no folder"),
        ("dense", [*FEW, "--models", "quadmamba", "--cfg-options", "compil=1"], "error: --cfg-options compil: "),
        pytest.param("dense", [], NO_GPU, marks=NEEDS_NO_GPU),
        pytest.param("loop", [], NO_GPU, marks=NEEDS_NO_GPU),
        ("loop", [*FEW[:2], "--cfg-options", "compil=1"], "error: --cfg-options compil: the config has no 'compil'"),
        ("distributed", [NOISE, "--work-dir", "file"], "error: cannot write file/processes_1: "),
        ("distributed", ["mambatree_l/mamba-130m_alpaca"], "error: --cfg-options train_dataloader.batch_size: "),
        ("language", ["--models", "mamba-ssm"], "error: --models mamba-ssm needs the package mamba-ssm, which is not"),
        ("throughput", ["--models", ""], "error: timm knows no model ''"),
        (
            "throughput",
            ["--models", "test_vit", "--size", "17", "--batch", "1", "--device", "cpu"],
            "error: test_vit cannot be measured at 17×17: Input height (17) should be divisible by patch size (16).",
        ),
        (
            "ops",
            ["--ops", "quadtree_order", "--shapes", "1x1x1x1", "--seconds", "1e-3", "--device", "cpu"],
            "error: quadtree_order cannot be measured at 1x1x1x1 in float32: quadtree_order: the map must be at least",
        ),
        ("accuracy", ["none", "none", "--out", "a.svg"], "error: none cannot be read: No such file or directory"),
        ("accuracy", ["file", "file", "--out", "a.svg"], "error: file cannot be read as JSON: "),
        ("accuracy", ["list", "list", "--out", "a.svg"], "error: list is no table.json of a study, or list is no file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_measured(
    tmp_path, monkeypatch, capsys, tool, arguments, line
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "list").write_text("[]")
    assert error_of(capsys, f"benchmarks/{tool}", *arguments).startswith(line.format(here=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "list"]


def test_a_program_that_fails_is_quoted(capfd):
    """By its first error: those that follow are of the programs that wait for it. Anything else is shown whole."""
    load_tool("benchmarks/ops")  # and its folder, from which it imports
    from measured.programs import run_program

    def python(code):
        run_program([sys.executable, "-c", f"import sys\n{code}"], "the training")

    with pytest.raises(UserError, match=r"^the training ended with 1: no data$"):
        python("print('error (process 0): no data', 'error: process 0 ended', sep='\\n', file=sys.stderr); sys.exit(1)")
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match=r"^the training ended with 1$"):
        python("1 / 0")
    assert "ZeroDivisionError" in capfd.readouterr().err
    python("print('a warning', file=sys.stderr)")
    assert capfd.readouterr().err == "a warning\n"


def test_training_on_noise_is_timed(tmp_path, quick_python, capfd):
    report = tmp_path / "rows.json"
    arguments = [NOISE, "--processes", 1, "--batch", 4, "--work-dir", tmp_path, "--json", report, "--cfg-options"]
    (row,) = load_tool("benchmarks/distributed").main([*map(str, arguments), *SMALL])
    assert row.images_per_second == pytest.approx(4 / row.seconds_per_iteration)
    assert row.speed_up == 1
    assert row.largest_loss_difference == 0
    assert json.loads(report.read_text()) == [asdict(row)]
    assert len(capfd.readouterr().out.splitlines()) == 2


def test_stopping_loses_no_iteration(quick_python, capsys):
    load_tool("benchmarks/stopping").main([NOISE, "--seconds", "0.5", "--every", "0.2", "--cfg-options", *SMALL])
    said = capsys.readouterr().out
    stopped, logged, state = map(
        int, re.search(r"after iteration (\d+) \((\d+) when .*, saved state_(\d+)", said).groups()
    )
    assert state == stopped >= logged >= 10
    assert re.search(r"no state: \d+ iterations.*\na state every 0.2 s: \d+ iterations", said)


def test_a_training_beside_its_bare_step(tmp_path, quick_python):
    report = tmp_path / "loop.json"
    options = ["--device", "cpu", "--batch", "2", "--size", "32", "--iterations", "40", "--json", str(report)]
    smaller = ["model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)"]
    rows = load_tool("benchmarks/loop").main([*options, "--model", "quadmamba", "--cfg-options", *smaller])
    assert [row.what for row in rows] == ["bare step", "training on noise"]
    assert rows[0].to_bare == 1
    assert rows[1].to_bare == pytest.approx(rows[0].milliseconds / rows[1].milliseconds)
    assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]


def test_dense_training_beside_mmdets(tmp_path, quick_python, capfd):
    options = [
        "--device",
        "cpu",
        "--size",
        "32",
        "--batch",
        "1",
        "--iterations",
        "2",
        "--warm-up",
        "1",
        "--workers",
        "0",
    ]
    report = tmp_path / "dense.json"
    rows = load_tool("benchmarks/dense").main(
        [*options, "--models", "swin", "--folder", str(tmp_path), "--json", str(report)]
    )
    assert [row.model for row in rows] == ["swin"]
    assert (rows[0].to_reference, rows[0].busy, rows[0].gibibytes) == (1, None, None)
    assert 0 < rows[0].waiting < 1
    assert json.loads(report.read_text())["rows"] == [asdict(row) for row in rows]
    assert "rate to Swin-T" in capfd.readouterr().out
    made = (tmp_path / "detection-9" / "train.json").stat().st_mtime_ns
    load_tool("benchmarks/dense").files("detection", tmp_path, 9)  # as many as needed are there
    assert (tmp_path / "detection-9" / "train.json").stat().st_mtime_ns == made


def test_processes_that_need_the_same_files_make_them_once(tmp_path):
    begin = "import sys, pathlib, runpy; files = runpy.run_path(sys.argv[1])['files'];"
    ask = begin + " print(files('segmentation', pathlib.Path(sys.argv[2]), 6))"
    command = [sys.executable, "-c", ask, str(ROOT / "tools/benchmarks/dense.py"), str(tmp_path)]
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in asked} == {str(tmp_path / "segmentation-6")}
    assert [process.returncode for process in asked] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["segmentation-6"]
    assert len(list((tmp_path / "segmentation-6" / "images" / "training").iterdir())) == 6
