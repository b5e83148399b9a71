# Copyright (c) The nl_plugins authors. All rights reserved.
"""Checkpoints of the video originals, with their exact names and shapes."""

import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import video_originals as originals

pytest.importorskip('mmaction')

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools/model_converters'))

import caffe2_blobs  # noqa: E402
import inception_i3d_to_mmaction as inception  # noqa: E402
import nl_resnet3d_to_mmaction as resnet3d  # noqa: E402
import torchvision_to_mmaction as torchvision  # noqa: E402
import tsm_to_mmaction as tsm  # noqa: E402
from conversion import Checkpoint  # noqa: E402
from mmengine.config import Config  # noqa: E402
from video_keys import base_model, build  # noqa: E402


def shrink(state_dict: dict) -> dict:
    """In half precision, to write less."""
    return {k: v.half() if v.is_floating_point() else v for k, v in state_dict.items()}


def training_checkpoint(path: Path, state_dict: dict, **meta) -> Path:
    """What the originals' training scripts save."""
    state = {f'module.{key}': value for key, value in shrink(state_dict).items()}
    optimizer = dict(state={}, param_groups=[dict(lr=0.01, params=[0])])
    torch.save(dict(state_dict=state, optimizer=optimizer, **meta), path)
    return path


def convert(module, monkeypatch, capsys, *arguments) -> str:
    """Run a converter's command line; what it printed."""
    monkeypatch.setattr(sys, 'argv', ['convert', *map(str, arguments)])
    module.run(module.main)
    return capsys.readouterr().out


@pytest.fixture(scope='module')
def rnl_state():
    return originals.draw_tsm(rnl_blocks=originals.RNL_R50)


@pytest.fixture(scope='module')
def i3d_state():
    return originals.draw_resnet3d(blocks=originals.NL_5[50])


# ------------------------------------------------------------- RNL and TSM


def test_rnl_has_the_tensors_of_the_specification(rnl_state):
    counters = [key for key in rnl_state if key.endswith('num_batches_tracked')]
    assert len(rnl_state) == 386 and len(counters) == 59
    shapes = {key: tuple(value.shape) for key, value in rnl_state.items()}
    assert shapes['base_model.layer2.0.block.conv1.net.weight'] == (128, 256, 1, 1)
    assert shapes['base_model.layer2.0.cg.W_v1.weight'] == (256, 512)
    assert shapes['base_model.layer2.0.nl.penta.weight'] == (256, 32, 3, 7, 7)
    assert shapes['base_model.layer3.4.nl.penta.mask'] == (512, 32, 3, 3, 3)
    assert shapes['base_model.layer3.4.nl.W.0.weight'] == (1024, 512, 1, 1, 1)


def test_rnl_command(rnl_state, tmp_path, monkeypatch, capsys):
    name = 'TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment16_e100_nl.pth.tar'
    source = training_checkpoint(
        tmp_path / name, rnl_state, epoch=99, arch='resnet50', best_acc1=75.6
    )
    out, config = tmp_path / 'rnl.pth', tmp_path / 'rnl.py'
    printed = convert(tsm, monkeypatch, capsys, source, out, '--write-config', config)
    assert '381 keys moved, 5 dropped, 0 added' in printed
    report = out.with_suffix('.txt').read_text()
    lines = report.splitlines()[1:]
    assert [line.split(' ')[0] for line in lines] == list(rnl_state)
    assert report.count('dropped: a constant') == 5

    state = torch.load(out, weights_only=True)['state_dict']
    kernel = state['backbone.layer2.0.rnl_block.region.weight']
    assert kernel.shape == (256, 1, 3, 7, 7)
    model = Config.fromfile(config).model
    assert model.backbone.backbone.num_segments == 16
    assert model.backbone.inserts[0].num_segments == 16
    assert model.cls_head.num_segments == 16
    assert model.cls_head.num_classes == 7
    with torch.device('meta'):
        recogniser = build(model)
    assert sorted(recogniser.state_dict()) == sorted(state)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [name, 'rnl.pth', 'rnl.txt', 'rnl.py']
    )


