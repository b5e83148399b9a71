# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs of mmcv, mmseg, mmaction and mmpretrain."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from nl_plugins.compat import (
    bf16_scores,
    criss_cross_diagonal,
    fork_names,
    imports,
    mmaction_drn,
    mmcv_ops,
    mmcv_version,
    multimodal,
    negative_hue,
)


@pytest.fixture
def localizers(tmp_path, monkeypatch):
    """A folder like ``mmaction/models/localizers`` that the repair looks into."""
    folder = tmp_path / 'models' / 'localizers'
    folder.mkdir(parents=True)
    (folder / '__init__.py').write_text('from .drn.drn import DRN\n')
    monkeypatch.setattr(mmaction_drn, 'folder_of', lambda name: tmp_path)
    return folder


def test_drn_is_needed_where_the_folder_is_missing(localizers):
    assert mmaction_drn.needed()


def test_drn_is_not_needed_where_the_folder_exists(localizers):
    (localizers / 'drn').mkdir()
    assert not mmaction_drn.needed()


def test_drn_is_not_needed_where_nothing_imports_it(localizers):
    (localizers / '__init__.py').write_text('from .bmn import BMN\n')
    assert not mmaction_drn.needed()


def test_drn_is_not_needed_without_mmaction(monkeypatch):
    monkeypatch.setattr(mmaction_drn, 'folder_of', lambda name: None)
    assert not mmaction_drn.needed()


def test_the_stand_in_drn_explains_itself():
    pytest.importorskip('mmaction')
    localizers = importlib.import_module('mmaction.models.localizers')
    if localizers.DRN is not mmaction_drn.DRN:
        pytest.skip('this mmaction has its own DRN')
    with pytest.raises(ImportError, match='missing from the mmaction2 wheel'):
        localizers.DRN(vocab_size=3)


@pytest.mark.parametrize(
    'files, needed',
    [
        (['ops/__init__.py'], True),
        (['ops/__init__.py', '_ext.cpython-311-x86_64-linux-gnu.so'], False),
        (['image.py'], False),
    ],
)
def test_ops_are_needed_with_mmcv_lite_only(tmp_path, monkeypatch, files, needed):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text('')
    monkeypatch.setattr(mmcv_ops, 'folder_of', lambda name: tmp_path)
    assert mmcv_ops.needed() is needed


def test_the_stand_in_operators(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    mmcv_ops.apply()
    operators = sys.modules['mmcv._ext']
    assert operators.get_compiler_version() == 'n/a'
    with pytest.raises(NotImplementedError, match='deform_conv needs compiled mmcv'):
        operators.deform_conv(1, 2)
    assert not hasattr(operators, '__path__')
    mmcv_ops.apply()
    assert sys.modules['mmcv._ext'] is operators


def test_python_operators_work_with_mmcv_lite():
    pytest.importorskip('mmcv')
    ops = pytest.importorskip('mmcv.ops')
    dl_utils = importlib.import_module('mmengine.utils.dl_utils')
    if dl_utils.mmcv_full_available():
        pytest.skip('mmcv is compiled')
    features = torch.arange(16.0).view(1, 1, 4, 4)
    centre = ops.point_sample(features, torch.tensor([[[0.5, 0.5]]]))
    torch.testing.assert_close(centre, torch.tensor([[[7.5]]]))
    with pytest.raises(NotImplementedError, match='roi_pool_forward'):
        ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 2, 2]]), 2)


@pytest.mark.parametrize('size', [(7, 6), (5, 9)])
def test_criss_cross_attention_is_exported(size, tmp_path):
    """Opset 17, open sizes; the numbers and TorchScript stay."""
    ops = pytest.importorskip('mmcv.ops')
    onnxruntime = pytest.importorskip('onnxruntime')
    if not criss_cross_diagonal.needed():
        pytest.skip('this mmcv has another criss-cross attention')
    torch.manual_seed(0)
    module = ops.CrissCrossAttention(16).eval()
    module.gamma.scale.data.fill_(0.7)
    x, other = torch.randn(1, 16, 4, 4), torch.randn(2, 16, *size)
    diagonal = torch.diag(torch.full((5,), float('-inf')))
    assert torch.equal(criss_cross_diagonal.NEG_INF_DIAG(5, x.device), diagonal)
    path = tmp_path / 'module.onnx'
    axes = {'x': {0: 'batch', 2: 'height', 3: 'width'}}
    options = dict(dynamo=False, opset_version=17, input_names=['x'])
    torch.onnx.export(module, (x,), path, dynamic_axes=axes, **options)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (found,) = session.run(None, {'x': other.numpy()})
    expected = module(other).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.jit.script(module)(other), expected)


