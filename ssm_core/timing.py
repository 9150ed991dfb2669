"""What every measurement of speed needs: a median with its spread, and the machine that it was measured on."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Repeated measurements of one time, in milliseconds.

    Attributes:
        median: of the measurements.
        spread: distance between their quartiles.
    """

    median: float
    spread: float


def wait(device: torch.device | str) -> None:
    """Wait until the device has done everything that it was given."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device | str) -> float:
    """Milliseconds of one call, with everything that it starts on the device.

    Args:
        run: what is measured.
        device: where it runs.
    """
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


def summarize(times: list[float]) -> Timing:
    """Median and spread of repeated measurements.

    Args:
        times: in milliseconds, at least two.
    """
    low, middle, high = statistics.quantiles(times, n=4)
    return Timing(middle, high - low)


def milliseconds(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Time of a call, after one call for warming up. Short calls are timed several together and divided.

    Args:
        run: what is measured.
        device: ``"cpu"`` or ``"cuda"``.
        seconds: for how long to measure.
    """
    timed(run, device)
    first = max(timed(run, device), 1e-3)
    together = max(1, round(1 / first))

    def several() -> None:
        for _ in range(together):
            run()

    samples = max(3, min(200, int(1e3 * seconds / (first * together))))
    return summarize([timed(several, device) / together for _ in range(samples)])


def copy_rate(device: str, seconds: float) -> float:
    """Bytes that a copy much larger than the caches reads and writes in a second.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        seconds: for how long to measure.
    """
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source), device, seconds).median * 1e-3)


def machine(device: str) -> dict[str, str]:
    """What figures were measured on: processor or GPU, threads, versions, date.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
    """
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor_name() -> str:
    """The processor's name, if the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
