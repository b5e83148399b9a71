# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every block once more, from its formula, with the whole matrix A.

Nothing of ``nl_plugins.graph`` is used. Maps are (B, C, N), A is (B, N, M), and the
aggregation is ``Y[b,c,i] = Σ_j A[b,i,j] g[b,c,j]``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, einsum

POOLS = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}


def conv1x1(layer, x: Tensor) -> Tensor:
    """A 1x1 convolution, grouped or not, of (B, C, N)."""
    layer = getattr(layer, 'conv', layer)
    weight = layer.weight.flatten(1)
    groups = x.chunk(layer.groups, dim=1)
    parts = zip(weight.chunk(layer.groups), groups)
    out = torch.cat([einsum('oc,bcn->bon', w, part) for w, part in parts], dim=1)
    return out if layer.bias is None else out + layer.bias[:, None]


def normalise(norm, x: Tensor) -> Tensor:
    """Batch or group norm of (B, C, N)."""
    if norm is None:
        return x
    if isinstance(norm, torch.nn.GroupNorm):
        grouped = x.reshape(x.shape[0], norm.num_groups, -1)
        mean = grouped.mean(2, keepdim=True)
        var = ((grouped - mean) ** 2).mean(2, keepdim=True)
        x = ((grouped - mean) / torch.sqrt(var + norm.eps)).reshape(x.shape)
    else:
        mean, var = norm.running_mean[:, None], norm.running_var[:, None]
        if norm.training:
            mean = x.mean((0, 2))[:, None]
            var = ((x - mean) ** 2).mean((0, 2))[:, None]
        x = (x - mean) / torch.sqrt(var + norm.eps)
    return x * norm.weight[:, None] + norm.bias[:, None]


def aggregate(a: Tensor, g: Tensor) -> Tensor:
    return einsum('bij,bcj->bci', a, g)


def output(conv_out, y: Tensor, activation: bool) -> Tensor:
    """act(norm(conv_out(y)))."""
    out = normalise(conv_out.norm, conv1x1(conv_out, y))
    return out.clamp(min=0) if activation else out


def max_pool(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(grid) - 1]
    return pool(x.reshape(*x.shape[:2], *grid), POOLS[len(grid)]).flatten(2)


def terms(conv_out, count: int) -> list[Tensor]:
    """The weights W_0, W_1, ... that conv_out holds side by side."""
    return list(conv_out.conv.weight.flatten(1).chunk(count, dim=1))


def times(weight: Tensor, x: Tensor) -> Tensor:
    return einsum('oc,bcn->bon', weight, x)


# Non-local block


def nl(block, x: Tensor, grid, mode, scale, sub_sample, pool_first) -> Tensor:
    def pooled(layer):
        if not sub_sample:
            return conv1x1(layer, x)
        if pool_first:
            return conv1x1(layer, max_pool(x, grid))
        return max_pool(conv1x1(layer[0], x), grid)

    g = pooled(block.g)
    keys = g.shape[2]
    if mode == 'gaussian':
        phi = max_pool(x, grid) if sub_sample else x
        a = einsum('bci,bcj->bij', x, phi).softmax(2)
    else:
        theta, phi = conv1x1(block.theta, x), pooled(block.phi)
        if mode == 'embedded_gaussian':
            a = (scale * einsum('bci,bcj->bij', theta, phi)).softmax(2)
        elif mode == 'dot_product':
            a = einsum('bci,bcj->bij', theta, phi) / keys
        else:
            a = concatenation(block.concat_project.conv, theta, phi)
    activation = block.conv_out.with_activation
    return x + output(block.conv_out, aggregate(a, g), activation)