def hue_shifted(image, offset):
    """The image with ``offset`` of 256 steps added to its hue, by OpenCV."""
    cv2 = pytest.importorskip('cv2')
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hue = (hsv[..., 0].astype(int) + offset) % 256
    hsv[..., 0] = hue.astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize('factor', [-0.5, -0.123, -0.001, 0.0, 0.2, 0.5])
def test_mmcv_adjust_hue_is_periodic(image, factor):
    mmcv = pytest.importorskip('mmcv')
    expected = hue_shifted(image, int(factor * 255))
    for adjust_hue in (mmcv.adjust_hue, mmcv.image.photometric.adjust_hue):
        np.testing.assert_array_equal(
            adjust_hue(image, factor, backend='cv2'), expected
        )


def test_mmcv_adjust_hue_with_pillow(image):
    mmcv = pytest.importorskip('mmcv')
    # A whole turn down and up again: minus 100 steps are plus 156.
    down = mmcv.adjust_hue(image, -100 / 255, backend='pillow')
    up = mmcv.adjust_hue(image, 100 / 255, backend='pillow')
    assert down.shape == image.shape and not np.array_equal(down, up)
    with pytest.raises(ValueError, match='hue_factor'):
        mmcv.adjust_hue(image, -0.6)


@pytest.mark.parametrize('factor', [-0.4, -0.1])
def test_mmaction_color_jitter_takes_negative_hues(image, factor):
    pytest.importorskip('mmaction')
    cv2 = pytest.importorskip('cv2')
    jitter = importlib.import_module(
        'mmaction.datasets.transforms.processing'
    ).ColorJitter
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue = (hsv[..., 0].astype(int) + int(factor * 255)) % 180
    hsv[..., 0] = hue.astype(np.uint8)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
    result = jitter.adjust_hue(image.astype(np.float32), factor)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)
    # Through an instance as well: it stays a static method.
    np.testing.assert_array_equal(jitter().adjust_hue(image, factor), expected)


def test_hue_is_not_needed_with_numpy_1(monkeypatch):
    monkeypatch.setattr(np, '__version__', '1.26.4')
    assert not negative_hue.needed()
    monkeypatch.setattr(np, '__version__', '2.0.0')
    assert negative_hue.needed()


@pytest.mark.parametrize(
    'version, needed', [(None, False), ((4, 55, 4), False), ((4, 56), True)]
)
def test_multimodal(monkeypatch, version, needed):
    monkeypatch.setattr(multimodal, 'version_of', lambda name: version)
    assert multimodal.needed() is needed
    module = SimpleNamespace(WITH_MULTIMODAL=True)
    multimodal.apply(module)
    assert module.WITH_MULTIMODAL is False


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_only_bf16_scores_change_their_type(dtype):
    class Head:
        def loss_by_feat(self, cls_scores, data_samples):
            return cls_scores, data_samples

    module = SimpleNamespace(BaseHead=Head)
    for _ in range(2):
        bf16_scores.apply(module)
    scores = torch.ones(2, 3, dtype=dtype)
    changed, samples = Head().loss_by_feat(scores, data_samples=[1])
    assert samples == [1]
    assert changed.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_heads_of_mmaction_take_bf16_scores():
    pytest.importorskip('mmaction')
    heads = importlib.import_module('mmaction.models.heads')
    structures = importlib.import_module('mmaction.structures')
    samples = [structures.ActionDataSample().set_gt_label(i) for i in range(2)]
    head = heads.TSNHead(num_classes=6, in_channels=4)
    scores = torch.eye(2, 6).bfloat16().requires_grad_()
    losses = head.loss_by_feat(scores, samples)
    assert losses['top1_acc'] == 1
    losses['loss_cls'].backward()
    assert scores.grad.abs().sum() > 0


