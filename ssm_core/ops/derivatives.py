"""Derivatives of the compiled operators: reverse and forward mode, of every order, for autograd and ``torch.func``.

``torch.library.register_autograd`` gives an operator reverse mode alone: tangents of forward mode get lost without an
error, and ``torch.func.grad`` refuses the operator. :func:`register_derivatives` registers another kernel for the
dispatcher's Autograd key. It serves ``torch.autograd`` and ``torch.func`` alike, in any nesting, because every level of
``torch.func`` calls the kernel of that key with the tensors of its own level.

The backward pass of an operator is an operator too. Its derivatives are those of a composite: the same gradients,
computed by differentiable operations (:func:`register_composite_derivatives`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor

# torch.library has no public function for forward mode. This is what torch.func is made of, unchanged since 2.10.
from torch._C._functorch import maybe_current_level, unwrap_if_dead
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction
from torch.utils._pytree import tree_map_only

Backward = Callable[..., tuple[Tensor | None, ...]]
"""``backward(ctx, *grads)``: the gradients of all arguments, None for those without one."""

Jvp = Callable[[tuple[Any, ...], tuple[Tensor | None, ...]], Any]
"""``jvp(args, tangents)``: the tangent of the output, or of each if there are several; None for zero.

``args`` carry no tangents. ``tangents`` has None for each argument whose tangent is zero. The formula is made of
differentiable operations, so that it can be differentiated in turn. It must not use transforms of ``torch.func``, since
it runs inside one.
"""

Vjp = Callable[[Sequence[Any], Sequence[bool], Sequence[Tensor | None]], tuple[Tensor | None, ...]]
"""``vjp(args, needed, grads)``: the gradients of the arguments, None for some that are not ``needed``.

``grads`` has None for each output whose gradient is zero.
"""

Composite = Callable[..., Sequence[Tensor | None]]
"""``composite(wanted, *args)``: an operator's outputs by differentiable operations; None for some not ``wanted``."""


