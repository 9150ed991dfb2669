"""Where the time of a computation goes: every kernel of a profile, and the parts of a network that they belong to."""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile

from ssm_core.timing import timed

# A kernel belongs to the first part whose pattern is found in its name. torch.compile's kernels are named after the
# operations that they fuse, cuDNN's and cuBLAS's after what they compute, and ours after the operator. On a CPU the
# names are those of PyTorch's operators.
PARTS = (
    ("stem of this project", r"ssm::.*([cC]onv_?[nN]orm_?[gG]elu)"),
    ("norms of this project", r"ssm::.*[nN]orm"),
    ("MLPs of this project", r"ssm::.*([mM]lp|logits|pack_kernel)"),
    ("depthwise convolutions", r"[dD]epthwise|_c1_k1_"),
    ("state readout", r"ssm::.*readout"),
    (
        "trees and quadtrees",
        r"ssm::.*(whole_|root_|components|sort_keys|places_|distance|schedule_kernel|order_kernel|mask_gradient"
        r"|spanning_tree|quadtree_order)",
    ),
    ("scans", r"ssm::|ssm_core::"),
    ("norms, compiled", r"^triton_.*(layer|group|batch)_norm|aten::native_layer_norm"),
    # In half types our GELU is made of exp2 (ssm_core/layers/gelu.py).
    ("GELU, compiled", r"^triton_.*(gelu|abs_add_.*exp2)|aten::gelu"),
    ("SiLU, compiled", r"^triton_.*(silu|sigmoid)|aten::(silu|sigmoid)"),
    ("other, compiled", r"^triton_"),
    ("convolutions", r"dgrad|wgrad|fprop|implicit_gemm|ImplicitGemm|[cC]onv|cudnn|nhwcAddPadding|nchwToNhwc"),
    ("products", r"nvjet|gemm|splitK|cutlass|cublas|aten::(mm|addmm|bmm|baddbmm)$"),
    ("optimizer", r"multi_tensor_apply|_fused_adam"),
    ("copies and fills", r"[eE]lementwise|Mem(cpy|set)|copy|aten::(fill_|zero_|clone)$"),
    ("reductions", r"reduce_kernel|aten::(sum|mean)$"),
)
OTHER = "other"


class KernelTime(NamedTuple):
    """What one kernel takes in a step.

    Attributes:
        name: its full name.
        part: the part of the network that it belongs to.
        milliseconds: its time, of all launches of a step.
        launches: how often a step launches it.
    """

    name: str
    part: str
    milliseconds: float
    launches: float


def part_of(name: str) -> str:
    """Return the part of a network that a kernel with this name belongs to."""
    return next((part for part, pattern in PARTS if re.search(pattern, name)), OTHER)


def kernel_times(step: Callable[[], object], device: str, steps: int = 3) -> list[KernelTime]:
    """Profile a step, and return all its kernels, the longest first.

    Args:
        step: the computation, which has run before.
        device: ``"cpu"`` or ``"cuda"``. On a CPU the kernels are PyTorch's operators, without those that they call.
        steps: how often it runs; the times are means.
    """
    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True) as profiler:
        for _ in range(steps):
            timed(step, device)
    found = []
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        if microseconds > 0:
            found.append(KernelTime(event.key, part_of(event.key), 1e-3 * microseconds / steps, event.count / steps))
    return sorted(found, key=lambda kernel: -kernel.milliseconds)


def table(kernels: list[KernelTime]) -> str:
    """Return the milliseconds and launches of all parts, and below those of all kernels, as text."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for kernel in kernels:
        sums[kernel.part][0] += kernel.milliseconds
        sums[kernel.part][1] += kernel.launches
    lines = [f"{'part':24}{'ms':>9}{'launches':>10}"]
    parts = sorted(sums.items(), key=lambda item: -item[1][0])
    total = ("total", [sum(own[column] for own in sums.values()) for column in (0, 1)])
    lines += [f"{part:24}{ms:9.3f}{launches:10.1f}" for part, (ms, launches) in (*parts, total)]
    lines += ["", f"{'ms':>9}{'launches':>10}{'µs each':>10}  {'part':24}kernel"]
    lines += [
        f"{k.milliseconds:9.3f}{k.launches:10.1f}{1e3 * k.milliseconds / k.launches:10.1f}  {k.part:24}{k.name}"
        for k in kernels
    ]
    return "\n".join(lines)
