# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every fenced block of the documentation runs, or is checked as far as it can be.

Python without a mark runs, page by page, in one namespace; with ``_base_`` it is a
config, whose model is built. Bash runs with every command replaced by a recorder: what
is recorded must be a script that exists, with arguments that its own parser accepts and
files of the repository that exist. A comment on the line before a block says what else
it is:

``<!-- saved in: FOLDER -->``      a config that lies there
``<!-- merged into: CONFIG -->``   options, built after that config's own
``<!-- run by: TEST -->``          that test reads the page and runs the block
``<!-- not run: REASON -->``       only its syntax is checked
"""

import argparse
import ast
import functools
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / 'README.md',
    *sorted((ROOT / 'docs' / 'en').glob('*.md')),
    ROOT / 'CONTRIBUTING.md',
    *sorted(ROOT.glob('configs/*/*/README.md')),
]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
MARKS = ('saved in', 'merged into', 'run by', 'not run')
TEXT = ('bibtex', 'text', '{toctree}')
# A page about one codebase writes CONFIG for any config of it.
CODEBASES = dict(
    classification='classification/snl/preresnet20-snl1_1xb32-8e_mini-cifar10.py',
    segmentation='segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py',
    recognition='recognition/rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py',
    detection='detection/snl/retinanet_r18-snl1_fpn_1xb8-12e_mini-coco.py',
)
# Commands of other packages, which need not be installed here.
FOREIGN = ('cd', 'csCreateTrainIdLabelImgs', 'git', 'sphinx-build')


@dataclass(frozen=True)
class Block:
    """A fenced block, its language and its mark."""

    page: str
    line: int
    language: str
    code: str
    mark: str | None
    value: str

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, begin, mark = [], None, None
    lines = page.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith('```'):
            continue
        if begin is None:
            before = lines[number - 2].strip() if number > 1 else ''
            mark = re.fullmatch(r'<!-- ([\w ]+): (.+) -->', before)
            begin = number
            continue
        indent = len(lines[begin - 1]) - len(lines[begin - 1].lstrip())
        found.append(
            Block(
                page=str(page.relative_to(ROOT)),
                line=begin,
                language=lines[begin - 1].strip()[3:],
                code='\n'.join(text[indent:] for text in lines[begin : number - 1]),
                mark=mark and mark[1],
                value=mark[2] if mark else '',
            )
        )
        begin = None
    assert begin is None, f'{page}: the block of line {begin} has no end'
    return found


ALL = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in ALL if block.language == 'python']
BASH = [block for block in ALL if block.language == 'bash']


def test_every_block_is_of_a_known_kind():
    assert len(PYTHON) > 15 and len(BASH) > 15
    for block in ALL:
        assert block.language in ('python', 'bash', *TEXT), block
        assert block.mark is None or block.mark in MARKS, f'{block}: {block.mark}'
        if block.mark == 'run by':
            test = (ROOT / block.value).read_text(encoding='utf-8')
            assert Path(block.page).name in test, f'{block}: {block.value}'


# ------------------------------------------------------------------ configs


def is_config(block: Block) -> bool:
    return block.mark in ('saved in', 'merged into') or (
        block.mark is None and re.search(r'^_base_ =', block.code, re.MULTILINE)
    )


CONFIGS = [block for block in PYTHON if is_config(block)]


@pytest.fixture
def accelerated_no_longer():
    """A config may have replaced what mmcv computes."""
    yield
    if 'nl_plugins.accelerate' in sys.modules:
        sys.modules['nl_plugins.accelerate'].undo()


@pytest.mark.parametrize('block', CONFIGS, ids=str)
def test_configs_build(block, tmp_path, accelerated_no_longer):
    pytest.importorskip('mmengine')
    from mmengine.config import Config
    from mmengine.registry import HOOKS, DefaultScope

    text = block.code
    if block.mark == 'merged into':
        text = f'_base_ = {str(ROOT / block.value)!r}\n{text}'
    elif block.mark == 'saved in':
        text = re.sub(
            r"(_base_ = )'(\.[^']+)'",
            lambda match: (
                f'{match[1]}{str((ROOT / block.value / match[2]).resolve())!r}'
            ),
            text,
        )
    path = tmp_path / 'config.py'
    path.write_text(text, encoding='utf-8')
    needed = re.search(r'\b(mmpretrain|mmseg|mmaction|mmdet)::', text)
    if needed:
        pytest.importorskip(needed[1])
    cfg = Config.fromfile(path)
    assert 'nl_plugins' in cfg.custom_imports.imports
    scope = cfg.default_scope
    pytest.importorskip(scope)
    registry = importlib.import_module(f'{scope}.registry')
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.MODELS.build(cfg.model)
        ours = (type(module).__module__.split('.')[0] for module in model.modules())
        assert 'nl_plugins' in ours or 'nl_plugins.accelerate' in text
        for hook in cfg.get('custom_hooks', []):
            assert HOOKS.build(hook) is not None
        if 'pipeline' in block.code:
            for step in cfg.test_dataloader.dataset.pipeline:
                registry.TRANSFORMS.build(step)
        if 'evaluator' in block.code:
            assert registry.METRICS.get(cfg.test_evaluator.type) is not None


# ----------------------------------------------------------------- programs


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder like the repository's root after the quickstart, weights untrained."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def untrained(config: str, checkpoint: str) -> None:
    """Save a network as it is built, as training saves it."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    cfg = Config.fromfile(config)
    registry = importlib.import_module(f'{cfg.default_scope}.registry')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = registry.MODELS.build(cfg.model)
        dataset = registry.DATASETS.get(cfg.test_dataloader.dataset.type)
    # Some data sets know their classes only from their files.
    classes = [f'class {i}' for i in range(model_classes(cfg.model))]
    meta = {'classes': classes, **dataset.METAINFO}
    Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    content = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta))
    torch.save(content, checkpoint)


