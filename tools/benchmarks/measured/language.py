"""Measures tokens a second of MambaTree-L beside the plain chain and transformers' own Mamba: ../language.py."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from measured.report import write_report
from ssm_core.errors import ConfigError
from ssm_core.timing import machine, summarize, timed
from ssm_train.apis.devices import usable_device
from ssm_train.runtime.files import check_file
from tree_ssm.language import MambaTreeConfig, MambaTreeForCausalLM
from tree_ssm.language.kernels import installed

VOCABULARY = 50280
MAMBA_SSM = "mamba_ssm.ops.selective_scan_interface"


@dataclass
class Row:
    """One model's measurement at one length."""

    model: str
    length: int
    tokens_per_second: float | None  # None if the model ran out of memory
    spread_tokens_per_second: float | None
    milliseconds_per_step: float | None
    peak_memory_gib: float | None  # that this model takes; None on the CPU
    to_chain: float | None  # its rate divided by that of the plain chain


def build(name: str, options: argparse.Namespace) -> nn.Module:
    """A model by its name in the table."""
    torch.manual_seed(0)
    size = {"vocab_size": VOCABULARY, "hidden_size": options.width, "num_hidden_layers": options.layers}
    with torch.device(options.device):
        if name == "transformers":
            model = MambaForCausalLM(MambaConfig(**size))
            return compiled(model, options)
        ours = options.device if installed(MAMBA_SSM) else "auto"
        backend = "mamba_ssm" if name == "mamba-ssm" else ours
        scale = 0.3 if name == "mambatree-l" else 0.0
        model = MambaTreeForCausalLM(MambaTreeConfig(**size, tree_scale=scale, chain_backend=backend))
        return compiled(model, options)


def compiled(model: nn.Module, options: argparse.Namespace) -> nn.Module:
    """The model with each layer given to torch.compile, if the run asks for it."""
    for layer in model.backbone.layers if options.compile else ():
        layer.compile()
    return model


def training_step(model: nn.Module, length: int, options: argparse.Namespace) -> Callable[[], None]:
    """A call that makes one step of training."""
    model.train()
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(VOCABULARY, (options.batch, length), device=options.device)
    extra = {"context_len": round(options.prompt * length)} if isinstance(model, MambaTreeForCausalLM) else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=options.device == "cuda")

    def step() -> None:
        with precision(options):
            loss = model(ids, labels=ids, use_cache=False, **extra).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def prefill_step(model: nn.Module, length: int, options: argparse.Namespace) -> Callable[[], None]:
    """A call that reads prompts."""
    model.eval()
    ids = torch.randint(VOCABULARY, (options.batch, length), device=options.device)

    @torch.inference_mode()
    def step() -> None:
        with precision(options):
            model(ids, use_cache=True, logits_to_keep=1)

    return step


def precision(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Autocast to the dtype of the run."""
    if options.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(options.device, options.dtype)


def peak_of(step: Callable[[], None], before: int, options: argparse.Namespace) -> float | None:
    """The most memory that a step takes after two steps for warming up, in GiB; None on the CPU."""
    for _ in range(2):
        step()
    if options.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def measure(length: int, options: argparse.Namespace) -> list[Row]:
    """Build all models, then time them in turns on rows of one length."""
    steps: dict[str, tuple[Callable[[], None], float | None]] = {}
    make = training_step if options.mode == "train" else prefill_step
    for name in options.models:
        before = torch.cuda.memory_allocated() if options.device == "cuda" else 0
        try:
            step = make(build(name, options), length, options)
            steps[name] = (step, peak_of(step, before, options))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, (step, _) in steps.items():
            times[name].append(timed(step, options.device))
    chain = summarize(times["chain"]).median if "chain" in times else None
    rows = []
    for name in options.models:
        if name not in times:
            rows.append(Row(name, length, None, None, None, None, None))
            continue
        median, spread = summarize(times[name])
        rate = 1e3 * options.batch * length / median
        to_chain = None if chain is None else chain / median
        rows.append(Row(name, length, rate, rate * spread / median, median, steps[name][1], to_chain))
    return rows


def run(options: argparse.Namespace, known: Sequence[str]) -> list[Row]:
    """Measure, print a table, and return the rows.

    Args:
        options: of the command line.
        known: names of all models.

    Raises:
        ConfigError: a model is named whose package is not installed.
    """
    if "mamba-ssm" in (options.models or ()) and not installed(MAMBA_SSM):
        raise ConfigError("--models mamba-ssm needs the package mamba-ssm, which is not installed")
    options.device = usable_device(options.device).type
    on_gpu = options.device == "cuda"
    options.models = options.models or [name for name in known if name != "mamba-ssm" or installed(MAMBA_SSM)]
    options.batch = options.batch or (8 if on_gpu else 1)
    options.dtype = getattr(torch, options.dtype or ("bfloat16" if on_gpu else "float32"))
    if options.json:
        check_file(options.json)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    settings = {
        key: getattr(options, key) for key in ("mode", "batch", "prompt", "compile", "checkpointing", "width", "layers")
    } | {"dtype": str(options.dtype)[6:]}
    about = machine(options.device) | {"transformers": transformers.__version__}
    print(", ".join(f"{k} {v}" for k, v in (about | settings).items()), flush=True)
    print(f"{'model':14} {'tokens':>7} {'tokens/s':>10} {'±':>8} {'ms/step':>9} {'GiB':>6} {'to chain':>9}")
    rows = []
    for length in options.lengths:
        for row in measure(length, options):
            rows.append(row)
            if row.tokens_per_second is None:
                print(f"{row.model:14} {length:7}   out of memory", flush=True)
                continue
            memory = "" if row.peak_memory_gib is None else f"{row.peak_memory_gib:.1f}"
            ratio = "" if row.to_chain is None else f"{row.to_chain:.2f}"
            print(
                f"{row.model:14} {length:7} {row.tokens_per_second:10.0f} {row.spread_tokens_per_second:8.0f} "
                f"{row.milliseconds_per_step:9.1f} {memory:>6} {ratio:>9}",
                flush=True,
            )
    write_report(options.json, {"machine": about, "settings": settings}, rows)
    return rows
