"""Draws derivatives of the operators' public functions, compiles them and compares them with float64 without compiling.

Under torch.compile a derivative is right, or it is refused in a sentence. The functions and sizes are those of
:mod:`hostile.functions`, in every type, and empty, strided, expanded and negated tensors are among the arguments.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from oracles.derivatives import derivatives, loss_of, tupled, waves
from oracles.quadtree import literal_input, literal_output
from torch import Tensor, func
from torch.nn import functional

from quadtree_ssm.ops import straight_through_input, straight_through_output
from ssm_core.testing import TOLERANCE
from tree_ssm.ops import Tree

from .drawing import Draw
from .functions import FUNCTIONS, call_of
from .judging import NO_SENTENCE, REFUSALS, Outcome, describe, error_of, exact_of, first_line
from .mutations import expanded, negated, strides

MOST = 24  # a larger size becomes this one, since the references are loops and are differentiated twice
COMPILED = ("value", "jvp", "gradient", "forward over reverse", "reverse over forward", "reverse over reverse")
MAPPED = ("value", "jvp", "gradient", "forward over reverse")
CONSTANT = ("distances", "tree", "order")  # ends of the names of functions that have no gradient
HARMS = (strides, strides, expanded, negated)
# PyTorch's own words for a compiled function that is differentiated twice. The last ones are for gradients that have
# other strides than their outputs.
TWICE = ("does not currently support double backward", "compiled with non-empty donated buffers",
         "a leaf Variable that requires grad is being used in an in-place operation")  # fmt: skip
# PyTorch's own words for forward mode: of expanded tensors, and under torch.compile of a view of one element that has a
# stride, and of torch.vmap over jvp(grad) where some arguments are mapped and others are shared.
FORWARD = ("more than one element of the written-to tensor", "Expected the output of forward differentiable view",
           "found at least two devices")  # fmt: skip

Function = Callable[..., Sequence[Tensor]]


@dataclass
class Derivative:
    """A derivative of a function of ``arguments``.

    Attributes:
        what: the derivative in words.
        arguments: what the function is called with.
        compiled: makes of the function what is compiled.
        expected: makes of the function's definition what that has to give. Its arguments are of float64.
        outside: makes of either what is differentiated once more without torch.compile.
    """

    what: str
    arguments: list[Any]
    compiled: Callable[[Function], Function]
    expected: Callable[[Function], Function]
    outside: Callable[[Function], Function] = tupled


def _derivative(what: str) -> Callable[[Function], Function]:
    return lambda function: lambda *arguments: derivatives(function, arguments)[what](*arguments)


def _inside(draw: Draw, arguments: list[Any], smooth: bool) -> Derivative:
    what = draw.random.choice(COMPILED)
    return Derivative(what, arguments, lambda function: derivatives(function, arguments)[what], _derivative(what))


def _mapped(draw: Draw, arguments: list[Any], smooth: bool) -> Derivative:
    """torch.vmap of samples, some arguments of which differ."""
    what, size = draw.random.choice(MAPPED) if smooth else "value", draw.random.choice((1, 2, 3))
    dims = [None if draw.chance(0.3) else draw.random.randrange(_rank(x) + 1) for x in arguments]
    if all(dim is None for dim in dims):
        dims[0] = 0
    stacked = [x if dim is None else _stack(draw, x, size, dim) for x, dim in zip(arguments, dims, strict=True)]

    def mapped(function: Function) -> Function:
        return func.vmap(derivatives(function, arguments)[what] if smooth else tupled(function), tuple(dims))

    def loop(function: Function) -> Function:
        of_sample = _derivative(what)(function) if smooth else tupled(function)

        def samples(*stacked: Any) -> list[Tensor]:
            pairs = list(zip(stacked, dims, strict=True))
            results = [of_sample(*(_select(x, dim, i) for x, dim in pairs)) for i in range(size)]
            return [torch.stack(parts) for parts in zip(*results, strict=True)]

        return samples

    return Derivative(f"vmap over {dims} of {what}", stacked, mapped, loop)


def _outside(draw: Draw, arguments: list[Any], smooth: bool) -> Derivative:
    """The gradient of a compiled function, or the gradient of that, which PyTorch refuses."""
    what, twice = draw.random.choice(("value", "jvp", "gradient")), draw.chance(0.2)

    def outside(function: Function) -> Function:
        def gradient(*arguments: Tensor) -> Sequence[Tensor]:
            leaves = [x.detach().clone().requires_grad_() for x in arguments]
            loss = loss_of(function)(*leaves)
            first = torch.autograd.grad(loss, leaves, create_graph=twice, materialize_grads=True)
            if not twice:
                return first
            along = sum((g * waves(g, 0)).sum() for g in first)
            return torch.autograd.grad(along, leaves, materialize_grads=True)

        return gradient

    words = f"{'double backward' if twice else 'backward'} of compiled {what}"
    made = (lambda function: derivatives(function, arguments)[what], _derivative(what))
    return Derivative(words, arguments, *made, outside)


def _of_hard_mask(function: Callable[..., Tensor]) -> Function:
    """Give a function the one-hot mask of the choice, which is what it takes, with the derivatives of any mask."""

    def of_mask(tokens: Tensor, mask: Tensor, choice: Tensor, *geometry: Any) -> Tensor:
        hard = functional.one_hot(choice, 4).to(mask)
        return function(tokens, hard + mask - mask.detach(), choice, *geometry)

    return of_mask


# Functions that have no backend "reference", and their definitions.
MASKED = {
    "quadtree_ssm.ops.straight_through_input": (straight_through_input, literal_input),
    "quadtree_ssm.ops.straight_through_output": (straight_through_output, literal_output),
}


class DerivativeJudge:
    """Draws derivatives by their numbers, compiles them and judges the results.

    Args:
        seed: of all random numbers.
        device: ``"cpu"`` or ``"cuda"``.
        compiler: backend of torch.compile.
        announce: is told every call, in words, before it is made.
    """

    names = tuple(name for name in FUNCTIONS if not name.endswith("_edges"))  # those take no tensor

    def __init__(
        self,
        seed: int,
        device: str = "cpu",
        compiler: str = "aot_eager",
        announce: Callable[[int, str, str], None] = lambda number, name, call: None,
    ):
        self.seed, self.device, self.compiler, self.announce = seed, device, compiler, announce

    def judge(self, number: int) -> Outcome:
        """The outcome of the derivative of this number."""
        name = self.names[number % len(self.names)]
        draw = Draw(self.seed, number, self.device, large=False)
        draw.size = {letter: min(size, MOST) for letter, size in draw.size.items()}
        function, call = call_of(name, draw)
        harms = []
        for place, x in enumerate(call.arguments):
            if _is_real(x) and draw.chance(0.2):
                harm = draw.random.choice(HARMS)
                call.arguments[place] = harm(draw, x)
                harms.append(f"{harm.__name__} [{place}]")
        places, derivative = draw_derivative(draw, call.arguments, not name.endswith(CONSTANT))
        dynamic = draw.random.choice((None, None, True, False))
        words = f"{derivative.what}, by arguments {places}, dynamic={dynamic}, of "
        words += f"{name}({', '.join(map(describe, call.arguments))}) after {harms or 'nothing'}"
        self.announce(number, name, words)

        definition = call.expected
        if name in MASKED:
            function, definition = map(_of_hard_mask, MASKED[name])
        plain = _of(function, call.arguments, places)
        torch.compiler.reset()
        compiled = torch.compile(derivative.compiled(plain), fullgraph=True, backend=self.compiler, dynamic=dynamic)
        found = attempt(derivative.outside(compiled), derivative.arguments)
        same = attempt(derivative.outside(derivative.compiled(plain)), derivative.arguments)
        if isinstance(found, Exception):
            return Outcome(name, *judge_error(found, same, bool(draw.odd), derivative.what), words)
        if isinstance(same, Exception):
            return Outcome(name, "taken when compiled alone", f"{type(same).__name__}: {first_line(same)}", words)
        wide = _of(definition, [exact_of(x) for x in call.arguments], places)
        exact = attempt(derivative.outside(derivative.expected(wide)), [exact_of(x) for x in derivative.arguments])
        if isinstance(exact, Exception):
            return Outcome(name, "wrongly accepted", f"{type(exact).__name__}: {first_line(exact)}", words)
        rough = derivative.outside(derivative.expected(_of(definition, call.arguments, places)))
        rough = attempt(rough, derivative.arguments)
        return Outcome(name, *judge_values(draw.dtype, found, exact, same, rough), words)


def draw_derivative(draw: Draw, arguments: list[Any], smooth: bool) -> tuple[list[int], Derivative]:
    """Some of a call's arguments, and a derivative of the call by them."""
    places = [i for i, x in enumerate(arguments) if _is_real(x)]
    places = sorted(draw.random.sample(places, draw.random.randint(1, len(places)))) if places else []
    make = draw.random.choice((_inside, _inside, _mapped, _mapped, _outside)) if smooth else _mapped
    indices = [i for i, x in enumerate(arguments) if _is_index(x)]
    if make is _mapped and indices and (not places or draw.chance(0.4)):
        smooth, places = False, sorted([*places, draw.random.choice(indices)])
    return places, make(draw, [arguments[i] for i in places], smooth)