def test_depthwise_kernel_computes_what_the_masked_dense_one_does():
    draw = originals.Draw()
    originals.draw_rnl(draw, 'nl', 128, (3, 5, 7), 2)
    weight, mask = (draw.state[f'nl.penta.{name}'] for name in ('weight', 'mask'))
    x = torch.randn(2, 64, 4, 9, 9, dtype=torch.float64)
    pad = (1, 2, 3)
    wanted = F.conv3d(x, weight * mask, padding=pad, groups=64 // 32)
    found = F.conv3d(x, tsm.depthwise(weight, mask), padding=pad, groups=64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_mask_that_is_not_the_diagonal_is_refused():
    weight = torch.rand(64, 32, 1, 3, 3)
    with pytest.raises(ValueError, match='no depthwise convolution'):
        tsm.depthwise(weight, torch.ones_like(weight))


def test_weights_outside_the_mask_are_reported(capsys):
    draw = originals.Draw()
    originals.draw_rnl(draw, 'base_model.layer3.0.nl', 64, (3, 3, 3), 2)
    draw.state['base_model.layer3.0.nl.penta.weight'] += 0.25
    report = tsm.convert(draw.state).report()
    assert 'weights up to 0.25 outside it had no effect' in report
    assert 'warning: base_model.layer3.0.nl.penta.weight' in capsys.readouterr().err


def test_placement_kernels_and_gates_are_read_from_the_keys():
    placement = {
        (1, 1): (True, (1, 3, 3)),
        (2, 3): (False, (1, 1, 1)),
        (3, 10): (True, (3, 5, 5)),
        (3, 2): (False, (3, 3, 3)),
    }
    state = {
        key: value.to('meta')
        for key, value in originals.draw_tsm(101, rnl_blocks=placement).items()
    }
    model = tsm.model_config(state, 8)
    assert model.backbone.backbone.depth == 101
    assert [insert.after for insert in model.backbone.inserts] == [
        'layer1.1',
        'layer2.3',
        'layer3.2',
        'layer3.10',
    ]
    found = {
        insert.after: (
            insert.cfg[0].type == 'ChannelGate',
            insert.cfg[-1].kernel_size,
        )
        for insert in model.backbone.inserts
    }
    assert found == {f'layer{s}.{b}': tuple(v) for (s, b), v in placement.items()}


@pytest.mark.parametrize('name', ['new_fc', 'base_model.fc', 'base_model.classifier'])
def test_every_name_of_the_classifier(name):
    state = {f'{name}.weight': torch.rand(3, 8), f'{name}.bias': torch.rand(3)}
    found = tsm.convert(state).finish()
    assert torch.equal(found['cls_head.fc_cls.weight'], state[f'{name}.weight'])
    assert torch.equal(found['cls_head.fc_cls.bias'], state[f'{name}.bias'])


def test_alphabetical_classes_take_the_order_of_the_label_map(tmp_path):
    labels = ['Holding something', 'Turning something', 'Approaching', 'Closing']
    label_map = tmp_path / 'label_map.txt'
    label_map.write_text('\n'.join(labels) + '\n')
    order = tsm.class_order(label_map, 4)
    assert [sorted(labels)[row] for row in order] == labels
    rows = torch.arange(4.0)
    state = {'new_fc.weight': rows.view(4, 1), 'new_fc.bias': rows}
    found = tsm.convert(state, order).finish()
    assert found['cls_head.fc_cls.bias'].tolist() == [2, 3, 0, 1]
    assert found['cls_head.fc_cls.weight'].flatten().tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    'text, message',
    [('a\nb\n', '2 class names, 2 of them'), ('a\nb\nb\n', '3 class names, 2 of them')],
)
def test_a_label_map_of_other_classes_is_refused(tmp_path, text, message):
    label_map = tmp_path / 'labels.txt'
    label_map.write_text(text)
    with pytest.raises(ValueError, match=f'{message}.*3 rows'):
        tsm.class_order(label_map, 3)
    with pytest.raises(ValueError, match='no list of class names'):
        tsm.class_order(tmp_path / 'absent.txt', 3)


def test_rnl_does_not_fit_mmaction2s_own_network(rnl_state):
    with pytest.raises(ValueError, match='without --stock'):
        tsm.model_config(rnl_state, 8, stock=True)


def test_unknown_keys_and_other_networks_are_refused(rnl_state):
    with pytest.raises(ValueError, match="no TSM: it lacks .*'conv1.weight'"):
        tsm.model_config({'conv1.weight': torch.zeros(1)}, 8)
    pooled = {'base_model.layer2.net.0.conv1.net.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match='1 keys of the checkpoint have no place'):
        tsm.convert(pooled).finish()
    shallow = {k: v for k, v in rnl_state.items() if 'layer3.5' not in k}
    with pytest.raises(ValueError, match=r'\(3, 4, 5, 3\) residual blocks'):
        tsm.model_config(shallow, 8)


# ------------------------------------------------------------- Inception-I3D


@pytest.mark.parametrize('non_local, channels', [(True, 2), (False, 3)])
def test_inception_command(non_local, channels, tmp_path, monkeypatch, capsys):
    state = originals.draw_inception(channels, 51, non_local=non_local)
    if non_local:
        source = training_checkpoint(
            tmp_path / 'save_7.pth', state, epoch=8, arch='i3d-18'
        )
    else:  # as exported from TensorFlow: a bare state dict without counters
        state = {
            k: torch.ones_like(v) if k.endswith('batch3d.weight') else v
            for k, v in state.items()
            if 'num_batches' not in k
        }
        source = tmp_path / 'model_rgb.pth'
        torch.save(shrink(state), source)
    out = tmp_path / 'ours.pth'
    printed = convert(inception, monkeypatch, capsys, source, out)
    assert f'{len(state)} keys moved, 0 dropped, 0 added' in printed
    assert f'its norms is {"1e-05" if non_local else "0.001"}' in printed
    found = torch.load(out, weights_only=True)['state_dict']
    assert found['cls_head.fc_cls.weight'].shape == (51, 1024)
    assert found['backbone.conv3d_1a_7x7.conv.weight'].shape[1] == channels
    name = 'backbone.mixed_4d.nl_block.theta.conv.weight'
    assert (name in found) == non_local


def _checkpoint(norm_weight, blocks=False, **meta):
    state = {f'mixed_3b.branch_{i}.batch3d.weight': norm_weight for i in range(2)}
    if blocks:
        state['NonLocalBlock_mixed_4.theta.weight'] = torch.ones(1)
    return Checkpoint(state, meta, Path('i3d.pth'))


@pytest.mark.parametrize('arch', [None, 'i3d-18', 'other'])
@pytest.mark.parametrize('blocks', [False, True])
@pytest.mark.parametrize('ones', [False, True])
@pytest.mark.parametrize('given', [None, *inception.NORM_EPS])
def test_the_origin_of_inception_weights(given, ones, blocks, arch):
    norm_weight = torch.ones(3) if ones else torch.tensor([1, 1, 0.9])
    checkpoint = _checkpoint(norm_weight, blocks, **(dict(arch=arch) if arch else {}))
    find = partial(inception.find_origin, checkpoint, given)
    if given == inception.KINETICS and blocks:
        with pytest.raises(ValueError, match='has no non-local blocks'):
            find()
    elif given:
        assert find() == given
    elif blocks or arch == 'i3d-18':
        assert find() == inception.NON_LOCAL_REPOSITORY
    elif ones:
        assert find() == inception.KINETICS
    else:
        with pytest.raises(ValueError, match=r'pass --origin \S+ \(1e-3\) or'):
            find()


def test_a_config_of_another_epsilon_is_refused(tmp_path):
    stock = ROOT / 'configs/recognition/_base_/models/inception_i3d_nl.py'
    inception.check_eps(stock, inception.NON_LOCAL_REPOSITORY)
    with pytest.raises(ValueError, match='epsilon 1e-05, but .* with 0.001: set norm'):
        inception.check_eps(stock, inception.KINETICS)
    config = tmp_path / 'model.py'
    config.write_text(
        "model = dict(backbone=dict(norm_cfg=dict(type='BN3d', eps=1e-3)))"
    )
    inception.check_eps(config, inception.KINETICS)
    with pytest.raises(ValueError, match='pass --origin kinetics_i3d_pytorch'):
        inception.check_eps(config, inception.NON_LOCAL_REPOSITORY)


def test_inception_refuses_other_networks(rnl_state):
    with pytest.raises(ValueError, match='no Inception-I3D'):
        inception.model_config(rnl_state)
    stem = {
        'conv3d_1a_7x7.conv3d.weight': torch.zeros(64, 4, 7, 7, 7),
        'conv3d_0c_1x1.conv3d.weight': torch.zeros(5, 1024, 1, 1, 1),
    }
    with pytest.raises(ValueError, match='takes 4 channels'):
        inception.model_config(stem)


# ------------------------------------------------------------- NL-I3D


def to_caffe2(state: dict) -> dict:
    """The blobs of the specification, from the names of the PyTorch port."""
    statistics = dict(weight='s', bias='b', running_mean='rm', running_var='riv')
    blobs = {}
    for key, value in state.items():
        *where, layer, tensor = key.split('.')
        if tensor == 'num_batches_tracked':
            continue
        if layer == 'fc':
            name = f'pred_{tensor[0]}'
        elif not where:
            name = (
                'conv1_w' if layer == 'conv1' else f'res_conv1_bn_{statistics[tensor]}'
            )
        elif 'nl' in where:
            root = f'nonlocal_conv{int(where[0][5:]) + 1}_{where[1]}_'
            last = (
                f'bn_{statistics[tensor]}' if layer == 'bn' else f'{layer}_{tensor[0]}'
            )
            name = root + last
        else:
            root = f'res{int(where[0][5:]) + 1}_{where[1]}_branch'
            branch = '1' if 'downsample' in where else f'2{"abc"[int(layer[-1]) - 1]}'
            norm = layer.startswith('bn') or (branch == '1' and layer == '1')
            name = f'{root}{branch}_' + (f'bn_{statistics[tensor]}' if norm else 'w')
        blobs[name] = value
    return blobs


def to_slowfast(state: dict) -> dict:
    """SlowFast's keys, from the names of the PyTorch port."""
    keys = {}
    for key, value in state.items():
        *where, layer, tensor = key.split('.')
        if layer == 'fc':
            name = f'head.projection.{tensor}'
        elif not where:
            name = f's1.pathway0_stem.{layer[:-1]}.{tensor}'
        elif 'nl' in where:
            part = 'bn' if layer == 'bn' else f'conv_{layer}'
            stage = int(where[0][5:]) + 1
            name = f's{stage}.pathway0_nonlocal{where[1]}.{part}.{tensor}'
        else:
            root = f's{int(where[0][5:]) + 1}.pathway0_res{where[1]}.'
            if 'downsample' in where:
                name = f'{root}branch1{"_bn" if layer == "1" else ""}.{tensor}'
            else:
                norm = '_bn' if layer.startswith('bn') else ''
                letter = 'abc'[int(layer[-1]) - 1]
                name = f'{root}branch2.{letter}{norm}.{tensor}'
        keys[name] = value
    return keys


def test_names_of_the_specification(i3d_state):
    assert {
        'conv1_w',
        'res_conv1_bn_riv',
        'res2_0_branch1_bn_s',
        'res5_2_branch2c_w',
        'nonlocal_conv3_1_theta_w',
        'nonlocal_conv4_5_bn_rm',
        'pred_b',
    } <= to_caffe2(i3d_state).keys()
    # As in its stem, residual and non-local modules and its import of Caffe2 names.
    assert {
        's1.pathway0_stem.conv.weight',
        's1.pathway0_stem.bn.running_mean',
        's2.pathway0_res0.branch1.weight',
        's2.pathway0_res0.branch1_bn.weight',
        's2.pathway0_res0.branch2.a.weight',
        's2.pathway0_res0.branch2.a_bn.weight',
        's3.pathway0_nonlocal1.conv_theta.weight',
        's4.pathway0_nonlocal5.bn.running_var',
        'head.projection.bias',
    } <= to_slowfast(i3d_state).keys()


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def test_caffe2_and_slowfast_names_give_the_same_as_the_port(i3d_state):
    port = resnet3d.convert(i3d_state).finish()
    assert equal(resnet3d.convert(to_slowfast(i3d_state)).finish(), port)
    blobs = {**to_caffe2(i3d_state), 'conv1_w_momentum': torch.ones(1)}
    blobs.update(lr=torch.ones(1), model_iter=torch.ones(1))
    conversion = resnet3d.convert(blobs)
    counted = {k: v for k, v in port.items() if 'num_batches' not in k}
    assert equal(conversion.finish(), counted)
    assert conversion.report().count('dropped: state of training') == 3
    wanted = resnet3d.model_config(i3d_state)
    assert resnet3d.model_config(blobs) == wanted
    assert resnet3d.model_config(to_slowfast(i3d_state)) == wanted


def test_caffe2_command(i3d_state, tmp_path, monkeypatch, capsys):
    blobs = {name: v.numpy().astype('f2') for name, v in to_caffe2(i3d_state).items()}
    source = tmp_path / 'i3d_nonlocal_32x2.pkl'
    source.write_bytes(pickle.dumps(dict(blobs=blobs), protocol=2))
    out = tmp_path / 'nl_i3d.pth'
    printed = convert(resnet3d, monkeypatch, capsys, source, out)
    assert f'{len(blobs)} keys moved, 0 dropped, 0 added' in printed
    found = torch.load(out, weights_only=True)['state_dict']
    variance = found['backbone.conv1.bn.running_var']
    assert np.array_equal(variance, blobs['res_conv1_bn_riv'])


def test_affine_models_become_norms_that_compute_the_affine_map():
    draw = originals.Draw()
    originals.draw_nl(draw, 'layer2.1.nl', 8, 4)
    draw.conv('layer2.1.conv1', 4, 8, 1, 1, 1)
    draw.norm('layer2.1.bn1', 4)
    blobs = {
        name: value
        for name, value in to_caffe2(draw.state).items()
        if not name.endswith(('_rm', '_riv')) and 'nonlocal_conv3_1_bn' not in name
    }
    blobs['conv1_w'] = torch.ones(4, 3, 1, 7, 7)
    conversion = resnet3d.convert(blobs)
    state = conversion.finish()
    assert 'the norm is a fixed affine map' in conversion.report()
    assert not [key for key in state if 'nl_block.conv_out.bn' in key]
    norm = torch.nn.BatchNorm3d(4).double().eval()
    prefix = 'backbone.layer2.1.conv1.bn.'
    norm.load_state_dict(
        {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)},
        strict=False,
    )
    x = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64)
    scale, shift = (
        blobs[f'res3_1_branch2a_bn_{name}'].view(4, 1, 1, 1) for name in 'sb'
    )
    torch.testing.assert_close(norm(x), x * scale + shift, rtol=0, atol=1e-12)


