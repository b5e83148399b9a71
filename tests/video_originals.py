# Copyright (c) The nl_plugins authors. All rights reserved.
"""The original video networks as formulas over state dicts with their exact keys.

Each network is a pair of functions: one draws a random state dict with the
original's names and shapes, the other computes the logits from it. Nothing here
uses the package, so agreement means that both say the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
StateDict = dict[str, Tensor]


class Draw:
    """Fills a state dict with random tensors, reproducibly."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: StateDict = {}

    def normal(self, name: str, *shape: int, std: float = 1.0) -> None:
        self.state[name] = std * torch.randn(
            shape, generator=self.generator, dtype=torch.float64
        )

    def uniform(self, name: str, *shape: int) -> None:
        self.state[name] = 0.5 + torch.rand(
            shape, generator=self.generator, dtype=torch.float64
        )

    def conv(self, name: str, *shape: int, bias: bool = False, gain: float = 2) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        self.normal(f'{name}.weight', *shape, std=(gain / fan_in) ** 0.5)
        if bias:
            self.normal(f'{name}.bias', shape[0], std=0.1)

    def norm(self, name: str, channels: int, scale: float = 1.0) -> None:
        self.uniform(f'{name}.weight', channels)
        self.state[f'{name}.weight'] *= scale
        self.normal(f'{name}.bias', channels, std=0.1)
        self.normal(f'{name}.running_mean', channels, std=0.1)
        self.uniform(f'{name}.running_var', channels)
        self.state[f'{name}.num_batches_tracked'] = torch.tensor(7)


# Whether batch norms use the statistics of the batch; tests set it.
TRAINING = False


