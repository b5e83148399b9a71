# Copyright (c) The nl_plugins authors. All rights reserved.
"""A headless Chromium, spoken to through its debugging pipe; no package is needed."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


def find_browser() -> str | None:
    """The first Chromium on the path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a headless browser.

    Attributes:
        errors (list[str]): Uncaught exceptions and messages of level error.
        requests (list[str]): Addresses that the page asked for.
    """

    def __init__(self, program: str, profile: Path, deadline: float = 120) -> None:
        self._end = time.monotonic() + deadline
        self._count, self._buffer = 0, b''
        self.errors: list[str] = []
        self.requests: list[str] = []
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = (
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-dev-shm-usage',
            '--remote-debugging-pipe',
            '--window-size=1200,900',
            f'--user-data-dir={profile}',
        )
        # Chromium reads descriptor 3 and writes 4.
        connect = f'exec 3<&{read} 4>&{write}; exec "$@"'
        self._process = subprocess.Popen(
            ['bash', '-c', connect, 'bash', program, *options, 'about:blank'],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)

    def __enter__(self) -> Browser:
        targets = self._call('Target.getTargets')['targetInfos']
        (page,) = (t['targetId'] for t in targets if t['type'] == 'page')
        attached = self._call('Target.attachToTarget', targetId=page, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters) -> dict:
        """A command of the DevTools protocol, for the page."""
        return self._call(method, self._session, **parameters)

    def evaluate(self, expression: str):
        """The value of an expression of JavaScript."""
        answer = self.call(
            'Runtime.evaluate', expression=expression, returnByValue=True
        )
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def open(self, path: Path, ready: str) -> None:
        """Load a file and wait until an expression is true."""
        self.call('Page.navigate', url=path.as_uri())
        while not self.evaluate(ready):
            assert not self.errors, self.errors
            assert time.monotonic() < self._end, f'{path} was not ready'
            time.sleep(0.1)

    def mouse(self, x: float, y: float, click: bool = False) -> None:
        """Move the mouse to a place of the window, and click there."""
        kinds = ['mouseMoved', *(['mousePressed', 'mouseReleased'] if click else [])]
        for kind in kinds:
            button = {} if kind == 'mouseMoved' else dict(button='left', clickCount=1)
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, **button)

    def _call(self, method: str, session: str | None = None, **parameters) -> dict:
        self._count += 1
        message = dict(id=self._count, method=method, params=parameters)
        if session:
            message['sessionId'] = session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._count:
                assert 'error' not in answer, answer['error']
                return answer['result']
            self._note(answer.get('method'), answer.get('params', {}))

    def _note(self, method: str | None, parameters: dict) -> None:
        if method == 'Runtime.exceptionThrown':
            self.errors.append(str(parameters['exceptionDetails']))
        elif method == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
            self.errors.append(parameters['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(parameters['request']['url'])

    def _receive(self) -> dict:
        while b'\0' not in self._buffer:
            left = self._end - time.monotonic()
            assert left > 0, 'the browser does not answer'
            if select.select([self._read], [], [], left)[0]:
                part = os.read(self._read, 1 << 16)
                assert part, 'the browser has ended'
                self._buffer += part
        message, self._buffer = self._buffer.split(b'\0', 1)
        return json.loads(message)
