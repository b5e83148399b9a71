# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's operators without compiled mmcv, against their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nl_plugins  # noqa: F401 - the repair comes before mmcv.ops

ops = pytest.importorskip('mmcv.ops')


def boxes_and_scores(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 40
    size = torch.rand(number, 2, generator=generator) * 30 + 1
    scores = torch.rand(number, generator=generator)
    return torch.cat([corner, corner + size], 1), scores


def iou(a, b, offset):
    lower, upper = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.clip(upper - lower + offset, 0, None))
    area = [np.prod(box[2:] - box[:2] + offset) for box in (a, b)]
    return inter / (sum(area) - inter)


def suppressed(boxes, scores, threshold, offset, decay, min_score):
    """One box after the other, as Bodla et al. write it."""
    boxes, scores = boxes.double().numpy(), scores.double().numpy().copy()
    left, kept, final = list(range(len(boxes))), [], []
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        kept.append(best)
        final.append(scores[best])
        for i in left:
            scores[i] *= decay(iou(boxes[best], boxes[i], offset))
        left = [i for i in left if scores[i] >= min_score]
    return kept, final


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.5])
def test_nms(offset, threshold):
    boxes, scores = boxes_and_scores(60)
    kept, final = suppressed(
        boxes, scores, threshold, offset, lambda x: float(x <= threshold), 1e-9
    )
    dets, indices = ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == kept and 5 < len(kept) < 60
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])
    half, _ = ops.nms(boxes.bfloat16(), scores.bfloat16(), threshold, offset=offset)
    assert half.dtype == torch.bfloat16
    empty, _ = ops.nms(boxes[:0], scores[:0], threshold, offset=offset)
    assert empty.shape == (0, 5)


def test_nms_of_several_classes():
    boxes, scores = boxes_and_scores(40)
    classes = torch.arange(40) % 3
    options = dict(type='nms', iou_threshold=0.3)
    _, kept = ops.batched_nms(boxes, scores, classes, options)
    expected = set()
    for number in range(3):
        (own,) = torch.nonzero(classes == number, as_tuple=True)
        _, indices = ops.nms(boxes[own], scores[own], 0.3)
        expected |= set(own[indices].tolist())
    assert set(kept.tolist()) == expected


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    boxes, scores = boxes_and_scores(40)
    decay = dict(
        naive=lambda x: 0.0 if x >= 0.3 else 1.0,
        linear=lambda x: 1 - x if x >= 0.3 else 1.0,
        gaussian=lambda x: np.exp(-(x**2) / 0.5),
    )[method]
    kept, final = suppressed(boxes, scores, 0.3, offset, decay, 0.05)
    dets, indices = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset=offset)
    assert indices.tolist() == kept
    np.testing.assert_allclose(dets[:, 4].numpy(), final, rtol=1e-5)
    assert torch.equal(dets[:, :4], boxes[kept])


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_of_a_linear_map(aligned, sampling_ratio):
    """The average of a linear map over a bin is its value at the centre."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing='ij')
    maps = torch.stack([2 * x - y, 0.5 * y + 3])[None].double()
    roi = torch.tensor([[0, 8.0, 6.0, 32.0, 30.0]]).double()
    out = ops.RoIAlign((3, 4), 0.5, sampling_ratio, 'avg', aligned)(maps, roi)
    shift = 0.5 if aligned else 0.0
    cx = 4 + (torch.arange(4) + 0.5) * 12 / 4 - shift
    cy = 3 + (torch.arange(3) + 0.5) * 12 / 3 - shift
    cy, cx = torch.meshgrid(cy.double(), cx.double(), indexing='ij')
    torch.testing.assert_close(out[0, 0], 2 * cx - cy)
    torch.testing.assert_close(out[0, 1], 0.5 * cy + 3)


def test_gradient_of_roi_align():
    torch.manual_seed(0)
    maps = torch.randn(2, 1, 5, 6, dtype=torch.double, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.2, 4.1, 3.9], [1, 1.0, 0.5, 3.0, 4.0]]).double()
    torch.autograd.gradcheck(
        lambda x: ops.roi_align(x, rois, (2, 3), 1.0, 2, 'avg', True), maps
    )


def test_maxima_of_roi_align_explain_themselves():
    ext = pytest.importorskip('mmcv._ext')
    if getattr(ext, '__file__', None):
        pytest.skip('mmcv is compiled')
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        ops.roi_align(torch.ones(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)


@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss(weighted):
    torch.manual_seed(0)
    scores = torch.randn(7, 3, dtype=torch.double, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 1, 0])  # 3 is the background
    weight = torch.tensor([0.5, 1.0, 2.0, 1.5]).double() if weighted else None
    truth = F.one_hot(target, 4)[:, :3].double()
    p = scores.sigmoid()
    hit = p * truth + (1 - p) * (1 - truth)
    balance = 0.25 * truth + 0.75 * (1 - truth)
    expected = -balance * (1 - hit) ** 2 * hit.log()
    if weighted:
        expected = expected * weight[target][:, None]
        # mmcv asks for a weight for each class and reads that of the target.
        weight = weight[:3]
        target, expected, scores_in = target[:3], expected[:3], scores[:3]
    else:
        scores_in = scores
    found = ops.sigmoid_focal_loss(scores_in, target, 2.0, 0.25, weight, 'none')
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), scores, retain_graph=True)
    (ours,) = torch.autograd.grad(found.sum(), scores)
    torch.testing.assert_close(ours, gradient)
    mean = ops.sigmoid_focal_loss(scores_in, target, 2.0, 0.25, weight, 'mean')
    torch.testing.assert_close(mean, expected.sum() / len(target))
