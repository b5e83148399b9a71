# Copyright (c) The nl_plugins authors. All rights reserved.
"""A ResNet for images to the initialisation of a video network with blocks.

Reads torchvision's ResNets and the Caffe2 blobs (.pkl) of ResNets for images. 2D
kernels are repeated over the frames of a 3D kernel and divided by their number; the
classifier is left behind. Use the result with ``load_from = FILE`` and without
``pretrained`` in the backbone (``pretrained2d=False`` too for ``ResNetTSM``).
"""

from caffe2_blobs import load_blobs
from conversion import (
    Conversion,
    load_checkpoint,
    parser,
    run,
    save_checkpoint,
    save_report,
)
from mmengine.config import Config
from nl_resnet3d_to_mmaction import caffe2_name
from torch import Tensor, nn
from video_keys import MODELS_FOLDER, base_model, build, conv_module_name, require_keys


def inflate(weight: Tensor, frames: int) -> Tensor:
    """(out, in, H, W) -> (out, in, frames, H, W) with the same sum over frames."""
    return weight.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames


def convert(state_dict: dict[str, Tensor], backbone: nn.Module) -> Conversion:
    """Names of torchvision -> those of ``backbone``, shapes included.

    Raises:
        ValueError: If a tensor does not fit, or one of the backbone outside its
            inserted blocks gets none.
    """
    require_keys(state_dict, ('conv1.weight', 'bn1.weight'), 'ResNet')
    wanted = {f'backbone.{k}': v.shape for k, v in backbone.state_dict().items()}
    conversion = Conversion(state_dict)
    for key, value in conversion.source.items():
        if key.startswith('fc.'):
            conversion.drop(key, 'the classifier of images')
            continue
        name = conv_module_name(key)
        if name is None:
            continue
        target = f'backbone.{name}'
        if target not in wanted:  # behind a temporal shift
            target = target.replace('.conv.weight', '.conv.net.weight')
        shape = wanted.get(target)
        if shape is not None and value.ndim == 4 and len(shape) == 5:
            frames = shape[2]
            inflated = inflate(value, frames)
            note = f'repeated over {frames} frames'
            conversion.move(key, target, lambda _, new=inflated: new, note)
        else:
            conversion.move(key, target)
    for target, value in conversion.target.items():
        if wanted.get(target) != value.shape:
            found = wanted.get(target)
            raise ValueError(
                f'{target} has the shape {tuple(value.shape)} in the checkpoint, but '
                f'{"no place" if found is None else tuple(found)} in the model: give '
                'a model of the same depth'
            )
    inserted = tuple(
        f'backbone.{host}.{name}.'
        for host, name in getattr(backbone, 'inserted_blocks', ())
    )
    missing = [
        key
        for key in wanted
        if key not in conversion.target
        and not key.startswith(inserted)
        and not key.endswith('num_batches_tracked')
    ]
    if missing:
        raise ValueError(
            f'the checkpoint lacks {len(missing)} tensors of the model, the first are '
            f'{missing[:4]}: give a model of the same depth'
        )
    return conversion


def main() -> None:
    """Command line."""
    arguments = parser(__doc__)
    known = sorted(path.stem for path in MODELS_FOLDER.glob('*_r*.py'))
    arguments.add_argument(
        '--model',
        default='rnl_tsm_r50',
        help=f'a config, or one of {", ".join(known)}; default: %(default)s',
    )
    arguments = arguments.parse_args()
    if arguments.model in known:
        model = base_model(arguments.model)
    else:
        model = Config.fromfile(arguments.model).model
    if arguments.checkpoint.suffix == '.pkl':
        blobs = load_blobs(arguments.checkpoint)
        names = {blob: caffe2_name(blob) for blob in blobs}
        state_dict = {names[b]: v for b, v in blobs.items() if names[b] is not None}
    else:
        state_dict = load_checkpoint(arguments.checkpoint).state_dict
    conversion = convert(state_dict, build(model).backbone)
    save_checkpoint(arguments.out, conversion.finish())
    report = arguments.report or arguments.out.with_suffix('.txt')
    save_report(report, conversion)
    print(f'{conversion.summary()}; {report} tells where each key went')


if __name__ == '__main__':
    run(main)
