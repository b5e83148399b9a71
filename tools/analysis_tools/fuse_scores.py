# Copyright (c) The nl_plugins authors. All rights reserved.
"""Accuracy of several networks together, from what ``test.py --dump`` wrote.

The fused score of a video is ``Σ_m coefficient_m score_m / number of networks``, with
score_m the mean over clips and crops: of logits for ``average_clips='score'`` in the
head, as TSM and RNL do, or of probabilities for ``'prob'``.
"""

import argparse
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.storage import TypedStorage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nl_plugins.compat.plain_arrays import STAND_INS, PlainUnpickler, StandIn  # noqa: E402
from nl_plugins.files import open_whole  # noqa: E402

# What other contents than a list of samples raise while they are read.
_MALFORMED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def _load_storage(content: bytes) -> TypedStorage:
    storage = torch.load(io.BytesIO(content), weights_only=True)
    if not isinstance(storage, TypedStorage):
        raise TypeError(f'{type(storage).__name__} is no storage')
    return storage


def _tensor(storage: TypedStorage, offset: int, size: tuple, stride: tuple, *_):
    return torch._utils._rebuild_tensor_v2(
        storage, offset, size, stride, False, OrderedDict()
    )


class _DumpUnpickler(PlainUnpickler):
    """Tensors in lists and dicts; nothing that could do harm is looked up."""

    allowed = STAND_INS | {
        name: StandIn('.'.join(name), call)
        for name, call in {
            ('collections', 'OrderedDict'): OrderedDict,
            ('torch._utils', '_rebuild_tensor_v2'): _tensor,
            ('torch.storage', '_load_from_bytes'): _load_storage,
        }.items()
    }


def read_dump(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores (videos, classes) and labels (videos,) of one dump.

    Raises:
        ValueError: If the file is not a dump of single-label recognition.
    """
    try:
        with open(path, 'rb') as file:
            samples = _DumpUnpickler(file).load()
        scores = [sample['pred_score'].double().numpy() for sample in samples]
        labels = [sample['gt_label'].item() for sample in samples]
        return np.stack(scores), np.array(labels)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in many ways
        raise ValueError(
            f'{path} is not a dump of single-label recognition ({error}); write one '
            f'with tools/test.py CONFIG CHECKPOINT --dump {path.stem}.pkl'
        ) from error


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of each row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fuse(scores: Sequence[np.ndarray], coefficients: Sequence[float]) -> np.ndarray:
    """``Σ_m coefficient_m score_m / M``. -> (videos, classes)

    Raises:
        ValueError: If the numbers of scores and coefficients differ, or shapes do.
    """
    if len(scores) != len(coefficients):
        raise ValueError(
            f'{len(scores)} dumps need as many coefficients, but got '
            f'{len(coefficients)}'
        )
    if not np.isfinite(coefficients).all():
        raise ValueError(f'coefficients must be finite numbers, but got {coefficients}')
    if len({score.shape for score in scores}) > 1:
        shapes = ', '.join(str(score.shape) for score in scores)
        raise ValueError(f'videos and classes of the dumps differ: {shapes}')
    return sum(c * score for c, score in zip(coefficients, scores)) / len(scores)


def accuracies(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Top-1, top-5 and mean class accuracy in percent."""
    from mmaction.evaluation import mean_class_accuracy, top_k_accuracy

    top1, top5 = top_k_accuracy(list(scores), labels, (1, 5))
    return 100 * top1, 100 * top5, 100 * mean_class_accuracy(list(scores), labels)


def write_dump(path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    """Write fused scores as a dump that this tool and mmaction2's read."""
    samples = [
        dict(
            pred_score=torch.from_numpy(score),
            pred_label=torch.tensor([int(score.argmax())]),
            gt_label=torch.tensor([int(label)]),
        )
        for score, label in zip(scores, labels)
    ]
    with open_whole(path) as file:
        file.write(pickle.dumps(samples))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('preds', nargs='+', type=Path, help='dumps of test.py')
    parser.add_argument(
        '--coefficients', nargs='+', type=float, help='one a dump; all 1 by default'
    )
    parser.add_argument(
        '--apply-softmax', action='store_true', help='fuse probabilities of logits'
    )
    parser.add_argument('--out', type=Path, help='write the fused scores, .pkl')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        dumps = [read_dump(path) for path in args.preds]
        labels = dumps[0][1]
        for path, (_, other) in zip(args.preds[1:], dumps[1:]):
            if not np.array_equal(labels, other):
                raise ValueError(
                    f'{path} holds other videos, or another order, than '
                    f'{args.preds[0]}: their labels differ'
                )
        scores = [score for score, _ in dumps]
        if args.apply_softmax:
            scores = [softmax(score) for score in scores]
        fused = fuse(scores, args.coefficients or [1.0] * len(scores))
        if args.out:
            write_dump(args.out, fused, labels)
    except (OSError, ValueError) as error:
        sys.exit(f'fuse_scores: {error}')
    width = max(len(str(path)) for path in [*args.preds, 'fused'])
    print(f'{"":{width}}  top-1  top-5  mean class')
    for name, score in [*zip(args.preds, scores), ('fused', fused)]:
        top1, top5, mean = accuracies(score, labels)
        print(f'{str(name):{width}}  {top1:5.2f}  {top5:5.2f}  {mean:10.2f}')


if __name__ == '__main__':
    main()
