# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw where the non-local blocks of a model look.

    python tools/visualization/vis_attention.py IMAGE|VIDEO CONFIG CHECKPOINT \\
        --layer backbone.layer3.5.nl_block --positions 100,200 0.5,0.25 --out DIR
    python tools/visualization/vis_attention.py --demo

For an image: one overlay a block and position, with the query marked. For a video:
a film strip and an mp4 of the first clip. Only the rows that are drawn are computed.
"""

import argparse
import re
import sys
from pathlib import Path

import cv2
import mmengine
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import nl_plugins  # noqa: F401  repairs upstream packages before they are imported
from nl_plugins.analysis import record_attention
from nl_plugins.analysis.hook import frames_of, spectrum_picture
from nl_plugins.analysis.picture import (
    draw_attention,
    film_strip,
    network_frames,
    query_time,
)
from nl_plugins.codebases import CODEBASES
from nl_plugins.command import add_debug, run
from nl_plugins.files import write_picture

# What ``--demo`` stands for, and its default positions: the road, a car.
DEMO = {
    name: str(Path(__file__).resolve().parents[2] / 'demo' / file)
    for name, file in (
        ('input', 'street.jpg'),
        ('config', 'snl_camvid.py'),
        ('checkpoint', 'snl_camvid.pth'),
    )
}
DEMO_POSITIONS = ['0.85,0.5', '0.58,0.22']


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Draw where the non-local blocks of a model look'
    )
    parser.add_argument('input', nargs='?', help='an image or a video')
    parser.add_argument('config', nargs='?', help='config file of the model')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file of the model')
    add_demo(parser)
    parser.add_argument(
        '--layer',
        '--layers',
        nargs='+',
        help='names of blocks, or of modules that hold blocks; default: all blocks',
    )
    parser.add_argument(
        '--positions',
        nargs='+',
        help='queries y,x (clips: t,y,x): pixels (frames) of what the network is '
        'given after its pipeline, or fractions of its size written with a point, '
        'such as 0.5,0.25; default: the middle',
    )
    parser.add_argument('--out', default='work_dirs/attention', help='output folder')
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--alpha', type=float, default=0.8, help='opacity of the largest weight'
    )
    parser.add_argument('--fps', type=float, default=4.0, help='of the mp4')
    parser.add_argument(
        '--spectrum',
        action='store_true',
        help='draw the eigenvalues of each graph and the gain of the filter, too',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    add_debug(parser)
    args = parser.parse_args(argv)
    check_demo(parser, args)
    if args.positions is None:
        args.positions = DEMO_POSITIONS if args.demo else ['0.5,0.5']
    return args


def add_demo(parser: argparse.ArgumentParser) -> None:
    """The switch that stands for input, config and checkpoint."""
    parser.add_argument(
        '--demo',
        action='store_true',
        help='the network and the picture of demo/, which need no training',
    )


def check_demo(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Either the three files or ``--demo``, which is filled in."""
    missing = [name for name in DEMO if getattr(args, name) is None]
    if args.demo and len(missing) == len(DEMO):
        vars(args).update(DEMO)
    elif args.demo:
        parser.error('--demo brings its own input, config and checkpoint: give none')
    elif missing:
        parser.error(f'give {", ".join(missing)}, or --demo')


def load(cfg: Config, checkpoint: str, device: str):
    """A model of any codebase, and the function that runs it on a file."""
    scope = cfg.get('default_scope')
    init_default_scope(scope or 'mmengine')
    if scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer, get_model

        def classify(model, path):
            return ImageClassificationInferencer(model)(path)

        return get_model(cfg, pretrained=checkpoint, device=device), classify
    if scope == 'mmseg':
        from mmseg.apis import inference_model, init_model

        return init_model(cfg, checkpoint, device), inference_model
    if scope == 'mmdet':
        from mmdet.apis import inference_detector, init_detector

        return init_detector(cfg, checkpoint, device=device), inference_detector
    if scope == 'mmaction':
        from mmaction.apis import inference_recognizer, init_recognizer

        pipeline = Compose(video_pipeline(cfg.test_dataloader.dataset.pipeline))

        def recognise(model, path):
            return inference_recognizer(model, path, test_pipeline=pipeline)

        return init_recognizer(cfg, checkpoint, device), recognise
    raise ValueError(
        f'default_scope of the config must be one of {list(CODEBASES)}, but it is '
        f'{scope!r}'
    )