def model_classes(model: dict) -> int:
    """Number of classes of a model's config."""
    heads = ('head', 'cls_head', 'decode_head', 'bbox_head')
    return next(model[name].num_classes for name in heads if name in model)


def provide(page: str) -> None:
    """What a page expects to find: trained networks, a picture, a video."""
    if not page.endswith('inference.md'):
        return
    import cv2
    import numpy as np

    for package in ('mmpretrain', 'mmseg', 'mmaction', 'mmdet', 'decord'):
        pytest.importorskip(package)
    text = (ROOT / page).read_text(encoding='utf-8')
    pairs = re.findall(
        r"config = '(.+?)'\ncheckpoint = '(.+?)'", text, flags=re.MULTILINE
    )
    assert len(pairs) == 3
    for config, checkpoint in pairs:
        untrained(config, checkpoint)
    Path('demo').symlink_to(ROOT / 'demo')
    noise = np.random.default_rng(0).integers(0, 256, (40, 128, 256, 3), np.uint8)
    cv2.imwrite('picture.png', noise[0, :32, :32])
    cv2.imwrite('street.png', noise[0])
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter('clip.avi', codec, 10, (64, 48))
    for frame in noise:
        video.write(frame[:48, :64].copy())
    video.release()


PROGRAMS = {
    name: [
        block
        for block in PYTHON
        if block.page == name and block.mark is None and not is_config(block)
    ]
    for name in NAMES
}


@pytest.mark.parametrize('name', [name for name in NAMES if PROGRAMS[name]])
def test_programs_run(name, workplace):
    if any('mmpretrain' in block.code for block in PROGRAMS[name]):
        pytest.importorskip('mmpretrain')
    provide(name)
    namespace = {'__name__': name}
    for block in PROGRAMS[name]:
        # Empty lines in front, so that an error names the line of the page.
        code = '\n' * block.line + block.code
        exec(compile(code, ROOT / name, 'exec'), namespace)
    if name.endswith('inference.md'):
        check_inference(namespace)


