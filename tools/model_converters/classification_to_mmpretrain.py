# Copyright (c) The nl_plugins authors. All rights reserved.
"""Convert classification weights of other repositories, or ours back.

Reads akamaster/pytorch_resnet_cifar10 (.th), tea1528/Non-Local-NN-Pytorch (.t7), the
SNL repository's classification part and KaiyuYue/cgnl-network.pytorch (.pth.tar),
torchvision's ResNets (.pth) and the blocks of AlexHex7/Non-local_pytorch (net.pth).
Network, depth, block, its place and width are told by the keys; the flags are for what
they do not tell.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import conversion as core  # noqa: E402
from block_keys import original_block  # noqa: E402
from network_keys import Converted, Options, to_original, to_ours  # noqa: E402

import nl_plugins  # noqa: E402, F401  (registers; makes mmengine's files loadable)

_AFFINITIES = ('softmax', 'relu_raw', 'sym_norm')
# The SNL repository and CGNL put the block type into the file name.
_FILE_NAME = re.compile(r'-w-\d+([a-z0-9]+?)-?block')


def main() -> None:
    """The command line."""
    parser = core.two_way_parser(__doc__)
    parser.add_argument(
        '--block-type',
        choices=['nl', 'ns', 'a2', 'snl', 'dnl', 'caylay', 'cgnl', 'cgnlx'],
        help="kind of block where the keys do not tell; else the file's name is read",
    )
    parser.add_argument(
        '--mode',
        choices=['embedded_gaussian', 'dot_product'],
        help='pairwise function of tea1528 and AlexHex7 blocks',
    )
    parser.add_argument(
        '--affinity',
        choices=_AFFINITIES,
        help='affinity of a block of the SNL repository; default: sym_norm on '
        'PreResNet and for snl, else softmax, for a2 relu_raw (the original got '
        '--is_norm: sym_norm)',
    )
    parser.add_argument(
        '--symmetric', action='store_true', help='the SNL repository got --is_sys'
    )
    parser.add_argument(
        '--num-classes', type=int, help='outputs to keep of a 1000-way PreResNet'
    )
    args = parser.parse_args()
    checkpoint = core.load_checkpoint(args.checkpoint)
    if args.back:
        converted = to_original(checkpoint.state_dict)
        state_dict = converted.conversion.finish()
    else:
        converted = convert(checkpoint, args)
        state_dict = converted.conversion.finish()
        check(converted, state_dict, args.config)
    meta = dict(converted_from=args.checkpoint.name, model=repr(converted.model))
    core.save_checkpoint(args.out, state_dict, meta)
    report = args.report or args.out.with_suffix('.txt')
    core.save_report(report, converted.conversion)
    print(f'{converted.origin}: {converted.conversion.summary()}, listed in {report}')
    if args.write_config and not args.back:
        core.write_config(args.write_config, converted.model)
    print(f'wrote {args.out}')


def convert(checkpoint: core.Checkpoint, args) -> Converted:
    """One of the originals -> ours."""
    block_type = args.block_type
    named = _FILE_NAME.search(checkpoint.path.name)
    if block_type is None and named:
        block_type = named[1]
    affinity = {}
    if args.affinity:
        affinity = dict(affinity=args.affinity, symmetric=args.symmetric)
    elif args.symmetric:
        affinity = dict(symmetric=True)
    options = Options(block_type, args.mode, affinity, args.num_classes)
    if 'nl_1.g.0.weight' in checkpoint.state_dict or (
        'nl_1.g.weight' in checkpoint.state_dict
    ):
        return convert_blocks(checkpoint.state_dict, options)
    return to_ours(checkpoint.state_dict, options)


def convert_blocks(state_dict: dict, options: Options) -> Converted:
    """The blocks ``nl_1``, ``nl_2`` of AlexHex7's network; the rest keeps its names."""
    conversion = core.Conversion(state_dict)
    blocks = {}
    for name in ('nl_1', 'nl_2'):
        prefix = f'{name}.'
        shapes = {
            key[len(prefix) :]: tuple(value.shape)
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        block = original_block(shapes, mode=options.mode)
        block.forward(conversion, prefix, prefix)
        out = shapes['W.1.weight' if 'W.1.weight' in shapes else 'W.weight'][0]
        blocks[name] = dict(block.cfg, in_channels=out)
    conversion.move_prefix('', '')
    return Converted(conversion, blocks, 'AlexHex7 blocks')


def check(converted: Converted, state_dict: dict, config: Path | None = None) -> None:
    """Load the tensors into the model of ``config``, or the one the keys tell of.

    Raises:
        ValueError: If they do not fit.
    """
    from mmengine.config import Config
    from mmengine.registry import MODELS as ROOT

    if config is None and 'type' not in converted.model:
        for name, cfg in converted.model.items():
            prefix = f'{name}.'
            inner = {
                key[len(prefix) :]: value
                for key, value in state_dict.items()
                if key.startswith(prefix)
            }
            core.load_strictly(ROOT.build(dict(cfg)), inner)
        return
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    model = Config.fromfile(config).model if config else converted.model
    core.load_strictly(MODELS.build(model), state_dict)


if __name__ == '__main__':
    core.run(main)
