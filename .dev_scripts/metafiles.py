# Copyright (c) The nl_plugins authors. All rights reserved.
"""Metafiles, model index, tables of the config folders and the model zoo page.

    python .dev_scripts/metafiles.py --write    # after any change of configs or results
    python .dev_scripts/metafiles.py --check    # what CI runs

Written by hand are, in ``configs/*/METHOD/metafile.yml``, the collection and each
model's ``Results``, ``Weights``, ``Training Log`` and ``Converted From``, and in the
README of that folder, as in ``docs/en/model_zoo.md``, everything outside the marked
regions. The rest is derived: the list of models from the configs, ``FLOPs``,
``Parameters`` and the shape of the input from counting each model
(``tools/analysis_tools/get_flops.py``), resources and data from the file names, the
tables from the metafiles.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools' / 'analysis_tools')]

INDEX = ROOT / 'model-index.yml'
ZOO = ROOT / 'docs' / 'en' / 'model_zoo.md'
CODEBASES = ('classification', 'segmentation', 'recognition', 'detection')
BY_HAND = ('Results', 'Weights', 'Training Log', 'Converted From')
MEASURED = ('FLOPs', 'Parameters', 'Input Shape')
METRICS = ('Top 1 Accuracy', 'Top 5 Accuracy', 'mIoU', 'box AP', 'mask AP')
#: The data part of a file name -> the data.
DATA = {
    'cifar10': 'CIFAR-10',
    'cifar100': 'CIFAR-100',
    'cifar10-subset': 'CIFAR-10 (subset)',
    'mini-cifar10': 'mini CIFAR-10 (synthetic)',
    'in1k': 'ImageNet-1k',
    'cub': 'CUB-200-2011',
    'cityscapes': 'Cityscapes',
    'ade20k': 'ADE20K',
    'voc12aug': 'Pascal VOC 2012 + Aug',
    'coco-stuff164k': 'COCO-Stuff 164k',
    'camvid': 'CamVid',
    'mini-cityscapes': 'mini Cityscapes (synthetic)',
    'kinetics400': 'Kinetics-400',
    'mini-kinetics400': 'mini Kinetics-400 (synthetic)',
    'sthv1': 'Something-Something V1',
    'sthv2': 'Something-Something V2',
    'mini-sthv1': 'mini Something-Something V1 (synthetic)',
    'ucf101-split1': 'UCF101 split 1',
    'hmdb51-split1': 'HMDB51 split 1',
    'coco': 'COCO 2017',
    'mini-coco': 'mini COCO (synthetic)',
}
#: What follows the data in the last part of a file name: a crop or the modality.
AFTER_DATA = re.compile(r'-(\d+x\d+|rgb|flow)$')


class Failure(Exception):
    """What is wrong with the zoo, in one sentence."""


def config_folders() -> list[Path]:
    """Folders of ready configs."""
    return sorted(
        folder
        for codebase in CODEBASES
        for folder in (ROOT / 'configs' / codebase).iterdir()
        if folder.is_dir() and folder.name != '_base_'
    )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read_metafile(folder: Path) -> dict:
    """What a folder's metafile says.

    Raises:
        Failure: If there is none, or it does not hold one collection.
    """
    path = folder / 'metafile.yml'
    if not path.is_file():
        raise Failure(
            f'{relative(path)} is missing: write its Collections by hand, the rest '
            'comes from --write'
        )
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    collections = content.get('Collections') or []
    if len(collections) != 1:
        raise Failure(
            f'{relative(path)} must hold one collection, not {len(collections)}'
        )
    (collection,) = collections
    if collection.get('README') != relative(folder / 'README.md'):
        raise Failure(
            f'{relative(path)}: README of the collection must be '
            f'{relative(folder / "README.md")}'
        )
    if not {'Title', 'URL'} <= set(collection.get('Paper') or {}):
        raise Failure(f'{relative(path)}: Paper of the collection needs Title and URL')
    return content


def training_resources(stem: str) -> str:
    """``8xb32`` in the name: 8 GPUs, 32 samples on each."""
    found = re.search(r'[_-](\d+)xb\d+', stem)
    if not found:
        raise Failure(f'{stem}: the name has no part like 8xb32')
    return f'{found[1]}x GPU'


def training_data(stem: str) -> str:
    """The data that the last part of the name stands for."""
    name = AFTER_DATA.sub('', stem.rsplit('_', 1)[1])
    if name not in DATA:
        raise Failure(
            f'{stem}: the data {name!r} is unknown; add it to DATA in '
            '.dev_scripts/metafiles.py'
        )
    return DATA[name]


def build_metafile(folder: Path, counts: Mapping[Path, dict]) -> dict:
    """The metafile with its derived fields as they must be."""
    content = read_metafile(folder)
    (collection,) = content['Collections']
    known = {model['Name']: model for model in content.get('Models') or []}
    models = []
    for config in sorted(folder.glob('*.py')):
        written = known.pop(config.stem, {})
        metadata = counts.get(config) or {
            key: value
            for key, value in (written.get('Metadata') or {}).items()
            if key in MEASURED
        }
        if len(metadata) != len(MEASURED):
            raise Failure(
                f'{relative(config)} is not in the metafile of its folder: run '
                'python .dev_scripts/metafiles.py --write'
            )
        models.append(
            {
                'Name': config.stem,
                'In Collection': collection['Name'],
                'Config': relative(config),
                'Metadata': {
                    **metadata,
                    'Training Data': training_data(config.stem),
                    'Training Resources': training_resources(config.stem),
                },
                **{key: written[key] for key in BY_HAND if key in written},
            }
        )
    lost = [name for name, model in known.items() if set(BY_HAND) & set(model)]
    if lost:
        raise Failure(
            f'{relative(folder / "metafile.yml")}: no config of the name {lost[0]}, '
            'but results were measured with it: rename or remove the entry'
        )
    return {'Collections': [collection], 'Models': models}


def check_results(metafile: dict, where: str) -> None:
    """Raise Failure unless every result has its metrics, data and command."""
    for model in metafile['Models']:
        results = model.get('Results', [])
        if not isinstance(results, list):
            raise Failure(f'{where}: Results of {model["Name"]} must be a list')
        for result in results:
            missing = {'Task', 'Dataset', 'Metrics', 'Command'} - set(result)
            unknown = set(result.get('Metrics', ())) - set(METRICS)
            if missing or unknown:
                raise Failure(
                    f'{where}: a result of {model["Name"]} '
                    + (f'lacks {sorted(missing)}' if missing else '')
                    + (f'has the metrics {sorted(unknown)}' if unknown else '')
                    + f'; metrics are {list(METRICS)}'
                )


class _Dumper(yaml.SafeDumper):
    """Commands of several lines as they are typed."""

    def represent_text(self, text: str) -> yaml.Node:
        style = '|' if '\n' in text else None
        return self.represent_scalar('tag:yaml.org,2002:str', text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def dump(content: dict) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def number(value: int, unit: float, digits: int = 2) -> str:
    return f'{value / unit:,.{digits}f}'


def measured(model: dict) -> str:
    """The metrics of a model's results in one cell."""
    cells = [
        f'{SHORT.get(name, name)} {value}'
        + (' (converted)' if 'Converted From' in model else '')
        for result in model.get('Results', [])
        for name, value in result['Metrics'].items()
    ]
    return ', '.join(cells) or '–'


