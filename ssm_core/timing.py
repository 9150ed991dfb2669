"""Functions that all speed measurements use: they time calls and describe the machine."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """A summary of repeated measurements of one duration, in milliseconds.

    Attributes:
        median: the median of the measurements.
        spread: the distance between the lower and the upper quartile.
    """

    median: float
    spread: float


def wait(device: torch.device | str) -> None:
    """Wait until the device has finished all its work."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device | str) -> float:
    """Return the duration of one call in milliseconds, including the work that it starts on the device.

    Args:
        run: the function to measure.
        device: the device on which it works.
    """
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


def summarize(times: list[float]) -> Timing:
    """Return the median and the spread of repeated measurements.

    Args:
        times: at least two durations in milliseconds.
    """
    low, middle, high = statistics.quantiles(times, n=4)
    return Timing(middle, high - low)


def milliseconds(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Measure the duration of a call after one warm-up call.

    If a call is short, each sample is the mean over several calls in a row.

    Args:
        run: the function to measure.
        device: ``"cpu"`` or ``"cuda"``.
        seconds: about how long to measure.
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
    """Return the bytes per second that a large copy reads and writes. The tensor is much larger than the caches.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        seconds: about how long to measure.
    """
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source), device, seconds).median * 1e-3)


def machine(device: str) -> dict[str, str]:
    """Describe the machine and the date of a measurement: processor or GPU, threads, versions, date.

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
    """Return the name of the processor, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
