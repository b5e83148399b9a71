# Copyright (c) The nl_plugins authors. All rights reserved.
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from nl_plugins.blocks import BLOCKS  # noqa: E402
from nl_plugins.segmentation import decode_heads  # noqa: E402

ORIGINAL = dict(in_channels=2048, in_index=3, channels=512, num_classes=19)
TINY = dict(in_channels=6, in_index=0, channels=16, num_classes=5)
BN = dict(type='BN')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def build(head, **options):
    return MODELS.build({'type': head, 'norm_cfg': BN, **options})


def randomise(module, seed=0):
    """Random parameters and running statistics, norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            value = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(value + 0.5 if 'bn' in name else value - 0.5)
    return module


@pytest.mark.parametrize(
    'head, options, expected',
    [
        ('SNLHead', {}, 24_262_163),
        ('NLHead', {}, 24_131_859),
        ('NonLocalHead', dict(block=dict(type='NLBlock')), 24_131_859),
        ('NonLocalHead', dict(block=dict(type='DNLBlock')), 24_132_372),
        # FCNHead 23,605,779; t, p, g 3*512*256; z 512*256/8; group norm 2*512
        ('CGNLHead', {}, 23_605_779 + 3 * 512 * 256 + 512 * 32 + 1024),
        # theta and its bias, 3x3 depthwise, output and its bias, norm
        (
            'RNLHead',
            {},
            23_605_779 + 257 * 512 + 512 + 256 * 9 + 512 * 256 - 256 + 1024,
        ),
    ],
)
def test_parameter_count_at_the_original_setting(head, options, expected):
    with torch.device('meta'):
        head = build(head, **ORIGINAL, **options)
    assert sum(p.numel() for p in head.parameters()) == expected


def conv_bn_relu(x, state, name, training):
    x = F.conv2d(x, state[f'{name}.conv.weight'], padding=1)
    return F.relu(batch_norm(x, state, f'{name}.bn', training))


def batch_norm(x, state, name, training):
    return F.batch_norm(
        x,
        state[f'{name}.running_mean'].clone(),
        state[f'{name}.running_var'].clone(),
        state[f'{name}.weight'],
        state[f'{name}.bias'],
        training,
    )


def dense_snl_head(x, state, training):
    """The original head, from its formula, with the N x N matrix."""
    y = conv_bn_relu(x, state, 'convs.0', training)
    batch, channels, height, width = y.shape

    def project(name):
        return torch.einsum(
            'oc,bcn->bon',
            state[f'nl_block.{name}.conv.weight'][..., 0, 0],
            y.flatten(2),
        )

    t, p, g = F.relu(project('theta')), F.relu(project('phi')), project('g')
    a = torch.einsum('bci,bcj->bij', t, p)
    a = (a + a.transpose(1, 2)) / 2
    degree = a.sum(-1)
    root = torch.where(degree > 0, degree.clamp(min=1e-300) ** -0.5, 0.0 * degree)
    a = root[:, :, None] * a * root[:, None, :]
    w_1, w_2 = state['nl_block.conv_out.conv.weight'][..., 0, 0].chunk(2, dim=1)
    z = torch.einsum('oc,bcn->bon', w_1, g)
    z = z - torch.einsum('oc,bci,bji->boj', w_2, g, a)
    z = z.reshape(batch, channels, height, width)
    y = y + F.relu(batch_norm(z, state, 'nl_block.conv_out.bn', training))
    y = conv_bn_relu(y, state, 'convs.1', training)
    y = conv_bn_relu(torch.cat([x, y], dim=1), state, 'conv_cat', training)
    return F.conv2d(y, state['conv_seg.weight'], state['conv_seg.bias'])


@pytest.mark.parametrize('training', [False, True])
def test_snl_head_is_the_originals_formula(training):
    head = randomise(build('SNLHead', **TINY, dropout_ratio=0).double())
    head.train(training)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    state = {key: value.detach().clone() for key, value in head.state_dict().items()}
    expected = dense_snl_head(x, state, training)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    out = head([x])
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    'upstream, block, prefix',
    [('NLHead', 'NLBlock', 'nl_block'), ('DNLHead', 'DNLBlock', 'dnl_block')],
)
def test_upstream_weights_load_unchanged(upstream, block, prefix):
    theirs = randomise(build(upstream, **TINY)).double().eval()
    ours = build('NonLocalHead', **TINY, block=dict(type=block)).double().eval()
    state = theirs.state_dict()
    assert f'{prefix}.conv_out.bn.weight' in state
    result = ours.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    # DNLHead rounds its temperature to float32.
    torch.testing.assert_close(ours([x]), theirs([x]), rtol=1e-6, atol=1e-6)


def test_loading_leaves_the_given_state_dict_alone():
    theirs = build('DNLHead', **TINY)
    state = theirs.state_dict()
    names = list(state)
    build('NonLocalHead', **TINY, block=dict(type='DNLBlock')).load_state_dict(state)
    assert list(state) == names


def test_snl_head_starts_as_the_original():
    torch.manual_seed(0)
    head = build('SNLHead', in_channels=8, in_index=0, channels=128, num_classes=19)
    head.init_weights()
    head.init_weights()
    block = head.nl_block
    assert block.sign == -1
    assert (block.conv_out.bn.weight == 1).all() and (block.conv_out.bn.bias == 0).all()
    for layer, fan_out in ((block.theta, 64), (block.g, 64), (block.conv_out, 128)):
        std = (2 / fan_out) ** 0.5
        assert layer.conv.weight.std().item() == pytest.approx(std, rel=0.05)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize('block', sorted(BLOCKS))
def test_every_block_fits_between_the_convolutions(block):
    own = {'CCBlock': dict(norm_cfg=None), 'ChannelGate': dict(norm_cfg=None)}
    head = build('NonLocalHead', **TINY, block=dict(type=block, **own.get(block, {})))
    head.init_weights()
    x = torch.randn(2, 6, 8, 9, requires_grad=True)
    out = head([x])
    assert out.shape == (2, 5, 8, 9)
    out.sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize('head', ['CGNLHead', 'RNLHead'])
def test_a_new_head_equals_the_fcn_head(head):
    # The blocks start as the identity.
    ours, fcn = build(head, **TINY).eval(), build('FCNHead', **TINY).eval()
    ours.init_weights()
    fcn.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if not k.startswith('nl_block')}
    )
    x = torch.randn(1, 6, 7, 8)
    torch.testing.assert_close(ours([x]), fcn([x]), rtol=0, atol=0)


def test_cgnl_keeps_its_group_norm_and_others_take_the_heads_norm():
    assert isinstance(
        build('CGNLHead', **TINY).nl_block.conv_out.norm, torch.nn.GroupNorm
    )
    sync = dict(type='SyncBN', requires_grad=True)
    head = build('RNLHead', **{**TINY, 'norm_cfg': sync})
    assert isinstance(head.nl_block.conv_out.norm, torch.nn.SyncBatchNorm)
    own = dict(type='NLBlock', norm_cfg=None)
    head = build('NonLocalHead', **TINY, block=own)
    assert head.nl_block.conv_out.norm is None


@pytest.mark.parametrize('concat_input', [True, False])
def test_features_are_what_the_classifier_sees(concat_input):
    head = build('SNLHead', **TINY, concat_input=concat_input).eval()
    x = [torch.randn(1, 6, 5, 6)]
    features = head._forward_feature(x)
    assert features.shape == (1, 16, 5, 6)
    torch.testing.assert_close(head.cls_seg(features), head(x))


def segmentor(neck=None, **head):
    norm = dict(type='BN')
    return MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
            backbone=dict(
                type='ResNetV1c',
                depth=18,
                stem_channels=8,
                base_channels=8,
                strides=(1, 2, 1, 1),
                dilations=(1, 1, 2, 4),
                norm_cfg=norm,
            ),
            neck=neck,
            decode_head=dict(
                in_channels=64,
                in_index=3,
                channels=16,
                num_classes=5,
                norm_cfg=norm,
                align_corners=True,
                **head,
            ),
            auxiliary_head=dict(
                type='FCNHead',
                in_channels=32,
                in_index=2,
                channels=8,
                num_convs=1,
                concat_input=False,
                num_classes=5,
                norm_cfg=norm,
                loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
            ),
            train_cfg=dict(),
            test_cfg=ConfigDict(mode='whole'),
        )
    )


@pytest.mark.parametrize('head', ['SNLHead', 'CGNLHead', 'RNLHead'])
def test_losses_sampling_and_prediction_are_mmsegs(head):
    model = segmentor(
        type=head,
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20),
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(type='CrossEntropyLoss', loss_name='loss_half', loss_weight=0.5),
        ],
    )
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 32, 32))),
            metainfo=dict(img_shape=(32, 32), ori_shape=(24, 40)),
        )
        for _ in range(2)
    ]
    x = torch.randn(2, 3, 32, 32)
    losses = model(x, samples, mode='loss')
    assert {'decode.loss_ce', 'decode.loss_half', 'aux.loss_ce'} <= set(losses)
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    predicted = model.eval()(x, samples, mode='predict')
    assert predicted[0].pred_sem_seg.data.shape == (1, 24, 40)


def test_options_of_old_configs_are_accepted_with_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr(
        decode_heads, 'print_log', lambda message, **_: messages.append(message)
    )
    plain = build('SNLHead', **TINY)
    assert not messages
    old = build('SNLHead', **TINY, use_scale=True, mode='embedded_gaussian')
    assert 'use_scale and mode had no effect' in messages[0]
    old.load_state_dict(plain.state_dict())
    x = [torch.randn(1, 6, 4, 4)]
    torch.testing.assert_close(old.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(type='SNLHead', num_convs=1), 'num_convs must be 2'),
        (
            dict(type='NonLocalHead', block=dict(reduction=2)),
            "block must be a dict with the key 'type'",
        ),
        (
            dict(type='NonLocalHead', block='SNLBlock'),
            "block must be a dict .* got 'SNLBlock'",
        ),
        (dict(type='CGNLHead', groups=3), 'groups must divide'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({**TINY, **options})


def test_a_misspelt_block_option_is_named():
    with pytest.raises(TypeError, match='reductoin.*did you mean'):
        build('SNLHead', **TINY, block=dict(reductoin=2))


def test_neck_feeds_both_heads():
    neck = dict(
        type='NonLocalNeck',
        in_channels=[8, 16, 32, 64],
        block=dict(type='SNLBlock', zeros_init=False),
        levels=[2, -1],
    )
    model, plain = segmentor(neck, type='FCNHead'), segmentor(type='FCNHead')
    model.init_weights()
    loaded = plain.load_state_dict(model.state_dict(), strict=False)
    assert not loaded.missing_keys
    assert all(key.startswith('neck.level') for key in loaded.unexpected_keys)
    x = torch.randn(1, 3, 32, 32)
    ours, theirs = model.eval().extract_feat(x), plain.eval().extract_feat(x)
    assert [f.shape for f in ours] == [f.shape for f in theirs]
    changed = [not torch.equal(a, b) for a, b in zip(ours, theirs)]
    assert changed == [False, False, True, True]
    inner = model.neck.level3
    torch.testing.assert_close(ours[3], inner(theirs[3]))


def test_a_new_neck_changes_nothing():
    neck = dict(
        type='NonLocalNeck', in_channels=[8, 16, 32, 64], block=dict(type='SNLBlock')
    )
    model = segmentor(neck, type='FCNHead')
    model.init_weights()
    x = torch.randn(1, 3, 32, 32)
    model.eval()
    for a, b in zip(model.extract_feat(x), model.backbone(x)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_level_that_does_not_exist_is_named():
    neck = dict(
        type='NonLocalNeck',
        in_channels=[8, 16],
        block=dict(type='SNLBlock'),
        levels=[2],
    )
    with pytest.raises(ValueError, match='level 2 does not exist'):
        segmentor(neck, type='FCNHead')
