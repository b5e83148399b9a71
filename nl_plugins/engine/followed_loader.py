# Copyright (c) The nl_plugins authors. All rights reserved.
"""A data loader that knows how far it is and can go on from there.

torch's loader has no place: its order is in the sampler, its randomness in the
generators of this process and of each worker, and workers are ahead of what has been
used. Here every batch of a worker brings the states that its generators had after it,
and a pass can begin behind the batches that were used, with those states.
"""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from .generators import get_states, set_states

# Stands for a batch that was used before the run was resumed.
USED = object()


@dataclass
class Place:
    """How far a loader is.

    Attributes:
        passes (int): Completed passes through the data.
        batches (int): Batches of this pass that were used.
        start (dict | None): States of this process at the beginning of the pass.
        workers (dict[int, bytes]): States of each worker after its last used batch.
    """

    passes: int = 0
    batches: int = 0
    start: dict | None = None
    workers: dict[int, bytes] = field(default_factory=dict)

    def state_dict(self) -> dict:
        """As tensors and numbers."""
        return dict(
            passes=self.passes,
            batches=self.batches,
            start=self.start if self.batches else None,
            workers={i: pickle.loads(state) for i, state in self.workers.items()},
        )

    @classmethod
    def from_state_dict(cls, state: dict) -> 'Place':
        workers = {i: pickle.dumps(states) for i, states in state['workers'].items()}
        return cls(state['passes'], state['batches'], state['start'], workers)


class _Told:
    """Collates in a worker and adds the states of its generators.

    A batch of no samples passes the turn of a worker.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate

    def __call__(self, samples: list) -> dict:
        if not samples:
            return dict(batch=None, worker=None, states=None)
        batch = self.collate(samples)
        states = pickle.dumps(get_states())
        return dict(batch=batch, worker=get_worker_info().id, states=states)


class BeginWorker:
    """Begins a worker with the states of one that worked before.

    A signal for the whole group of processes, as clusters and terminals send it, must
    not end the workers before the run has used what it needs of them.

    Args:
        init (Callable | None): The loader's own ``worker_init_fn``.
        needed (ctypes.c_byte): Shared with the run: whether it was told to end, but
            has not ended.
        states (dict[int, bytes], optional): Of each worker.
    """

    def __init__(
        self, init: Callable | None, needed: Any, states: dict | None = None
    ) -> None:
        self.init = init
        self.needed = needed
        self.states = states or {}

    def __call__(self, worker: int) -> None:
        if self.init is not None:
            self.init(worker)
        if worker in self.states:
            set_states(pickle.loads(self.states[worker]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):  # it tells who sent a signal
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_the_end, daemon=True).start()

    def _wait_for_the_end(self) -> None:
        while True:
            sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
            if sender == os.getppid():
                os._exit(0)  # as torch's workers do
            # The run gets the same signal, perhaps a moment later.
            until = time.monotonic() + 0.5
            while not self.needed.value:
                if time.monotonic() > until:
                    os._exit(128 + signal.SIGTERM)
                time.sleep(0.01)
            signal.alarm(60)


class _Behind:
    """Batches of indices behind those that were used, and turns to pass, once."""

    def __init__(self, sampler: Any, used: int, turns: int) -> None:
        self.sampler, self.used, self.turns = sampler, used, turns

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list]:
        used, turns = self.used, self.turns
        self.used = self.turns = 0
        yield from ([] for _ in range(turns))
        yield from islice(iter(self.sampler), used, None)


@cache
def _followed(kind: type[DataLoader]) -> type[DataLoader]:
    """The class of a followed loader, to which an object of ``kind`` can change."""

    class Followed(kind):
        place: Place
        _resume: dict | None = None
        _quiet: bool = False
        _needed: Any = None
        _behind: _Behind | None = None

        @property
        def _index_sampler(self):
            return self._behind or super()._index_sampler

        def __iter__(self) -> Iterator:
            place, resumed = self.place, self._resume
            self._resume = None
            quiet, self._quiet = self._quiet, False
            used = place.batches if resumed else 0
            if used:
                set_states(place.start)
            else:
                place.start = get_states()
            iterator = self._begin(quiet, used, place.workers if resumed else None)
            if used:
                if not self.num_workers:
                    for _ in islice(iterator._sampler_iter, used):
                        pass
                yield from (USED for _ in range(used))
                set_states(resumed)
            place.batches = used
            for item in iterator:
                if self._tells:
                    if item['states'] is None:
                        continue
                    place.workers[item['worker']] = item['states']
                    item = item['batch']
                place.batches += 1
                yield item
            place.passes += 1
            place.batches = 0
            if not self.persistent_workers:
                place.workers = {}

        @property
        def _tells(self) -> bool:
            return self.num_workers > 0 and self._auto_collation

        def _begin(self, quiet: bool, used: int, states: dict | None) -> Iterator:
            """torch's iterator; a persistent one keeps what it was made with."""
            mine = vars(self)
            before = {
                name: mine[name]
                for name in ('collate_fn', 'worker_init_fn', 'generator')
            }
            if self._tells:
                self.collate_fn = _Told(self.collate_fn)
            if self.num_workers:
                self.worker_init_fn = BeginWorker(
                    self.worker_init_fn, self._needed, states
                )
                # Batch number ``used`` belongs to the worker that would have got it.
                turns = used % self.num_workers
                self._behind = (
                    _Behind(self._index_sampler, used, turns) if used else None
                )
            if quiet:
                # It draws a seed for the workers, which the uninterrupted run did not.
                self.generator = torch.Generator().manual_seed(torch.initial_seed())
            try:
                return super().__iter__()
            finally:
                mine.update(before)
                self._behind = None

    Followed.__name__ = Followed.__qualname__ = kind.__name__
    return Followed


def can_follow(loader: Any) -> bool:
    """Whether ``loader`` deals indices of a data set, in turns, to its workers."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, torch.utils.data.IterableDataset)
        and (loader.num_workers == 0 or loader.batch_sampler is not None)
        and getattr(loader, 'in_order', True)
    )


def follow(
    loader: DataLoader,
    place: Place,
    resume: dict | None,
    needed: Any,
    quiet: bool = False,
) -> None:
    """Let ``loader`` keep ``place``, from its next pass on.

    Args:
        loader (DataLoader): Changed in place, remains of its class.
        place (Place): New, or where to go on.
        resume (dict | None): States of this process to go on with, for a place that
            was saved.
        needed (ctypes.c_byte): As in :class:`BeginWorker`.
        quiet (bool): Whether beginning the next pass draws nothing from the generators.
    """
    loader.__class__ = _followed(type(loader))
    loader.place, loader._resume, loader._quiet = place, resume, quiet
    loader._needed = needed
