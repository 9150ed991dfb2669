"""Tests of ``tree-ssm doctor``: what is right is called right, what is wrong is named with a way out."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import quadtree_ssm.ops
import ssm_core.ops
import tree_ssm.ops
from ssm_core.doctor import library, machine
from ssm_core.doctor.findings import PAGE
from ssm_core.doctor.operators import packages
from ssm_core.ops.registry import Operator, declared, has_kernel

ROOT = Path(__file__).parents[1]
FAMILIES = [package.__name__ for package in (quadtree_ssm.ops, ssm_core.ops, tree_ssm.ops)]
VERDICT = re.compile(r"^  (ok   |WRONG) (\w+::\w+) (forward|backward|forward and backward): (.*)$", re.MULTILINE)


def doctor(*arguments, folder=ROOT, program=("-m", "ssm_core.doctor"), **environment):
    """Return the exit status and the output of the doctor in a fresh process, which finds the packages by a path."""
    command = [sys.executable, *program, *arguments]
    variables = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables)
    assert "Error" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def expected_verdicts(device_type):
    """Yield what a report has a line on: the passes of every operator with a kernel for a type of device."""
    for operator in declared():
        if has_kernel(operator.name, device_type):
            yield operator.name, "forward"
            if any(example.differentiable for example in operator.examples()):
                yield operator.name, "backward"


def copy_packages(folder):
    """Copy the packages into a folder, without the compiled library."""
    for package in ("ssm_core", "quadtree_ssm", "tree_ssm"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("_C*", "__pycache__"))


def test_every_operator_is_right_on_the_cpu_within_a_minute():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, printed = doctor("--device", "cpu")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    verdicts = VERDICT.findall(printed)
    assert sorted(verdict[1:3] for verdict in verdicts) == sorted(expected_verdicts("cpu"))
    assert {verdict[0] for verdict in verdicts} == {"ok   "}, printed
    assert status == 0
    assert "no problem found" in printed
    assert f"torch {torch.__version__}" in printed
    assert f"built with torch {torch.__version__.split('+')[0]}" in printed
    assert "OMP_NUM_THREADS=1" in printed
    # Processor time, since the test may share its cores
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 60


@pytest.mark.gpu
def test_every_operator_is_right_on_the_gpu_within_a_minute():
    status, printed = doctor("--device", "cuda")
    verdicts = VERDICT.findall(printed)
    assert sorted(verdict[1:3] for verdict in verdicts) == sorted(expected_verdicts("cuda"))
    assert {verdict[0] for verdict in verdicts} == {"ok   "}, printed
    assert len({verdict[1] for verdict in verdicts}) == len(declared())
    assert status == 0, printed
    assert torch.cuda.get_device_name() in printed
    assert float(re.search(r"\((\d+) s\)$", printed.strip())[1]) < 60


# Operators of its own. Their kernels and backward passes are wrong by factors, one raises, and the library lacks one.
OF_ITS_OWN = """
import sys
import torch
from ssm_core.doctor.command_line import main
from ssm_core.ops.example import Example, normal
from ssm_core.ops.registry import Operator, register

library = torch.library.Library("of_its_own", "DEF")


def add(name, forward, backward):
    def kernel(x):
        if name == "raises":
            raise RuntimeError("the kernel was not in the mood\\nand more")
        return 2 * forward * x

    def call(inputs_backend, inputs):
        return 2 * inputs[0] if inputs_backend == "reference" else getattr(torch.ops.of_its_own, name)(*inputs)

    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, kernel, "CPU")
    torch.library.register_autograd(f"of_its_own::{name}", lambda ctx, g: 2 * backward * g, lib=library)
    example = Example("100 numbers", lambda generator: (normal(generator, 100),), call)
    assert register(Operator(f"of_its_own::{name}", examples=lambda: [example]))


for name, forward, backward in CASES:
    add(name, float(forward), float(backward))
