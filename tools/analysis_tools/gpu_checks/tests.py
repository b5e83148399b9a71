# Copyright (c) The nl_plugins authors. All rights reserved.
"""The tests that take a device, on this one: ``pytest --device cuda``."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

from .section import Section

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ('test_cuda.py', 'test_graph', 'test_blocks', 'test_accelerate')
FOLDERS += ('test_attach', 'test_analysis')
# Runs on fake tensors, here as anywhere.
LEFT_OUT = 'test_blocks/test_without_a_card.py'
CHECK = 'pytest --device'


def run(section: Section) -> None:
    """Until the time is over; what failed by then is in the report."""
    tests = ROOT / 'tests'
    if not section.cuda:
        section.verdict(CHECK, None, 'on a CPU it is tools/run_tests.sh')
        return
    for needed, found in (
        ('pytest', importlib.util.find_spec('pytest')),
        ('hypothesis', importlib.util.find_spec('hypothesis')),
        ('a checkout with tests', tests.is_dir()),
    ):
        if not found:
            section.verdict(CHECK, None, f'needs {needed}')
            return
    command = [sys.executable, '-m', 'pytest', '-q', '-rfE', '--tb=short']
    command += ['--device', section.device, '-p', 'no:cacheprovider']
    command += [f'--ignore={tests / LEFT_OUT}', *(str(tests / f) for f in FOLDERS)]
    if importlib.util.find_spec('xdist'):
        command += ['-n', '6']
    if section.quick:
        command += ['-k', 'SNLBlock or softmax']
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    late = False
    try:
        output, _ = process.communicate(timeout=section.left())
    except subprocess.TimeoutExpired:
        late = True
        process.send_signal(signal.SIGINT)  # it then says what failed so far
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    print(output)
    lines = output.splitlines()
    failed = [line for line in lines if re.match(r'(FAILED|ERROR) ', line)]
    section.rows['failed tests'] = [{'test': line[:300]} for line in failed]
    totals = [line for line in lines if re.search(r'\d+ (passed|failed|error)', line)]
    last = totals[-1].strip('= ') if totals else output[-300:]
    if late:
        section.skipped.append('tests, interrupted by the clock')
    passed = not failed and (late or process.returncode == 0)
    if late and not totals:
        passed, last = None, 'not one test ended in time'
    section.verdict(CHECK, passed, last)
