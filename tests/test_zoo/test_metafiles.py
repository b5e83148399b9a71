# Copyright (c) The nl_plugins authors. All rights reserved.
"""The metafiles agree with the configs, and the check notices when they do not."""

import re

import pytest
import yaml


@pytest.fixture(scope='module')
def metafiles(script):
    return script('.dev_scripts/metafiles.py')


def test_the_repository_passes_its_own_check(metafiles, capsys):
    """Names, tables and parameters of all; every 16th network is counted again."""
    for package in ('mmpretrain', 'mmseg', 'mmaction', 'mmdet'):
        pytest.importorskip(package)
    assert metafiles.main(['--check', '--every', '16']) == 0
    assert 'all files are up to date' in capsys.readouterr().out


def test_every_config_is_in_the_index_once(root):
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(root / 'model-index.yml'))
    configs = {
        path.relative_to(root).as_posix()
        for path in (root / 'configs').glob('*/[!_]*/*.py')
    }
    assert len(configs) > 200
    assert sorted(model.config for model in index.models) == sorted(configs)
    for model in index.models:
        assert model.name == model.config.rsplit('/', 1)[1].removesuffix('.py')
        for field in (model.metadata.flops, model.metadata.parameters):
            assert type(field) is int and field > 0
        for result in model.results or ():
            assert result.metrics


def test_the_folders_name_what_exists(root):
    """Links, configs and scripts in the README of each folder."""
    pages = sorted((root / 'configs').glob('*/[!_]*/README.md'))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding='utf-8')
        links = re.findall(r'\]\(([^)\s]+)\)', text)
        local = [page.parent / link for link in links if not link.startswith('http')]
        named = re.findall(r'\b(?:configs|tools)/[\w./-]+\.(?:py|sh)\b', text)
        assert local and named
        missing = [
            path for path in local + [root / n for n in named] if not path.exists()
        ]
        assert missing == [], page


CONFIG = 'net-snl1_2xb4-10e_cifar10'
COUNT = {'FLOPs': 1_500_000, 'Parameters': 123_456, 'Input Shape': '1x3x32x32'}
RESULT = {
    'Task': 'Image Classification',
    'Dataset': 'CIFAR-10',
    'Metrics': {'Top 1 Accuracy': 91.5},
    'Note': 'seed 0',
    'Command': 'python tools/train.py \\\n    config.py',
}
README = """# SNL

> [Title](https://example.org)

By hand.

<!-- begin usage --><!-- end usage -->
<!-- begin models --><!-- end models -->
<!-- begin results --><!-- end results -->
"""


@pytest.fixture
def zoo(metafiles, tmp_path, monkeypatch):
    """A repository of one config, brought up to date."""
    monkeypatch.setattr(metafiles, 'ROOT', tmp_path)
    monkeypatch.setattr(metafiles, 'INDEX', tmp_path / 'model-index.yml')
    monkeypatch.setattr(metafiles, 'ZOO', tmp_path / 'docs/en/model_zoo.md')
    for codebase in metafiles.CODEBASES:
        (tmp_path / 'configs' / codebase / '_base_').mkdir(parents=True)
    (tmp_path / 'docs/en').mkdir(parents=True)
    metafiles.ZOO.write_text('# Zoo\n<!-- begin zoo --><!-- end zoo -->\n')
    folder = tmp_path / 'configs/classification/snl'
    folder.mkdir()
    (folder / f'{CONFIG}.py').touch()
    (folder / 'README.md').write_text(README)
    collection = {
        'Name': 'SNL',
        'README': 'configs/classification/snl/README.md',
        'Paper': {'Title': 'Title', 'URL': 'https://example.org'},
    }
    models = [{'Name': CONFIG, 'Results': [RESULT]}]
    content = {'Collections': [collection], 'Models': models}
    (folder / 'metafile.yml').write_text(metafiles.dump(content))
    for path, text in build(metafiles, folder).items():
        metafiles.write(path, text)
    return folder


def build(metafiles, folder, **counts):
    return metafiles.build_files({folder / f'{CONFIG}.py': {**COUNT, **counts}})