def _of(function: Callable, arguments: list[Any], places: list[int]) -> Function:
    """A function of the arguments at some places alone."""

    def of_places(*chosen: Any) -> Sequence[Tensor]:
        given = list(arguments)
        for place, x in zip(places, chosen, strict=True):
            given[place] = x
        return tupled(function)(*given)

    return of_places


def attempt(function: Function, arguments: list[Any]) -> Sequence[Tensor] | Exception:
    """The results of a call, or what it raised. Of an error within the compiler it is the one beneath."""
    try:
        return function(*arguments)
    except Exception as error:
        return getattr(error, "inner_exception", error)
    finally:
        with contextlib.suppress(RuntimeError):  # an error while PyTorch traces leaves the level behind
            torch._C._exit_dual_level(level=0)


def judge_error(error: Exception, same: object, odd: bool, what: str) -> tuple[str, str]:
    """Say whether a derivative may raise this error, whose call without torch.compile gives ``same``."""
    text = f"{type(error).__name__}: {first_line(error)}"
    if any(words in str(error) for words in TWICE) and what.startswith("double backward"):
        return "refused", text
    if any(words in f"{error} {same}" for words in FORWARD):
        return "refused", text
    if not isinstance(same, Exception):
        return "refuses a right call", text
    told = f"{type(same).__name__}: {first_line(same)}"
    if not isinstance(same, REFUSALS) or len(told) < 20 or any(word in told for word in NO_SENTENCE):
        return "unclear error", told
    if first_line(same) not in str(error):
        return "another error when compiled", f"{text}; without torch.compile {told}"
    return ("refused", told) if odd else ("refuses a right call", told)