def check_inference(namespace: dict) -> None:
    """The inferencers gave what the page says."""
    assert isinstance(namespace['label'], str)
    assert namespace['mask'].shape == (360, 480)
    road = namespace['mask'][240:, 120:360] == 3
    assert road.mean() > 0.9
    assert len(namespace['scores']) == 8 and sum(namespace['scores']) == pytest.approx(
        1
    )
    assert list(Path('work_dirs/predictions').rglob('*.png'))
    assert namespace['heat'].shape == (32, 32)
    assert namespace['gain'].shape == namespace['spectrum'].values.shape


@pytest.mark.parametrize('block', [b for b in PYTHON if b.mark == 'not run'], ids=str)
def test_python_that_cannot_run_has_no_syntax_error(block):
    ast.parse(block.code)


# ----------------------------------------------------------------- commands

RECORDER = """
set -eu
command_not_found_handle() { printf '%s\\0' "$@" >&3; printf '\\n\\0' >&3; }
cd() { command_not_found_handle cd "$@"; }
cat() { printf 'work_dirs/checkpoint.pth'; }  # the last_checkpoint of a run
"""


def record(block: Block, folder: Path) -> list[list[str]]:
    """The commands that bash would run, expanded."""
    tools = folder / 'bin'
    tools.mkdir()
    (tools / 'basename').symlink_to(shutil.which('basename'))
    log = folder / 'log'
    result = subprocess.run(
        [shutil.which('bash'), '-c', f'exec 3>{log}\n{RECORDER}\n{block.code}'],
        cwd=folder,
        env={'PATH': str(tools), 'HOME': str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f'{block}: {result.stderr}'
    words = log.read_text().split('\0')[:-1]
    commands, begin = [], 0
    for i, word in enumerate(words):
        if word == '\n':
            commands.append(words[begin:i])
            begin = i + 1
    return commands


class Parsed(Exception):
    """Carries what a script's parser made of its arguments."""


CHECKED: set[str] = set()


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Run a script up to the point where it has read its arguments."""
    original = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(original(self, args, namespace))

    monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
    place = tmp_path / 'place'
    place.mkdir()
    for name in ('configs', 'demo', 'docs', 'tools'):
        (place / name).symlink_to(ROOT / name)

    def run(script: str, arguments: list[str]) -> None:
        key = re.sub(r'\d+', '0', ' '.join([script, *arguments]))
        if key in CHECKED:  # seeds and positions aside
            return
        CHECKED.add(key)
        # Some parsers look whether a checkpoint is there.
        made = arguments[1:2] if script == 'tools/test.py' else []
        for name in [
            *made,
            *re.findall(r'work_dirs/[\w./-]+\.pth', ' '.join(arguments)),
        ]:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
        path = list(sys.path)
        sys.path.insert(0, str((ROOT / script).parent))
        try:
            with monkeypatch.context() as patch:
                patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
                patch.setattr(sys, 'argv', [script, *arguments])
                patch.chdir(place)
                with pytest.raises(Parsed):
                    if script.startswith(('tools/', '.dev_scripts/')):
                        runpy.run_path(str(ROOT / script), run_name='__main__')
                    else:
                        module = script.removesuffix('.py').replace('/', '.')
                        runpy.run_module(module, run_name='__main__')
        finally:
            sys.path[:] = path

    return run


def configs_for(page: str) -> list[str]:
    """Configs that a page's placeholder CONFIG stands for."""
    chosen = [c for topic, c in CODEBASES.items() if topic in page]
    return [f'configs/{config}' for config in chosen or CODEBASES.values()]


@functools.cache
def other_tests() -> str:
    """The text of all tests but those of the documentation."""
    paths = set(ROOT.glob('tests/**/*.py')) - set(ROOT.glob('tests/test_docs*.py'))
    return '\n'.join(path.read_text(encoding='utf-8') for path in sorted(paths))


def check_python(words: list[str], page: str, parse) -> None:
    script, *arguments = words
    if script == '-m':
        module, *arguments = arguments
        if module == 'pytest':
            return check_pytest(arguments)
        if module == 'nl_plugins.run':  # takes what the script takes
            package, *name = arguments[:2]
            pytest.importorskip(package)
            scripts = importlib.import_module(module)
            assert scripts.find_script(package, *name or ['train']).is_file()
            return None
        path = Path(*module.split('.')).with_suffix('.py')
        assert (ROOT / path).is_file() or module in FOREIGN, module
        return parse(str(path), arguments) if (ROOT / path).is_file() else None
    assert (ROOT / script).is_file(), f'{script} does not exist'
    stem = Path(script).stem
    assert re.search(rf'\b{stem}\b', other_tests()), f'{stem}: no test'
    placeholder = any(re.fullmatch(r'CONFIG(_\d+)?', word) for word in arguments)
    for config in configs_for(page) if placeholder else ['']:
        parse(
            script,
            [re.sub(r'^CONFIG(_\d+)?$', config, word) for word in arguments],
        )


def check_pytest(arguments: list[str]) -> None:
    for word in arguments:
        if word.startswith('tests'):
            assert (ROOT / word).exists(), word


def check_bash(words: list[str], page: str, parse) -> None:
    script, *arguments = words
    assert (ROOT / script).is_file(), f'{script} does not exist'
    name = Path(script).name
    if name.startswith(('dist_', 'slurm_')):
        skipped, script = (2, 'test.py') if 'test' in name else (1, 'train.py')
        if name.startswith('slurm_'):
            arguments = arguments[2:]
        else:  # the number of processes follows the paths
            assert arguments[skipped].isdigit(), words
            arguments = arguments[:skipped] + arguments[skipped + 1 :]
        check_python([f'tools/{script}', *arguments], page, parse)
    elif name == 'quickstart.sh':
        parse('tools/quickstart.py', arguments)
    elif name == 'run_tests.sh':
        check_pytest(arguments)
    else:
        assert not arguments, words


def check_pip(arguments: list[str]) -> None:
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / 'setup.cfg')
    assert arguments[0] in ('install', 'uninstall'), arguments
    for word in arguments:
        named = re.fullmatch(r'(\.|nl_plugins)\[([\w,]+)\]', word)
        if named:
            for extra in named[2].split(','):
                assert extra in setup['options.extras_require'], extra


def check_mim(words: list[str], page: str, parse) -> None:
    action, package, *arguments = words
    assert action in ('train', 'test', 'run', 'search', 'download'), action
    assert package in ('mmpretrain', 'mmseg', 'mmaction', 'mmdet', 'nl_plugins'), (
        package
    )
    if (action, package) == ('run', 'nl_plugins'):  # it looks for the name alone
        name, *arguments = arguments
        (script,) = (ROOT / 'tools').rglob(f'{name}.py')
        check_python([str(script.relative_to(ROOT)), *arguments], page, parse)


@pytest.mark.parametrize('block', BASH, ids=str)
def test_commands_are_accepted(block, tmp_path, parse):
    for package in (
        'mmpretrain',
        'mmseg',
        'mmaction',
        'mmdet',
    ):  # whose flags are asked for
        pytest.importorskip(package)
    commands = record(block, tmp_path)
    assert commands, block
    for words in commands:
        for word in words:
            if re.match(r'(configs|requirements|tests|tools|nl_plugins)/', word):
                assert (ROOT / word).exists(), f'{block}: {word} does not exist'
        if block.mark in ('not run', 'run by'):
            continue
        program, *arguments = words
        if program == 'python':
            check_python(arguments, block.page, parse)
        elif program == 'bash':
            check_bash(arguments, block.page, parse)
        elif program == 'pip':
            check_pip(arguments)
        elif program == 'pytest':
            check_pytest(arguments)
        elif program == 'mim':
            check_mim(arguments, block.page, parse)
        else:
            assert program in FOREIGN, f'{block}: unknown command {program}'


# -------------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings of a page."""
    titles = re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles}


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding='utf-8')
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if link.startswith(('http:', 'https:')):
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), f'{page.name}: {link}'
        if anchor:
            assert anchor in anchors(target.read_text(encoding='utf-8')), link


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_files_named_exist(page):
    text = page.read_text(encoding='utf-8')
    named = re.findall(
        r'(?<![\w/.:-])(?:tools|configs|requirements|tests)/[\w./-]*\.(?:py|sh|txt)\b',
        text,
    )
    for name in set(named):
        if '_base_' not in name:
            assert (ROOT / name).is_file(), f'{page.name}: {name}'