register(Operator("ssm_core::of_tomorrow"))
sys.exit(main(["--device", "cpu"]))
"""
ERRORS = {"large": 1e-2, "float32": 1e-5, "float64": 1e-11}


@pytest.fixture(scope="module")
def report():
    """Return the exit status, the verdicts on operators of its own by name and pass, and the whole report."""
    cases = [("right", 1, 1), ("raises", 1, 1), ("not_a_number", "nan", 1)]
    cases += [(f"forward_{name}", 1 + error, 1) for name, error in ERRORS.items()]
    cases += [(f"backward_{name}", 1, 1 + error) for name, error in ERRORS.items()]
    status, printed = doctor(program=("-c", OF_ITS_OWN.replace("CASES", repr(cases))))
    found = VERDICT.findall(printed)
    own = {(name.partition("::")[2], which): (word.strip(), text) for word, name, which, text in found if "own" in name}
    return status, own, printed


def test_a_right_operator_of_its_own_is_right(report):
    _, verdicts, printed = report
    assert {word for (name, _), (word, _) in verdicts.items() if name == "right"} == {"ok"}
    assert "of_its_own::right" not in printed.partition("\nProblems\n")[2]


@pytest.mark.parametrize("wrong", ["forward", "backward"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_wrong_operator_is_named_with_its_error_and_what_to_do(report, wrong, error):
    """The error is the relative one by which the kernel is wrong, however small."""
    status, verdicts, printed = report
    name = f"{wrong}_{error}"
    word, text = verdicts.pop((name, wrong))
    line = re.fullmatch(r"error (\S+), allowed 1.0e-12 \(float64, 100 numbers\)", text)
    assert float(line[1]) == pytest.approx(ERRORS[error], rel=0.1)
    other = "backward" if wrong == "forward" else "forward"
    assert (word, verdicts[name, other][0]) == ("WRONG", "ok")
    advice = printed.partition("\nProblems\n")[2]
    expected = rf"^  \d\. of_its_own::{name} gives wrong numbers on cpu \({wrong}\)\. Do not train with it\.\n"
    assert re.search(rf"{expected}    Build the library again: .+\n.+\n    See {PAGE}", advice, re.MULTILINE)
    assert status == 1


def test_nan_is_wrong(report):
    assert report[1]["not_a_number", "forward"][0] == "WRONG"


def test_an_operator_that_raises_is_reported_and_the_others_are_checked(report):
    _, verdicts, printed = report
    assert verdicts["raises", "forward and backward"] == ("WRONG", "RuntimeError: the kernel was not in the mood")
    assert "of_its_own::raises fails on cpu" in printed
    others = [verdict for verdict in VERDICT.findall(printed) if "of_its_own" not in verdict[1]]
    assert sorted(verdict[1:3] for verdict in others) == sorted(expected_verdicts("cpu"))
    assert {verdict[0] for verdict in others} == {"ok   "}
    assert "9 to mend" in printed


def test_a_library_that_lacks_an_operator_is_older_than_the_code(report):
    status, _, printed = report
    assert status == 1
    assert "The library is older than the Python code: it lacks ssm_core::of_tomorrow" in printed


def test_no_library_is_a_problem_with_a_way_out(tmp_path):
    copy_packages(tmp_path)
    status, printed = doctor(folder=tmp_path)
    assert status == 1
    assert "There is no compiled library. Results are right and slow." in printed
    assert re.search(r"Run: cd FOLDER_OF_THE_SOURCES .* pip install --no-build-isolation .* \.$", printed, re.MULTILINE)
    assert "nothing to compare, since there is no kernel" in printed
    assert "operators: 0 of " in printed
    assert not VERDICT.findall(printed)


def test_a_library_that_does_not_load_is_a_problem(tmp_path):
    copy_packages(tmp_path)
    (tmp_path / "ssm_core" / "_C.abi3.so").write_bytes(b"not a library")
    status, printed = doctor(folder=tmp_path)
    assert status == 1
    assert re.search(rf"_C.abi3.so does not load with torch {re.escape(torch.__version__)} \(.*file too short", printed)
    assert "1 to mend" in printed


def test_a_missing_kernel_is_a_problem_where_there_should_be_one():
    operators = [Operator("ssm_core::selective_scan"), Operator("tree_ssm::token_distance", device_types=("cuda",))]
    line, findings = library.lacks_kernels(operators, "cpu", None)
    assert (line, findings) == ("kernels for cpu: 1 of 1", [])
    # A GPU whose kernels were not built
    operators = [op for op in declared() if not has_kernel(op.name, "cuda")]
    _, findings = library.lacks_kernels(operators, "cuda", "9.0")
    assert [f.what for f in findings] == (
        ["The library was built without CUDA, and all operators run their slow references on the GPU."]
        if operators
        else []
    )
    assert all('FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="9.0"' in f.remedy for f in findings)


@pytest.mark.parametrize("compiled", [(8, 0), (8, 6)])
def test_code_of_the_same_generation_fits(compiled):
    assert library.fit("NVIDIA A40", (8, 6), compiled) is None


def test_ptx_of_an_older_generation_is_a_note():
    note = library.fit("NVIDIA H200", (9, 0), (8, 0))
    assert not note.is_problem
    assert note.what.startswith("The library has no code for NVIDIA H200 (9.0), which runs the PTX for 8.0.")
    assert 'TORCH_CUDA_ARCH_LIST="9.0"' in note.remedy


@pytest.mark.parametrize(
    ("runtime", "driver", "what", "remedy"),
    [
        (None, 12040, "is built for the CPU alone", "Install a torch with CUDA"),
        ("13.0", 12040, "the driver knows CUDA up to 12.4, and torch is for CUDA 13.0", "torch for CUDA 12"),
        ("12.8", 12040, "torch finds no GPU: No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
        ("12.8", None, "torch finds no GPU: No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_driver_without_a_usable_gpu_is_a_problem(runtime, driver, what, remedy):
    problem = machine.no_gpu(runtime, driver, "No CUDA GPUs are available")
    assert problem.is_problem
    assert what in problem.what
    assert remedy in problem.remedy


def test_a_device_that_is_not_there_is_a_problem():
    status, printed = doctor("--device", "cuda:99")
    assert status == 1
    assert f"cuda:99 was asked for, and torch finds {torch.cuda.device_count()} GPUs." in printed


def test_an_unknown_device_is_a_mistake():
    done = subprocess.run(
        [sys.executable, "-m", "ssm_core.doctor", "--device", "tpu"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "a device is cpu, cuda or cuda:NUMBER, not 'tpu'" in done.stderr


def test_the_packages_with_operators_are_found_by_their_files(tmp_path):
    assert packages(ROOT) == FAMILIES
    foreign = tmp_path / "foreign" / "ops" / "nms"
    foreign.mkdir(parents=True)
    (foreign / "register.py").write_text("import torch\n")
    copy_packages(tmp_path)
    assert packages(tmp_path) == FAMILIES


@pytest.mark.parametrize("operator", declared(), ids=lambda operator: operator.name)
def test_every_operator_has_examples_for_the_doctor(operator):
    """They include gradients if the operator has a backward pass, and no example is without sizes."""
    examples = operator.examples()
    assert len({example.sizes for example in examples}) >= 2
    has_backward = any(name.endswith("_backward") for name in operator.needs)
    differentiable = {example.sizes for example in examples if example.differentiable}
    assert len(differentiable) >= 2 if has_backward else not differentiable


def test_messages_about_the_library_name_the_doctor(tmp_path):
    copy_packages(tmp_path)
    program = """
import torch
from ssm_core.ops import selective_scan
x = torch.ones(1, 1, 1)
selective_scan(x, x, x[0], x, x)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "runs its slow PyTorch reference" in done.stderr
    assert "`tree-ssm doctor`" in done.stderr


@pytest.mark.parametrize("name", ["", " ", "no-such-compiler -O2"])
def test_any_name_of_a_compiler_is_a_line(name, monkeypatch):
    monkeypatch.setenv("CXX", name)
    assert [line for line in machine.versions() if line.startswith("C++ compiler: ")]
