"""Compares the faster parts of UPerNet's training step with those of mmseg and torch."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.models.decode_heads import FCNHead, UPerHead
from mmseg.structures import SegDataSample

from ssm_core.testing import assert_as_good_as, assert_close
from ssm_train.tasks.segmentation import (
    FastFCNHead,
    FastUPerHead,
    StackedSegDataPreProcessor,
    pixel_loss,
    stack_samples,
)
from ssm_train.tasks.segmentation.resize import bilinear_resize

pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
LAYOUTS = {"rows": torch.contiguous_format, "channels last": torch.channels_last}
SIZES = {
    "four times": ((8, 8), (32, 32)),
    "odd": ((5, 7), (13, 30)),
    "smaller": ((9, 12), (4, 5)),
    "one": ((1, 1), (3, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [8, 11])
def test_resize_is_interpolate(layout, align_corners, size, channels):
    old, new = SIZES[size]
    x = torch.randn(2, channels, *old, dtype=torch.float64).to(memory_format=LAYOUTS[layout]).requires_grad_()
    expected = F.interpolate(x, new, mode="bilinear", align_corners=align_corners)
    actual = bilinear_resize(x, new, align_corners)
    gradient = torch.randn_like(expected)
    assert_close(actual, expected)
    (wanted,) = torch.autograd.grad(expected, x, gradient)
    (got,) = torch.autograd.grad(actual, x, gradient)
    assert_close(got, wanted, "gradient")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_resize_in_a_graph(layout):
    torch.compiler.reset()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64).to(memory_format=layout).requires_grad_()

    def twice(x):
        return bilinear_resize(bilinear_resize(x, (13, 30)), (20, 31)).square().sum()

    traced = torch.compile(twice, backend="aot_eager", fullgraph=True)(x)
    assert_close(traced, twice(x))
    assert_close(torch.autograd.grad(traced, x)[0], torch.autograd.grad(twice(x), x)[0])


def test_resize_to_the_same_size_is_nothing():
    x = torch.randn(1, 2, 3, 4)
    assert bilinear_resize(x, (3, 4)) is x


def low_precision(device, dtype):
    """Return values and gradients of our resize and of torch's in ``dtype``, and the exact ones."""
    exact, low = [], {"ours": [], "torch": []}
    for layout in LAYOUTS.values():
        start = torch.randn(2, 16, 16, 16, device=device).to(dtype).contiguous(memory_format=layout)
        gradient = torch.randn(2, 16, 64, 64, device=device).to(dtype)
        for name, x in (("exact", start.double()), ("ours", start), ("torch", start)):
            x = x.detach().requires_grad_()
            y = bilinear_resize(x, (64, 64)) if name == "ours" else F.interpolate(x, (64, 64), mode="bilinear")
            values = [y, *torch.autograd.grad(y, x, gradient.to(y.dtype))]
            (exact if name == "exact" else low[name]).extend(values)
    return exact, low


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resize_in_low_precision(dtype):
    exact, low = low_precision("cpu", dtype)
    for ours, theirs, truth in zip(low["ours"], low["torch"], exact, strict=True):
        assert_as_good_as(ours, theirs, truth)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_resize_on_a_gpu(dtype):
    exact, low = low_precision("cuda", dtype)
    for ours, theirs, truth in zip(low["ours"], low["torch"], exact, strict=True):
        assert_as_good_as(ours, theirs, truth)


