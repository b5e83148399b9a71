# Copyright (c) The nl_plugins authors. All rights reserved.
"""Multiply-adds, parameters and affinity memory of a model of any of the codebases.

    python tools/analysis_tools/get_flops.py CONFIG
    python tools/analysis_tools/get_flops.py CONFIG --shape 1024 2048
    python tools/analysis_tools/get_flops.py CONFIG --explain

One sample goes through the network on the meta device: shapes alone, no memory and no
weights, in the formulation that the sizes choose on a CPU.
``nl_plugins.analysis.model_complexity`` says what is counted and what not. The
"FLOPs" of OpenMMLab's tables are these multiply-adds.

The default shape is the one of the codebase's tables: the crop of the test pipeline
for images, the training crop for segmentation, one view of the validation pipeline
for clips, the scale of the test pipeline for detection. A detector of two stages is
counted with as many proposals as its config lets through, up to 100 of them in a mask
head; RoIAlign and nms count as no multiply-adds.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.conv import _ConvNd

import nl_plugins  # noqa: F401  (repairs upstream before mm packages are imported)
from nl_plugins.analysis.complexity import Complexity, model_complexity, weights_on_meta
from nl_plugins.codebases import CODEBASES

MEBI = 2**20


def measure(config: Config, shape: Sequence[int] = ()) -> tuple[Complexity, tuple]:
    """Count a config's model.

    Args:
        config (Config): With ``default_scope`` and ``model``.
        shape (Sequence[int]): Numbers of ``--shape``; none means the config's own.

    Returns:
        tuple: The complexity of one sample and the shape of the input.

    Raises:
        ValueError: If the shape does not fit, or the config does not tell it.
    """
    model = build(config)
    size = input_shape(config, model, shape)
    x = torch.empty(size, device='meta')
    options = {}
    if config.default_scope == 'mmaction':
        options['stage'] = 'head'  # "tensor" means the backbone there
    if config.default_scope == 'mmdet':
        options['data_samples'] = None
        _fix_proposals(model)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return model_complexity(model, x, mode='tensor', **options), size


def build(config: Config) -> nn.Module:
    """The config's model on the meta device."""
    scope = config.get('default_scope')
    if scope not in CODEBASES:
        raise ValueError(
            f'default_scope must be one of {sorted(CODEBASES)}, but the config has '
            f'{scope!r}'
        )
    cfg = copy.deepcopy(config.model)
    if config.get('data_preprocessor'):
        cfg.setdefault('data_preprocessor', config.data_preprocessor)
    with DefaultScope.overwrite_default_scope(scope), weights_on_meta():
        model = MODELS.build(cfg)
    return model.to('meta').eval()


def _fix_proposals(model: nn.Module) -> None:
    """Give a detector of two stages a fixed number of proposals, made of shapes alone.

    Which proposals survive, and on which level each is pooled, are values; a network on
    the meta device has none.
    """
    from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
    from mmengine.structures import InstanceData

    if not getattr(model, 'with_rpn', False):
        return
    number = model.test_cfg.rpn.max_per_img
    network = model.rpn_head.forward

    def predict(features, data_samples, **_):
        network(features)
        boxes = features[0].new_empty(number, 4)
        return [InstanceData(bboxes=boxes) for _ in range(len(features[0]))]

    model.rpn_head.predict = predict
    for extractor in model.modules():
        if isinstance(extractor, BaseRoIExtractor):
            size = extractor.out_channels, *extractor.roi_layers[0].output_size

            def pool(features, rois, *_, size=size):
                return features[0].new_empty(len(rois), *size)

            extractor.forward = pool