def test_affine_non_local_blocks_have_no_norm(i3d_state):
    blobs = {
        name: value
        for name, value in to_caffe2(i3d_state).items()
        if not name.endswith(('_rm', '_riv'))
        and not (name.startswith('nonlocal') and '_bn_' in name)
    }
    model = resnet3d.model_config(blobs)
    near, far = model.backbone.inserts
    assert near.cfg.norm_cfg is None and far.cfg.norm_cfg is None
    assert near.after == ['layer2.1', 'layer2.3']
    assert (near.cfg.type, near.cfg.group_size) == ('GroupedNLBlock', 4)
    assert (far.cfg.type, far.after[0]) == ('NLBlock', 'layer3.1')
    with torch.device('meta'):
        wanted = build(model).state_dict()
    found = resnet3d.convert(blobs).finish()
    assert found.keys() == {k for k in wanted if 'num_batches' not in k}


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    source, trap = tmp_path / 'evil.pkl', tmp_path / 'trap'
    source.write_bytes(pickle.dumps(dict(blobs=dict(conv1_w=Malicious(trap)))))
    with pytest.raises(ValueError, match='mkdir, which is not loaded'):
        caffe2_blobs.load_blobs(source)
    assert not trap.exists()


@pytest.mark.parametrize(
    'content, message',
    [
        (pickle.dumps(dict(blobs=dict(a=np.ones(3))))[:-20], 'cannot be read'),
        (pickle.dumps([1, 2]), 'holds no blobs'),
        (pickle.dumps(dict(blobs={})), 'holds no blobs'),
        (pickle.dumps(dict(blobs={'a': 'text'})), "'a' is no array of numbers"),
        (pickle.dumps(dict(blobs={3: np.ones(1)})), 'called 3'),
    ],
    ids=['truncated', 'list', 'empty', 'text', 'number'],
)
def test_damaged_blobs_are_named(tmp_path, content, message):
    source = tmp_path / 'blobs.pkl'
    source.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        caffe2_blobs.load_blobs(source)
    with pytest.raises(ValueError, match='there is no file'):
        caffe2_blobs.load_blobs(tmp_path / 'absent.pkl')