SHORT = {'Top 1 Accuracy': 'top-1', 'Top 5 Accuracy': 'top-5'}


def model_table(metafile: dict) -> str:
    """The table of a folder's README."""
    rows = [
        '| config | data | input | parameters (M) | multiply-adds (G) '
        '| measured here |',
        '|---' * 6 + '|',
    ]
    for model in metafile['Models']:
        metadata = model['Metadata']
        digits = 3 if metadata['FLOPs'] < 1e10 else 1
        rows.append(
            f'| [{model["Name"]}]({model["Name"]}.py) | {metadata["Training Data"]} '
            f'| {metadata["Input Shape"]} | {number(metadata["Parameters"], 1e6)} '
            f'| {number(metadata["FLOPs"], 1e9, digits)} | {measured(model)} |'
        )
    return '\n'.join(rows)


def result_list(metafile: dict) -> str:
    """The conditions and commands of what was measured, under the table."""
    lines = []
    for model in metafile['Models']:
        for result in model.get('Results', []):
            note = f': {result["Note"]}' if 'Note' in result else ''
            lines += [
                f'`{model["Name"]}`, {result["Dataset"]}{note}',
                '',
                '```bash',
                result['Command'].strip(),
                '```',
                '',
            ]
    if not lines:
        return 'No model of this folder was trained here: no GPU was at hand.'
    return '\n'.join(lines[:-1])


