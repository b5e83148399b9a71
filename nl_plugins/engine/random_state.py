# Copyright (c) The nl_plugins authors. All rights reserved.
"""Runs that go on from a checkpoint as if they had never stopped."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks.hook import Hook  # its package may be half imported
from mmengine.registry import HOOKS

from ..compat.whole_checkpoints import INTERRUPTED
from ..files import write_text
from .followed_loader import USED, BeginWorker, Place, can_follow, follow
from .generators import get_states, set_states

KEY = 'random_states'
GRADIENTS = 'accumulated_gradients'


class _Advanced:
    """The iterator of an iteration-based loop, which is where it has to be already.

    mmengine takes as many batches from it as were used and throws them away.
    """

    def __init__(self, iterator: Any, taken: int) -> None:
        self._iterator, self._taken = iterator, taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self._taken:
            self._taken -= 1
            return None
        batch = next(self._iterator)
        while batch is USED:
            batch = next(self._iterator)
        return batch


def _accumulates(runner) -> bool:
    """Whether gradients wait for further iterations before they are applied."""
    wrapper = runner.optim_wrapper
    wrappers = getattr(wrapper, 'optim_wrappers', dict(only=wrapper)).values()
    return any(
        getattr(each, '_inner_count', 0) % getattr(each, '_accumulative_counts', 1)
        for each in wrappers
    )


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Makes a run that is resumed equal to one that was not interrupted.

    A checkpoint gets the states of the generators of python, numpy and torch (CUDA's
    too), of every process and every worker, the place in the data and the gradients
    that are being accumulated; a run that is resumed goes on with them, at the next
    batch. On a CPU the weights are then equal bit for bit. Validation leaves the
    generators of the training as they were.

    It also saves ``interrupted.pth`` and ends the run in order when it is told to end:
    by SIGTERM, as clusters do (status 143), or by SIGINT, Ctrl-C (status 130). A second
    signal ends it at once.
    """

    # After what changes weights, schedules and averages, before CheckpointHook.
    priority = 85

    def __init__(self) -> None:
        self._loaded: dict | None = None
        self._gradients: dict | None = None
        self._main: dict | None = None
        self._place: Place | None = None
        self._in_val: dict | None = None
        self._gathered: list[dict] | None = None
        self._group = None
        self._signal: int | None = None
        self._handlers: dict = {}
        self._describes: list | None = None
        self._set_epoch: Callable | None = None
        # Shared with the workers: whether a signal was seen and they are still needed.
        self._needed = multiprocessing.RawValue('b', 0)

    # --- what is kept ---------------------------------------------------------------
    def _mine(self) -> dict:
        return dict(
            states=self._in_val or get_states(),
            place=self._place and self._place.state_dict(),
            loader=self._describes,
        )

    def _gather(self) -> None:
        """From every process: all of them get here."""
        mine = self._mine()
        several = get_world_size() > 1
        self._gathered = all_gather_object(mine) if several else [mine]

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the states."""
        if get_world_size() == 1:
            self._gather()
        if self._gathered is None:
            # Saved by somebody else than CheckpointHook, in this process alone.
            return
        checkpoint[KEY] = self._gathered
        if get_world_size() == 1 and _accumulates(runner):
            checkpoint[GRADIENTS] = {
                name: parameter.grad.cpu()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """What was gathered is out of date."""
        self._gathered = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Gather where a checkpoint is about to be saved; end where asked to."""
        from mmengine.hooks import CheckpointHook

        if self._can_end(runner):
            self._end(runner, iteration=runner.iter + 1)
        if get_world_size() > 1 and any(
            isinstance(hook, CheckpointHook)
            and not hook.by_epoch
            and (
                hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
                or (hook.save_last and hook.is_last_train_iter(runner))
            )
            for hook in runner.hooks
        ):
            self._gather()

    def after_train_epoch(self, runner) -> None:
        """Gather, for several processes."""
        if get_world_size() > 1:
            self._gather()

    def before_val(self, runner) -> None:
        """Keep the generators of the training, whose checkpoints have their states."""
        if self._handlers:  # in a run that trains
            self._in_val = get_states()
            self._gather()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """End where asked to; several processes may have unequal numbers of batches."""
        from mmengine.hooks import EMAHook

        if get_world_size() == 1 and self._in_val and self._told_to_end():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # the averages are in place
            self._end(runner, iteration=runner.iter)

    def after_val(self, runner) -> None:
        """Go on with the generators of the training."""
        if self._in_val:
            set_states(self._in_val)
            if self._can_end(runner):
                self._end(runner, iteration=runner.iter)
            self._in_val = None

    # --- going on -------------------------------------------------------------------
    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the states of a checkpoint that is resumed."""
        if not runner._resume:
            return
        self._gradients = checkpoint.get(GRADIENTS)
        processes = checkpoint.get(KEY)
        if processes is None:
            self._warn(runner, 'the checkpoint holds no states of random generators')
        elif len(processes) != get_world_size():
            self._warn(
                runner,
                f'the checkpoint was saved by {len(processes)} processes, but there '
                f'are {get_world_size()}',
            )
        else:
            self._loaded = processes[get_rank()]

    def _warn(self, runner, why: str) -> None:
        runner.logger.warning(
            f'{why}: this run will differ from one that was not interrupted.'
        )

    def before_train(self, runner) -> None:
        """Follow the loader, from the place of the checkpoint if there is one."""
        # The runner imports the models, which bring this file.
        from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

        self._catch_signals(runner)
        loop, loaded = runner.train_loop, self._loaded
        self._loaded = None
        loader = loop.dataloader
        self._main = loaded and loaded['states']
        by_epoch = isinstance(loop, EpochBasedTrainLoop) and (
            type(loop).run_epoch is EpochBasedTrainLoop.run_epoch
        )
        by_iteration = isinstance(loop, IterBasedTrainLoop) and (
            type(loop).run is IterBasedTrainLoop.run
        )
        followed = can_follow(loader) and (by_epoch or by_iteration)
        self._describes = (
            [len(loader), loader.num_workers, bool(loader.persistent_workers)]
            if followed
            else None
        )
        if followed:
            state = loaded and loaded['place']
            if loaded and loaded['loader'] != self._describes:
                names = 'batches, workers and whether they are persistent'
                self._warn(
                    runner,
                    f'the data loader of the checkpoint had other {names}: '
                    f'{loaded["loader"]}, not {self._describes}',
                )
                state = None
            self._place = Place.from_state_dict(state) if state else Place()
            goes_on = self._main if state else None
            if by_epoch:
                self._follow_epochs(loop, goes_on)
            else:
                self._follow_iterations(loop, goes_on)
        if self._gradients:
            parameters = dict(runner.model.named_parameters())
            for name, gradient in self._gradients.items():
                parameters[name].grad = gradient.to(parameters[name])
        self._gradients = None

    def _follow_epochs(self, loop: Any, goes_on: dict | None) -> None:
        place, loader = self._place, loop.dataloader
        # Workers that persist draw their seed in the first pass only.
        persist = loader.num_workers > 0 and loader.persistent_workers
        quiet = bool(goes_on and persist and place.passes)
        follow(loader, place, goes_on, self._needed, quiet)
        if place.batches:
            run_iter = loop.run_iter

            def skip_used(index: int, batch: Any) -> None:
                if batch is not USED:
                    # Once: the next epochs are whole.
                    loop.run_iter = run_iter
                    run_iter(index, batch)

            loop.run_iter = skip_used

    def _follow_iterations(self, loop: Any, goes_on: dict | None) -> None:
        place, loader, inner = self._place, loop.dataloader, loop.dataloader_iterator
        # The loop has begun a pass when it was built, and workers may be ahead in it.
        inner._iterator = loader._iterator = None
        sampler = loader.sampler
        if hasattr(sampler, '_indices_of_rank'):  # mmengine's InfiniteSampler
            sampler.indices = sampler._indices_of_rank()
        if place.passes and hasattr(sampler, 'set_epoch'):
            inner._epoch = place.passes
            # Behind mmengine's hook, which takes the whole run for one epoch.
            self._set_epoch = partial(sampler.set_epoch, place.passes)
        follow(loader, place, goes_on, self._needed, quiet=True)
        inner._iterator = iter(loader)
        if goes_on:
            loop.dataloader_iterator = _Advanced(inner, loop.iter)

    def before_train_epoch(self, runner) -> None:
        """Go on with the generators of the checkpoint, unless the loader does."""
        if self._set_epoch is not None:
            self._set_epoch()
        if self._main:
            set_states(self._main)
        self._main = self._set_epoch = None

    # --- the end --------------------------------------------------------------------
    def _catch_signals(self, runner) -> None:
        if torch.distributed.is_initialized() and self._group is None:
            is_gloo = torch.distributed.get_backend() == 'gloo'
            # On the host, so that no GPU has to be waited for.
            self._group = (
                torch.distributed.group.WORLD
                if is_gloo
                else torch.distributed.new_group(backend='gloo')
            )
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        loader = getattr(runner.val_loop, 'dataloader', None)
        if isinstance(loader, torch.utils.data.DataLoader) and loader.num_workers:
            loader.worker_init_fn = BeginWorker(loader.worker_init_fn, self._needed)

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a child that has not its own handlers yet
            return
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        self._needed.value = 1

    def _told_to_end(self) -> bool:
        """Whether a process was told to end: all agree."""
        if self._group is None:
            return self._signal is not None
        number = torch.tensor(self._signal or 0)
        torch.distributed.all_reduce(
            number, torch.distributed.ReduceOp.MAX, group=self._group
        )
        # A signal that came meanwhile is not agreed upon: it stays for the next time.
        agreed = number.item()
        if agreed:
            self._signal = agreed
        return bool(agreed)

    def _can_end(self, runner) -> bool:
        """Whether to end here: several processes apply their gradients first."""
        if not self._told_to_end():
            return False
        return get_world_size() == 1 or not _accumulates(runner)

    def _end(self, runner, iteration: int) -> None:
        self._gather()
        runner.save_checkpoint(
            runner.work_dir,
            INTERRUPTED,
            save_param_scheduler=runner.param_schedulers is not None,
            meta=dict(epoch=runner.epoch, iter=iteration),
            by_epoch=False,
        )
        path = Path(runner.work_dir) / INTERRUPTED
        if get_rank() == 0:
            write_text(path.with_name('last_checkpoint'), str(path))
            name = signal.Signals(self._signal).name
            runner.logger.warning(
                f'{name} ended the run after iteration {iteration}: {path} is saved, '
                '--resume goes on from there.'
            )
        if self._group is not None:
            torch.distributed.barrier(group=self._group)
        self._needed.value = 0
        raise SystemExit(128 + self._signal)

    def after_train(self, runner) -> None:
        """Leave the signals to whoever had them."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
