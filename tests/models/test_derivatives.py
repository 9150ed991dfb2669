"""Products with the Hessian, tangents and per-sample gradients of whole models, by ``torch.func.functional_call``."""

import pytest
import torch
from torch import func
from torch.nn.functional import cross_entropy

from quadtree_ssm import QuadMamba
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (1, 1), "dims": (8, 16), "num_classes": 3}
CASES = {
    "QuadMamba": lambda: QuadMamba((1, 0, 1), (8, 8, 16), num_classes=3),
    "QuadMamba, released order": lambda: QuadMamba((1, 0, 1), (8, 8, 16), num_classes=3, token_order="released"),
    "MambaTreeV": lambda: MambaTreeV(**SIZES),
    "MambaTreeV, two states, shared trees": lambda: MambaTreeV(d_state=2, tree_sharing="stage", **SIZES),
}
IMAGES = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1])


def loss_and_parameters(case):
    """Return the loss as a function of parameters, images and labels, and the parameters with a direction."""
    torch.manual_seed(0)
    model = CASES[case]().eval().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    along = {name: 0.1 * torch.randn_like(p) for name, p in parameters.items()}

    def loss(parameters, images, labels):
        return cross_entropy(func.functional_call(model, parameters, (images,)), labels)

    return loss, parameters, along


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("case", CASES)
def test_product_with_the_hessian_is_the_difference_of_gradients(case):
    loss, parameters, along = loss_and_parameters(case)

    def gradient(parameters):
        return func.grad(loss)(parameters, IMAGES, LABELS)

    def slope(parameters):
        return sum((g * t).sum() for g, t in zip(gradient(parameters).values(), along.values(), strict=True))

    tangent = func.jvp(lambda p: loss(p, IMAGES, LABELS), (parameters,), (along,))[1]
    assert_close(tangent, slope(parameters), tolerance=1e-11)

    step = 1e-5
    ahead, behind = (gradient({n: p + s * along[n] for n, p in parameters.items()}) for s in (step, -step))
    forward_over_reverse = flat(func.jvp(gradient, (parameters,), (along,))[1])
    assert_close(forward_over_reverse, (flat(ahead) - flat(behind)) / (2 * step), tolerance=1e-6)
    assert_close(flat(func.grad(slope)(parameters)), forward_over_reverse, tolerance=1e-11)

    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    first = torch.autograd.grad(loss(leaves, IMAGES, LABELS), leaves.values(), create_graph=True)
    along_first = sum((g * t).sum() for g, t in zip(first, along.values(), strict=True))
    double_backward = dict(zip(leaves, torch.autograd.grad(along_first, leaves.values()), strict=True))
    assert_close(flat(double_backward), forward_over_reverse, tolerance=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_each_sample_are_those_of_a_loop(case):
    loss, parameters, _ = loss_and_parameters(case)

    def of_sample(parameters, image, label):
        return func.grad(loss)(parameters, image.unsqueeze(0), label.unsqueeze(0))

    mapped = func.vmap(of_sample, (None, 0, 0))(parameters, IMAGES, LABELS)
    for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        alone = of_sample(parameters, image, label)
        assert_close(flat({name: g[i] for name, g in mapped.items()}), flat(alone), tolerance=1e-11)
