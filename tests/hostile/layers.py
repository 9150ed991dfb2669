"""Draws calls of the operators that stand for layers: convolutions, the MLP and the score predictor."""

import torch

from quadtree_ssm.ops.token_logits import CHANNELS as LOGITS_CHANNELS
from quadtree_ssm.ops.token_logits import token_logits_reference
from ssm_core.ops.conv_norm_gelu import CHANNELS as STEM_CHANNELS
from ssm_core.ops.conv_norm_gelu import conv_norm_gelu_reference
from ssm_core.ops.depthwise_conv import depthwise_conv_reference
from ssm_core.ops.mlp import CHANNELS as MLP_CHANNELS
from ssm_core.ops.mlp import mlp_reference

from .calls import Call, gradients_of
from .drawing import Draw


def draw_depthwise_conv(draw: Draw) -> Call:
    draw.size["I"] = draw.size["J"] = 3
    bias = draw.maybe(draw.normal("D", draw.wide))
    arguments = [draw.normal("BHWD"), draw.normal("DIJ", draw.wide), bias]
    return Call(arguments, lambda *inputs: [depthwise_conv_reference(*inputs)])


def draw_depthwise_conv_backward(draw: Draw) -> Call:
    def expected(grad_y, x, weight, bias):
        given = torch.zeros_like(weight[:, 0, 0]) if bias is None else bias
        return gradients_of(lambda *leaves: [depthwise_conv_reference(*leaves)], (x, weight, given), (grad_y,))

    return Call([draw.normal("BHWD"), *draw_depthwise_conv(draw).arguments], expected)


def draw_depthwise_conv_sum_backward(draw: Draw) -> Call:
    of_one = draw_depthwise_conv_backward(draw)

    def expected(grad_y, x, weight, bias, *more):
        return of_one.expected(sum((grad for grad in more if grad is not None), grad_y), x, weight, bias)

    return Call([*of_one.arguments, *(draw.maybe(draw.normal("BHWD")) for _ in range(2))], expected)


def _half(draw: Draw) -> torch.dtype:
    return draw.random.choice((torch.bfloat16, torch.float16))


def draw_conv_norm_gelu(draw: Draw) -> Call:
    """The kernels are for half types, images in colours and some widths, on GPUs."""
    draw.size["D"], draw.size["I"], half, wide = draw.random.choice(STEM_CHANNELS), 3, _half(draw), torch.float32
    images = draw.normal("BIHW", draw.random.choice((wide, half)))
    arguments = [images, draw.normal("DIII", half), *(draw.normal("D", wide) for _ in range(3)), 1e-6]
    return Call(arguments, lambda *inputs: [conv_norm_gelu_reference(*inputs)])


def draw_conv_norm_gelu_backward(draw: Draw) -> Call:
    def expected(grad_y, images, *parameters_and_eps):
        *parameters, eps = parameters_and_eps
        return gradients_of(lambda *leaves: [conv_norm_gelu_reference(images, *leaves, eps)], parameters, [grad_y])

    arguments = draw_conv_norm_gelu(draw).arguments
    draw.size["P"], draw.size["Q"] = (draw.size["H"] + 1) // 2, (draw.size["W"] + 1) // 2
    weight = arguments[1]
    return Call([draw.normal("BPQD", weight.dtype if weight is not None else torch.float16), *arguments], expected)


def draw_mlp(draw: Draw) -> Call:
    """The kernels are for half types and some widths, on GPUs."""
    draw.size["D"], draw.size["H"], half = (
        draw.random.choice(MLP_CHANNELS),
        32 * draw.random.randrange(1, 5),
        _half(draw),
    )
    arguments = [
        draw.normal("LD", half), draw.normal("HD", half), draw.normal("H", torch.float32), draw.normal("DH", half),
        draw.normal("D", torch.float32),
    ]  # fmt: skip
    return Call(arguments, lambda *inputs: [mlp_reference(*inputs)])


def draw_mlp_backward(draw: Draw) -> Call:
    def expected(grad_y, x, weight1, bias1, weight2):
        before = torch.nn.functional.linear(x, weight1, bias1.to(x.dtype))
        (grad_u,) = gradients_of(lambda u: [torch.nn.functional.gelu(u)], [before], [grad_y @ weight2])
        hidden = torch.nn.functional.gelu(before)
        return [grad_u @ weight1, hidden, grad_u, grad_u.to(bias1.dtype).sum(0)]

    x, *parameters, _ = draw_mlp(draw).arguments
    return Call([draw.normal("LD", x.dtype if x is not None else torch.float16), x, *parameters], expected)


def draw_token_logits(draw: Draw) -> Call:
    channels, half, wide = draw.random.choice(LOGITS_CHANNELS), _half(draw), torch.float32
    draw.size["D"], draw.size["E"], draw.size["F"] = channels, channels // 2, channels // 4

    def expected(x, gamma, beta, eps, *layers):
        return [token_logits_reference(x, gamma, beta, *layers, eps)]

    arguments = [
        draw.normal("LD", half), draw.normal("D", wide), draw.normal("D", wide), 1e-5, draw.normal("DD", half),
        draw.normal("D", wide), draw.normal("ED", half), draw.normal("E", wide), draw.normal("FE", half),
        draw.normal("F", wide), draw.normal("F", wide), draw.normal("", wide),
    ]  # fmt: skip
    return Call(arguments, expected)