def concatenation(w, theta: Tensor, phi: Tensor) -> Tensor:
    """relu(w·[θ_i, φ_j] + b) / M with the (B, 2C', N, M) tensor written out."""
    rows, columns = theta.shape[2], phi.shape[2]
    pairs = torch.cat(
        [
            theta[:, :, :, None].expand(-1, -1, -1, columns),
            phi[:, :, None, :].expand(-1, -1, rows, -1),
        ],
        dim=1,
    )
    logits = einsum('c,bcij->bij', w.weight.flatten(), pairs)
    if w.bias is not None:
        logits = logits + w.bias
    return logits.clamp(min=0) / columns


def rnl(block, x, grid, kernel_size, activation, use_norm, sub_sample) -> Tensor:
    theta = conv1x1(block.theta, x)
    regions = theta
    if max(kernel_size) > 1:
        # The dense grouped kernel with a diagonal mask of the released code.
        width = theta.shape[1]
        groups = max(width // 32, 1)
        weight = block.region.weight
        dense = weight.new_zeros(width, width // groups, *kernel_size)
        channel = torch.arange(width)
        dense[channel, channel % (width // groups)] = weight[:, 0]
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(grid) - 1]
        padding = [size // 2 for size in kernel_size]
        maps = theta.reshape(*theta.shape[:2], *grid)
        regions = convolve(maps, dense, padding=padding, groups=groups).flatten(2)
    if use_norm:
        length = regions.square().sum(1, keepdim=True).sqrt()
        regions = regions / length.clamp(min=1e-12)
    key, value = regions, theta
    if sub_sample:
        key, value = max_pool(regions, grid), max_pool(theta, grid)
    logits = einsum('bci,bcj->bij', regions, key)
    a = logits.softmax(2)
    if activation == 'relu':
        a = logits.clamp(min=0) / key.shape[2]
    return x + output(block.conv_out, aggregate(a, value), False)


# The family of the SNL repository


def pairwise(kind: str, symmetric: bool, theta: Tensor, phi: Tensor) -> Tensor:
    """The table of affinities of that repository."""
    if kind == 'softmax':
        logits = einsum('bci,bcj->bij', theta, phi)
        if symmetric:
            logits = (logits + logits.transpose(1, 2)) / 2
        return logits.softmax(2)
    # Not clamp(min=0), whose gradient at 0 differs between versions of torch.
    a = einsum('bci,bcj->bij', torch.relu(theta), torch.relu(phi))
    if symmetric:
        a = (a + a.transpose(1, 2)) / 2
    if kind == 'relu_raw':
        return a
    degree = a.sum(2)
    # A degree of zero is a row of zeros; the root of 1 keeps gradients finite there.
    root = torch.where(degree == 0, degree, torch.where(degree == 0, 1, degree) ** -0.5)
    return root[:, :, None] * a * root[:, None, :]


def units(block):
    return getattr(block, 'units', [block])


def graph_filter(block, x: Tensor, kind, symmetric, z, activation=True) -> Tensor:
    """x + act(norm(z(A, G, unit, x))) for each unit, with one A."""
    a = pairwise(kind, symmetric, conv1x1(block.theta, x), conv1x1(block.phi, x))
    for unit in units(block):
        out = normalise(unit.conv_out.norm, z(a, conv1x1(unit.g, x), unit, x))
        x = x + (out.clamp(min=0) if activation else out)
    return x


def chebyshev(count: int, stable: bool, zero_order: bool, sign: int = 1):
    """Σ_k W_k T_k(A) G with the matrices T_k(A)."""

    def z(a, g, unit, x):
        identity = torch.eye(a.shape[1], dtype=a.dtype).expand_as(a)
        polynomials = [identity, a]
        while len(polynomials) <= count:
            if stable:  # A² = A: I, A, 2A - I, A, I, ...
                step = (identity, a, 2 * a - identity, a)[len(polynomials) % 4]
            else:
                step = 2 * a @ polynomials[-1] - polynomials[-2]
            polynomials.append(step)
        kept = polynomials[: count + 1][0 if zero_order else 1 :]
        weights = terms(unit.conv_out, len(kept))
        weights[-1] = sign * weights[-1]
        return sum(times(w, aggregate(t, g)) for w, t in zip(weights, kept))

    return z


def ns(sign: int):
    def z(a, g, unit, x):
        identity = torch.eye(a.shape[1], dtype=a.dtype)
        return sign * conv1x1(unit.conv_out, aggregate(identity - a, g))

    return z


def plain(a, g, unit, x):
    return conv1x1(unit.conv_out, aggregate(a, g))


def disentangled_snl(a, g, unit, x):
    mask = conv1x1(unit.conv_mask, x).softmax(2)
    u = (mask * g).sum(2, keepdim=True)
    return conv1x1(unit.conv_out, aggregate(a, g) + u)


def cayley_polynomial(a, g, unit, x):
    identity = torch.eye(a.shape[1], dtype=a.dtype)
    laplacian = identity - a
    first, second = terms(unit.conv_out, 2)
    inner = conv1x1(unit.conv_h, g) + aggregate(laplacian @ laplacian, g)
    return times(first, g) + times(second, inner)


def cayley_rational(order: int, zoom: float):
    """With the complex inverse itself."""

    def z(a, g, unit, x):
        identity = torch.eye(a.shape[1], dtype=torch.complex128)
        laplacian = zoom * (identity - a)
        unitary = (laplacian - 1j * identity) @ torch.linalg.inv(
            laplacian + 1j * identity
        )
        signals, power = [g], identity.expand_as(unitary)
        for _ in range(order):
            power = unitary @ power
            signals += [aggregate(power.real, g), aggregate(power.imag, g)]
        weights = terms(unit.conv_out, 2 * order + 1)
        return sum(times(w, signal) for w, signal in zip(weights, signals))

    return z


def arma(num_iterations: int, num_stacks: int, nonlinear: bool):
    def z(a, g, unit, x):
        recurrent = unit.recurrent.conv.weight.flatten(1).chunk(num_stacks)
        skip = unit.skip.conv.weight.flatten(1).chunk(num_stacks)
        total = 0
        for v_a, v_b in zip(recurrent, skip):
            hidden = g
            for _ in range(num_iterations):
                hidden = times(v_a, aggregate(a, hidden)) + times(v_b, g)
                hidden = torch.relu(hidden) if nonlinear else hidden
            total = total + hidden
        return conv1x1(unit.conv_out, total / num_stacks)

    return z


# The other blocks


def a2net(block, x: Tensor) -> Tensor:
    """Gather, then distribute, as the paper says it."""
    a, b, v = (conv1x1(layer, x) for layer in (block.g, block.phi, block.theta))
    gathered = einsum('bmj,bnj->bmn', a, b.softmax(2))
    distributed = einsum('bmn,bni->bmi', gathered, v.softmax(1))
    return x + output(block.conv_out, distributed, False)


def dnl(block, x: Tensor, mode: str, scale: float, temperature: float) -> Tensor:
    g = conv1x1(block.g, x)
    if mode == 'gaussian':
        theta = phi = x
    else:
        theta, phi = conv1x1(block.theta, x), conv1x1(block.phi, x)
    theta = theta - theta.mean(2, keepdim=True)
    phi = phi - phi.mean(2, keepdim=True)
    logits = einsum('bci,bcj->bij', theta, phi)
    if mode == 'embedded_gaussian':
        a = (scale * logits / temperature).softmax(2)
    elif mode == 'gaussian':
        a = logits.softmax(2)
    elif mode == 'dot_product':
        a = logits / x.shape[2]
    else:
        a = concatenation(block.concat_project.conv, theta, phi)
    mask = conv1x1(block.conv_mask, x).softmax(2)
    u = (mask * g).sum(2, keepdim=True)
    return x + output(block.conv_out, aggregate(a, g) + u, False)


def cc(block, x: Tensor, grid, recurrence: int) -> Tensor:
    """A dense softmax masked to the row and the column, frame by frame."""
    height, width = grid[-2:]
    row = torch.arange(height * width) // width
    column = torch.arange(height * width) % width
    crossing = (row[:, None] == row) | (column[:, None] == column)
    frames = x.reshape(*x.shape[:2], -1, height * width).transpose(1, 2)
    frames = frames.flatten(0, 1)
    layers = list(units(block)) * (recurrence if not hasattr(block, 'units') else 1)
    for unit in layers:
        theta, phi, g = (conv1x1(m, frames) for m in (unit.theta, unit.phi, unit.g))
        logits = einsum('bci,bcj->bij', theta, phi)
        a = logits.masked_fill(~crossing, -math.inf).softmax(2)
        frames = frames + unit.gamma.weight.flatten() * aggregate(a, g)
    frames = frames.reshape(x.shape[0], -1, *frames.shape[1:])
    return frames.transpose(1, 2).reshape(x.shape)


def anl(block, x: Tensor, grid, pool_sizes, fusion: str) -> Tensor:
    def pyramid(maps):
        cells = []
        for size in pool_sizes:
            # Cell k of s covers positions floor(k n / s) .. ceil((k + 1) n / s).
            out = maps.reshape(*maps.shape[:2], *grid)
            for dim, length in enumerate(grid):
                spans = [
                    (k * length // size, -(-(k + 1) * length // size))
                    for k in range(size)
                ]
                out = torch.stack(
                    [out.narrow(2 + dim, i, j - i).mean(2 + dim) for i, j in spans],
                    dim=2 + dim,
                )
            cells.append(out.flatten(2))
        return torch.cat(cells, dim=2)

    def key_or_query():
        return normalise(block.theta.norm, conv1x1(block.theta, x)).clamp(min=0)

    query, key = key_or_query(), pyramid(key_or_query())
    value = pyramid(conv1x1(block.g, x))
    logits = einsum('bci,bcj->bij', query, key) / math.sqrt(query.shape[1])
    context = conv1x1(block.conv_out, aggregate(logits.softmax(2), value))
    if fusion == 'add':
        return x + context
    return output(block.bottleneck, torch.cat([context, x], dim=1), True)


def cgnl(block, x: Tensor, kernel, order, groups, use_scale, single=False) -> Tensor:
    """Per sample and group, with the sums written out.

    ``single`` rounds the factors to float32, as the released code does.
    """
    t, p, g = (conv1x1(layer, x) for layer in (block.theta, block.phi, block.g))
    samples = []
    for n in range(x.shape[0]):
        parts = []
        for chunk in range(groups):
            theta, phi, value = (m[n].chunk(groups)[chunk] for m in (t, p, g))
            root = math.sqrt(theta.numel()) if use_scale else 1.0
            if kernel == 'dot':
                y = (phi * value).sum() / root * theta
            else:
                y = 0
                for k in range(order + 1):
                    square = 2e-4**k / math.factorial(k) * math.exp(-2e-4)
                    alpha = math.sqrt(square)
                    if single:
                        alpha = torch.tensor(alpha, dtype=torch.float32).item()
                    inner = (alpha * phi**k * value).sum() / root
                    y = y + inner * alpha * theta**k
            parts.append(y)
        samples.append(torch.cat(parts))
    return x + output(block.conv_out, torch.stack(samples), False)


def channel_gate(block, x: Tensor, kind: str) -> Tensor:
    if kind == 'se':
        hidden = x.mean(2) @ block.squeeze.weight.T + block.squeeze.bias
        gate = hidden.clamp(min=0) @ block.excite.weight.T + block.excite.bias
        return x / (1 + torch.exp(-gate))[:, :, None]
    mask = conv1x1(block.conv_mask, x).softmax(2)
    context = (x * mask).sum(2)
    hidden = context @ block.squeeze.weight.T + block.squeeze.bias
    hidden = normalise(block.norm, hidden[:, :, None]).squeeze(2).clamp(min=0)
    return x + (hidden @ block.excite.weight.T + block.excite.bias)[:, :, None]