def usage(folder: Path, metafile: dict) -> str:
    """Commands for the first config of a folder."""
    model = metafile['Models'][0]
    config, work_dir = model['Config'], f'work_dirs/{model["Name"]}'
    gpus = int(model['Metadata']['Training Resources'].split('x')[0])
    train = 'python tools/train.py CONFIG'
    if gpus > 1:
        train = f'bash tools/dist_train.sh CONFIG {gpus}'
    return '\n'.join(
        [
            '```bash',
            f'CONFIG={config}',
            train.replace('CONFIG', '$CONFIG'),
            f'python tools/test.py $CONFIG $(cat {work_dir}/last_checkpoint)',
            'python tools/analysis_tools/get_flops.py $CONFIG',
            '```',
        ]
    )


def replace_region(text: str, name: str, content: str, where: str) -> str:
    """``text`` with the region between the markers of a name replaced.

    Raises:
        Failure: If the markers are not there once.
    """
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    if text.count(begin) != 1 or text.count(end) != 1:
        raise Failure(f'{where} needs the lines {begin} and {end} once')
    head, rest = text.split(begin)
    return f'{head}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}'


def build_readme(folder: Path, metafile: dict) -> str:
    """The README with its regions as they must be."""
    path = folder / 'README.md'
    where = relative(path)
    if not path.is_file():
        raise Failure(f'{where} is missing')
    text = path.read_text(encoding='utf-8')
    paper = metafile['Collections'][0]['Paper']
    link = f'> [{paper["Title"]}]({paper["URL"]})'
    if link not in text:
        raise Failure(f'{where} needs the line {link}')
    text = replace_region(text, 'usage', usage(folder, metafile), where)
    text = replace_region(text, 'models', model_table(metafile), where)
    return replace_region(text, 'results', result_list(metafile), where)


def build_zoo(metafiles: Mapping[Path, dict]) -> str:
    """The page of the model zoo."""
    if not ZOO.is_file():
        raise Failure(f'{relative(ZOO)} is missing')
    total = sum(len(metafile['Models']) for metafile in metafiles.values())
    lines = [f'{total} configs in {len(metafiles)} folders.']
    for codebase in CODEBASES:
        lines += [
            '',
            f'## {codebase.capitalize()}',
            '',
            '| method | paper | configs | parameters (M) | multiply-adds (G) '
            '| data | measured here |',
            '|---' * 7 + '|',
        ]
        for folder, metafile in metafiles.items():
            if folder.parent.name != codebase:
                continue
            models = metafile['Models']
            paper = metafile['Collections'][0]['Paper']
            data = dict.fromkeys(model['Metadata']['Training Data'] for model in models)
            count = sum('Results' in model for model in models)
            lines.append(
                f'| [{folder.name}](../../{relative(folder)}/README.md) '
                f'| [{paper["Title"]}]({paper["URL"]}) | {len(models)} '
                f'| {span(models, "Parameters", 1e6)} | {span(models, "FLOPs", 1e9)} '
                f'| {", ".join(data)} | {count or "–"} |'
            )
    text = ZOO.read_text(encoding='utf-8')
    return replace_region(text, 'zoo', '\n'.join(lines), relative(ZOO))


def span(models: Iterable[dict], key: str, unit: float) -> str:
    """Least and largest value of a field."""
    values = [model['Metadata'][key] / unit for model in models]
    least, most = f'{min(values):.3g}', f'{max(values):.3g}'
    return least if least == most else f'{least} – {most}'