def video_pipeline(pipeline: list) -> list:
    """A test pipeline of mmaction that reads a video, also where it reads frames."""
    steps = [dict(step) for step in pipeline]
    if not any(step['type'] == 'RawFrameDecode' for step in steps):
        return steps
    for step in steps:
        if step['type'] == 'RawFrameDecode':
            step.clear()
            step['type'] = 'OpenCVDecode'
    return [dict(type='OpenCVInit'), *steps]


def to_fractions(text: str, num_frames: int, height: int, width: int) -> list[float]:
    """A position in pixels or fractions as fractions."""
    parts = text.split(',')
    sizes = (num_frames, height, width)[-len(parts) :]
    try:
        if len(parts) not in (2, 3):
            raise ValueError
        # The centre of the pixel, so that rounding finds it again.
        fractions = [
            float(part) if '.' in part else (int(part) + 0.5) / size
            for part, size in zip(parts, sizes)
        ]
        if not all(0 <= fraction < 1 for fraction in fractions):
            raise ValueError
    except ValueError:
        raise ValueError(
            f'position {text!r} must be y,x or t,y,x inside {num_frames} frame(s) of '
            f'{height} x {width}, in pixels or in fractions such as 0.5'
        ) from None
    return fractions


def write(path: Path, picture) -> None:
    """Write a picture and say so."""
    write_picture(path, picture)
    print(path)


def write_video(path: Path, pictures, fps: float) -> None:
    """Write an mp4 completely or not at all; odd sizes lose their last row."""
    height, width = (size // 2 * 2 for size in pictures[0].shape[:2])
    temporary = path.with_name(f'.{path.name}')
    fourcc = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(temporary), fourcc, fps, (width, height))
    if not writer.isOpened():
        raise OSError(f'{path} could not be written: OpenCV has no mp4 encoder here')
    for picture in pictures:
        writer.write(picture[:height, :width, ::-1].copy())
    writer.release()
    capture = cv2.VideoCapture(str(temporary))
    count = sum(capture.grab() for _ in pictures)
    capture.release()
    if count < len(pictures):  # of a full disk OpenCV says nothing
        temporary.unlink()
        raise OSError(f'{path} could not be written: is the disk full?')
    temporary.replace(path)
    print(path)


@torch.no_grad()
def observe(
    args: argparse.Namespace,
) -> tuple[Config, torch.nn.Module, dict, torch.Tensor]:
    """Run the network once: its config, itself, the records of its blocks, its input.

    Raises:
        FileNotFoundError: The input, the config or the checkpoint is not there.
        ValueError: No block ran.
    """
    for name in ('input', 'config', 'checkpoint'):
        path = getattr(args, name)
        if not Path(path).is_file():
            raise FileNotFoundError(f'{name} {path} does not exist')
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    model, infer = load(cfg, args.checkpoint, args.device)
    inputs = []
    handle = model.backbone.register_forward_pre_hook(
        lambda module, values: inputs.append(values[0])
    )
    try:
        with record_attention(model, args.layer) as records:
            infer(model, args.input)
    finally:
        handle.remove()
    if not records:
        raise ValueError('the model holds no non-local block that ran')
    return cfg, model, records, inputs[-1]


@torch.no_grad()
def main(argv=None) -> None:
    args = parse_args(argv)
    cfg, model, records, x = observe(args)
    out = Path(args.out)
    mmengine.mkdir_or_exist(out)
    everything = network_frames(model, x)
    stem = Path(args.input).stem
    for layer, record in records.items():
        frames = frames_of(record, everything, x.ndim)
        if x.ndim == 4 and len(record.grid) == 2:
            if cfg.default_scope == 'mmaction':  # a 2D block sees frames one by one
                frames = everything
        height, width = frames[0].shape[:2]
        for text in args.positions:
            position = to_fractions(text, len(frames), height, width)
            pictures = draw_attention(record, frames, position, args.alpha)
            name = re.sub(r'[^\w.-]', '_', f'{stem}_{layer}_{text}')
            if len(pictures) == 1:
                write(out / f'{name}.png', pictures[0])
            else:
                write(
                    out / f'{name}_strip.png',
                    film_strip(pictures, query_time(position)),
                )
                write_video(out / f'{name}.mp4', pictures, args.fps)
        _, queries, keys = record.affinity.shape
        if args.spectrum and queries == keys:
            picture = spectrum_picture(model.get_submodule(layer), record, layer)
            write(out / f'{stem}_{layer}_spectrum.png', picture)


if __name__ == '__main__':
    run(main)
