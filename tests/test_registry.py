# Copyright (c) The nl_plugins authors. All rights reserved.
"""How we get into mmengine's registries, and what a user sees of it."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip('mmengine')

from mmengine.registry import MODELS, Registry

import nl_plugins
from nl_plugins import codebases, registry
from nl_plugins.codebases import CODEBASES, require

ADAPTERS = [codebase.extra for codebase in CODEBASES.values()]


@pytest.fixture
def codebase(tmp_path, monkeypatch):
    """A made-up codebase; its registries, and an adapter for it."""
    folder = tmp_path / 'madeup'
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').write_text('')
    (folder / 'registry.py').write_text(
        'from mmengine.registry import MODELS as PARENT, Registry\n'
        "MODELS = Registry('model', parent=PARENT, locations=['madeup.models'])\n"
        "PLAIN = Registry('plain', scope='madeup')\n"
    )
    (folder / 'models' / '__init__.py').write_text(
        'from madeup.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class MadeUpNet: pass\n'
    )
    (tmp_path / 'madeup_adapter.py').write_text(
        'from madeup.models import MadeUpNet\n'
        'from madeup.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class AdaptedNet(MadeUpNet): pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield 'madeup'
    for name in [name for name in sys.modules if name.startswith('madeup')]:
        del sys.modules[name]
    MODELS.children.pop('madeup', None)


def test_mmengine_still_has_the_attributes_we_rely_on():
    plain = Registry('probe', scope='probe', locations=['a'])
    assert plain._locations == ['a']
    assert plain._imported is False
    # Registries declared without locations share the default list.
    first, second = Registry('one', scope='probe'), Registry('two', scope='probe')
    assert first._locations == [] and first._locations is second._locations


def test_an_adapter_is_imported_at_the_first_look_up(codebase):
    registry.defer(codebase, 'madeup_adapter')
    assert codebase not in sys.modules
    models = import_module('madeup.registry').MODELS
    assert models._locations == ['madeup.models', 'madeup_adapter']
    assert 'madeup_adapter' not in sys.modules and 'madeup.models' not in sys.modules
    assert models.get('AdaptedNet').__name__ == 'AdaptedNet'
    assert 'madeup_adapter' in sys.modules


def test_an_adapter_comes_at_once_when_the_registry_was_asked(codebase):
    models = import_module('madeup.registry').MODELS
    assert models.get('MadeUpNet') is not None
    registry.defer(codebase, 'madeup_adapter')
    assert 'AdaptedNet' in models.module_dict


def test_deferring_twice_adds_one_location(codebase):
    for _ in range(2):
        registry.defer(codebase, 'madeup_adapter')
    assert import_module('madeup.registry').MODELS._locations.count(
        'madeup_adapter'
    ) == (1)


def test_other_registries_are_left_alone(codebase):
    registry.defer(codebase, 'madeup_adapter')
    module = import_module('madeup.registry')
    assert module.PLAIN._locations == []
    assert 'madeup_adapter' not in module.PARENT._locations
    assert Registry('other', scope='probe')._locations == []


@pytest.mark.parametrize('package', sorted(CODEBASES))
def test_each_codebase_has_our_adapter_among_its_locations(package):
    pytest.importorskip(package)
    models = import_module(f'{package}.registry').MODELS
    assert CODEBASES[package].adapter in models._locations
    adapter = import_module(CODEBASES[package].adapter)
    for name in adapter.__all__:
        assert getattr(adapter, name).__name__ == name


def test_blocks_are_found_from_every_scope():
    from nl_plugins.blocks import BLOCKS

    assert BLOCKS
    for name, block in BLOCKS.items():
        assert MODELS.get(name) is block
        assert registry.MODELS.get(name) is block
        assert MODELS.get(f'nl_plugins.{name}') is block
        assert getattr(nl_plugins, name) is block


def test_lazy_attributes():
    assert nl_plugins.graph is import_module('nl_plugins.graph')
    with pytest.raises(AttributeError, match='no attribute'):
        _ = nl_plugins.NoSuchBlock
    assert not hasattr(nl_plugins, 'no_such_thing')
    assert {'blocks', 'graph', 'segmentation'} <= set(dir(nl_plugins))


def test_require_names_what_to_type(monkeypatch):
    monkeypatch.setattr(codebases, 'is_installed', lambda package: False)
    with pytest.raises(ImportError, match=r'mmsegmentation>=1.2.0.*pip install'):
        require('mmseg')


def test_require_refuses_an_old_version(monkeypatch):
    old = ModuleType('mmseg')
    old.__version__ = '1.1.2'
    monkeypatch.setattr(codebases, 'is_installed', lambda package: True)
    monkeypatch.setattr(codebases, 'import_module', lambda package: old)
    with pytest.raises(ImportError, match=r'found 1\.1\.2.*--upgrade'):
        require('mmseg')


def test_require_passes_on_an_upstream_refusal(monkeypatch):
    def refuse(package):
        raise AssertionError('MMCV==2.2.0 is used but incompatible')

    monkeypatch.setattr(codebases, 'is_installed', lambda package: True)
    monkeypatch.setattr(codebases, 'import_module', refuse)
    with pytest.raises(ImportError, match='MMCV==2.2.0 is used'):
        require('mmaction')


HIDE = """
import sys
from importlib.abc import MetaPathFinder

