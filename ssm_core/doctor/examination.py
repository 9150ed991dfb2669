"""The examination of an installation.

It says what this machine has and what the compiled library was built for, compares every operator's kernels with the
operator's reference, forward and backward, and says what to do about whatever is wrong.
"""

import faulthandler
import time
import warnings
from collections.abc import Iterator

import torch

from ssm_core.errors import how_to_install
from ssm_core.ops.registry import declared

from . import library, machine
from .findings import Finding, build_command
from .operators import Verdict, answers, check, import_packages


def examine(devices: list[torch.device] | None = None) -> int:
    """Examine the installation and print a report.

    Args:
        devices: where to check the operators; on the CPU, and on the first GPU if there is one, if left out.

    Returns:
        0 if all is well, 1 if anything is wrong.
    """
    faulthandler.enable()  # a kernel that ends the process then shows in which operator it was
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the packages warn of is found here by itself
        findings = list(_examine(devices))
    notes = [finding for finding in findings if not finding.is_problem]
    problems = [finding for finding in findings if finding.is_problem]
    for title, group in (("Notes", notes), ("Problems", problems)):
        if group:
            _print(title, *(f"{number}. {finding}" for number, finding in enumerate(group, start=1)))
    ending = "no problem found" if not problems else f"{len(problems)} to mend"
    print(f"\n{ending} ({time.perf_counter() - start:.0f} s)")
    return 1 if problems else 0


def _examine(devices: list[torch.device] | None) -> Iterator[Finding]:
    """Print what there is, and yield what to say about it."""
    _print("Versions", *machine.versions())
    lines, findings = machine.cards()
    _print("GPUs", *lines)
    yield from findings
    lines, findings = machine.threads()
    _print("Threads", *lines)
    yield from findings

    yield from _examine_library()
    for device in devices or [torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]:
        yield from _examine_device(device)


def _examine_library() -> Iterator[Finding]:
    """Print what the library is, and yield what is wrong with it. Afterwards all operators are declared."""
    lines, findings = library.examine()
    yield from findings
    for module, error in import_packages().items():
        yield Finding(f"{module} does not import: {error}.", f"Install what it needs: {how_to_install()}.")
    line, findings = library.lacks(declared())
    _print("Compiled library", *lines, line)
    yield from findings


def _examine_device(device: torch.device) -> Iterator[Finding]:
    """Check the operators on a device, unless it or the library's code for it is missing."""
    architecture, misfit = None, None
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            yield Finding(f"{device} was asked for, and torch finds {torch.cuda.device_count()} GPUs.", "See above.")
            return
        architecture = machine.architecture(device)
        misfit = library.fit_of(device)
    line, findings = library.lacks_kernels(declared(), device.type, architecture)
    _print(f"Operators on {device}, beside their references: the error that is largest beside the allowed one", line)
    yield from findings
    if misfit is not None:
        yield misfit
        if misfit.is_problem:
            return
    yield from _check_operators(device)


def _check_operators(device: torch.device) -> Iterator[Finding]:
    """Print a line for every pass of every operator, and yield what to do about those that are wrong."""
    for operator in declared():
        for verdict in check(operator, device):
            print(f"  {_line(verdict)}", flush=True)
            if not verdict.right:
                yield _advice(verdict, device)
        if not answers(device):
            yield Finding(
                f"{device} does not work any more after {operator.name}, and the operators below it were not checked.",
                "Start the doctor again with CUDA_LAUNCH_BLOCKING=1, and report its output if this happens again.",
            )
            return


def _line(verdict: Verdict) -> str:
    """One line on a pass of an operator."""
    head = f"{'ok   ' if verdict.right else 'WRONG'} {verdict.name} {verdict.which}:"
    if verdict.worst is None:
        return f"{head} {verdict.error}"
    error, allowed = (f"{value:.1e}" if value else "0" for value in (verdict.worst.error, verdict.worst.allowed))
    return f"{head} error {error}, allowed {allowed} ({verdict.worst.where})"


def _advice(verdict: Verdict, device: torch.device) -> Finding:
    """What to do about an operator that is wrong."""
    architecture = machine.architecture(device) if device.type == "cuda" else None
    fails = f"{verdict.name} fails on {device}."
    wrong = f"{verdict.name} gives wrong numbers on {device} ({verdict.which}). Do not train with it."
    return Finding(
        fails if verdict.worst is None else wrong,
        f"Build the library again: {build_command(architecture)}\n"
        "    If that does not help, report this output, and until then call the operator with backend='reference'.",
    )


def _print(title: str, *lines: str) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"  {line}")
