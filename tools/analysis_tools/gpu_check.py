# Copyright (c) The nl_plugins authors. All rights reserved.
"""Are the blocks right, fast and predictable on this card? One command, 7 minutes.

    python tools/analysis_tools/gpu_check.py
    python tools/analysis_tools/gpu_check.py --quick --device cpu
    python tools/analysis_tools/gpu_check.py --sections correctness,timing
    python tools/analysis_tools/gpu_check.py --sections ways --tile-sweep

Each section runs in a process of its own with a time limit, and writes its part as it
goes: what crashes or hangs loses only what it had not measured. Sections that measure
no time run side by side. The output folder gets ``gpu_check.json``, ``gpu_check.md``
and ``gpu_check.log``. The last lines are the verdicts: ``ok``, ``FAIL``, ``short`` (a
goal of speed that was missed) and ``not run``; if a check failed, the status is 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

#: Section -> (seconds, seconds with --quick, whether it measures time).
SECTIONS = {
    'correctness': (90, 60, False),
    'capture': (90, 60, False),
    'compile': (90, 60, False),
    'tools': (95, 120, False),
    'tests': (95, 60, False),
    'timing': (125, 40, True),
    'ways': (70, 30, True),
    'networks': (45, 30, True),
    'training': (30, 40, True),
}
# Importing, and the last case that began in time.
GRACE = 25


def main(arguments: list[str] | None = None) -> int:
    """Run the sections and report; the exit status."""
    args = parse(arguments)
    if args.run:
        return run_section(args)
    if args.device != 'cpu' and not cuda_works():
        print(
            'gpu_check.py: torch finds no CUDA device here: look at `python -m '
            'nl_plugins.doctor`, or try the command with --device cpu --quick'
        )
        return 1
    out = Path(args.out)
    parts = out / 'parts'
    parts.mkdir(parents=True, exist_ok=True)
    for left in parts.glob('*'):
        left.unlink()
    report = {'machine': machine(args), 'sections': {}}
    start = time.monotonic()
    with (out / 'gpu_check.log').open('w', encoding='utf-8') as log:
        untimed = [name for name in args.sections if not SECTIONS[name][2]]
        timed = [name for name in args.sections if SECTIONS[name][2]]
        # On a CPU side by side would be no faster.
        groups = [untimed] if args.device != 'cpu' else [[name] for name in untimed]
        for group in [*groups, *([name] for name in timed)]:
            running = {name: begin(name, args, parts, log) for name in group}
            for name, process in running.items():
                status = end(process, limit(name, args))
                report['sections'][name] = collect(name, status, parts)
                write(report, out)
                seconds = time.monotonic() - start
                print(f'[{seconds:5.0f} s] {name}: {status}', flush=True)
    parts.rmdir()
    module = helper('report')
    print('\n'.join(module.verdict_lines(report)))
    failed = any(
        verdict['outcome'] == 'FAIL'
        for part in report['sections'].values()
        for verdict in part['verdicts']
    )
    return int(failed)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, ... or cpu')
    parser.add_argument('--quick', action='store_true', help='a few small cases')
    parser.add_argument('--out', default='work_dirs/gpu_check', help='folder')
    parser.add_argument(
        '--sections',
        default=','.join(SECTIONS),
        help=f'comma separated, of {",".join(SECTIONS)}',
    )
    parser.add_argument(
        '--tile-sweep', action='store_true', help='time tiles of 2^22 to 2^26 elements'
    )
    parser.add_argument('--data', help='an .npz of CIFAR images for the training')
    parser.add_argument('--run', help=argparse.SUPPRESS)
    parser.add_argument('--seconds', type=float, help="instead of each section's own")
    args = parser.parse_args(arguments)
    args.sections = [name for name in args.sections.split(',') if name]
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(
            f'there is no section {unknown[0]!r}, choose from {",".join(SECTIONS)}'
        )
    if args.data and not Path(args.data).is_file():
        parser.error(f'--data: {args.data} does not exist')
    return args


def budget(name: str, args: argparse.Namespace) -> float:
    """Seconds after which a section starts nothing new."""
    return args.seconds or SECTIONS[name][1 if args.quick else 0]


def limit(name: str, args: argparse.Namespace) -> float:
    """Seconds after which a section is killed."""
    return budget(name, args) + GRACE * (6 if args.device == 'cpu' else 1)


def begin(
    name: str, args: argparse.Namespace, parts: Path, log
) -> tuple[subprocess.Popen, float]:
    """Start a section in a process of its own."""
    command = [sys.executable, __file__, '--run', name, '--out', str(parts)]
    command += ['--device', args.device, '--seconds', str(budget(name, args))]
    command += ['--quick'] * args.quick + ['--tile-sweep'] * args.tile_sweep
    command += ['--data', str(Path(args.data).resolve())] if args.data else []
    environment = {
        'CUBLAS_WORKSPACE_CONFIG': ':4096:8',  # what deterministic mode asks for
        'TORCH_CPP_LOG_LEVEL': 'ERROR',
        'KINETO_LOG_LEVEL': '99',
        'PYTHONUNBUFFERED': '1',
        **os.environ,
    }
    # A session of its own, so that a kill reaches the processes that it started.
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return process, time.monotonic()


def end(started: tuple[subprocess.Popen, float], seconds: float) -> str:
    """Wait for a section, kill it after ``seconds``; how it ended."""
    process, start = started
    try:
        status = process.wait(max(1, seconds - (time.monotonic() - start)))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return f'stopped after {seconds:.0f} s'
    return 'finished' if status == 0 else f'ended with status {status}'


def collect(name: str, status: str, parts: Path) -> dict:
    """The part that a section left, whole or not."""
    path = parts / f'{name}.json'
    part = dict(rows={}, verdicts=[], errors=[], skipped=[], seconds=None)
    if path.is_file():
        part = json.loads(path.read_text(encoding='utf-8'))
    for left in parts.glob(f'{name}.*'):
        left.unlink()
    if status != 'finished':
        part['verdicts'].append(
            dict(check='the section ran to its end', outcome='FAIL', detail=status)
        )
    if part['skipped']:
        part['verdicts'].append(
            dict(
                check='every case was reached',
                outcome='not run',
                detail=f'no time for {len(part["skipped"])}, the first: '
                f'{part["skipped"][0]}',
            )
        )
    if part['errors']:
        part['verdicts'].append(
            dict(
                check='no case broke',
                outcome='FAIL',
                detail=f'{len(part["errors"])} did, the first: {part["errors"][0]}',
            )
        )
    return part


def write(report: dict, out: Path) -> None:
    """Both forms of the report, each whole at any moment."""
    section = helper('section')
    from nl_plugins.files import write_text

    section.write_json(out / 'gpu_check.json', report)
    write_text(out / 'gpu_check.md', helper('report').markdown(report))


def run_section(args: argparse.Namespace) -> int:
    """One section, in this process."""
    section = helper('section').Section(
        args.run,
        args.device,
        args.quick,
        args.seconds,
        Path(args.out),
        args.tile_sweep,
        args.data,
    )
    print(f'--- {args.run}', flush=True)
    try:
        import torch

        import nl_plugins  # noqa: F401  (repairs upstream before mm packages)

        if args.device != 'cpu':
            torch.cuda.set_device(torch.device(args.device).index or 0)
        module = helper(args.run)
        gc.freeze()  # what is imported need not be looked through before every peak
        module.run(section)
    except Exception as error:
        traceback.print_exc()
        section.errors.append(f'{args.run}: {type(error).__name__}: {error}')
    finally:
        section.save()
    for line in section.errors:
        print(line)
    return 0


def helper(name: str):
    """A module of the folder beside this file."""
    folder = Path(__file__).resolve().parent
    for path in (folder, folder.parents[1]):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    return importlib.import_module(f'gpu_checks.{name}')


def cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()


def machine(args: argparse.Namespace) -> dict:
    """What the figures were measured on."""
    import torch

    found = {
        'command': 'python tools/analysis_tools/gpu_check.py ' + ' '.join(sys.argv[1:]),
        'device': platform.processor() or platform.machine(),
        'torch': torch.__version__,
        'python': platform.python_version(),
        'processors': os.cpu_count(),
    }
    if args.device != 'cpu':
        properties = torch.cuda.get_device_properties(args.device)
        found['device'] = properties.name
        found['multiprocessors'] = properties.multi_processor_count
        found['memory, GiB'] = round(properties.total_memory / 2**30, 1)
        found['L2, MiB'] = round(getattr(properties, 'L2_cache_size', 0) / 2**20)
        found['CUDA'] = torch.version.cuda
    return found


if __name__ == '__main__':
    sys.exit(main())
