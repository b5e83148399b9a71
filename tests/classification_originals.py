# Copyright (c) The nl_plugins authors. All rights reserved.
"""The classification networks of the originals, as names, shapes and functions.

Checkpoints have the originals' exact keys; the forward passes are plain functions of
such a state dict, with every affinity built as a matrix.
"""

import torch
import torch.nn.functional as F


class Weights(dict):
    """A state dict of random float64 tensors."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, *shape, scale=1.0):
        return scale * torch.randn(*shape, generator=self.generator).double()

    def conv(self, name, out, inner, kernel=1, bias=False):
        fan = inner * kernel * kernel
        self[f'{name}.weight'] = self.draw(out, inner, kernel, kernel, scale=fan**-0.5)
        if bias:
            self[f'{name}.bias'] = self.draw(out, scale=0.1)

    def norm(self, name, channels, buffers=True):
        self[f'{name}.weight'] = 1 + self.draw(channels, scale=0.2)
        self[f'{name}.bias'] = self.draw(channels, scale=0.2)
        if buffers:
            self[f'{name}.running_mean'] = self.draw(channels, scale=0.2)
            self[f'{name}.running_var'] = 0.5 + self.draw(channels).abs()
            self[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def linear(self, name, out, inner):
        self[f'{name}.weight'] = self.draw(out, inner, scale=inner**-0.5)
        self[f'{name}.bias'] = self.draw(out, scale=0.1)


# Functions of a state dict w and a name p.
def conv(w, p, x, stride=1, padding=0, groups=1):
    return F.conv2d(
        x, w[f'{p}.weight'], w.get(f'{p}.bias'), stride, padding, groups=groups
    )


def bn(w, p, x):
    mean, var = w[f'{p}.running_mean'], w[f'{p}.running_var']
    return F.batch_norm(x, mean, var, w[f'{p}.weight'], w[f'{p}.bias'], eps=1e-5)


def aggregate(affinity, values):
    """``Y[b, c, i] = Σ_j A[b, i, j] G[b, c, j]``."""
    out = torch.einsum('bij,bcj->bci', affinity, values.flatten(2))
    return out.reshape(*out.shape[:2], *values.shape[2:])


def laplace_normalise(matrix):
    degree = matrix.sum(2)
    root = torch.where(degree > 0, degree.clamp_min(1e-300) ** -0.5, 0.0 * degree)
    return root[:, :, None] * matrix * root[:, None, :]


def stage_affinity(w, p, x, flags):
    """Section 3.1 of the block specification; flags = (is_norm, is_sys, relu_raw)."""
    is_norm, is_sys, raw = flags
    t, phi = conv(w, f'{p}t', x).flatten(2), conv(w, f'{p}p', x).flatten(2)
    if is_norm or raw:
        t, phi = t.relu(), phi.relu()
    matrix = t.mT @ phi
    if is_sys:
        matrix = (matrix + matrix.mT) / 2
    if is_norm:
        return laplace_normalise(matrix)
    return matrix if raw else matrix.softmax(2)


def stage(w, p, x, kind, flags=(True, True, False)):
    """The SNL repository's ``Stage`` of any number of units."""
    affinity = stage_affinity(w, p, x, flags)
    k = 0
    while f'{p}stages.{k}.g.weight' in w:
        u = f'{p}stages.{k}.'
        g = conv(w, f'{u}g', x)
        ag = aggregate(affinity, g)
        if kind == 'snl':
            z = conv(w, f'{u}w_1', g) + conv(w, f'{u}w_2', ag)
        elif kind in ('nl', 'a2'):
            z = conv(w, f'{u}w_2', ag)
        elif kind == 'ns':
            z = conv(w, f'{u}w_2', g) - conv(w, f'{u}w_2', ag)
        elif kind == 'dnl':
            mask = conv(w, f'{u}w_m', x).flatten(2).softmax(2)
            unary = (mask * g.flatten(2)).sum(2)[:, :, None, None]
            z = conv(w, f'{u}w_2', ag + unary)
        else:
            laplacian = torch.eye(affinity.shape[1]).double() - affinity
            second = aggregate(laplacian @ laplacian, g)
            z = conv(w, f'{u}w_1', g) + conv(
                w, f'{u}w_2', conv(w, f'{u}w_h', g) + second
            )
        x = bn(w, f'{u}bn', z).relu() + x
        k += 1
    return x


