# Copyright (c) The nl_plugins authors. All rights reserved.
"""Refuse runs whose parts do not fit, before they waste hours."""

import zipfile
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmpretrain.registry import HOOKS

from ..options import checked


@HOOKS.register_module()
@checked
class CheckRunHook(Hook):
    """Check class counts and checkpoints of a classification run.

    * A data set must have as many classes as the head. ``spare_classes=True`` accepts
      a wider head, as the SNL networks on CIFAR have (1000 outputs for 10 classes).
    * A checkpoint to be *tested* or resumed must have every weight of the model in the
      model's shape; one that starts a training must share at least one weight.

    Args:
        spare_classes (bool): Whether the head may be wider. Defaults to False.

    Raises:
        ValueError: One sentence about what does not fit.
    """

    def __init__(self, spare_classes: bool = False) -> None:
        self.spare_classes = spare_classes

    def before_run(self, runner) -> None:
        """Check the file itself: a copy that broke off has lost its directory."""
        path = Path(str(runner._load_from or ''))
        if not path.is_file():
            return
        with open(path, 'rb') as file:
            zipped = file.read(2) == b'PK'
        if zipped and not zipfile.is_zipfile(path):
            raise ValueError(
                f'the checkpoint {path} is truncated: copy or download it again'
            )

    def before_train(self, runner) -> None:
        """Check the classes of the training set."""
        self._check_classes(runner, runner.train_dataloader.dataset)

    def before_val(self, runner) -> None:
        """Check the classes of the validation set."""
        self._check_classes(runner, runner.val_dataloader.dataset)

    def before_test(self, runner) -> None:
        """Check the classes of the test set."""
        self._check_classes(runner, runner.test_dataloader.dataset)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check that the weights are this model's."""
        given = checkpoint.get('state_dict', checkpoint)
        given = {key.removeprefix('module.'): value for key, value in given.items()}
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wanted = {
            key: value
            for key, value in model.state_dict().items()
            if not key.endswith('num_batches_tracked')
        }
        fitting = [
            key
            for key, value in wanted.items()
            if key in given and given[key].shape == value.shape
        ]
        path = runner._load_from or 'to resume from'
        if not fitting:
            raise ValueError(
                f'the checkpoint {path} is of another network: none of its weights '
                f'({", ".join(list(given)[:3])}, ...) fits the model; published '
                'weights are converted with tools/model_converters'
            )
        # A training has built its loop by now; a test never does.
        training = runner._train_loop is not None and not isinstance(
            runner._train_loop, dict
        )
        if (runner._resume or not training) and len(fitting) < len(wanted):
            unfit = [
                f'{key} {tuple(value.shape)}'
                + (f' is {tuple(given[key].shape)}' if key in given else ' is missing')
                for key, value in wanted.items()
                if key not in given or given[key].shape != value.shape
            ]
            raise ValueError(
                f'the checkpoint {path} does not fit the model: {len(unfit)} weights '
                f'differ, the first {"; ".join(unfit[:3])}'
            )

    def _check_classes(self, runner, dataset) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        outputs = getattr(getattr(model, 'head', None), 'num_classes', None)
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if outputs is None or classes is None:
            return
        if outputs == len(classes) or (self.spare_classes and outputs > len(classes)):
            return
        raise ValueError(
            f'{type(dataset).__name__} has {len(classes)} classes, but the head has '
            f'num_classes={outputs}: set model.head.num_classes={len(classes)}'
        )