def input_shape(
    config: Config, model: nn.Module, shape: Sequence[int] = ()
) -> tuple[int, ...]:
    """Shape of one sample as the model's ``mode='tensor'`` takes it.

    Images are (1, C, H, W), clips of 2D recognisers (1, T, C, H, W), of 3D ones
    (1, 1, C, T, H, W).

    Args:
        config (Config): Fills in what ``shape`` leaves out.
        model (nn.Module): Its first convolution tells C.
        shape (Sequence[int]): A side, (H, W), (T, H, W), or the whole.
    """
    shape = tuple(shape)
    channels = next(m for m in model.modules() if isinstance(m, _ConvNd)).in_channels
    video = config.default_scope == 'mmaction'
    if len(shape) >= (5 if video else 4):
        return shape
    if len(shape) > (3 if video else 2):
        raise ValueError(
            f'--shape {" ".join(map(str, shape))}: give a side, height and width, '
            + ('frames, height and width, ' if video else '')
            + 'or the whole shape of the input'
        )
    height, width = (shape * 2)[-2:] if shape else image_size(config)
    if not video:
        return (1, channels, height, width)
    frames = shape[0] if len(shape) == 3 else clip_frames(config)
    if config.model.type == 'Recognizer2D':
        return (1, frames, channels, height, width)
    return (1, 1, channels, frames, height, width)


def image_size(config: Config) -> tuple[int, int]:
    """Height and width by which the codebase's tables count.

    Raises:
        ValueError: If no crop or size is in the config.
    """
    if config.default_scope == 'mmseg':
        size = config.model.get('data_preprocessor', {}).get('size')
        if size:
            return tuple(size)
    for loader in ('val_dataloader', 'train_dataloader'):
        for transform in reversed(list(pipeline(config, loader))):
            size = transform.get('crop_size') or transform.get('scale')
            if size and transform.type != 'ResizeEdge':
                # Sizes are (width, height) in every codebase, or a side.
                return (size, size) if isinstance(size, int) else tuple(size)[::-1]
    dataset = config.get('train_dataloader', {}).get('dataset', {}).get('type', '')
    if 'CIFAR' in dataset:
        return 32, 32
    raise ValueError('the config tells no size of its input: give --shape')


def clip_frames(config: Config) -> int:
    """Frames of one validation view.

    Raises:
        ValueError: If the pipeline samples no frames.
    """
    for transform in pipeline(config, 'val_dataloader'):
        if 'clip_len' in transform or 'num_clips' in transform:
            stacked = config.model.type == 'Recognizer2D'
            clips = transform.get('num_clips', 1) if stacked else 1
            return transform.get('clip_len', 1) * clips
    raise ValueError('the config samples no frames: give --shape FRAMES HEIGHT WIDTH')


def pipeline(config: Config, loader: str) -> Iterator[dict]:
    """The transforms of a data loader, inside wrappers of data sets too."""
    dataset = config.get(loader, {}).get('dataset', {})
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    yield from dataset.get('pipeline', ())


def table(result: Complexity) -> str:
    """The blocks in Markdown."""
    rows = [
        '| block | type | positions | affinity | multiply-adds | share | as a matrix '
        '| held |',
        '|---' * 8 + '|',
    ]
    for block in result.blocks:
        memory = [f'{block.matrix / MEBI:,.2f} MiB', f'{block.held / MEBI:,.2f} MiB']
        cells = [
            block.name,
            block.kind,
            'x'.join(map(str, block.positions)),
            f'{block.queries:,} x {block.keys:,}' if block.keys else '–',
            f'{block.macs / 1e9:.3f} G',
            f'{block.macs / result.macs:.1%}',
            *(memory if block.matrix else ['–', '–']),
        ]
        rows.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(rows)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[],
        help='a side; height and width; frames, height and width; or all of it',
    )
    parser.add_argument(
        '--explain',
        action='store_true',
        help='also how each block is computed, the other ways, and why not those',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    try:
        result, shape = measure(config, args.shape)
    except ValueError as error:
        raise SystemExit(f'get_flops.py: {error}') from None
    if result.blocks:
        print(table(result))
    if args.explain:
        for block in result.blocks:
            for decision in block.decisions:
                print(f'{block.name}: {decision}')
    line = '=' * 30
    print(
        f'{line}\nInput shape: {shape}\nFlops: {result.macs / 1e9:.3f}G '
        f'({result.macs:,} multiply-adds)\nParams: {result.parameters / 1e6:.3f}M '
        f'({result.parameters:,})\n{line}'
    )


if __name__ == '__main__':
    main()