def cgnl(w, p, x, order=None):
    """CGNL; ``order`` of the RBF kernel, None for the dot kernel."""
    t, phi, g = (conv(w, f'{p}{name}', x) for name in 'tpg')
    groups = t.shape[1] // w[f'{p}z.weight'].shape[1]
    chunks = []
    for tc, pc, gc in zip(*(value.chunk(groups, 1) for value in (t, phi, g))):
        if order is None:
            chunks.append((pc * gc).sum((1, 2, 3), keepdim=True) * tc)
            continue
        total, factor = 0, torch.tensor(-2e-4).double().exp()
        for k in range(order + 1):
            if k:
                factor = factor * 2e-4 / k
            total = total + factor * (pc**k * gc).sum((1, 2, 3), keepdim=True) * tc**k
        chunks.append(total)
    z = conv(w, f'{p}z', torch.cat(chunks, 1), groups=groups)
    return F.group_norm(z, groups, w[f'{p}gn.weight'], w[f'{p}gn.bias'], 1e-5) + x


def spatial_nl(w, p, x):
    t, phi, g = (conv(w, f'{p}{name}', x) for name in 'tpg')
    logits = t.flatten(2).mT @ phi.flatten(2) * t.shape[1] ** -0.5
    return bn(w, f'{p}bn', conv(w, f'{p}z', aggregate(logits.softmax(2), g))) + x


def criss_cross(w, p, x):
    """One or more CC modules: softmax masked to the positions of a row and column."""
    height, width = x.shape[2:]
    row = torch.arange(height * width) // width
    column = torch.arange(height * width) % width
    joined = (row[:, None] == row) | (column[:, None] == column)
    k = 0
    while f'{p}{k}.gamma' in w:
        q, key = (
            conv(w, f'{p}{k}.{name}_conv', x).flatten(2) for name in ('query', 'key')
        )
        logits = (q.mT @ key).masked_fill(~joined, -torch.inf)
        value = conv(w, f'{p}{k}.value_conv', x)
        x = w[f'{p}{k}.gamma'] * aggregate(logits.softmax(2), value) + x
        k += 1
    return x


def apnb(w, p, x):
    p = f'{p}0.stages.0.'
    key = bn(w, f'{p}f_key.1', conv(w, f'{p}f_key.0', x)).relu()
    value = conv(w, f'{p}f_value', x)

    def pool(v):
        return torch.cat(
            [F.adaptive_avg_pool2d(v, s).flatten(2) for s in (1, 3, 6, 8)], 2
        )

    logits = key.flatten(2).mT @ pool(key) * key.shape[1] ** -0.5
    context = torch.einsum('bij,bcj->bci', logits.softmax(2), pool(value))
    return conv(w, f'{p}W', context.reshape(value.shape)) + x


def tea_block(w, p, x, mode, out='W_z', pooled=False):
    """``NLBlockND`` of tea1528; with ``out='W'`` AlexHex7's."""
    infix = '.0' if pooled else ''

    def pool(v):
        return F.max_pool2d(v, 2) if pooled else v

    g = pool(conv(w, f'{p}g{infix}', x)).flatten(2)
    if mode == 'gaussian':
        theta, phi = x.flatten(2), pool(x).flatten(2)
    else:
        theta = conv(w, f'{p}theta', x).flatten(2)
        phi = pool(conv(w, f'{p}phi{infix}', x)).flatten(2)
    if mode == 'concatenation':
        name = 'W_f.0' if out == 'W_z' else 'concat_project.0'
        weight = w[f'{p}{name}.weight'].flatten()
        first, second = weight.chunk(2)
        a = torch.einsum('c,bci->bi', first, theta)
        b = torch.einsum('c,bcj->bj', second, phi)
        logits = a[:, :, None] + b[:, None, :] + w.get(f'{p}{name}.bias', 0.0)
        affinity = logits.relu() / g.shape[2]
    elif mode == 'dot_product':
        affinity = theta.mT @ phi / g.shape[2]
    else:
        affinity = (theta.mT @ phi).softmax(2)
    y = torch.einsum('bij,bcj->bci', affinity, g).reshape(x.shape[0], -1, *x.shape[2:])
    if f'{p}{out}.1.weight' in w:
        return bn(w, f'{p}{out}.1', conv(w, f'{p}{out}.0', y)) + x
    return conv(w, f'{p}{out}', y) + x


# Blocks: names and shapes.
def add_stage(w, p, channels, kind, units=1):
    inner = channels // 2
    w.conv(f'{p}t', inner, channels)
    w.conv(f'{p}p', inner, channels)
    width = inner // 2 if kind == 'caylay' else inner
    for k in range(units):
        u = f'{p}stages.{k}.'
        w.conv(f'{u}g', width, channels)
        if kind in ('snl', 'caylay'):
            w.conv(f'{u}w_1', channels, width)
        w.conv(f'{u}w_2', channels, width)
        if kind == 'dnl':
            w.conv(f'{u}w_m', 1, channels)
        if kind == 'caylay':
            w.conv(f'{u}w_h', width, width)
        w.norm(f'{u}bn', channels)