def judge_values(
    dtype: torch.dtype,
    found: Sequence[Tensor],
    exact: Sequence[Tensor],
    same: Sequence[Tensor],
    rough: Sequence[Tensor] | Exception,
) -> tuple[str, str]:
    """Compare results with exact ones.

    Args:
        dtype: type of the call's numbers.
        found: the results under torch.compile.
        exact: the results of the definition in float64.
        same: the results without torch.compile, of which the error may be ten times that of the definition.
        rough: the results of the definition in the call's type, if it can be computed there.
    """
    for i, (a, e, s) in enumerate(zip(found, exact, same, strict=True)):
        if a.shape != e.shape or a.dtype != s.dtype or a.shape != s.shape:
            return "wrong", f"result {i} is {describe(a)} and not {describe(s)}, {list(e.shape)}"
        if not a.is_floating_point():
            if not torch.equal(a.cpu(), e):
                return "wrong", f"result {i} differs"
            continue
        if not (e.abs() < torch.finfo(dtype).max / 16).all():  # beyond what numbers of the call's type can hold
            continue
        limit = 1e-8 if dtype == torch.float64 else 30 * TOLERANCE[dtype]
        if not isinstance(rough, Exception):
            limit += 10 * error_of(rough[i], e)
        for result, words in ((a, "wrong"), (s, "wrong without torch.compile")):
            if not (error := error_of(result, e)) <= limit and not math.isnan(limit):
                return words, f"result {i} has a relative error of {error:.1e}, and {limit:.1e} is allowed"
    return "right", ""


def _is_real(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _is_index(x: object) -> bool:
    return isinstance(x, Tree) or (isinstance(x, Tensor) and not x.is_floating_point())


def _rank(x: Any) -> int:
    return 0 if isinstance(x, Tree) else x.dim()


def _stack(draw: Draw, x: Any, size: int, dim: int) -> Any:
    """Samples of an argument: multiples of numbers, other trees, and indices from their other ends."""
    if isinstance(x, Tree):
        return Tree(*map(torch.stack, zip(*[x, *(draw.trees() for _ in range(size - 1))], strict=True)))
    if not x.is_floating_point():
        return torch.stack([x.flip(-1) if i % 2 else x for i in range(size)], dim)
    return torch.stack([x * (1 + 0.1 * i) for i in range(size)], dim)


def _select(x: Any, dim: int | None, sample: int) -> Any:
    if dim is None:
        return x
    return Tree(*(part[sample] for part in x)) if isinstance(x, Tree) else x.select(dim, sample)
