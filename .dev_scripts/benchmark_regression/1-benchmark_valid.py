# Copyright (c) The nl_plugins authors. All rights reserved.
"""Build every model of the model index and test it on one sample.

    V=.dev_scripts/benchmark_regression/1-benchmark_valid.py
    python $V --models snl_r18 --flops

The sample goes through the data preprocessor, the network and the prediction of the
codebase. It is the picture of ``--img`` in the shape of the config's tables, or noise;
clips are noise. Weights are random without ``--checkpoint-root``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

sys.path[:0] = [
    str(Path(__file__).resolve().parent),
    str(Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'),
    str(Path(__file__).resolve().parents[2]),
]

import get_flops  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from checkpoints import find_checkpoint  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import load_checkpoint  # noqa: E402
from regression import ROOT, load_models, select, show  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--checkpoint-root', type=Path, help='folder of checkpoints')
    parser.add_argument('--img', help='a picture instead of noise')
    parser.add_argument('--models', nargs='+', help='names, or patterns of names')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--inference-time', action='store_true', help='mean of ten runs'
    )
    parser.add_argument('--flops', action='store_true', help='count each model')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(argv)


def sample(scope: str):
    """An empty data sample of a codebase."""
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample as Sample
    elif scope == 'mmseg':
        from mmseg.structures import SegDataSample as Sample
    elif scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmaction.structures import ActionDataSample as Sample
    return Sample()


def make_batch(config: Config, shape: Sequence[int], args) -> dict:
    """A batch as the codebase's data loader gives it; pixels are 0 to 255."""
    height, width = shape[-2:]
    if args.img and len(shape) == 4 and shape[1] == 3:
        import mmcv

        pixels = mmcv.imresize(mmcv.imread(args.img), (width, height))
        inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    else:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(256, shape[1:], dtype=torch.uint8, generator=generator)
    samples = [sample(config.default_scope) for _ in range(args.batch_size)]
    for each in samples:
        size = (height, width)
        each.set_metainfo(dict(ori_shape=size, img_shape=size, pad_shape=size))
    return dict(inputs=[inputs] * args.batch_size, data_samples=samples)


def validate(model_info, args: argparse.Namespace) -> dict:
    """Build one model and test it; the columns of its row."""
    config = Config.fromfile(ROOT / model_info.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    counted, shape = get_flops.measure(config)
    scope = config.default_scope
    cfg = config.model
    if config.get('data_preprocessor'):
        cfg.setdefault('data_preprocessor', config.data_preprocessor)
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(cfg)).to(get_device()).eval()
        if args.checkpoint_root:
            path = find_checkpoint(model_info, args.checkpoint_root)
            if path is None:
                raise FileNotFoundError(f'no checkpoint in {args.checkpoint_root}')
            load_checkpoint(model, str(path), map_location='cpu')
        seconds = []
        with torch.no_grad():
            for _ in range(11 if args.inference_time else 1):
                batch = make_batch(config, shape, args)
                start = perf_counter()
                predictions = model.test_step(batch)
                seconds.append(perf_counter() - start)
    if len(predictions) != args.batch_size:
        raise RuntimeError(f'{len(predictions)} predictions of {args.batch_size}')
    row = {'resolution': 'x'.join(map(str, shape[1:]))}
    if args.inference_time:
        times = np.array(seconds[1:]) / args.batch_size * 1000
        row['time'] = f'{times.mean():.1f} ({times.std():.1f})'
    if args.flops:
        row['flops'], row['params'] = f'{counted.macs:,}', f'{counted.parameters:,}'
    return row


COLUMNS = {
    'model': 'Model',
    'valid': 'Validation',
    'resolution': 'Input',
    'time': 'Time (std) (ms a sample)',
    'flops': 'Multiply-adds',
    'params': 'Parameters',
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    models = select(load_models(), args.models)
    logger = MMLogger.get_instance('valid', logger_name='valid', log_level='WARNING')
    rows = []
    for number, (name, model_info) in enumerate(models.items(), 1):
        print(f'[{number}/{len(models)}] {name}', flush=True)
        row = {'model': name}
        try:
            row |= {'valid': 'PASS', **validate(model_info, args)}
        # A model may fail in any way; the others are still of interest.
        except Exception as error:
            memory = 'out of memory' in str(error)
            row['valid'] = 'OUT OF MEMORY' if memory else 'FAIL'
            logger.log(logging.ERROR, f'{name}:\n{traceback.format_exc()}')
        rows.append([row.get(column, '') for column in COLUMNS])
    show('Validation of the models', list(COLUMNS.values()), rows)
    failed = [row[0] for row in rows if row[1] != 'PASS']
    if failed:
        sys.exit(f'{len(failed)} of {len(rows)} models failed: {" ".join(failed)}')


if __name__ == '__main__':
    main()