class Hide(MetaPathFinder):
    hidden = set(sys.argv[1].split(','))
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.hidden:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Hide())
"""

WITHOUT_SEGMENTATION = """
import torch, mmengine, time
start = time.perf_counter()
import nl_plugins
seconds = time.perf_counter() - start
print('seconds', seconds)
for name in ('mmcv', 'mmseg', 'mmaction', 'mmpretrain', 'mmdet', 'mmengine.model'):
    assert name not in sys.modules, name
try:
    nl_plugins.SNLHead
except ImportError as error:
    assert 'mmsegmentation>=' in str(error) and 'pip install' in str(error), error
else:
    raise AssertionError('SNLHead without mmseg')
from mmengine.registry import MODELS, init_default_scope
import mmpretrain.registry
assert 'mmpretrain.models' not in sys.modules
assert 'nl_plugins.classification' not in sys.modules
init_default_scope('mmpretrain')
block = MODELS.build(dict(type='SNLBlock', in_channels=8))
assert type(block).__name__ == 'SNLBlock'
from mmpretrain.registry import MODELS
assert MODELS.get('CIFARResNet') is nl_plugins.CIFARResNet
assert 'mmaction.models' not in sys.modules
"""

TORCH_ALONE = """
import torch
import nl_plugins
from nl_plugins.graph import SoftmaxAffinity
x = torch.ones(1, 3, 2)
assert (SoftmaxAffinity(x, x) @ x).shape == x.shape
assert nl_plugins.graph.SoftmaxAffinity is SoftmaxAffinity
try:
    nl_plugins.SNLBlock
except ImportError as error:
    assert 'needs mmengine' in str(error) and 'pip install' in str(error), error
else:
    raise AssertionError('a block without mmengine')
assert not hasattr(nl_plugins, 'no_such_thing')
"""

ONLY_VIDEO = """
import nl_plugins
from mmengine.registry import MODELS, init_default_scope
init_default_scope('mmaction')
from mmaction.registry import MODELS
assert MODELS.get('InceptionI3D') is nl_plugins.InceptionI3D
assert MODELS.get('nl_plugins.SNLBlock') is nl_plugins.SNLBlock
"""


@pytest.mark.parametrize('name', ['NonLocalHead', 'SNLHead'])
@pytest.mark.parametrize('scope', ['mmpretrain', 'mmaction'])
def test_a_head_of_mmseg_in_another_config(scope, name):
    models = import_module(f'{pytest.importorskip(scope).__name__}.registry').MODELS
    with pytest.raises(
        KeyError, match=f'{name} is for mmseg only, not for {scope}: NonLocalBackbone'
    ):
        models.build(dict(type=name, in_channels=8))


def test_a_network_of_another_codebase():
    models = pytest.importorskip('mmseg.registry').MODELS
    with pytest.raises(KeyError, match="write type='mmaction.InceptionI3D'"):
        models.build(dict(type='InceptionI3D'))
    with pytest.raises(KeyError, match='NoSuchNet is not in the mmseg::model registry'):
        models.build(dict(type='NoSuchNet'))


def run_hiding(hidden: str, code: str, root: Path) -> str:
    # Standard error is shown by pytest when the child fails.
    return subprocess.run(
        [sys.executable, '-c', HIDE + code, hidden],
        cwd=root,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_works_without_mmseg(root):
    pytest.importorskip('mmpretrain')
    output = run_hiding('mmseg', WITHOUT_SEGMENTATION, root)
    assert output.startswith('seconds')


def test_works_with_mmaction_only(root):
    pytest.importorskip('mmaction')
    run_hiding('mmseg,mmpretrain,mmdet', ONLY_VIDEO, root)


def test_graph_works_with_torch_alone(root):
    run_hiding('mmengine,mmcv,mmseg,mmpretrain,mmaction,mmdet', TORCH_ALONE, root)