def test_bf16_scores_are_not_needed_without_mmaction(monkeypatch):
    monkeypatch.setattr(bf16_scores, 'is_installed', lambda package: False)
    assert not bf16_scores.needed()


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """A codebase that refuses mmcv 2.2, and an mmcv of that version."""
    (tmp_path / 'refusing_codebase.py').write_text(
        'import mmcv\nSEEN = mmcv.__version__\nassert SEEN < "2.2"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    mmcv = ModuleType('mmcv')
    mmcv.__version__ = '2.2.0'
    monkeypatch.setitem(sys.modules, 'mmcv', mmcv)
    versions = {'mmcv': (2, 2, 0), 'refusing': (1, 2, 0)}
    monkeypatch.setattr(
        mmcv_version, 'version_of', lambda name, *others: versions.get(name)
    )
    monkeypatch.setattr(
        mmcv_version, '_REFUSING', {'refusing_codebase': ('refusing', (1, 3))}
    )
    yield mmcv, versions
    sys.modules.pop('refusing_codebase', None)
    imports._WATCHER.around.pop('refusing_codebase', None)


def test_mmcv_presents_an_accepted_version(refusing):
    mmcv, _ = refusing
    assert mmcv_version.needed()
    mmcv_version.apply()
    assert importlib.import_module('refusing_codebase').SEEN == '2.1.0'
    assert mmcv.__version__ == '2.2.0'


def test_mmcv_version_is_restored_when_the_import_fails(refusing, tmp_path):
    mmcv, _ = refusing
    (tmp_path / 'refusing_codebase.py').write_text('raise RuntimeError("no")\n')
    mmcv_version.apply()
    with pytest.raises(RuntimeError, match='no'):
        importlib.import_module('refusing_codebase')
    assert mmcv.__version__ == '2.2.0'


@pytest.mark.parametrize(
    'package, version', [('mmcv', (2, 1, 0)), ('refusing', (1, 4))]
)
def test_mmcv_version_is_not_needed(refusing, package, version):
    refusing[1][package] = version
    assert not mmcv_version.needed()


def test_mmcv_version_is_not_needed_without_a_refusing_codebase(refusing):
    del refusing[1]['refusing']
    assert not mmcv_version.needed()


@pytest.mark.parametrize('rank', [0, 1])
def test_the_first_process_alone_writes_the_report_of_a_test(
    tmp_path, monkeypatch, rank
):
    from mmengine.hooks import LoggerHook

    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: rank)
    scalars = SimpleNamespace(
        get_log_after_epoch=lambda *args, **kwargs: (dict(mIoU=2.5), 'mIoU: 2.5')
    )
    runner = SimpleNamespace(
        log_processor=scalars,
        test_dataloader=[],
        logger=SimpleNamespace(info=lambda line: None),
        log_dir=str(tmp_path),
    )
    hook = LoggerHook()
    hook.json_log_path = 'report.json'
    hook.after_test_epoch(runner)
    assert (tmp_path / 'report.json').exists() == (rank == 0)


@pytest.mark.parametrize('distribution', [None, (1, 2, 2)])
def test_a_fork_is_found_by_its_module(monkeypatch, distribution):
    monkeypatch.setattr(fork_names, 'is_installed', lambda name: name == 'mmseg')
    monkeypatch.setattr(fork_names, 'version_of', lambda name: distribution)
    names = dict(mmseg='mmsegmentation', mmaction='mmaction2')
    fork_names.apply(SimpleNamespace(MODULE2PACKAGE=names))
    assert fork_names.needed() == (distribution is None)
    assert names['mmseg'] == ('mmsegmentation' if distribution else 'mmseg')
    assert names['mmaction'] == 'mmaction2'


def test_a_base_config_is_found_by_the_module_alone(monkeypatch):
    """What the repair relies on in mmengine, forks or not."""
    pytest.importorskip('mmseg')
    from mmengine.config import utils
    from mmengine.hub import get_config

    monkeypatch.setitem(utils.MODULE2PACKAGE, 'mmseg', 'mmseg')
    assert get_config('mmseg::_base_/models/fcn_r50-d8.py').model


@pytest.mark.parametrize(
    'content, message',
    [
        ('a 0\n'.encode('utf-16'), 'is not UTF-8'),
        (b'a\0 0\n', 'NUL'),
        ('\u00fc 0\n'.encode('latin-1'), 'is not UTF-8'),
    ],
)
def test_lists_in_other_encodings_are_named(tmp_path, content, message):
    from mmengine.fileio import list_from_file

    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'the list {path} .*{message}'):
        list_from_file(str(path))
    if 'UTF-8' in message and content.endswith(b'\xfc 0\n'):
        assert list_from_file(str(path), encoding='latin-1') == ['\u00fc 0']


def test_lists_lose_their_byte_order_mark_alone(tmp_path):
    from mmengine.fileio import dict_from_file, list_from_file

    path = tmp_path / 'list.txt'
    path.write_bytes('\ufeff\u00e4 1\r\n\u6f22 2\n'.encode())
    assert list_from_file(str(path)) == ['\u00e4 1', '\u6f22 2']
    assert dict_from_file(str(path)) == {'\u00e4': '1', '\u6f22': '2'}