def batch_norm(state: StateDict, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias; affine models have no mean."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if not TRAINING and f'{name}.running_mean' not in state:
        weight, bias = (
            state[f'{name}.{key}'].view(shape) for key in ('weight', 'bias')
        )
        return x * weight + bias
    if TRAINING:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        state = {
            **{key: state[key] for key in (f'{name}.weight', f'{name}.bias')},
            f'{name}.running_mean': x.mean(axes),
            f'{name}.running_var': x.var(axes, unbiased=False),
        }
    mean, var, weight, bias = (
        state[f'{name}.{key}'].view(shape)
        for key in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + eps).sqrt() * weight + bias


def pointwise(state: StateDict, name: str, x: Tensor) -> Tensor:
    """A 1x1 convolution with bias, on (B, C, N)."""
    weight = state[f'{name}.weight'].flatten(1)
    return torch.einsum('oc,bcn->bon', weight, x) + state[f'{name}.bias'].view(1, -1, 1)


# --------------------------------------------------------------- blocks


def attend(similarity: Tensor, values: Tensor) -> Tensor:
    """similarity (B, queries, keys), values (B, C, keys) -> (B, C, queries)."""
    return torch.einsum('bqk,bck->bcq', similarity, values)


def draw_rnl(draw: Draw, name: str, channels: int, kernel: tuple, ratio: int) -> None:
    inner = channels // ratio
    groups = max(inner // 32, 1)
    width = inner // groups
    draw.conv(f'{name}.theta', inner, channels, 1, 1, 1, bias=True, gain=0.1)
    if any(k > 1 for k in kernel):
        mask = torch.zeros(inner, width, *kernel, dtype=torch.float64)
        for channel in range(inner):
            mask[channel, channel % width] = 1
        draw.state[f'{name}.penta.mask'] = mask
        draw.normal(f'{name}.penta.weight', inner, width, *kernel, std=0.1)
        draw.state[f'{name}.penta.weight'] *= mask
    draw.conv(f'{name}.W.0', channels, inner, 1, 1, 1, bias=True)
    draw.norm(f'{name}.W.1', channels, scale=0.5)


def rnl(state: StateDict, name: str, x: Tensor) -> Tensor:
    """softmax over regions of theta, unscaled; the values are theta itself."""
    theta = pointwise(state, f'{name}.theta', x.flatten(2))
    regions = theta
    if f'{name}.penta.weight' in state:
        weight = state[f'{name}.penta.weight'] * state[f'{name}.penta.mask']
        inner, width = weight.shape[:2]
        regions = F.conv3d(
            theta.view(len(x), inner, *x.shape[2:]),
            weight,
            padding=[(k - 1) // 2 for k in weight.shape[2:]],
            groups=inner // width,
        ).flatten(2)
    similarity = torch.einsum('bcq,bck->bqk', regions, regions).softmax(-1)
    y = pointwise(state, f'{name}.W.0', attend(similarity, theta))
    return batch_norm(state, f'{name}.W.1', y.view_as(x)) + x


def draw_gate(draw: Draw, name: str, channels: int, ratio: int = 2) -> None:
    hidden = channels // ratio
    draw.conv(f'{name}.W_k', 1, channels, 1, 1, 1, bias=True)
    draw.conv(f'{name}.W_v1', hidden, channels, bias=True)
    draw.norm(f'{name}.bn1', hidden)
    draw.conv(f'{name}.W_v2', channels, hidden, bias=True, gain=0.5)


def gate(state: StateDict, name: str, x: Tensor) -> Tensor:
    """x plus a transform of its attention-pooled average."""
    tokens = x.flatten(2)
    weights = pointwise(state, f'{name}.W_k', tokens).softmax(-1)
    context = (tokens * weights).sum(-1)
    hidden = F.linear(context, state[f'{name}.W_v1.weight'], state[f'{name}.W_v1.bias'])
    hidden = batch_norm(state, f'{name}.bn1', hidden).relu()
    shift = F.linear(hidden, state[f'{name}.W_v2.weight'], state[f'{name}.W_v2.bias'])
    return x + shift[:, :, None, None, None]


def draw_nl(
    draw: Draw,
    name: str,
    channels: int,
    inner: int,
    names: tuple[str, ...] = ('theta', 'phi', 'g', 'out', 'bn'),
) -> None:
    for projection in names[:3]:
        draw.conv(f'{name}.{projection}', inner, channels, 1, 1, 1, bias=True, gain=0.5)
    draw.conv(f'{name}.{names[3]}', channels, inner, 1, 1, 1, bias=True)
    draw.norm(f'{name}.{names[4]}', channels, scale=0.5)


def nl(
    state: StateDict,
    name: str,
    x: Tensor,
    *,
    scaled: bool,
    pool: str,
    names: tuple[str, ...] = ('theta', 'phi', 'g', 'out', 'bn'),
) -> Tensor:
    """Embedded Gaussian; ``pool`` 'before' or 'after' the convolutions, or 'none'."""
    theta, phi, g, out, bn = (f'{name}.{part}' for part in names)
    query = pointwise(state, theta, x.flatten(2))
    source = F.max_pool3d(x, (1, 2, 2)) if pool == 'before' else x
    key, value = (pointwise(state, part, source.flatten(2)) for part in (phi, g))
    if pool == 'after':
        key, value = (
            F.max_pool3d(t.view(*t.shape[:2], *x.shape[2:]), (1, 2, 2)).flatten(2)
            for t in (key, value)
        )
    similarity = torch.einsum('bcq,bck->bqk', query, key)
    if scaled:
        similarity = similarity / query.shape[1] ** 0.5
    y = pointwise(state, out, attend(similarity.softmax(-1), value)).view_as(x)
    return (batch_norm(state, bn, y) if f'{bn}.weight' in state else y) + x


# --------------------------------------------------------------- TSM ResNets

# Stage, block -> gate, kernel of the regions, as released for ResNet-50.
RNL_R50 = {
    (2, 0): (True, (3, 7, 7)),
    (2, 2): (False, (3, 7, 7)),
    (3, 0): (False, (3, 3, 3)),
    (3, 2): (False, (3, 3, 3)),
    (3, 4): (False, (3, 3, 3)),
}
TSM_NL_R50 = ((2, 0), (2, 2), (3, 0), (3, 2), (3, 4))
TSM_NL_NAMES = ('theta', 'phi.0', 'g.0', 'W.0', 'W.1')


def shifted(depth: int, stage: int, block: int) -> bool:
    """Every block up to ResNet-50, every second where layer3 has 23 or more."""
    return block % (2 if DEPTHS[depth][2] >= 23 else 1) == 0


def draw_tsm(
    depth: int = 50,
    classes: int = 7,
    *,
    rnl_blocks: dict | None = None,
    nl_blocks: tuple = (),
    shift: bool = True,
    seed: int = 0,
) -> StateDict:
    """A state dict of RNL-TSM, TSM or mit-han-lab TSM-NL (keys without module.)."""
    draw = Draw(seed)
    root = 'base_model.'
    draw.conv(f'{root}conv1', 64, 3, 7, 7)
    draw.norm(f'{root}bn1', 64)
    channels = 64
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        width = 64 * 2 ** (stage - 1)
        for block in range(blocks):
            outer = f'{root}layer{stage}.{block}'
            wrapped = (stage, block) in (rnl_blocks or nl_blocks)
            inner = f'{outer}.block' if wrapped else outer
            net = '.net' if shift and shifted(depth, stage, block) else ''
            draw.conv(f'{inner}.conv1{net}', width, channels, 1, 1)
            draw.norm(f'{inner}.bn1', width)
            draw.conv(f'{inner}.conv2', width, width, 3, 3)
            draw.norm(f'{inner}.bn2', width)
            draw.conv(f'{inner}.conv3', 4 * width, width, 1, 1)
            draw.norm(f'{inner}.bn3', 4 * width, scale=0.5)
            if block == 0:
                draw.conv(f'{inner}.downsample.0', 4 * width, channels, 1, 1)
                draw.norm(f'{inner}.downsample.1', 4 * width)
            channels = 4 * width
            if wrapped and rnl_blocks:
                gated, kernel = rnl_blocks[stage, block]
                if gated:
                    draw_gate(draw, f'{outer}.cg', channels)
                draw_rnl(draw, f'{outer}.nl', channels, kernel, 2)
            elif wrapped:
                draw_nl(draw, f'{outer}.nl', channels, channels // 2, TSM_NL_NAMES)
    draw.conv('new_fc', classes, 2048, bias=True, gain=1)
    return draw.state


def shift_channels(x: Tensor, segments: int) -> Tensor:
    """First eighth from the next frame, second from the last, zeros at the ends."""
    clips = x.view(-1, segments, *x.shape[1:])
    fold = x.shape[1] // 8
    out = clips.clone()
    out[:, :, : 2 * fold] = 0
    out[:, :-1, :fold] = clips[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    return out.view_as(x)


def tsm(state: StateDict, frames: Tensor, segments: int) -> Tensor:
    """Logits (B, classes) of frames (B * segments, 3, H, W)."""
    root = 'base_model.'
    x = F.conv2d(frames, state[f'{root}conv1.weight'], stride=2, padding=3)
    x = F.max_pool2d(batch_norm(state, f'{root}bn1', x).relu(), 3, 2, 1)
    for stage in range(1, 5):
        block = 0
        while any(key.startswith(f'{root}layer{stage}.{block}.') for key in state):
            x = _tsm_block(
                state, f'{root}layer{stage}.{block}', x, stage, block, segments
            )
            block += 1
    logits = F.linear(x.mean((2, 3)), state['new_fc.weight'], state['new_fc.bias'])
    return logits.view(-1, segments, logits.shape[1]).mean(1)


def _tsm_block(
    state: StateDict, outer: str, x: Tensor, stage: int, block: int, segments: int
) -> Tensor:
    inner = f'{outer}.block' if f'{outer}.block.conv2.weight' in state else outer
    stride = 2 if stage > 1 and block == 0 else 1
    if f'{inner}.conv1.net.weight' in state:
        y = F.conv2d(shift_channels(x, segments), state[f'{inner}.conv1.net.weight'])
    else:
        y = F.conv2d(x, state[f'{inner}.conv1.weight'])
    y = batch_norm(state, f'{inner}.bn1', y).relu()
    y = F.conv2d(y, state[f'{inner}.conv2.weight'], stride=stride, padding=1)
    y = batch_norm(state, f'{inner}.bn2', y).relu()
    y = F.conv2d(y, state[f'{inner}.conv3.weight'])
    y = batch_norm(state, f'{inner}.bn3', y)
    if block == 0:
        x = F.conv2d(x, state[f'{inner}.downsample.0.weight'], stride=stride)
        x = batch_norm(state, f'{inner}.downsample.1', x)
    x = (x + y).relu()
    if inner == outer:
        return x
    clip = x.view(-1, segments, *x.shape[1:]).transpose(1, 2)
    if f'{outer}.cg.W_k.weight' in state:
        clip = gate(state, f'{outer}.cg', clip)
    if f'{outer}.nl.phi.0.weight' in state:
        clip = nl(
            state,
            f'{outer}.nl',
            clip,
            scaled=False,
            pool='after',
            names=TSM_NL_NAMES,
        )
    else:
        clip = rnl(state, f'{outer}.nl', clip)
    return clip.transpose(1, 2).reshape_as(x)


# --------------------------------------------------------------- Inception-I3D

MIXED = {
    '3b': (192, 64, 96, 128, 16, 32, 32),
    '3c': (256, 128, 128, 192, 32, 96, 64),
    '4b': (480, 192, 96, 208, 16, 48, 64),
    '4c': (512, 160, 112, 224, 24, 64, 64),
    '4d': (512, 128, 128, 256, 24, 64, 64),
    '4e': (512, 112, 144, 288, 32, 64, 64),
    '4f': (528, 256, 160, 320, 32, 128, 128),
    '5b': (832, 256, 160, 320, 32, 128, 128),
    '5c': (832, 384, 192, 384, 48, 128, 128),
}


def draw_inception(
    channels: int = 3, classes: int = 7, *, non_local: bool = True, seed: int = 0
) -> StateDict:
    """I3D (344 tensors) or I3D_NON (370)."""
    draw = Draw(seed)

    def unit(name: str, *shape: int) -> None:
        draw.conv(f'{name}.conv3d', *shape)
        draw.norm(f'{name}.batch3d', shape[0])

    unit('conv3d_1a_7x7', 64, channels, 7, 7, 7)
    unit('conv3d_2b_1x1', 64, 64, 1, 1, 1)
    unit('conv3d_2c_3x3', 192, 64, 3, 3, 3)
    for name, (inputs, b0, b1a, b1b, b2a, b2b, b3) in MIXED.items():
        mixed = f'mixed_{name}'
        unit(f'{mixed}.branch_0', b0, inputs, 1, 1, 1)
        unit(f'{mixed}.branch_1.0', b1a, inputs, 1, 1, 1)
        unit(f'{mixed}.branch_1.1', b1b, b1a, 3, 3, 3)
        unit(f'{mixed}.branch_2.0', b2a, inputs, 1, 1, 1)
        unit(f'{mixed}.branch_2.1', b2b, b2a, 3, 3, 3)
        unit(f'{mixed}.branch_3.1', b3, inputs, 1, 1, 1)
        if non_local and name == '3c':
            draw_nl(draw, 'NonLocalBlock_mixed_3', 480, 240)
        if non_local and name == '4c':  # registered here, applied after 4d
            draw_nl(draw, 'NonLocalBlock_mixed_4', 512, 256)
    draw.conv('conv3d_0c_1x1.conv3d', classes, 1024, 1, 1, 1, bias=True, gain=1)
    return draw.state


def _same(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
    pads = []
    for k, s in zip(kernel[::-1], stride[::-1]):
        pads += [max(k - s, 0) // 2, max(k - s, 0) - max(k - s, 0) // 2]
    return F.pad(x, pads)


def inception(
    state: StateDict,
    x: Tensor,
    window: tuple | None = (2, 7, 7),
    eps: float = 1e-5,
) -> Tensor:
    """Logits of clips (B, channels, T, H, W); ``window`` None pools globally."""

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f'{name}.conv3d.weight']
        x = _same(x, tuple(weight.shape[2:]), (stride,) * 3)
        return batch_norm(
            state, f'{name}.batch3d', F.conv3d(x, weight, stride=stride), eps
        ).relu()

    def pool(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
        return F.max_pool3d(_same(x, kernel, stride), kernel, stride, ceil_mode=True)

    def mixed(name: str, x: Tensor) -> Tensor:
        name = f'mixed_{name}'
        return torch.cat(
            [
                unit(f'{name}.branch_0', x),
                unit(f'{name}.branch_1.1', unit(f'{name}.branch_1.0', x)),
                unit(f'{name}.branch_2.1', unit(f'{name}.branch_2.0', x)),
                unit(f'{name}.branch_3.1', pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            1,
        )

    def block(name: str, x: Tensor) -> Tensor:
        name = f'NonLocalBlock_mixed_{name}'
        if f'{name}.theta.weight' not in state:
            return x
        return nl(state, name, x, scaled=True, pool='before')

    x = pool(unit('conv3d_1a_7x7', x, 2), (1, 3, 3), (1, 2, 2))
    x = unit('conv3d_2c_3x3', unit('conv3d_2b_1x1', x))
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = block('3', mixed('3c', mixed('3b', x)))
    x = pool(x, (3, 3, 3), (2, 2, 2))
    x = block('4', mixed('4d', mixed('4c', mixed('4b', x))))
    x = pool(mixed('4f', mixed('4e', x)), (2, 2, 2), (2, 2, 2))
    x = mixed('5c', mixed('5b', x))
    x = x.mean((2, 3, 4), True) if window is None else F.avg_pool3d(x, window, 1)
    logits = F.conv3d(
        x, state['conv3d_0c_1x1.conv3d.weight'], state['conv3d_0c_1x1.conv3d.bias']
    )
    return logits.mean((2, 3, 4))


# --------------------------------------------------------------- 3D ResNets

INFLATE = {1: (1, 1, 1), 2: (1, 0) * 2, 3: (1, 0) * 12, 4: (0, 1, 0)}
NL_5 = {50: ((2, 1), (2, 3), (3, 1), (3, 3), (3, 5))}
NL_5[101] = ((2, 1), (2, 3), (3, 6), (3, 13), (3, 20))
NL_10 = tuple((2, i) for i in range(4)) + tuple((3, i) for i in range(6))


def draw_resnet3d(
    depth: int = 50,
    classes: int = 7,
    *,
    inflate: bool = True,
    blocks: tuple = (),
    affine: bool = False,
    seed: int = 0,
) -> StateDict:
    """NL-I3D (``inflate``) or NL-C2D with the names of the PyTorch port.

    ``affine``: as long clips are trained, norms without statistics and blocks without
    a norm.
    """
    draw = Draw(seed)
    draw.conv('conv1', 64, 3, 5 if inflate else 1, 7, 7)
    draw.norm('bn1', 64)
    channels = 64
    for stage, count in enumerate(DEPTHS[depth], 1):
        width = 64 * 2 ** (stage - 1)
        for block in range(count):
            name = f'layer{stage}.{block}'
            frames = 3 if inflate and INFLATE[stage][block] else 1
            draw.conv(f'{name}.conv1', width, channels, frames, 1, 1)
            draw.norm(f'{name}.bn1', width)
            draw.conv(f'{name}.conv2', width, width, 1, 3, 3)
            draw.norm(f'{name}.bn2', width)
            draw.conv(f'{name}.conv3', 4 * width, width, 1, 1, 1)
            draw.norm(f'{name}.bn3', 4 * width, scale=0.5)
            if block == 0:
                draw.conv(f'{name}.downsample.0', 4 * width, channels, 1, 1, 1)
                draw.norm(f'{name}.downsample.1', 4 * width)
            channels = 4 * width
            if (stage, block) in blocks:
                draw_nl(draw, f'{name}.nl', channels, channels // 2)
    draw.conv('fc', classes, 2048, bias=True, gain=1)
    if affine:
        gone = ('running_mean', 'running_var', 'num_batches_tracked')
        return {
            key: value
            for key, value in draw.state.items()
            if not key.endswith(gone) and '.nl.bn.' not in key
        }
    return draw.state


def resnet3d(
    state: StateDict,
    x: Tensor,
    *,
    conv1_stride_t: int = 2,
    pool1: tuple = ((2, 3, 3), (2, 2, 2), (0, 0, 0)),
    pool2: tuple = ((2, 1, 1), (2, 1, 1)),
    legacy: bool = False,
    group_size: int | None = None,
) -> Tensor:
    """Logits of clips (B, 3, T, H, W). ``legacy``: the strides of tea1528.

    ``group_size``: frames that the blocks of res3 see at a time; None: all.
    """
    kernel = state['conv1.weight'].shape[2:]
    x = F.conv3d(
        x,
        state['conv1.weight'],
        stride=(conv1_stride_t, 2, 2),
        padding=[k // 2 for k in kernel],
    )
    x = F.max_pool3d(batch_norm(state, 'bn1', x).relu(), *pool1)
    for stage in range(1, 5):
        block = 0
        while any(key.startswith(f'layer{stage}.{block}.') for key in state):
            name = f'layer{stage}.{block}'
            block += 1
            if f'{name}.W_z.0.weight' in state:
                names = ('theta', 'phi', 'g', 'W_z.0', 'W_z.1')
                x = nl(state, name, x, scaled=False, pool='none', names=names)
                continue
            first = f'{name}.downsample.0.weight' in state
            strided = 2 if first and stage > 1 else 1
            frames = strided if legacy else 1
            pad = 2 if frames == 2 else 0
            weight = state[f'{name}.conv1.weight']
            y = F.conv3d(x, weight, padding=(weight.shape[2] // 2, 0, 0))
            y = batch_norm(state, f'{name}.bn1', y).relu()
            y = F.conv3d(
                y,
                state[f'{name}.conv2.weight'],
                stride=(frames, strided, strided),
                padding=(pad, 1, 1),
            )
            y = batch_norm(state, f'{name}.bn2', y).relu()
            y = F.conv3d(y, state[f'{name}.conv3.weight'])
            y = batch_norm(state, f'{name}.bn3', y)
            if first:
                x = F.conv3d(
                    x,
                    state[f'{name}.downsample.0.weight'],
                    stride=(frames, strided, strided),
                    padding=(pad, 0, 0),
                )
                x = batch_norm(state, f'{name}.downsample.1', x)
            x = (x + y).relu()
            if f'{name}.nl.theta.weight' in state:
                frames = group_size if group_size and stage == 2 else x.shape[2]
                groups = [
                    nl(state, f'{name}.nl', group, scaled=True, pool='before')
                    for group in x.split(frames, dim=2)
                ]
                x = torch.cat(groups, dim=2)
        if stage == 1:
            x = F.max_pool3d(x, *pool2)
    return F.linear(x.mean((2, 3, 4)), state['fc.weight'], state['fc.bias'])


def draw_tea(classes: int = 400, *, non_local: bool = True, seed: int = 0) -> StateDict:
    """The 3D ResNet-50 of tea1528: the block is layer3.5, the last block layer3.6."""
    state = draw_resnet3d(classes=classes, inflate=False, seed=seed)
    if not non_local:
        return state
    state = {
        key.replace('layer3.5.', 'layer3.6.'): value for key, value in state.items()
    }
    draw = Draw(seed + 1)
    draw_nl(draw, 'layer3.5', 1024, 512, ('theta', 'phi', 'g', 'W_z.0', 'W_z.1'))
    return {**state, **draw.state}
