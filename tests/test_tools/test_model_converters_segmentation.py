# Copyright (c) The nl_plugins authors. All rights reserved.
"""Weights of SNL-MMSeg and of mmseg's model zoo, with their exact key names."""

import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

CONFIG = 'configs/segmentation/snl/snl_r18-d16_1xb4-400_camvid-180x240.py'
BLOCK = 'decode_head.SNL.'


class OriginalUnit(nn.Module):
    """SNLUnit from the specification: ``relu(BN(w_1 g - w_2 (A g))) + x``."""

    def __init__(self, channels, inner):
        super().__init__()
        self.g = nn.Conv2d(channels, inner, 1, bias=False)
        self.w_1 = nn.Conv2d(inner, channels, 1, bias=False)
        self.w_2 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x, a):
        g = self.g(x)
        ag = torch.einsum('bij,bcj->bci', a, g.flatten(2)).reshape(g.shape)
        return F.relu(self.bn(self.w_1(g) - self.w_2(ag))) + x


class OriginalStage(nn.Module):
    """SNLStage from the specification, dense."""

    def __init__(self, channels, inner):
        super().__init__()
        self.t = nn.Conv2d(channels, inner, 1, bias=False)
        self.p = nn.Conv2d(channels, inner, 1, bias=False)
        self.stages = nn.ModuleList([OriginalUnit(channels, inner)])

    def forward(self, x):
        t, p = F.relu(self.t(x)).flatten(2), F.relu(self.p(x)).flatten(2)
        a = torch.einsum('bci,bcj->bij', t, p)
        a = (a + a.transpose(1, 2)) / 2
        degree = a.sum(-1)
        root = torch.where(degree > 0, degree.clamp(min=1e-300).rsqrt(), 0 * degree)
        return self.stages[0](x, root[:, :, None] * a * root[:, None])


class OriginalHead(nn.Module):
    """The wiring of SNL-MMSeg's head around mmseg's FCN head."""

    def __init__(self, fcn):
        super().__init__()
        for name, child in fcn.named_children():
            if name != 'loss_decode':
                self.add_module(name, child)
        channels = fcn.channels
        self.in_index = fcn.in_index
        self.SNL = OriginalStage(channels, channels // 2)

    def forward(self, inputs):
        x = inputs[self.in_index]
        out = self.convs[1](self.SNL(self.convs[0](x)))
        out = self.conv_cat(torch.cat([x, out], dim=1))
        return self.conv_seg(self.dropout(out))


@pytest.fixture
def converter(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'model_converters'))
    return importlib.import_module('snl_segmentation_to_mmseg')


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            value = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            positive = 'bn' in name or name.endswith('running_var')
            tensor.copy_(value + 0.5 if positive else 0.6 * value - 0.3)
    return module


