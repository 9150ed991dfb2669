"""Compares derivatives of every mode and some orders, and torch.vmap, of a function with those of its definition.

The derivatives of a definition are PyTorch's own: it is written in PyTorch's operators and in loops.
"""

import torch
from torch import func

from ssm_core.testing import assert_close

TOLERANCE = 1e-11  # of third derivatives in float64


def tupled(function):
    """Return a function whose result is a tuple, also of one tensor."""

    def call(*args):
        result = function(*args)
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)

    return call


def waves(x, shift):
    """Return fixed numbers without symmetry in the shape and type of a tensor."""
    numbers = torch.arange(x.numel(), dtype=torch.float64, device=x.device) * 0.7 + shift
    return numbers.cos().view(x.shape).to(x.dtype)


def loss_of(function):
    """Return a scalar that depends on all results of a function, on each element in another way and not linearly."""
    return lambda *args: sum((waves(y, i) * y.sin()).sum() for i, y in enumerate(tupled(function)(*args)))


def derivatives(function, args):
    """Return the transforms to compare, by name. Each takes the arguments and returns tensors."""
    loss, along, every = loss_of(function), tuple(map(waves, args, range(len(args)))), tuple(range(len(args)))
    gradient = func.grad(loss, every)

    def slope(*args):
        return func.jvp(loss, args, along)[1]

    def double_backward(*args):
        leaves = [x.detach().clone().requires_grad_() for x in args]
        first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True, materialize_grads=True)
        along_first = sum((g * t).sum() for g, t in zip(first, along, strict=True))
        return torch.autograd.grad(along_first, leaves, materialize_grads=True)

    return {
        "value": tupled(function),
        "jvp": lambda *args: func.jvp(tupled(function), args, along)[1],
        "gradient": gradient,
        "double backward": double_backward,
        "forward over reverse": lambda *args: func.jvp(gradient, args, along)[1],
        "reverse over forward": func.grad(slope, every),
        "reverse over reverse": lambda *args: func.vjp(gradient, *args)[1](along),
        "forward over forward": lambda *args: (func.jvp(slope, args, along)[1],),
        "forward over reverse over forward": lambda *args: func.jvp(func.grad(slope, every), args, along)[1],
        "hessian": lambda *args: (func.hessian(loss)(*args),),
    }


def assert_same_derivatives(function, definition, args, device="cpu"):
    """Compare all derivatives of a function on a device with those of its definition on the CPU."""
    args = [x.detach().clone() for x in args]
    there = [x.to(device) for x in args]
    expected = derivatives(definition, args)
    for name, transform in derivatives(function, there).items():
        for i, (a, e) in enumerate(zip(transform(*there), expected[name](*args), strict=True)):
            assert_close(a, e, f"{name}, {i}", tolerance=TOLERANCE)


def mapped_transforms(function, args):
    """Return what torch.vmap is to map: the function, its gradient, its jvp, and the product with its Hessian."""
    chosen = derivatives(function, args)
    return {name: chosen[name] for name in ("value", "gradient", "jvp", "forward over reverse")}


def assert_vmap_is_a_loop(function, args, in_dims, size=3):
    """Compare torch.vmap of a function and of its derivatives with a loop over the samples.

    Args:
        function: takes tensors.
        args: arguments of one sample.
        in_dims: the mapped dimension of each argument, or None for one that all samples share.
        size: the number of samples.
    """
    args = [x.detach() for x in args]
    mapped = [
        x if dim is None else torch.stack([x * (1 + 0.1 * i) for i in range(size)], dim)
        for x, dim in zip(args, in_dims, strict=True)
    ]

    def loop(transform, mapped):
        samples = [
            transform(*(x if dim is None else x.select(dim, i) for x, dim in zip(mapped, in_dims, strict=True)))
            for i in range(size)
        ]
        return tuple(torch.stack(results) for results in zip(*samples, strict=True))

    for name, transform in mapped_transforms(function, args).items():
        results = func.vmap(transform, in_dims)(*mapped)
        for i, (a, e) in enumerate(zip(results, loop(transform, mapped), strict=True)):
            assert_close(a, e, f"vmap of {name}, {i}", tolerance=TOLERANCE)

    every = tuple(range(len(args)))
    none = [x if dim is None else x.narrow(dim, 0, 0) for x, dim in zip(mapped, in_dims, strict=True)]
    results, gradient = func.vjp(func.vmap(tupled(function), in_dims), *none)
    assert [y.shape for y in results] == [(0, *y.shape[1:]) for y in func.vmap(tupled(function), in_dims)(*mapped)]
    assert [x.shape for x in gradient(results)] == [x.shape for x in none], "no samples"

    of_vmap = func.grad(loss_of(func.vmap(function, in_dims)), every)(*mapped)
    of_loop = func.grad(loss_of(lambda *mapped: loop(tupled(function), mapped)), every)(*mapped)
    for i, (a, e) in enumerate(zip(of_vmap, of_loop, strict=True)):
        assert_close(a, e, f"gradient of vmap, {i}", tolerance=TOLERANCE)


def assert_compiles(function, args):
    """Compare derivatives under torch.compile with those without it."""
    args = [x.detach().clone() for x in args]
    names = ("jvp", "gradient", "forward over reverse", "reverse over forward")
    transforms = derivatives(function, args)
    chosen = {name: transforms[name] for name in names}
    chosen["vmap of the gradient"] = func.vmap(transforms["gradient"], tuple(0 for _ in args))
    for name, transform in chosen.items():
        torch.compiler.reset()
        given = [torch.stack([x, x * 0.5]) for x in args] if name.startswith("vmap") else args
        compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")(*given)
        for i, (a, e) in enumerate(zip(compiled, transform(*given), strict=True)):
            assert_close(a, e, f"compiled {name}, {i}", tolerance=TOLERANCE)
