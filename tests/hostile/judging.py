"""Makes one hostile call and judges what comes of it."""

import gc
import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_core.testing import TOLERANCE

from .drawing import Draw
from .functions import FUNCTIONS, call_of
from .mutations import mutate
from .operators import OPERATORS

NAMES = (*OPERATORS, *FUNCTIONS)
SMALL = 2**16  # elements of a tensor that may be copied and compared

# What says that something was refused. Other exceptions mean that somebody stumbled.
REFUSALS = (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError, MemoryError)
# Words of messages that tell a user nothing.
NO_SENTENCE = ("INTERNAL ASSERT", "std::", "vector::", "basic_string", "unordered_map")
NO_MEMORY = ("allocate", "out of memory", "overflow", "too large", "too big", "Storage size", "2GB")


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        name: of the operator or function.
        kind: ``"right"``, ``"ran"`` (its values could not be compared), ``"refused"``, or a finding.
        detail: the error's message, or what is wrong.
        call: the call in words.
    """

    name: str
    kind: str
    detail: str
    call: str

    @property
    def is_finding(self) -> bool:
        """Whether this is neither a right result nor an error."""
        return self.kind not in ("right", "ran", "refused")


def describe(value: object) -> str:
    """An argument in words."""
    if isinstance(value, Tensor):
        name = str(value.dtype).removeprefix("torch.")
        layout = f" strides {value.stride()}" if value.layout == torch.strided else f" {value.layout}"
        marks = (
            " leaf" * value.requires_grad + " neg" * value.is_neg() + f" {value.device}" * (value.device.type != "cpu")
        )
        return f"{name}{list(value.shape)}{layout}{marks}"
    if hasattr(value, "_fields"):
        return f"Tree({', '.join(describe(x) for x in value)})"
    return repr(value)


class Judge:
    """Draws calls by their numbers, makes them and judges the results.

    Args:
        seed: of all random numbers.
        device: ``"cpu"`` or ``"cuda"``.
        reference: whether to compare results with the references.
        large: whether to draw sizes of 2^31, which some machines can hold.
        announce: is told every call, in words, before it is made.
    """

    def __init__(
        self,
        seed: int,
        device: str = "cpu",
        reference: bool = True,
        large: bool = True,
        announce: Callable[[int, str, str], None] = lambda number, name, call: None,
    ):
        self.seed, self.device, self.reference, self.large, self.announce = seed, device, reference, large, announce

    def judge(self, number: int) -> Outcome:
        """The outcome of the call of this number."""
        name = NAMES[number % len(NAMES)]
        draw = Draw(self.seed, number, self.device, self.large)
        with torch.no_grad():
            try:
                function, arguments, expected, harms = self._call(draw, name)
            except REFUSALS as error:  # torch itself has no tensors of such sizes
                if draw.odd:
                    return Outcome(name, "refused", f"no such tensors: {first_line(error)}", draw.odd)
                raise
        words = f"{name}({', '.join(map(describe, arguments))}) after {harms or 'nothing'}"
        self.announce(number, name, words)
        kind, detail = self._outcome(draw, name, function, arguments, expected, harms)
        return Outcome(name, kind, detail, words)

    def _call(self, draw: Draw, name: str) -> tuple[Callable, list[Any], Callable, list[str]]:
        if name in OPERATORS:
            namespace, _, operator = name.partition("::")
            function, call = getattr(getattr(torch.ops, namespace), operator), OPERATORS[name](draw)
        else:
            function, call = call_of(name, draw)
        harms = []
        for _ in range(draw.random.choices((0, 1, 2, 3), weights=(3, 5, 2, 1))[0]):
            places = [i for i, x in enumerate(call.arguments) if _is_index(x)] if draw.chance(0.3) else []
            place = draw.random.choice(places or range(len(call.arguments)))
            what, call.arguments[place] = mutate(draw, call.arguments[place])
            harms.append(f"{what} [{place}]")
        # A view of a leaf is no leaf.
        leaves = [
            x.detach().requires_grad_() if isinstance(x, Tensor) and x.requires_grad else x for x in call.arguments
        ]
        return function, leaves, call.expected, harms

    def _outcome(self, draw, name, function, arguments, expected, harms) -> tuple[str, str]:
        before = [x.detach().clone() if _is_plain(x) else None for x in _tensors(arguments)]
        peak = _peak_memory()
        try:
            with torch.set_grad_enabled(draw.chance(0.8)):
                result = function(*arguments)
            self._wait()
        except REFUSALS as error:
            return self._judge_error(error, harms, bool(draw.odd), name)
        except Exception as error:  # any other exception is a finding
            missing = any("missing" in harm or "of " in harm for harm in harms) and isinstance(error, AttributeError)
            return "refused" if missing else "unclear error", f"{type(error).__name__}: {first_line(error)}"
        results = list(result) if isinstance(result, tuple | list) else [result]
        used = _peak_memory() - peak
        if used > 2**30 + 16 * sum(_bytes(x) for x in (*_tensors(arguments), *results)):
            return "memory", f"took {used / 2**30:.1f} GiB"
        for x, old in zip(_tensors(arguments), before, strict=True):
            if old is not None and not torch.equal(_bits(x), _bits(old)):
                return "input changed", describe(x)
        if name in OPERATORS and (wrong := self._judge_fake(function, arguments, results)):
            return "fake differs", wrong
        if any(x.is_meta for x in results):
            return "ran", "meta"
        return self._judge_values(draw, name, arguments, results, expected)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _judge_error(self, error: Exception, harms: list[str], odd: bool, name: str) -> tuple[str, str]:
        text = f"{type(error).__name__}: {first_line(error)}"
        # Without torch's cache of memory, CUDA itself says that there is none left. The device goes on.
        crashed = "CUDA error" in text and "CUDA error: out of memory" not in text
        if crashed or (self.device == "cuda" and not _answers()):
            return "crash", text
        if odd and "TensorIterator" in text:  # torch cannot copy an expanded tensor of such a size
            return "refused", f"no such tensors: {text}"
        if len(text) < 20 or any(word in text for word in NO_SENTENCE):
            return "unclear error", text
        if not harms and not odd and not (isinstance(error, NotImplementedError) and name in OPERATORS):
            return "refuses a right call", text
        return "refused", text

    def _judge_fake(self, function: Callable, arguments: list[Any], results: list[Tensor]) -> str:
        """What is wrong about the shapes that the fake rule gives."""
        if any(x.layout != torch.strided or x.is_meta for x in _tensors(arguments)):
            return ""
        meta = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x
            for x in arguments
        ]
        try:
            with torch.no_grad():
                fake = function(*meta)
        except Exception as error:  # whatever it is: the kernel did take these arguments
            return f"{type(error).__name__}: {first_line(error)}"
        fake = list(fake) if isinstance(fake, tuple | list) else [fake]
        for x, y in zip(fake, results, strict=True):
            strides = zip(x.shape, x.stride(), y.stride(), strict=False)
            same_strides = y.numel() == 0 or all(a == b for size, a, b in strides if size > 1)
            if x.shape != y.shape or x.dtype != y.dtype or not same_strides:
                return f"{describe(x)} where the kernel gives {describe(y)}"
        return ""

    def _judge_values(self, draw, name, arguments, results, expected) -> tuple[str, str]:
        tensors = [*_tensors(arguments), *results]
        if not self.reference or any(x.numel() > SMALL or x.is_meta for x in tensors):
            return "ran", "not compared"
        right = _expect(expected, [exact_of(x) for x in arguments])
        if isinstance(right, Exception):
            # A GPU's kernels do not look at values, since that would wait for the device.
            text = f"accepted, but {type(right).__name__}: {first_line(right)}"
            return ("ran" if self.device == "cuda" else "wrongly accepted"), text
        if right is None:
            return "ran", "nothing to compare with"
        same = _expect(expected, [_on_cpu(x) for x in arguments])
        for i, (actual, exact) in enumerate(zip(results, right, strict=True)):
            if actual.shape != exact.shape:
                return "wrong", f"result {i} is {list(actual.shape)} and not {list(exact.shape)}"
            if not draw.comparable or not actual.dtype.is_floating_point:
                if draw.comparable and not torch.equal(actual.cpu(), exact):
                    return "wrong", f"result {i} differs"
                continue
            if not (exact.abs() < 1e30).all():  # beyond what numbers of the call's type, or their squares, can hold
                continue
            limit = 1e-9 if actual.dtype == torch.float64 else 10 * TOLERANCE[draw.dtype]
            if not isinstance(same, Exception):
                limit += 10 * error_of(same[i], exact)
            error = error_of(actual, exact)
            if not error <= limit and not math.isnan(limit):
                return "wrong", f"result {i} has a relative error of {error:.1e}, and {limit:.1e} is allowed"
        if not draw.comparable:
            return "ran", "values that are not compared"
        if name.endswith("_backward"):
            return "right", ""
        return self._judge_gradients(draw, arguments, results, expected)

    def _judge_gradients(self, draw, arguments, results, expected) -> tuple[str, str]:
        """Autograd with upstream gradients that are expanded or strided, if some argument is a leaf."""
        leaves = [x for x in _tensors(arguments) if x.requires_grad]
        outputs = [y for y in results if y.requires_grad]
        if not leaves or not outputs:
            return "right", ""
        one = draw.random.choice((torch.ones(()), torch.tensor(2.0)))
        upstream = [one.to(y).expand(y.shape) for y in outputs]
        try:
            actual = torch.autograd.grad(outputs, leaves, upstream, allow_unused=True)
            self._wait()
        except NotImplementedError as error:
            return "right", first_line(error)
        except Exception as error:  # the forward pass was right
            return "no gradient", f"{type(error).__name__}: {first_line(error)}"
        with torch.enable_grad():
            exact = [exact_of(x) for x in arguments]
            exact_leaves = [
                x for x, given in zip(_tensors(exact), _tensors(arguments), strict=True) if given.requires_grad
            ]
            for x in exact_leaves:
                x.requires_grad_()
            values = [y for y, given in zip(expected(*exact), results, strict=True) if given.requires_grad]
        loss = [y for y in values if y.requires_grad]
        weights = [one.to(y).expand(y.shape) for y in loss]
        if not loss:  # an expectation that is itself made of gradients
            return "right", ""
        right = torch.autograd.grad(loss, exact_leaves, weights, allow_unused=True)
        for i, (a, e) in enumerate(zip(actual, right, strict=True)):
            zero = torch.zeros_like(exact_leaves[i])
            error = error_of(zero if a is None else a, zero if e is None else e)
            limit = 1e-8 if draw.dtype == torch.float64 else 100 * TOLERANCE[draw.dtype]
            if not error <= limit:
                return "wrong gradient", f"of leaf {i}: relative error {error:.1e}"
        return "right", "with gradients"


def error_of(actual: Tensor, exact: Tensor) -> float:
    """The root-mean-square error, relative to the exact result or, where that is nearly zero, to a thousandth."""
    actual, exact = actual.detach().double().cpu(), exact.detach().double().cpu()
    if actual.shape != exact.shape:
        return math.inf
    scale = exact.square().mean().sqrt().clamp_min(1e-3)
    return float((actual - exact).square().mean().sqrt() / scale) if exact.numel() else 0.0


def _expect(expected: Callable, arguments: list[Any]) -> Sequence[Tensor] | Exception | None:
    try:
        with torch.no_grad():
            return expected(*arguments)
    except Exception as error:  # a reference may stumble over arguments that the kernel should have refused
        return error


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif hasattr(value, "_fields"):
            found.extend(_tensors(value))
    return found


def _is_index(value: Any) -> bool:
    return hasattr(value, "_fields") or (isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32))


def _is_plain(x: Tensor) -> bool:
    return x.numel() <= SMALL and not x.is_meta and x.layout == torch.strided


def _bits(x: Tensor) -> Tensor:
    """The memory of a tensor, in which NaN equals itself."""
    x = x.detach().resolve_neg().resolve_conj()
    return torch.view_as_real(x).nan_to_num() if x.is_complex() else x.nan_to_num() if x.is_floating_point() else x


def _bytes(x: Tensor) -> int:
    return 0 if x.is_meta else x.numel() * x.element_size()


def _convert(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value.detach())
    if hasattr(value, "_fields"):
        return type(value)(*(_convert(x, change) for x in value))
    return value


def _on_cpu(value: Any) -> Any:
    return _convert(value, lambda x: x.cpu().resolve_neg().clone())


def exact_of(value: Any) -> Any:
    """The argument on the CPU, in float64 if it is real."""
    return _convert(_on_cpu(value), lambda x: x.double() if x.dtype.is_floating_point else x)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _answers() -> bool:
    try:
        return float(torch.ones(1, device="cuda").sum()) == 1
    except RuntimeError:
        gc.collect()
        return False