@pytest.fixture
def original(root):
    """A small SNL-MMSeg segmentor: backbone and both heads as the original names."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(root / CONFIG).model
    cfg.decode_head.type = 'FCNHead'
    model = MODELS.build(cfg)
    model.decode_head = OriginalHead(model.decode_head)
    return randomise(model).eval()


def save(path, state_dict):
    meta = dict(
        mmseg_version='0.16.0',
        CLASSES=('sky', 'building'),
        PALETTE=[[0, 0, 0], [1, 1, 1]],
        config='norm_cfg = ...',
        epoch=1,
        iter=40000,
    )
    optimizer = dict(state={}, param_groups=[dict(lr=0.01, params=[0])])
    content = dict(meta=meta, state_dict=state_dict, optimizer=optimizer)
    torch.save(content, path)
    return path


def test_the_originals_keys_are_those_of_the_specification(original):
    keys = {key for key in original.state_dict() if key.startswith('decode_head.')}
    norms = [f'decode_head.convs.{i}.bn' for i in (0, 1)]
    norms += ['decode_head.conv_cat.bn', f'{BLOCK}stages.0.bn']
    entries = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    assert keys == {
        *(f'decode_head.{name}.conv.weight' for name in ('convs.0', 'convs.1')),
        'decode_head.conv_cat.conv.weight',
        f'{BLOCK}t.weight',
        f'{BLOCK}p.weight',
        *(f'{BLOCK}stages.0.{name}.weight' for name in ('g', 'w_1', 'w_2')),
        'decode_head.conv_seg.weight',
        'decode_head.conv_seg.bias',
        *(f'{norm}.{entry}' for norm in norms for entry in entries),
    }


def test_converted_weights_give_the_same_predictions(
    original, converter, root, tmp_path, monkeypatch
):
    source = save(tmp_path / 'snl.pth', original.state_dict())
    out = tmp_path / 'ours.pth'
    argv = ['convert', str(source), str(out), '--config', str(root / CONFIG)]
    monkeypatch.setattr(sys, 'argv', argv)
    converter.main()
    checkpoint = torch.load(out, weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('sky', 'building')
    model = converter.build_model(root / CONFIG, 11)
    model.load_state_dict(checkpoint['state_dict'])
    original.double()
    model.double().eval()
    x = torch.randn(2, 3, 64, 80, dtype=torch.float64)
    features = original.extract_feat(x)
    theirs, ours = original.decode_head(features), model.decode_head(features)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        model.encode_decode(x, [dict(img_shape=(64, 80))]).argmax(1),
        F.interpolate(theirs, (64, 80), mode='bilinear').argmax(1),
    )
    report = out.with_suffix('.txt').read_text()
    assert f'{BLOCK}stages.0.w_2.weight' in report
    assert len(report.splitlines()) == 1 + len(original.state_dict())


def test_the_command_line_refuses_in_one_sentence(root, original, tmp_path):
    state = original.state_dict()
    state['decode_head.conv_seg.weight'] = state['decode_head.conv_seg.weight'][:, :7]
    source = save(tmp_path / 'snl.pth', state)
    out = tmp_path / 'ours.pth'
    script = root / 'tools/model_converters/snl_segmentation_to_mmseg.py'
    result = subprocess.run(
        [sys.executable, script, source, out, '--config', root / CONFIG],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('error:') and 'decode_head.conv_seg.weight' in last
    assert not list(tmp_path.glob('ours*'))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda state: state.pop(f'{BLOCK}stages.0.w_1.weight'), 'not of SNL-MMSeg'),
        (
            lambda state: state.pop(f'{BLOCK}t.weight'),
            r'lacks the key .*SNL\.t\.weight',
        ),
        (
            lambda state: state.update(
                {f'{BLOCK}stages.1.g.weight': torch.zeros(1, 1, 1, 1)}
            ),
            'more than one stage',
        ),
    ],
)
def test_another_network_is_refused(original, converter, change, message):
    state = dict(original.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        converter.convert(state).finish()


NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
SKELETON = {
    'convs.0.conv.weight': (512, 2048, 3, 3),
    'convs.1.conv.weight': (512, 512, 3, 3),
    'conv_cat.conv.weight': (512, 2560, 3, 3),
    'conv_seg.weight': (19, 512, 1, 1),
    'conv_seg.bias': (19,),
    **{
        f'{name}.bn.{entry}': () if entry == NORM[-1] else (512,)
        for name in ('convs.0', 'convs.1', 'conv_cat')
        for entry in NORM
    },
}


def published_keys(block):
    """Keys and shapes of the head in the model zoo's NLNet and DNLNet files."""
    keys = dict(SKELETON)
    for name in ('g', 'theta', 'phi'):
        keys[f'{block}.{name}.conv.weight'] = (256, 512, 1, 1)
        keys[f'{block}.{name}.conv.bias'] = (256,)
    keys[f'{block}.conv_out.conv.weight'] = (512, 256, 1, 1)
    for entry in NORM:
        keys[f'{block}.conv_out.bn.{entry}'] = () if entry == NORM[-1] else (512,)
    if block == 'dnl_block':
        keys['dnl_block.conv_mask.weight'] = (1, 512, 1, 1)
        keys['dnl_block.conv_mask.bias'] = (1,)
    return keys


@pytest.mark.parametrize(
    'block, head',
    [
        ('nl_block', dict(type='NLHead')),
        ('nl_block', dict(type='NonLocalHead', block=dict(type='NLBlock'))),
        ('dnl_block', dict(type='DNLHead')),
        ('dnl_block', dict(type='NonLocalHead', block=dict(type='DNLBlock'))),
    ],
)
def test_published_mmseg_checkpoints_load_unchanged(block, head):
    init_default_scope('mmseg')
    options = dict(in_channels=2048, in_index=3, channels=512, num_classes=19)
    head = MODELS.build({**head, **options, 'norm_cfg': dict(type='BN')})
    state = {
        key: torch.zeros(shape, dtype=torch.int64 if key.endswith(NORM[-1]) else None)
        for key, shape in published_keys(block).items()
    }
    result = head.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    assert len(state) == len(head.state_dict())


@pytest.mark.parametrize(
    'upstream, block', [('NLHead', 'NLBlock'), ('DNLHead', 'DNLBlock')]
)
def test_accelerated_stock_heads_give_the_same_result(upstream, block):
    from nl_plugins import accelerate

    init_default_scope('mmseg')
    options = dict(
        in_channels=6, in_index=0, channels=16, num_classes=5, norm_cfg=dict(type='BN')
    )
    stock = randomise(MODELS.build({'type': upstream, **options})).double().eval()
    ours = MODELS.build(
        {'type': 'NonLocalHead', 'block': dict(type=block), **options}
    ).double()
    ours.load_state_dict(stock.state_dict())
    x = [torch.randn(2, 6, 5, 7, dtype=torch.float64)]
    accelerate.undo()
    plain = stock(x)
    accelerate.apply()
    try:
        fast = stock(x)
    finally:
        accelerate.undo()
    # DNLHead rounds its temperature to float32.
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.eval()(x), plain, rtol=1e-6, atol=1e-6)