def count_models(configs: Iterable[Path]) -> dict[Path, dict]:
    """Measured fields of each config; configs of one network are counted once."""
    import get_flops
    from mmengine.config import Config, utils
    from mmengine.logging import MMLogger

    # A base 'mmseg::...' reads every metafile of its package, each time anew.
    if not hasattr(utils.load, 'cache_info'):
        utils.load = functools.cache(utils.load)
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    MMLogger.get_instance('metafiles', logger_name='metafiles', log_level='ERROR')
    seen: dict[str, dict] = {}
    counts = {}
    for path in track(list(configs), description='count', console=progress_console()):
        config = Config.fromfile(path)
        shape = [*get_flops.image_size(config)]
        if config.default_scope == 'mmaction':
            shape.insert(0, get_flops.clip_frames(config))
        key = json.dumps([config.model, shape], sort_keys=True, default=str)
        if key not in seen:
            result, size = get_flops.measure(config)
            seen[key] = {
                'FLOPs': result.macs,
                'Parameters': result.parameters,
                'Input Shape': 'x'.join(map(str, size)),
            }
        counts[path] = seen[key]
    return counts


def progress_console():
    from rich.console import Console

    return Console(stderr=True)


def build_files(counts: Mapping[Path, dict]) -> dict[Path, str]:
    """Every file of the zoo with the text that it must have.

    Args:
        counts (Mapping): Measured fields by config; those of the metafile stay for
            configs that are not in it.

    Raises:
        Failure: At the first thing that only a person can repair.
    """
    folders = config_folders()
    metafiles = {folder: build_metafile(folder, counts) for folder in folders}
    names: dict[str, str] = {}
    files = {}
    for folder, metafile in metafiles.items():
        check_results(metafile, relative(folder / 'metafile.yml'))
        for model in metafile['Models']:
            if model['Name'] in names:
                raise Failure(f'two configs are called {model["Name"]}')
            names[model['Name']] = model['Config']
        files[folder / 'metafile.yml'] = dump(metafile)
    collections = [m['Collections'][0]['Name'] for m in metafiles.values()]
    if len(set(collections)) < len(collections):
        raise Failure(f'two collections share a name: {sorted(collections)}')
    for folder, metafile in metafiles.items():
        files[folder / 'README.md'] = build_readme(folder, metafile)
    imports = [relative(folder / 'metafile.yml') for folder in folders]
    files[INDEX] = dump({'Import': imports})
    files[ZOO] = build_zoo(metafiles)
    return files


def library_errors() -> list[str]:
    """What the ``modelindex`` library objects to in the index on disk.

    It looks for a collection's README beside the metafile, while OpenMMLab names it
    from the repository's root: its remark is left out where that README exists.
    """
    from modelindex.load_model_index import load

    index = load(str(INDEX))
    index.build_models_with_collections()
    return [error for error in index.check(silent=True) if not names_a_readme(error)]


def names_a_readme(error: str) -> bool:
    """Whether the README that the library misses is where OpenMMLab names it."""
    named = re.search(r'README file (\S+) is not a valid file', error)
    return bool(named) and (ROOT / named[1]).is_file()


def difference(path: Path, wanted: str) -> str:
    """The first changed lines of a file, or nothing."""
    written = path.read_text(encoding='utf-8') if path.is_file() else ''
    lines = difflib.unified_diff(
        written.splitlines(),
        wanted.splitlines(),
        f'{relative(path)} (on disk)',
        f'{relative(path)} (derived)',
        lineterm='',
        n=0,
    )
    return '\n'.join(list(lines)[:12])


def write(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding='utf-8') == text:
        return
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
    print(f'wrote {relative(path)}')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument('--write', action='store_true', help='bring all files up to date')
    mode.add_argument('--check', action='store_true', help='fail on any difference')
    parser.add_argument(
        '--every',
        type=int,
        default=1,
        metavar='N',
        help='count every Nth config alone, 0 none; the others keep what is written',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    configs = [path for folder in config_folders() for path in folder.glob('*.py')]
    chosen = sorted(configs)[:: args.every] if args.every else []
    try:
        files = build_files(count_models(chosen))
    except Failure as failure:
        sys.exit(f'metafiles.py: {failure}')
    if args.write:
        for path, text in files.items():
            write(path, text)
    differences = [difference(path, text) for path, text in files.items()]
    problems = [text for text in differences if text] + library_errors()
    for problem in problems:
        print(problem)
    if problems:
        sys.exit('metafiles.py: run `python .dev_scripts/metafiles.py --write`')
    print(f'{len(configs)} configs, {len(chosen)} counted: all files are up to date')
    return 0


if __name__ == '__main__':
    main()
