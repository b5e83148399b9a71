# Copyright (c) The nl_plugins authors. All rights reserved.
"""Operators of compiled mmcv that detectors need, computed by torch and torchvision.

Each has the signature and the effects of the function of the same name in
``mmcv._ext``: several write into a tensor that they are given. Boxes are
(x1, y1, x2, y2) in pixels.
"""

import torch
import torchvision  # noqa: F401 - defines torch.ops.torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept boxes (N, 4), by falling score.

    A box is as wide as ``x2 - x1 + offset``.
    """
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes
    boxes = _full_precision(boxes)
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def _full_precision(x: Tensor) -> Tensor:
    # torchvision lacks kernels for half precision, bf16 above all.
    return x if x.dtype == torch.float64 else x.float()


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS; boxes and decayed scores go into ``dets`` (N, 5).

    A chosen box multiplies the scores of the others by 0 or 1 - IoU above
    ``iou_threshold`` (method 0 and 1) or by exp(-IoU^2 / sigma) (method 2); boxes below
    ``min_score`` are dropped.

    Returns:
        Tensor: Indices of the boxes in the order of their choice.
    """
    rest = torch.arange(len(boxes), device=boxes.device)
    scores, order = scores.clone(), []
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    while len(rest):
        best = rest[scores[rest].argmax()]
        dets[len(order), :4], dets[len(order), 4] = boxes[best], scores[best]
        order.append(best)
        rest = rest[rest != best]
        lower = torch.maximum(boxes[best, :2], boxes[rest, :2])
        upper = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        inter = (upper - lower + offset).clamp_min(0).prod(1)
        iou = inter / (areas[best] + areas[rest] - inter)
        if method == 2:
            factor = (-iou.square() / sigma).exp()
        else:
            decayed = 1 - iou if method == 1 else torch.zeros_like(iou)
            factor = torch.where(iou >= iou_threshold, decayed, torch.ones_like(iou))
        scores[rest] *= factor
        rest = rest[scores[rest] >= min_score]
    return torch.stack(order) if order else rest


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Averages of bins of ``rois`` (K, 5) in ``input`` (B, C, H, W) into ``output``.

    Raises:
        NotImplementedError: For maxima (``pool_mode=0``), which torchvision lacks.
    """
    if pool_mode == 0:
        raise NotImplementedError(
            "roi_align with pool_mode='max' needs compiled mmcv, but mmcv-lite is "
            "installed: take pool_mode='avg' or install mmcv"
        )
    size = aligned_height, aligned_width
    input = _full_precision(input)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input, rois.to(input), spatial_scale, *size, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of :func:`roi_align_forward` into ``grad_input``."""
    size = aligned_height, aligned_width, *grad_input.shape
    grad_output = _full_precision(grad_output)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output,
            rois.to(grad_output),
            spatial_scale,
            *size,
            sampling_ratio,
            aligned,
        )
    )


def _focal_parts(input: Tensor, target: Tensor, weight: Tensor):
    """Whether a score is its row's class, probabilities and logarithms, weights."""
    classes = torch.arange(input.shape[1], device=input.device)
    positive = target[:, None] == classes
    scale = weight[target][:, None] if weight.numel() else 1.0
    p, tiny = input.sigmoid(), torch.finfo(torch.float32).tiny
    return positive, p, p.clamp_min(tiny).log(), (1 - p).clamp_min(tiny).log(), scale


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Focal losses of scores (N, C) into ``output``; target C is the background."""
    positive, p, log_p, log_q, scale = _focal_parts(input, target, weight)
    first = -alpha * (1 - p) ** gamma * log_p
    second = -(1 - alpha) * p**gamma * log_q
    output.copy_(torch.where(positive, first, second) * scale)


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivatives of :func:`sigmoid_focal_loss_forward` into ``grad_input``."""
    positive, p, log_p, log_q, scale = _focal_parts(input, target, weight)
    first = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p)
    second = -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p)
    grad_input.copy_(torch.where(positive, first, second) * scale)


OPERATORS = {
    operator.__name__: operator
    for operator in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}
