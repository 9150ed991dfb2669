"""Compares mmcv's operators, built from torchvision's, with loops written from the definitions.

A compiled mmcv is left alone.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.utils.dl_utils.misc import mmcv_full_available
from torch import nn

from ssm_train.compat import mmcv as mmcv_fallback
from ssm_train.compat.mmcv import MissingOperatorError

ROOT = Path(__file__).parents[2]
EXACT = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def ops():
    import mmcv.ops

    return mmcv.ops


def make_boxes(count, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 8
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 10
    boxes = torch.cat([start, start + side], 1)
    return boxes.to(dtype), torch.rand(count, generator=generator, dtype=torch.float64).to(dtype)


def area(box, offset):
    return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)


def intersection(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    return max(width, 0.0) * max(height, 0.0)


def iou(a, b, offset=0):
    inside = intersection(a, b, offset)
    return inside / (area(a, offset) + area(b, offset) - inside)


def by_score(scores):
    return sorted(range(len(scores)), key=lambda i: -scores[i])


# --- Suppression


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms(ops, offset, threshold):
    boxes, scores = make_boxes(60, seed=offset, dtype=torch.float64)
    kept = []
    for i in by_score(scores.tolist()):
        if all(iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    dets, indices = ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == kept
    assert 1 < len(kept) < 60
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], 1))


def test_nms_options(ops):
    boxes, scores = make_boxes(30, seed=2)
    every = ops.nms(boxes, scores, 0.5)[1]
    assert torch.equal(ops.nms(boxes, scores, 0.5, max_num=3)[1], every[:3])
    assert torch.equal(ops.nms(boxes, scores, 0.5, score_threshold=0.4)[1], every[scores[every] > 0.4])
    dets, indices = ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert indices.tolist() == every.tolist()
    assert ops.nms(boxes[:0], scores[:0], 0.5)[1].shape == (0,)


def test_nms_at_its_edges(ops):
    # A box whose overlap equals the threshold stays. Boxes of equal score are taken in order. Boxes without area stay.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [3, 3, 3, 3], [3, 3, 3, 3]])
    scores = torch.tensor([0.5, 0.5, 0.5, 0.1, 0.1])
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1, 3, 4]
    # In float32 0.3 is larger than in float64.
    pair = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert ops.nms(pair, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_in_half(ops, dtype):
    boxes, scores = make_boxes(40, seed=3)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    assert torch.equal(ops.nms(boxes, scores, 0.5)[1], ops.nms(boxes.float(), scores.float(), 0.5)[1])
    assert torch.equal(ops.nms(boxes.float(), scores, 0.5)[1], ops.nms(boxes.float(), scores.float(), 0.5)[1])


def soft_nms_loops(boxes, scores, decay, min_score, offset):
    """Apply Soft-NMS as its paper's figure 2 states it, with the pruning of low scores that its code adds."""
    remaining = {i: (box, score) for i, (box, score) in enumerate(zip(boxes, scores, strict=True))}
    taken = []
    while remaining:
        best = max(remaining, key=lambda i: remaining[i][1])
        box, score = remaining.pop(best)
        taken.append((best, score))
        remaining = {i: (b, s * decay(iou(box, b, offset))) for i, (b, s) in remaining.items()}
        remaining = {i: (b, s) for i, (b, s) in remaining.items() if s >= min_score}
    return taken


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(ops, method, offset):
    boxes, scores = make_boxes(40, seed=4, dtype=torch.float64)
    decay = {
        "naive": lambda o: 0.0 if o >= 0.3 else 1.0,
        "linear": lambda o: 1 - o if o >= 0.3 else 1.0,
        "gaussian": lambda o: math.exp(-o * o / 0.5),
    }[method]
    expected = soft_nms_loops(boxes.tolist(), scores.tolist(), decay, 0.1, offset)
    dets, indices = ops.soft_nms(boxes, scores, 0.3, sigma=0.5, min_score=0.1, method=method, offset=offset)
    assert indices.tolist() == [i for i, _ in expected]
    assert len(expected) < 40
    torch.testing.assert_close(dets[:, 4], torch.tensor([s for _, s in expected], dtype=torch.float64), **EXACT)
    assert torch.equal(dets[:, :4], boxes[indices])


def test_soft_nms_of_nothing(ops):
    dets, indices = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert indices.shape == (0,)


def test_nms_match(ops):
    boxes, scores = make_boxes(30, seed=5, dtype=torch.float64)
    left, expected = by_score(scores.tolist()), []
    while left:
        first, *others = left
        group = [i for i in others if iou(boxes[first].tolist(), boxes[i].tolist()) >= 0.2]
        expected.append([first, *group])
        left = [i for i in others if i not in group]
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.2)
    assert [g.tolist() for g in groups] == expected
    assert max(map(len, expected)) > 2


