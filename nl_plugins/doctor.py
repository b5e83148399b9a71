# Copyright (c) The nl_plugins authors. All rights reserved.
"""What is installed, what was repaired, what is missing.

``python -m nl_plugins.doctor [--json] [CODEBASE ...]`` tries to import the
models of each codebase (all of them unless some are named) and our adapter. Its
exit status is 1 when one of them cannot work.
"""

import argparse
import json
import os
import platform
import re
import sys
from importlib import import_module, metadata
from typing import NamedTuple

from . import compat
from .codebases import CODEBASES, install_command
from .compat.repair import APPLIED, release, version_of
from .version import __version__

HEADLESS = 'pip install --force-reinstall --no-deps opencv-python-headless'
_MISSING = dict(
    missing='Missing', optional='Not installed, for some scripts of the codebases'
)
# Python turns warnings into errors by either.
LENIENT = 'unset PYTHONWARNINGS, and leave -W out'


class Package(NamedTuple):
    """A package that something needs.

    Attributes:
        module (str): Import name.
        distributions (tuple[str]): Names under which it may be installed.
        remedy (str): The command that installs it.
        needed_by (tuple[str]): Codebases that need it; empty: all of nl_plugins.
    """

    module: str
    distributions: tuple[str, ...]
    remedy: str
    needed_by: tuple[str, ...] = ()


_ALL = tuple(CODEBASES)
PACKAGES = (
    Package('torch', ('torch',), 'pip install torch'),
    Package('numpy', ('numpy',), 'pip install numpy'),
    Package('einops', ('einops',), 'pip install einops'),
    Package(
        'mmengine',
        ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
        install_command('mim'),
        _ALL,
    ),
    Package(
        'mmcv',
        ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
        install_command('mim'),
        _ALL,
    ),
    Package(
        'setuptools', ('setuptools',), 'pip install "setuptools>=77.0.3,<82"', _ALL
    ),
    Package(
        'cv2',
        ('opencv-contrib-python', 'opencv-python', 'opencv-python-headless'),
        'pip install opencv-python-headless',
        _ALL,
    ),
    Package(
        'torchvision',
        ('torchvision',),
        'pip install torchvision',
        ('mmpretrain', 'mmaction', 'mmdet'),
    ),
    Package('mat4py', ('mat4py',), 'pip install mat4py', ('mmpretrain',)),
    Package('ftfy', ('ftfy',), 'pip install ftfy', ('mmseg',)),
    Package('regex', ('regex',), 'pip install regex', ('mmseg',)),
    Package('decord', ('decord',), 'pip install decord', ('mmaction',)),
    *(
        Package(name, (name,), f'pip install {name}', ('mmdet',))
        for name in ('pycocotools', 'shapely', 'terminaltables', 'tqdm')
    ),
)

#: What scripts of the codebases import and nothing else needs.
OPTIONAL = tuple(
    Package(module, (name,), f'pip install {name}', needed_by)
    for module, name, *needed_by in (
        ('tensorboard', 'tensorboard'),
        ('seaborn', 'seaborn', 'mmseg'),
        ('moviepy', 'moviepy', 'mmaction'),
        ('pytorch_grad_cam', 'grad-cam', 'mmpretrain', 'mmseg'),
        ('sklearn', 'scikit-learn', 'mmpretrain'),
        ('psutil', 'psutil', 'mmdet'),
    )
)


def _version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return f'{metadata.version(distribution)} ({distribution})'
        except metadata.PackageNotFoundError:
            continue
    return None


def _problem_of(module: str) -> str | None:
    """Why ``module`` cannot be imported, in one line; None when it can."""
    try:
        import_module(module)
    except Exception as error:  # whatever a broken package raises is the finding
        return f'{type(error).__name__}: {" ".join(str(error).split())}'
    return None


def _remedy(problem: str) -> str | None:
    """What to type where installing again does not help."""
    if re.match(r'\w*Warning:', problem):
        return LENIENT
    if not compat.is_enabled():
        return 'unset NL_PLUGINS_COMPAT'
    return HEADLESS if 'libGL' in problem else None


def _check_codebase(package: str) -> dict:
    codebase = CODEBASES[package]
    report = dict(
        package=package,
        version=_version(codebase.distributions),
        works=False,
        problem=None,
        remedy=None,
    )
    if not compat.is_installed(package):
        report.update(problem='not installed', remedy=codebase.remedy)
        return report
    for module in (package, f'{package}.models', codebase.adapter):
        problem = _problem_of(module)
        if problem:
            report.update(
                problem=f'import {module}: {problem}',
                remedy=_remedy(problem) or codebase.remedy,
            )
            return report
    report['works'] = True
    return report