def test_blobs_of_python_2_are_read(tmp_path):
    # Python 2 wrote the bytes of an array as a string: numpy.core names, latin-1.
    array = np.arange(3, dtype='<f4')
    text = pickle.dumps(dict(blobs=dict(conv1_w=array)), protocol=2)
    text = text.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    source = tmp_path / 'old.pkl'
    source.write_bytes(text)
    assert caffe2_blobs.load_blobs(source)['conv1_w'].tolist() == [0, 1, 2]


def test_unknown_blobs_are_refused(i3d_state):
    with pytest.raises(ValueError, match="unknown blob 'res7_x'"):
        resnet3d.convert({**to_caffe2(i3d_state), 'res7_x': torch.ones(1)})


def test_tea1528_has_its_block_before_the_last_one():
    state = originals.draw_tea()
    assert len(state) == 333
    found = resnet3d.convert(state).finish()
    theta = found['backbone.layer3.4.nl_block.theta.conv.weight']
    assert torch.equal(theta, state['layer3.5.theta.weight'])
    last = found['backbone.layer3.5.conv1.conv.weight']
    assert torch.equal(last, state['layer3.6.conv1.weight'])
    with torch.device('meta'):
        wanted = build(resnet3d.model_config(state)).state_dict()
    assert found.keys() == wanted.keys()