@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(ops, kind):
    boxes, scores = make_boxes(50, seed=6)
    labels = torch.arange(50) % 3
    cfg = dict(type=kind, iou_threshold=0.3)
    dets, kept = ops.batched_nms(boxes, scores, labels, cfg)
    # Shifted boxes of all classes at once give the same result as one class after the other.
    other_dets, other_kept = ops.batched_nms(boxes, scores, labels, {**cfg, "split_thr": 10})
    assert sorted(kept.tolist()) == sorted(other_kept.tolist())
    torch.testing.assert_close(dets[:, 4].sort()[0], other_dets[:, 4].sort()[0], rtol=1e-4, atol=1e-5)
    assert len(kept) > len(ops.batched_nms(boxes, scores, labels, cfg, class_agnostic=True)[1])


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(ops, mode, offset):
    one, two = (make_boxes(12, seed=s)[0] for s in (7, 8))

    def overlap(a, b):
        return iou(a, b, offset) if mode == "iou" else intersection(a, b, offset) / area(a, offset)

    expected = torch.tensor([[overlap(a, b) for b in two.tolist()] for a in one.tolist()])
    torch.testing.assert_close(ops.bbox_overlaps(one, two, mode, offset=offset), expected, **EXACT)
    aligned = ops.bbox_overlaps(one, two, mode, aligned=True, offset=offset)
    torch.testing.assert_close(aligned, expected.diagonal(), **EXACT)
    assert ops.bbox_overlaps(one[:0], two).shape == (0, 12)


# --- RoIAlign


def bilinear(y, x, height, width):
    """Yield the pixels of a bilinear sample and their shares.

    A sample more than a pixel outside the map has no pixels.
    """
    if not (-1 <= y <= height and -1 <= x <= width):
        return
    y, x = (min(max(v, 0), size - 1) for v, size in ((y, height), (x, width)))
    y0, x0 = int(y), int(x)
    for row, share_y in ((y0, y0 + 1 - y), (min(y0 + 1, height - 1), y - y0)):
        for column, share_x in ((x0, x0 + 1 - x), (min(x0 + 1, width - 1), x - x0)):
            yield row, column, share_y * share_x


def roi_align_matrix(rois, maps, size, scale, sampling_ratio, aligned):
    """Return RoIAlign as a matrix [rois · h · w, images · H · W]. It is linear and the same for every channel."""
    count, _, height, width = maps.shape
    matrix = np.zeros((len(rois), *size, count, height, width))
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in box)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        grid = [sampling_ratio or math.ceil(side / bins) for side, bins in zip((h, w), size, strict=True)]
        for i, j in np.ndindex(*size):
            for a, b in np.ndindex(*grid):
                y = y1 + (i + (a + 0.5) / grid[0]) * h / size[0]
                x = x1 + (j + (b + 0.5) / grid[1]) * w / size[1]
                for row, column, share in bilinear(y, x, height, width):
                    matrix[k, i, j, int(image), row, column] += share / max(grid[0] * grid[1], 1)
    return torch.from_numpy(matrix.reshape(len(rois) * size[0] * size[1], -1))


# Boxes in an image of 16 × 12 pixels, whose map has half that size. In this order they lie inside, reach over every
# border, lie outside, are smaller than a pixel, have no area, and cover the whole image.
ROIS = torch.tensor(
    [[0, 1.3, 2.1, 7.7, 9.2], [1, -3, -2.5, 14, 18], [0, 30, 30, 40, 41], [1, 4.2, 4.4, 4.9, 5.0], [0, 5, 6, 5, 6],
     [1, 0, 0, 16, 12]],
    dtype=torch.float64,
)  # fmt: skip


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("size", [(2, 3), (7, 7)])
def test_roi_align(ops, size, sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = roi_align_matrix(ROIS, maps, size, 0.5, sampling_ratio, aligned)
    output = ops.roi_align(maps, ROIS, size, 0.5, sampling_ratio, "avg", aligned)
    flat = maps.transpose(0, 1).flatten(1)  # [C, B · H · W]
    expected = (matrix @ flat.T).view(len(ROIS), *size, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(upstream)
    gradient = matrix.T @ upstream.permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(maps.grad, gradient.view(2, 6, 8, 3).permute(0, 3, 1, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_in_half(ops, dtype):
    maps = torch.randn(2, 3, 6, 8, dtype=dtype, requires_grad=True)
    full = maps.detach().float().requires_grad_()
    rois = ROIS.to(dtype)
    output, expected = (ops.roi_align(x, r, 3, 0.5) for x, r in ((maps, rois), (full, rois.float())))
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream.float())
    assert torch.equal(maps.grad, full.grad.to(dtype))


def test_roi_align_of_nothing(ops):
    maps = torch.randn(1, 3, 6, 8, requires_grad=True)
    output = ops.RoIAlign(7)(maps, torch.zeros(0, 5))
    assert output.shape == (0, 3, 7, 7)
    output.sum().backward()
    assert not maps.grad.any()


# --- Focal loss


def test_sigmoid_focal_loss(ops):
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.tensor([0, 3, 1, 4, 4, 2])  # class 4 is the background
    expected = torch.empty(6, 4, dtype=torch.float64)
    for n, c in np.ndindex(6, 4):
        p = 1 / (1 + math.exp(-logits[n, c].item()))
        positive = target[n] == c
        p, alpha = (p, 0.25) if positive else (1 - p, 0.75)
        expected[n, c] = -alpha * (1 - p) ** 2 * math.log(p)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none"), expected)
    assert torch.autograd.gradcheck(lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, "mean"), logits)
    with pytest.raises(MissingOperatorError, match="sigmoid_focal_loss with weights"):
        ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, torch.ones(4, dtype=torch.float64), "none")


# --- In place of the compiled module


def test_missing_operators_are_named(ops):
    with pytest.raises(MissingOperatorError, match=r"mmcv's operator deform_conv_forward was called.*MMCV_WITH_OPS"):
        ops.DeformConv2d(3, 3, 3)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 18, 6, 6))
    with pytest.raises(MissingOperatorError, match="roi_align with pool_mode='max'"):
        ops.RoIAlign(7, pool_mode="max")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5))