def register_derivatives(
    library: torch.library.Library,
    name: str,
    *,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Backward,
    jvp: Jvp,
) -> None:
    """Register reverse and forward mode of an operator.

    Args:
        library: the caller's library of the operator's namespace.
        name: the operator's qualified name, such as ``"ssm_core::selective_scan"``.
        setup_context: keeps in ``ctx`` what ``backward`` needs: ``setup_context(ctx, inputs, output)``, as in
            ``torch.library.register_autograd``. Undefined gradients arrive as None, not as zeros.
        backward: reverse mode.
        jvp: forward mode.
    """
    op = _overload(name)
    count = len(op._schema.arguments)

    class Rule(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, keyset: Any, modes: tuple[bool, bool], has_tangents: bool, *args: Any) -> Any:
            # An autograd.Function switches both modes off. The levels of torch.func below need them as they were.
            with torch.set_grad_enabled(modes[0]), fwd._set_fwd_grad_enabled(modes[1]):
                output = _below_autograd(op, keyset, args)
            if has_tangents:
                # A view can have no tangent that lies otherwise in memory.
                output = tree_map_only(Tensor, lambda y: y.clone() if y._is_view() else y, output)
            ctx.set_materialize_grads(False)
            ctx.for_jvp = (modes, args, output) if has_tangents else None
            setup_context(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return None, None, None, *backward(_Context(ctx), *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            (modes, args, output), ctx.for_jvp = ctx.for_jvp, None
            with fwd._set_fwd_grad_enabled(modes[1]), without_autocast(args):
                primals = tuple(fwd.unpack_dual(x, level=0)[0] if isinstance(x, Tensor) else x for x in args)
                result = jvp(primals, tangents[3:])
                if not isinstance(output, tuple):
                    return _tangent_or_zero(result, output)
                return tuple(_tangent_or_zero(t, y) for t, y in zip(result, output, strict=True))

    def kernel(keyset: Any, *args: Any) -> Any:
        if len(args) < count:
            args, _ = torch._library.utils.fill_defaults(op._schema, args, {})
        reverse = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)
        has_tangents = _have_tangents(args)
        if not reverse and not has_tangents:
            return _below_autograd(op, keyset, args)
        modes = torch.is_grad_enabled(), fwd._is_fwd_grad_enabled()
        with enable_single_level_autograd_function():
            return Rule.apply(keyset, modes, has_tangents, *args)  # type: ignore[attr-defined]  # its base is of C++

    library.impl(op._schema.name.partition("::")[2], kernel, "Autograd", with_keyset=True)


def register_recomputed_derivatives(library: torch.library.Library, name: str, *, vjp: Vjp, jvp: Jvp) -> None:
    """Register reverse and forward mode of an operator by formulas that need nothing but its arguments.

    Args:
        library: the caller's library of the operator's namespace.
        name: the operator's qualified name.
        vjp: reverse mode.
        jvp: forward mode.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.others = [None if isinstance(x, Tensor) else (x,) for x in inputs]

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)
        # A level of torch.func that has ended leaves its wrappers around what was saved.
        args = [unwrap_if_dead(next(tensors)) if other is None else other[0] for other in ctx.others]
        with without_autocast(args):
            return vjp(args, ctx.needs_input_grad, grads)

    register_derivatives(library, name, setup_context=setup_context, backward=backward, jvp=jvp)


def register_composite_derivatives(library: torch.library.Library, name: str, composite: Composite) -> None:
    """Register reverse and forward mode of an operator as those of a composite of differentiable operations.

    Args:
        library: the caller's library of the operator's namespace.
        name: the operator's qualified name.
        composite: the operator's outputs; see ``Composite``.
    """
    register_recomputed_derivatives(
        library,
        name,
        vjp=functools.partial(composite_vjp, composite),
        jvp=composite_jvp(composite, outputs=len(_overload(name)._schema.returns)),
    )


def composite_jvp(composite: Composite, outputs: int) -> Jvp:
    """Return the Jacobian-vector product of a composite that has some number of outputs."""

    def jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        duals = (x if t is None else fwd.make_dual(x, t, level=0) for x, t in zip(args, tangents, strict=True))
        return tuple(_tangent(y) for y in composite((True,) * outputs, *duals))

    return jvp


def composite_vjp(
    composite: Composite, args: Sequence[Any], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the needed arguments of a composite, for the gradients of its outputs.

    Args:
        composite: see ``Composite``. It is asked for the outputs that have a gradient.
        args: its arguments.
        needed: whether an argument needs its gradient.
        grads: gradient of each output, None for zero.
    """
    wanted = [g is not None for g in grads]
    places = [i for i, need in enumerate(needed) if need]
    if not places or not any(wanted):
        return (None,) * len(args)

    def outputs(*needed_args: Tensor) -> tuple[Tensor, ...]:
        full = list(args)
        for i, x in zip(places, needed_args, strict=True):
            full[i] = x
        results = composite(wanted, *full)
        return tuple(y for y, want in zip(results, wanted, strict=True) if want and y is not None)

    gradients = torch.func.vjp(outputs, *(args[i] for i in places))[1](tuple(g for g in grads if g is not None))
    result: list[Tensor | None] = [None] * len(args)
    for i, g in zip(places, gradients, strict=True):
        result[i] = g
    return tuple(result)


_PLAIN = (Tensor, torch.nn.Parameter)
# Whether torch.compile has traced an operator with tangents. Its graphs may enter forward mode without telling Python.
_tangents_in_graphs = False


class _Context:
    """A Function's ctx as a rule sees it: without the arguments that :func:`register_derivatives` adds in front."""

    def __init__(self, ctx: Any):
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        return self._ctx.needs_input_grad[3:]


def _overload(name: str) -> torch._ops.OpOverload:
    namespace, _, operator = name.partition("::")
    return getattr(getattr(torch.ops, namespace), operator).default


def _below_autograd(op: torch._ops.OpOverload, keyset: Any, args: tuple[Any, ...]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _tangent(x: Any) -> Tensor | None:
    """The tangent that a value carries. PyTorch has one level of forward mode; torch.func nests by its own levels."""
    return torch._VF._unpack_dual(x, 0)[1] if isinstance(x, Tensor) else None


def _have_tangents(args: tuple[Any, ...]) -> bool:
    """Whether any of the arguments carries a tangent."""
    global _tangents_in_graphs
    plain = all(type(x) in _PLAIN or not isinstance(x, Tensor) for x in args)
    if plain and fwd._current_level < 0 and maybe_current_level() is None and not _tangents_in_graphs:
        return False  # Looking at every argument would take longer than all else here.
    found = any(_tangent(x) is not None for x in args)
    _tangents_in_graphs |= found and not plain and maybe_current_level() is None
    return found


def _tangent_or_zero(tangent: Tensor | None, output: Tensor) -> Tensor | None:
    if tangent is None and output.is_floating_point():
        return torch.zeros_like(output)
    return tangent


def without_autocast(args: Sequence[Any]) -> torch.autocast:
    """Autocast is for what a user writes; formulas have the types that they need."""
    return torch.autocast(next(x.device.type for x in args if isinstance(x, Tensor)), enabled=False)


def no_gradient(op: str) -> Callable[..., NoReturn]:
    """A backward rule for an operator that has none, since PyTorch would take a missing one for zero.

    Args:
        op: the public function's name.
    """

    def refuse(ctx: Any, *gradients: Any) -> NoReturn:
        raise NotImplementedError(f"{op}: no gradient passes through; detach the inputs of the operator")

    return refuse
