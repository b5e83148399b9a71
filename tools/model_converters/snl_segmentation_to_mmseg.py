# Copyright (c) The nl_plugins authors. All rights reserved.
"""SNL-MMSeg checkpoints (mmseg 0.x) to the SNL configs of this repository.

The head's block is renamed and its two output convolutions are joined; the minus sign
of the second is ``SNLHead``'s own. Everything else keeps its name and value.
"""

import sys
from pathlib import Path

import torch
from conversion import (
    Conversion,
    load_checkpoint,
    load_strictly,
    parser,
    run,
    save_checkpoint,
    save_report,
)
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/segmentation/snl/snl_r50-d8_1xb4-40k_cityscapes-512x1024.py'
THEIRS, OURS = 'decode_head.SNL.', 'decode_head.nl_block.'
UNIT = f'{THEIRS}stages.0.'


def convert(state_dict: dict[str, Tensor]) -> Conversion:
    """Original names -> names of a segmentor with ``SNLHead``.

    Raises:
        ValueError: If the checkpoint has no SNL head or its block has several stages.
    """
    if f'{UNIT}w_1.weight' not in state_dict:
        raise ValueError(
            f'the checkpoint lacks {UNIT}w_1.weight, so it is not of SNL-MMSeg. '
            'Checkpoints of mmseg itself need no conversion'
        )
    conversion = Conversion(state_dict)
    conversion.move(f'{THEIRS}t.weight', f'{OURS}theta.conv.weight')
    conversion.move(f'{THEIRS}p.weight', f'{OURS}phi.conv.weight')
    conversion.move(f'{UNIT}g.weight', f'{OURS}g.conv.weight')
    first = state_dict[f'{UNIT}w_1.weight']
    joined = f'{OURS}conv_out.conv.weight'
    conversion.move(f'{UNIT}w_1.weight', joined, note='first half')
    conversion.merge(
        f'{UNIT}w_2.weight',
        joined,
        torch.cat([first, state_dict[f'{UNIT}w_2.weight']], dim=1),
        'second half',
    )
    conversion.move_prefix(f'{UNIT}bn.', f'{OURS}conv_out.bn.')
    stages = conversion.under(f'{THEIRS}stages.')
    if stages:
        raise ValueError(
            f'the block has more than one stage ({stages[0]}), which SNL-MMSeg never '
            'builds'
        )
    for key in conversion.under(''):
        if not key.startswith(('backbone.', 'decode_head.', 'auxiliary_head.')):
            conversion.drop(key, 'no part of the segmentor')
    for key in conversion.under(''):
        conversion.move(key, key)
    return conversion


def build_model(config: Path, num_classes: int) -> nn.Module:
    """The segmentor of ``config`` for ``num_classes`` classes."""
    sys.path.insert(0, str(ROOT))
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import nl_plugins  # noqa: F401 - its repairs come before mmseg

    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    cfg.model.pretrained = None
    cfg.model.decode_head.num_classes = num_classes
    if cfg.model.get('auxiliary_head'):
        cfg.model.auxiliary_head.num_classes = num_classes
    return MODELS.build(cfg.model)


def dataset_meta(meta: dict) -> dict:
    """mmseg 0.x's ``CLASSES`` and ``PALETTE`` as mmseg 1.x reads them."""
    inner = meta.get('meta') or {}
    return {
        name.lower(): inner[name] for name in ('CLASSES', 'PALETTE') if inner.get(name)
    }


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    arguments.add_argument(
        '--config',
        type=Path,
        default=CONFIG,
        help='of the model that the result must fit (%(default)s)',
    )
    args = arguments.parse_args()
    if not args.config.is_file():
        raise ValueError(f'there is no config {args.config}')
    checkpoint = load_checkpoint(args.checkpoint)
    conversion = convert(checkpoint.state_dict)
    state_dict = conversion.finish()
    classifier = state_dict.get('decode_head.conv_seg.weight')
    if classifier is None:
        raise ValueError(f'{args.checkpoint} has no decode_head.conv_seg.weight')
    load_strictly(build_model(args.config, classifier.shape[0]), state_dict)
    meta = dict(dataset_meta=dataset_meta(checkpoint.meta))
    save_checkpoint(args.out, state_dict, meta)
    save_report(args.report or args.out.with_suffix('.txt'), conversion)
    print(f'{args.out}: {conversion.summary()}, {classifier.shape[0]} classes')


if __name__ == '__main__':
    run(main)