def diagnose(codebases: tuple[str, ...] = _ALL) -> dict:
    """Examine the installation.

    Args:
        codebases (tuple[str]): Those that have to work. Defaults to all.

    Returns:
        dict: ``ok`` (whether they do), ``versions``, ``devices``, ``loading`` (of
        checkpoints), ``repairs``, ``codebases``, ``missing`` and ``optional`` (for
        scripts of the codebases), ready for json.
    """
    versions = dict(
        nl_plugins=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
    )
    missing = []
    for package in PACKAGES:
        # One owner may leave a folder without metadata, as in a checkout.
        installed = compat.is_installed(package.module)
        version = _version(package.distributions)
        versions[package.module] = (version or 'unknown') if installed else None
        if not installed and _wanted(package, codebases):
            missing.append(dict(package=package.module, remedy=package.remedy))
    optional = [
        dict(package=package.module, remedy=package.remedy)
        for package in OPTIONAL
        if _wanted(package, codebases) and not compat.is_installed(package.module)
    ]
    if compat.is_installed('mmengine'):
        reports = [_check_codebase(package) for package in codebases]
    else:
        reports = [
            dict(
                package=package,
                version=None,
                works=False,
                problem='mmengine is not installed',
                remedy=install_command('mim'),
            )
            for package in codebases
        ]
    for report in reports:
        if report['problem'] == 'not installed':
            missing.append(dict(package=report['package'], remedy=report['remedy']))
    return dict(
        ok=all(report['works'] for report in reports),
        versions=versions,
        devices=_devices(),
        loading=_loading(),
        # Last, as the imports above let waiting repairs act.
        repairs=[
            dict(
                name=repair.name,
                state=repair.state,
                acted=repair.state == APPLIED,
                symptom=repair.symptom,
                remedy=repair.remedy,
                upstream=repair.upstream,
            )
            for repair in compat.REPAIRS
        ],
        codebases=reports,
        missing=missing,
        optional=optional,
    )


def _wanted(package: Package, codebases: tuple[str, ...]) -> bool:
    return not package.needed_by or bool(set(package.needed_by) & set(codebases))


def _devices() -> dict:
    devices = dict(cpu_cores=os.cpu_count(), cuda=[])
    if compat.is_installed('torch'):
        import torch

        devices['torch_threads'] = torch.get_num_threads()
        devices['built_for_cuda'] = torch.version.cuda
        devices['cuda'] = [
            torch.cuda.get_device_name(index)
            for index in range(torch.cuda.device_count())
        ]
    return devices


def _loading() -> str:
    """Whether a checkpoint can run code when a codebase opens it, in one sentence."""
    if not compat.is_installed('torch'):
        return 'torch is missing'
    import torch

    why = None
    if release(torch.__version__) < (2, 6):
        why = f'torch {torch.__version__} is below 2.6'
    elif os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD') in (
        '1',
        'y',
        'yes',
        'true',
    ):
        why = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set'
    elif version_of('onedl-mmengine'):
        why = 'onedl-mmengine opens what torch refuses'
    if why:
        return (
            f'unrestricted, as {why}: a checkpoint can run code in train, test and '
            'inference, so open none from elsewhere; the converters stay restricted'
        )
    if not compat.is_enabled():
        return (
            'restricted to tensors, as NL_PLUGINS_COMPAT=0: checkpoints of mmengine '
            'are refused, and resuming runs a config that a file holds'
        )
    return 'restricted: a checkpoint runs no code in train, test and the converters'


def render(report: dict) -> str:
    """The report of :func:`diagnose` as text."""
    lines = ['Versions']
    for name, version in report['versions'].items():
        lines.append(f'  {name:<14} {version or "missing"}')
    devices = report['devices']
    lines += ['', 'Devices', f'  {"CPU cores":<12} {devices["cpu_cores"]}']
    lines.append(f'  {"CUDA":<12} {", ".join(devices["cuda"]) or "none"}')
    lines += ['', 'Loading of checkpoints', f'  {report["loading"]}']
    lines += ['', 'Repairs of upstream defects (NL_PLUGINS_COMPAT=0 switches them off)']
    width = max(len(repair['name']) for repair in report['repairs'])
    for repair in report['repairs']:
        lines.append(
            f'  {repair["name"]:<{width}} {repair["state"]:<12} {repair["symptom"]}'
        )
    lines += ['', 'Codebases']
    for codebase in report['codebases']:
        state = 'works' if codebase['works'] else 'cannot work'
        version = codebase['version'] or ''
        lines.append(f'  {codebase["package"]:<12} {state:<12} {version}')
        if codebase['problem']:
            lines.append(f'    {codebase["problem"]}')
            lines.append(f'    to type: {codebase["remedy"]}')
    for key, title in _MISSING.items():
        if report[key]:
            lines += ['', title]
        for package in report[key]:
            lines.append(f'  {package["package"]:<16} {package["remedy"]}')
    return '\n'.join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m nl_plugins.doctor',
        description='Report versions, devices, repairs and what is missing. '
        'The exit status is 1 when a codebase cannot work.',
    )
    parser.add_argument(
        'codebases',
        nargs='*',
        metavar='CODEBASE',
        help=f'codebases that have to work, of {", ".join(_ALL)} (default: all)',
    )
    parser.add_argument('--json', action='store_true', help='print json')
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.codebases) - set(_ALL))
    if unknown:
        parser.error(f'unknown codebase {unknown[0]}: choose from {", ".join(_ALL)}')
    report = diagnose(tuple(args.codebases) or _ALL)
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 0 if report['ok'] else 1


if __name__ == '__main__':
    sys.exit(main())