def test_the_users_config_is_checked(i3d_state, tmp_path, monkeypatch, capsys):
    source = training_checkpoint(tmp_path / 'i3d.pth', i3d_state)
    models = ROOT / 'configs/recognition/_base_/models'
    out = tmp_path / 'out.pth'
    arguments = (source, out, '--config', models / 'nl_i3d_r50_10block.py')
    with pytest.raises(SystemExit, match='error: .*: the weights do not fit'):
        convert(resnet3d, monkeypatch, capsys, *arguments)
    assert not out.exists()


# ------------------------------------------------------------- and back


@pytest.mark.parametrize(
    'name', ['rnl_state', 'i3d_state', 'tea', 'tsm_nl', 'inception']
)
def test_round_trip(name, request):
    if name == 'tea':  # comes back with the port's names
        state, module = originals.draw_tea(non_local=False), resnet3d
    elif name == 'tsm_nl':
        state, module = originals.draw_tsm(nl_blocks=originals.TSM_NL_R50), tsm
    elif name == 'inception':
        state, module = originals.draw_inception(2), inception
    else:
        state = request.getfixturevalue(name)
        module = tsm if name == 'rnl_state' else resnet3d
    ours = module.convert(state).finish()
    assert equal(module.to_original(ours).finish(), state)


def test_round_trip_of_a_block_without_norm_and_regions():
    prefix = 'base_model.layer3.1.nl.'
    state = {
        f'{prefix}theta.weight': torch.rand(4, 8, 1, 1, 1),
        f'{prefix}theta.bias': torch.rand(4),
        f'{prefix}W.weight': torch.rand(8, 4, 1, 1, 1),
        f'{prefix}W.bias': torch.rand(8),
    }
    ours = tsm.convert(state).finish()
    assert 'backbone.layer3.1.rnl_block.conv_out.conv.weight' in ours
    assert equal(tsm.to_original(ours).finish(), state)