def add_cgnl(w, p, channels, groups=1):
    for name in 'tpg':
        w.conv(f'{p}{name}', channels // 2, channels)
    w.conv(f'{p}z', channels, channels // 2 // groups)
    w.norm(f'{p}gn', channels, buffers=False)


def add_spatial_nl(w, p, channels):
    for name in 'tpg':
        w.conv(f'{p}{name}', channels // 2, channels)
    w.conv(f'{p}z', channels, channels // 2)
    w.norm(f'{p}bn', channels)


def add_criss_cross(w, p, channels, units=1):
    for k in range(units):
        w.conv(f'{p}{k}.query_conv', channels // 2, channels, bias=True)
        w.conv(f'{p}{k}.key_conv', channels // 2, channels, bias=True)
        w.conv(f'{p}{k}.value_conv', channels, channels, bias=True)
        w[f'{p}{k}.gamma'] = w.draw(1)


def add_apnb(w, p, channels):
    inner = channels // 2
    w.conv(f'{p}0.stages.0.f_value', inner, channels, bias=True)
    w.conv(f'{p}0.stages.0.W', channels, inner, bias=True)
    w.conv(f'{p}0.stages.0.f_key.0', inner, channels, bias=True)
    w.norm(f'{p}0.stages.0.f_key.1', inner)
    for key in [key for key in w if key.startswith(f'{p}0.stages.0.f_key.')]:
        w[key.replace('f_key', 'f_query')] = w[key]
    w.conv(f'{p}0.conv_bn_dropout.0', channels, 2 * channels, bias=True)
    w.norm(f'{p}0.conv_bn_dropout.1', channels)


def add_tea_block(w, p, channels, mode, out='W_z', pooled=False, norm=True):
    inner, infix = channels // 2, '.0' if pooled else ''
    w.conv(f'{p}g{infix}', inner, channels, bias=True)
    if mode != 'gaussian':
        w.conv(f'{p}theta', inner, channels, bias=True)
        w.conv(f'{p}phi{infix}', inner, channels, bias=True)
    w.conv(f'{p}{out}.0' if norm else f'{p}{out}', channels, inner, bias=True)
    if norm:
        w.norm(f'{p}{out}.1', channels)
    if mode == 'concatenation':
        name = 'W_f.0' if out == 'W_z' else 'concat_project.0'
        w.conv(f'{p}{name}', 1, 2 * inner, bias=out == 'W_z')


# Networks: a block is (add, apply), called with (w, prefix, channels or x).
def cifar_resnet(n, classes=10, block=None, seed=0):
    """akamaster's network; with a block tea1528's, before the last block of layer2."""
    w = Weights(seed)
    w.conv('conv1', 16, 3, 3)
    w.norm('bn1', 16)
    channels = 16
    for s, width in enumerate((16, 32, 64), 1):
        index = 0
        for i in range(n):
            if block and s == 2 and i == n - 1:
                block[0](w, f'layer2.{index}.', width)
                index += 1
            for j, inner in ((1, channels), (2, width)):
                w.conv(f'layer{s}.{index}.conv{j}', width, inner, 3)
                w.norm(f'layer{s}.{index}.bn{j}', width)
            channels, index = width, index + 1
    w.linear('linear', classes, 64)
    return w


def cifar_resnet_forward(w, x, block=None):
    x = bn(w, 'bn1', conv(w, 'conv1', x, padding=1)).relu()
    for s in (1, 2, 3):
        for i in indices(w, s):
            p = f'layer{s}.{i}.'
            if f'{p}conv1.weight' not in w:
                x = block[1](w, p, x)
                continue
            stride = 2 if s > 1 and i == 0 else 1
            out = bn(w, f'{p}bn1', conv(w, f'{p}conv1', x, stride, 1)).relu()
            out = bn(w, f'{p}bn2', conv(w, f'{p}conv2', out, 1, 1))
            if stride == 2:
                pad = out.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            x = (out + x).relu()
    return F.linear(x.mean((2, 3)), w['linear.weight'], w['linear.bias'])


def preresnet(arch, stages=(1,), block=None, extra_classes=None, seed=0):
    """The SNL repository's PreResNet with 1000 outputs, blocks at index 2 of stages."""
    w = Weights(seed)
    n, expansion = {20: (3, 1), 56: (9, 4), 110: (18, 4)}[arch]
    w.conv('conv', 16, 3, 3)
    channels = 16
    for s, width in enumerate((16, 32, 64), 1):
        layers = (
            [(width, 3), (width, 3)]
            if expansion == 1
            else [(width, 1), (width, 3), (4 * width, 1)]
        )
        index = 0
        for i in range(n):
            if block and s in stages and i == 2:
                block[0](w, f'layer{s}.2.', channels)
                index += 1
            p, inner = f'layer{s}.{index}.', channels
            for j, (out, kernel) in enumerate(layers, 1):
                w.norm(f'{p}bn{j}', inner)
                w.conv(f'{p}conv{j}', out, inner, kernel)
                inner = out
            if (s > 1 and i == 0) or inner != channels:
                w.conv(f'{p}downsample.0', inner, channels)
                w.norm(f'{p}downsample.1', inner)
            channels, index = inner, index + 1
    w.norm('bn1', channels)
    w.conv('fc1', channels, channels)
    w.norm('bn2', channels)
    w.linear('fc2', 1000, channels)
    if extra_classes:  # attached by the training script, used by nothing
        w.conv('conv1', 64, 3, 3)
        w.linear('fc', extra_classes, 2048)
    return w


def preresnet_forward(w, x, block=None):
    x = conv(w, 'conv', x, padding=1)
    for s in (1, 2, 3):
        for i in indices(w, s):
            p = f'layer{s}.{i}.'
            if f'{p}conv1.weight' not in w:
                x = block[1](w, p, x)
                continue
            stride, out, j = 2 if s > 1 and i == 0 else 1, x, 1
            while f'{p}conv{j}.weight' in w:
                out = bn(w, f'{p}bn{j}', out).relu()
                kernel = w[f'{p}conv{j}.weight'].shape[2]
                # The 3x3 convolution strides: the first of two, the middle of three.
                strided = kernel == 3 and (j == 1 or f'{p}conv3.weight' in w)
                step = stride if strided else 1
                out = conv(w, f'{p}conv{j}', out, step, kernel // 2)
                j += 1
            if f'{p}downsample.0.weight' in w:
                x = bn(w, f'{p}downsample.1', conv(w, f'{p}downsample.0', x, stride))
            x = out + x
    x = conv(w, 'fc1', bn(w, 'bn1', x).relu())
    x = bn(w, 'bn2', x).relu().mean((2, 3))
    return F.linear(x, w['fc2.weight'], w['fc2.bias'])


RESNETS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet(depth, classes=1000, block=None, stem=7, seed=0):
    """torchvision's names; a block before the last residual block of layer3."""
    w = Weights(seed)
    w.conv('conv1', 64, 3, stem)
    w.norm('bn1', 64)
    channels, expansion = 64, 4 if depth >= 50 else 1
    for s, (n, width) in enumerate(zip(RESNETS[depth], (64, 128, 256, 512)), 1):
        layers = (
            [(width, 3), (width, 3)]
            if expansion == 1
            else [(width, 1), (width, 3), (4 * width, 1)]
        )
        index = 0
        for i in range(n):
            if block and s == 3 and i == n - 1:
                block[0](w, f'layer3.{index}.', channels)
                index += 1
            p, inner = f'layer{s}.{index}.', channels
            for j, (out, kernel) in enumerate(layers, 1):
                w.conv(f'{p}conv{j}', out, inner, kernel)
                w.norm(f'{p}bn{j}', out)
                inner = out
            if i == 0 and (s > 1 or inner != channels):
                w.conv(f'{p}downsample.0', inner, channels)
                w.norm(f'{p}downsample.1', inner)
            channels, index = inner, index + 1
    w.linear('fc', classes, channels)
    return w


def resnet_forward(w, x, block=None):
    small = w['conv1.weight'].shape[2] == 3
    x = conv(w, 'conv1', x, 1 if small else 2, 1 if small else 3)
    x = bn(w, 'bn1', x).relu()
    x = x if small else F.max_pool2d(x, 3, 2, 1)
    for s in (1, 2, 3, 4):
        for i in indices(w, s):
            p = f'layer{s}.{i}.'
            if f'{p}conv1.weight' not in w:
                x = block[1](w, p, x)
                continue
            stride, out, j = 2 if s > 1 and i == 0 else 1, x, 1
            while f'{p}conv{j}.weight' in w:
                kernel = w[f'{p}conv{j}.weight'].shape[2]
                strided = kernel == 3 and (j == 1 or f'{p}conv3.weight' in w)
                step = stride if strided else 1
                out = bn(w, f'{p}bn{j}', conv(w, f'{p}conv{j}', out, step, kernel // 2))
                if f'{p}conv{j + 1}.weight' in w:
                    out = out.relu()
                j += 1
            if f'{p}downsample.0.weight' in w:
                x = bn(w, f'{p}downsample.1', conv(w, f'{p}downsample.0', x, stride))
            x = (out + x).relu()
    return F.linear(x.mean((2, 3)), w['fc.weight'], w['fc.bias'])


def indices(w, s):
    """Indices of a stage, in order."""
    prefix = f'layer{s}.'
    return sorted({int(key.split('.')[1]) for key in w if key.startswith(prefix)})