def test_derived_fields_and_what_is_kept(metafiles, zoo):
    (model,) = yaml.safe_load((zoo / 'metafile.yml').read_text())['Models']
    assert model == {
        'Name': CONFIG,
        'In Collection': 'SNL',
        'Config': f'configs/classification/snl/{CONFIG}.py',
        'Metadata': {
            **COUNT,
            'Training Data': 'CIFAR-10',
            'Training Resources': '2x GPU',
        },
        'Results': [RESULT],
    }
    readme = (zoo / 'README.md').read_text()
    row = (
        f'| [{CONFIG}]({CONFIG}.py) | CIFAR-10 | 1x3x32x32 | 0.12 | 0.002 | top-1 91.5'
    )
    assert row in readme
    assert RESULT['Command'] in readme and 'By hand.' in readme
    assert 'bash tools/dist_train.sh $CONFIG 2' in readme
    page = (metafiles.ZOO).read_text()
    assert '1 configs in 1 folders' in page
    assert '../../configs/classification/snl/README.md' in page
    assert not list(metafiles.ROOT.rglob('*.tmp'))
    assert metafiles.library_errors() == []


def test_only_a_readme_that_exists_is_no_error(metafiles, zoo):
    pytest.importorskip('modelindex')
    assert metafiles.library_errors() == []
    (zoo / 'README.md').unlink()
    (error,) = metafiles.library_errors()
    assert 'configs/classification/snl/README.md' in error
    assert not metafiles.names_a_readme('Path to Image file x.png is not a valid file.')


def differences(metafiles, files):
    return [text for path, text in files.items() if metafiles.difference(path, text)]


def test_any_difference_is_noticed(metafiles, zoo):
    assert differences(metafiles, build(metafiles, zoo)) == []
    # The metafile, its README and the page of the zoo.
    assert len(differences(metafiles, build(metafiles, zoo, Parameters=5_000_000))) == 3
    page = metafiles.ZOO.read_text()
    metafiles.ZOO.write_text(page.replace('1 configs', '2 configs'))
    assert len(differences(metafiles, build(metafiles, zoo))) == 1
    metafiles.ZOO.write_text(f'{page}By hand.')
    assert differences(metafiles, build(metafiles, zoo)) == []
    metafiles.ZOO.write_text(page)
    # What is written stays for configs that are not counted.
    assert differences(metafiles, metafiles.build_files({})) == []


@pytest.mark.parametrize(
    'old, new, message',
    [
        (f'Name: {CONFIG}', 'Name: gone', 'no config of the name gone'),
        ('Top 1 Accuracy', 'Accuracy', r"has the metrics \['Accuracy'\]"),
        ('    Command:', '    Remark:', r"lacks \['Command'\]"),
        ('  README: configs', '  README: docs', 'README of the collection must be'),
        ('    URL:', '    Link:', 'needs Title and URL'),
    ],
)
def test_what_a_person_must_repair(metafiles, zoo, old, new, message):
    path = zoo / 'metafile.yml'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(metafiles.Failure, match=message):
        build(metafiles, zoo)


def test_names_and_markers(metafiles, zoo):
    readme = zoo / 'README.md'
    text = readme.read_text()
    readme.write_text(text.replace('<!-- end models -->', ''))
    with pytest.raises(metafiles.Failure, match='needs the lines <!-- begin models'):
        build(metafiles, zoo)
    readme.write_text(text.replace('> [Title]', '> [Other]'))
    with pytest.raises(metafiles.Failure, match='needs the line > .Title'):
        build(metafiles, zoo)
    readme.write_text(text)
    (zoo / 'net_2xb4_moon.py').touch()
    with pytest.raises(metafiles.Failure, match='not in the metafile .* --write'):
        build(metafiles, zoo)
    with pytest.raises(metafiles.Failure, match="the data 'moon' is unknown"):
        metafiles.build_files({path: COUNT for path in zoo.glob('*.py')})
    with pytest.raises(metafiles.Failure, match='no part like 8xb32'):
        metafiles.training_resources('net_cifar10')
    assert metafiles.training_data('a_4xb2-40k_mini-cityscapes-128x256').startswith(
        'mini Cityscapes'
    )
    assert metafiles.training_data('a_4xb2-1x1x8-25e_ucf101-split1-rgb').startswith(
        'UCF101'
    )