def test_mmcv_and_mmengine_take_it(ops):
    from mmengine.model import revert_sync_batchnorm

    assert mmcv_full_available()
    assert "torchvision" in ops.get_compiler_version()
    assert "torchvision" in ops.get_compiling_cuda_version()
    assert type(revert_sync_batchnorm(nn.SyncBatchNorm(3))).__name__ == "_BatchNormXd"


def test_installing_twice():
    before = list(sys.meta_path)
    mmcv_fallback.install()
    assert sys.meta_path == before


def test_a_compiled_mmcv_is_left_alone(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").write_text("nms = 'compiled'")
    code = "import ssm_train, sys, mmcv._ext as e; print(e.nms, hasattr(e, 'softnms'), 'torchvision' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert done.stdout.split() == ["compiled", "False", "False"], done.stderr


def test_without_mmcv():
    code = "import sys, ssm_train; sys.modules['mmcv'] = None; import mmcv._ext"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_agrees_with_the_cpu(ops, dtype):
    boxes, scores = make_boxes(300, seed=9)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    assert ops.nms(boxes.cuda(), scores.cuda(), 0.5)[1].tolist() == ops.nms(boxes, scores, 0.5)[1].tolist()
    on_gpu = ops.soft_nms(boxes.cuda(), scores.cuda())[0]
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), ops.soft_nms(boxes, scores)[0])
    # In bfloat16 some boxes have no width, so both devices compute 0 / 0.
    overlaps = [ops.bbox_overlaps(x, x).cpu() for x in (boxes.cuda(), boxes)]
    torch.testing.assert_close(*overlaps, equal_nan=True)
    maps, results = torch.randn(2, 3, 6, 8).to(dtype), []
    for device in ("cpu", "cuda"):
        x = maps.clone().to(device).requires_grad_()
        output = ops.roi_align(x, ROIS.to(device, dtype), 7, 0.5)
        output.square().sum().backward()
        results.append((output.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(*results)


# --- Deformable attention


def deformable_by_loops(value, shapes, locations, weights):
    """Add up bilinear samples one by one, as Zhu et al. (2021), equation 3, and its text define them."""
    batch, queries, heads, levels, points, _ = locations.shape
    result = value.new_zeros(batch, queries, heads, value.shape[3])
    starts = [0, *torch.cumsum(shapes.prod(1), 0).tolist()]
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = shapes[level].tolist()
        # The centre of the first pixel is at half a pixel.
        x, y = (locations[b, q, h, level, p] * locations.new_tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    key = starts[level] + row * width + column
                    result[b, q, h] += weights[b, q, h, level, p] * share * value[b, key, h]
    return result.flatten(2)


@pytest.fixture
def deformable_inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[3, 4], [2, 2]])
    value = torch.randn(2, 16, 2, 3, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 3, 2, 2, 2, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    return value, shapes, torch.tensor([0, 12]), locations, weights


def test_deformable_attention(deformable_inputs):
    """GPUs call the operator; here it runs on the CPU."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, shapes, starts, locations, weights = deformable_inputs
    found = MultiScaleDeformableAttnFunction.apply(*deformable_inputs, 64)
    expected = deformable_by_loops(value, shapes, locations, weights)
    assert torch.allclose(found, expected, **EXACT)
    low = (value.bfloat16(), shapes, starts, locations.bfloat16(), weights.bfloat16())
    assert MultiScaleDeformableAttnFunction.apply(*low, 64).dtype == torch.bfloat16
    value, locations, weights = (x.requires_grad_() for x in (value, locations, weights))
    assert torch.autograd.gradcheck(
        lambda v, places, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, places, w, 64),
        (value, locations, weights),
    )