def test_back_command(tmp_path, monkeypatch, capsys):
    state = {
        'backbone.conv1.conv.weight': torch.rand(64, 3, 7, 7),
        'cls_head.fc_cls.bias': torch.rand(3),
    }
    source, out = tmp_path / 'ours.pth', tmp_path / 'original.pth.tar'
    torch.save(dict(state_dict=state), source)
    printed = convert(tsm, monkeypatch, capsys, source, out, '--back')
    assert '2 keys moved' in printed
    found = torch.load(out, weights_only=True)['state_dict']
    assert list(found) == ['module.base_model.conv1.weight', 'module.new_fc.bias']


def test_back_refuses_other_networks():
    for module in (tsm, inception, resnet3d):
        with pytest.raises(ValueError, match='have no place'):
            module.to_original({'backbone.norm1.weight': torch.ones(1)}).finish()


# ------------------------------------------------------------- torchvision


@pytest.fixture(scope='module')
def image_state():
    """A torchvision ResNet-50: TSM without shift, prefix and classes of video."""
    state = originals.draw_tsm(shift=False, classes=1000)
    return {
        key.removeprefix('base_model.').replace('new_fc.', 'fc.'): value
        for key, value in state.items()
    }


@pytest.mark.parametrize('name', ['rnl_tsm_r50', 'nl_tsm_r50'])
def test_torchvision_weights_fill_the_tsm_backbone(image_state, name):
    model = base_model(name)
    with torch.device('meta'):
        backbone = build(model).backbone
    conversion = torchvision.convert(image_state, backbone)
    found = conversion.finish()
    assert conversion.summary() == '318 keys moved, 2 dropped, 0 added'
    shifted = found['backbone.layer2.0.conv1.conv.net.weight']
    assert torch.equal(shifted, image_state['layer2.0.conv1.weight'])
    assert not [key for key in found if 'block' in key or 'gate' in key]