@pytest.mark.gpu
def test_gradient_is_the_same_from_run_to_run():
    x = torch.randn(8, 11, 64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(8, 11, 256, 256, device="cuda", dtype=torch.bfloat16)
    first, second = (torch.autograd.grad(bilinear_resize(x, (256, 256)), x, gradient)[0] for _ in range(2))
    assert torch.equal(first, second)


def samples(*sizes, classes=4):
    """Return what mmseg's pipelines give for images of these sizes. Pixels with the label 255 are to be ignored."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, size in enumerate(sizes):
        labels = torch.randint(classes, (1, *size), generator=generator)
        labels[:, : size[0] // 3] = 255
        sample = SegDataSample(metainfo={"img_path": f"{number}.png", "ori_shape": size})
        sample.gt_sem_seg = PixelData(data=labels)
        image = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        found.append({"inputs": image, "data_samples": sample})
    return found


SHARED = dict(channels=8, num_classes=4, dropout_ratio=0.0, align_corners=False, norm_cfg=dict(type="BN"))
CROSS_ENTROPY = dict(type="mmseg.CrossEntropyLoss")
LOSSES = {
    "one": dict(loss_decode=CROSS_ENTROPY),
    "hard pixels": dict(
        loss_decode=CROSS_ENTROPY, sampler=dict(type="mmseg.OHEMPixelSampler", thresh=0.7, min_kept=50)
    ),
    "two of one name": dict(loss_decode=[CROSS_ENTROPY, dict(CROSS_ENTROPY, loss_weight=0.3)]),
    "two names": dict(
        loss_decode=[
            dict(CROSS_ENTROPY, class_weight=[0.5, 1.0, 2.0, 1.0]),
            dict(type="mmseg.DiceLoss", ignore_index=255),
        ]
    ),
}
HEADS = {
    "upernet": (UPerHead, FastUPerHead, dict(in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], pool_scales=(1, 2))),
    "fcn": (FCNHead, FastFCNHead, dict(in_channels=24, in_index=2, num_convs=1, concat_input=False)),
}


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_heads_are_those_of_mmseg(head, losses):
    """Features, losses, training accuracy and every gradient are equal on maps of odd sizes."""
    theirs, ours, arguments = HEADS[head]
    torch.manual_seed(0)
    heads = [kind(**SHARED, **arguments, **LOSSES[losses]).double() for kind in (theirs, ours)]
    heads[1].load_state_dict(heads[0].state_dict())
    maps = [torch.randn(2, c, h, w).double() for c, h, w in ((8, 13, 10), (16, 7, 5), (24, 4, 3), (32, 2, 2))]
    batch = [sample["data_samples"] for sample in samples((50, 37), (50, 37))]
    results = []
    for one in heads:
        inputs = [x.clone().requires_grad_() for x in maps]
        found = one.loss(inputs, batch, {})
        sum(value.sum() for name, value in found.items() if name.startswith("loss")).backward()
        gradients = [x.grad for x in (*one.parameters(), *inputs) if x.grad is not None]
        results.append((found, gradients, one.predict(inputs, [{"img_shape": (50, 37)}], {})))
    (found, gradients, logits), (our_found, our_gradients, our_logits) = results
    assert found.keys() == our_found.keys()
    for name in found:
        assert our_found[name].item() == pytest.approx(found[name].item(), rel=1e-6 if name == "acc_seg" else 1e-12)
    # The gradient of a bias before a batch norm is nothing but rounding, so it is left out.
    compared = [(a, b) for a, b in zip(our_gradients, gradients, strict=True) if b.norm() > 1e-12]
    assert len(compared) > len(gradients) / 2
    for ours_and_theirs in compared:
        assert_close(*ours_and_theirs, "gradient", tolerance=1e-10)
    assert_close(our_logits, logits)


@pytest.mark.parametrize("logits", [4 * 50 * 37, 1], ids=["an image at a time", "less than an image"])
def test_losses_of_a_few_images_at_a_time(logits, monkeypatch):
    monkeypatch.setattr(pixel_loss, "LOGITS", logits)
    test_heads_are_those_of_mmseg("fcn", "one")


def test_loss_in_parts_has_the_logits_of_a_few_images(monkeypatch):
    monkeypatch.setattr(pixel_loss, "LOGITS", 4 * 64 * 64)
    head = FastFCNHead(**SHARED, **HEADS["fcn"][2], loss_decode=CROSS_ENTROPY)
    maps = [torch.randn(2, channels, 4, 4, requires_grad=True) for channels in (8, 16, 24)]
    batch = [sample["data_samples"] for sample in samples((64, 64), (64, 64))]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        losses = head.loss(maps, batch, {})
    assert max(saved) <= 4 * 64 * 64
    assert losses["loss_ce"].requires_grad
    with torch.no_grad():
        assert head.loss(maps, batch, {})["loss_ce"].item() == pytest.approx(losses["loss_ce"].item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_loss_in_parts_in_low_precision(dtype):
    torch.manual_seed(0)
    start, labels = torch.randn(3, 5, 8, 8).to(dtype), torch.randint(5, (3, 32, 32))
    labels[:, :5] = 255
    exact, ours, whole = (start.detach().to(kind).requires_grad_() for kind in (torch.float64, dtype, dtype))
    values = []
    for x in (exact, whole):
        large = bilinear_resize(x, (32, 32))
        wide = large if x is exact else large.float()
        values.append(F.cross_entropy(wide, labels, ignore_index=255, reduction="sum") / labels.numel())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, right = pixel_loss.PixelLoss(255, False).of(ours, labels)
    assert right == ((bilinear_resize(start, (32, 32)).argmax(1) == labels) & (labels != 255)).sum()
    for value in (*values, 3 * loss):
        value.backward()
    assert_as_good_as(loss.detach(), values[1].detach(), values[0].detach())
    assert_as_good_as(ours.grad / 3, whole.grad, exact.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_loss_in_parts_on_a_gpu(compiled, monkeypatch):
    monkeypatch.setattr(pixel_loss, "LOGITS", 2 * 150 * 64 * 64)
    torch.manual_seed(0)
    start = torch.randn(4, 150, 16, 16, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)
    labels = torch.randint(150, (4, 64, 64), device="cuda")
    labels[:, :9] = 255
    module = pixel_loss.PixelLoss(255, False)
    if compiled:
        torch.compiler.reset()
        module.compile()
    exact, ours, theirs = (
        start.to(kind).detach().requires_grad_() for kind in (torch.float64, start.dtype, start.dtype)
    )
    loss, _ = module.of(ours, labels)
    loss.backward()
    for x in (exact, theirs):
        large = F.interpolate(x, (64, 64), mode="bilinear")
        wide = large if x is exact else large.float()
        (F.cross_entropy(wide, labels, ignore_index=255, reduction="sum") / labels.numel()).backward()
    assert_as_good_as(ours.grad, theirs.grad, exact.grad)


def test_compiled_loss_is_the_same():
    torch.compiler.reset()
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 8, 8, dtype=torch.float64), torch.randint(5, (4, 32, 32))
    labels[:, :5] = 255
    results = []
    for module in (pixel_loss.PixelLoss(255, False), pixel_loss.PixelLoss(255, False)):
        if results:
            module.compile(backend="aot_eager", mode="reduce-overhead")
        x = logits.clone().requires_grad_()
        loss, right = module.of(x, labels)
        results.append((loss.detach(), right, torch.autograd.grad(loss, x)[0]))
    for ours, plain in zip(results[1], results[0], strict=True):
        assert_close(ours.double(), plain.double())


PREPROCESSORS = {
    "same size": dict(size=(12, 16)),
    "padded to a size": dict(size=(16, 16), pad_val=3),
    "padded to a divisor": dict(size_divisor=8, bgr_to_rgb=True, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]),
}


@pytest.mark.parametrize("settings", PREPROCESSORS)
def test_stacked_batches_are_those_of_mmseg(settings):
    sizes = [(12, 16)] * 3
    batch = stack_samples(samples(*sizes))
    assert batch["inputs"].shape == (3, 3, 12, 16)
    assert batch["labels"].dtype == torch.uint8
    ours = StackedSegDataPreProcessor(**PREPROCESSORS[settings])(batch, training=True)
    theirs = SegDataPreProcessor(**PREPROCESSORS[settings])(pseudo_collate(samples(*sizes)), training=True)
    assert torch.equal(ours["inputs"], theirs["inputs"])
    for a, b in zip(ours["data_samples"], theirs["data_samples"], strict=True):
        assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)
        assert a.gt_sem_seg.data.dtype == torch.int64
        shapes = ("img_path", "img_shape", "pad_shape", "padding_size")
        assert [a.metainfo[key] for key in shapes] == [b.metainfo[key] for key in shapes]


def test_batches_of_several_sizes_go_mmsegs_way():
    mixed = samples((12, 16), (10, 16))
    batch = stack_samples(mixed)
    assert isinstance(batch["inputs"], list)
    preprocessor = StackedSegDataPreProcessor(size=(12, 16))
    assert preprocessor(batch, training=True)["inputs"].shape == (2, 3, 12, 16)


def test_a_test_batch_is_left_to_mmseg():
    batch = pseudo_collate(samples((12, 16), (12, 16)))
    done = StackedSegDataPreProcessor(size=(32, 32), mean=[0, 0, 0], std=[2, 2, 2])(batch)
    assert done["inputs"].shape == (2, 3, 12, 16), "padding is for training"
    assert torch.equal(done["inputs"][0], batch["inputs"][0] / 2)