def test_the_index_lists_every_page():
    folder = ROOT / 'docs' / 'en'
    text = (folder / 'index.md').read_text(encoding='utf-8')
    pages = {path.stem for path in folder.glob('*.md')} - {'index'}
    listed = re.search(r'```{toctree}\n(.*?)```', text, re.DOTALL)[1]
    entries = [line for line in listed.splitlines() if re.fullmatch(r'\w+', line)]
    assert sorted(entries) == sorted(pages)


@pytest.mark.parametrize(
    'path',
    [path for path in PAGES if path.parent.name == 'en' and path.stem != 'index'],
    ids=lambda path: path.stem,
)
def test_a_page_begins_with_what_one_gets(path):
    title, first, *_ = path.read_text(encoding='utf-8').split('\n\n')
    assert title.startswith('# ') and '\n' not in title
    assert first.startswith('What you get: '), first


# ----------------------------------------------------------------- metadata


def test_citation_and_changelog_are_of_this_version():
    yaml = pytest.importorskip('yaml')
    import nl_plugins

    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == nl_plugins.__version__
    changes = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    newest = re.search(r'^## (\S+) - (\S+)$', changes, flags=re.MULTILINE)
    assert newest[1] == nl_plugins.__version__
    assert newest[2] == str(citation['date-released'])
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    papers = set(re.findall(r'https://arxiv.org/abs/[\d.]+', readme))
    cited = {reference['url'] for reference in citation['references']}
    assert papers and papers <= cited
    for reference in citation['references']:
        assert reference['authors'] and reference['title'] and reference['year']