def test_torchvision_weights_are_inflated_as_mmaction2_does(image_state):
    from mmaction.models import ResNet3d

    with torch.device('meta'):
        backbone = build(base_model('nl_i3d_r50')).backbone
    found = torchvision.convert(image_state, backbone).finish()
    for layer in ('conv1', 'layer2.0.conv1', 'layer2.1.conv1', 'layer4.0.downsample'):
        conv = torch.nn.Conv3d(1, 1, 1).double()
        weight = found[f'backbone.{layer}.conv.weight']
        conv.weight = torch.nn.Parameter(torch.empty_like(weight))
        conv.bias = None
        old = f'{layer}.0' if 'downsample' in layer else layer
        ResNet3d._inflate_conv_params(conv, image_state, old, [])
        assert torch.equal(conv.weight, weight)


def test_torchvision_weights_of_another_depth_are_refused(image_state):
    with torch.device('meta'):
        deeper = build(base_model('rnl_tsm_r101')).backbone
    with pytest.raises(ValueError, match=r'lacks \d+ tensors.*same depth'):
        torchvision.convert(image_state, deeper)
    wider = {**image_state, 'conv1.weight': torch.zeros(32, 3, 7, 7)}
    with torch.device('meta'):
        backbone = build(base_model('rnl_tsm_r50')).backbone
    with pytest.raises(ValueError, match=r'\(32, 3, 7, 7\).*\(64, 3, 7, 7\)'):
        torchvision.convert(wider, backbone)


def test_torchvision_command_takes_caffe2_images(
    image_state, tmp_path, monkeypatch, capsys
):
    blobs = {name: v.numpy().astype('f2') for name, v in to_caffe2(image_state).items()}
    source = tmp_path / 'r50.pkl'
    source.write_bytes(pickle.dumps(dict(blobs=blobs)))
    out = tmp_path / 'init.pth'
    arguments = (source, out, '--model', 'nl_c2d_r50')
    printed = convert(torchvision, monkeypatch, capsys, *arguments)
    assert '265 keys moved, 2 dropped' in printed
    found = torch.load(out, weights_only=True)['state_dict']
    assert found['backbone.conv1.conv.weight'].shape == (64, 3, 1, 7, 7)
    with pytest.raises(ValueError, match='a ResNet for images'):
        resnet3d.model_config(image_state)