def test_the_forms_of_the_repository_can_be_read():
    yaml = pytest.importorskip('yaml')
    folder = ROOT / '.github'
    forms = {
        path.name: yaml.safe_load(path.read_text(encoding='utf-8'))
        for path in folder.rglob('*.yml')
    }
    for name in ('bug_report.yml', 'request.yml'):
        assert forms[name]['name'] and forms[name]['description']
        for field in forms[name]['body']:
            assert field['attributes'], name
    labels = [
        field['attributes'].get('label') for field in forms['bug_report.yml']['body']
    ]
    assert 'Output of `python -m nl_plugins.doctor`' in labels
    jobs = forms['ci.yml']['jobs'].values()
    commands = [step.get('run') for job in jobs for step in job['steps']]
    assert 'bash .ci/run' in commands and (ROOT / '.ci' / 'run').is_file()


def test_the_site_builds_without_a_warning(tmp_path):
    sphinx = pytest.importorskip('sphinx.cmd.build', reason='needs the extra docs')
    pytest.importorskip('myst_parser', reason='needs the extra docs')
    pages = str(ROOT / 'docs' / 'en')
    status = sphinx.main(
        ['-W', '-q', '-d', str(tmp_path), pages, str(tmp_path / 'site')]
    )
    assert status == 0
    assert (tmp_path / 'site' / 'index.html').is_file()
