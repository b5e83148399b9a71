# Copyright (c) The nl_plugins authors. All rights reserved.
"""The modules of a config's backbone that a block can follow.

    python tools/analysis_tools/list_places.py CONFIG
    python tools/analysis_tools/list_places.py CONFIG --all --json

Each row is a module: what to write after ``after=``, the width and the size of its
output for the config's input, the ``ndim`` of a block there, what the dense matrix of
that many positions takes in float32 for one sample, and whether the module is frozen.
Without ``--all``, modules inside units such as residual blocks are left out. The
network runs on the meta device: shapes alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope

import nl_plugins  # noqa: F401  (repairs upstream before mm packages are imported)
from nl_plugins.analysis.complexity import weights_on_meta
from nl_plugins.attach.places import Place, Places, list_places
from nl_plugins.codebases import CODEBASES

sys.path.insert(0, str(Path(__file__).resolve().parent))
from get_flops import clip_frames, image_size  # noqa: E402


def places_of(config: Config, shape: Sequence[int] = ()) -> Places:
    """The places in a config's backbone.

    Args:
        config (Config): With ``default_scope`` and ``model``; blocks that its
            backbone holds already are left out.
        shape (Sequence[int]): (H, W) or (T, H, W); none means the config's own.

    Raises:
        ValueError: If the config has no backbone, or no scope of a codebase.
    """
    scope = config.get('default_scope')
    if scope not in CODEBASES:
        raise ValueError(
            f'default_scope must be one of {sorted(CODEBASES)}, but the config has '
            f'{scope!r}'
        )
    backbone = config.get('model', {}).get('backbone')
    if backbone is None:
        raise ValueError('the config has no model.backbone')
    if str(backbone.type).endswith('NonLocalBackbone'):
        backbone = backbone.backbone
    size = tuple(shape)
    if not size:
        try:
            size = image_size(config)
            if scope == 'mmaction' and config.model.type == 'Recognizer3D':
                size = (clip_frames(config), *size)
        except ValueError:
            size = ()  # the probe's own
    cfg = copy.deepcopy(dict(backbone))
    return list_places(build(scope, cfg), [size] if size else [], arguments=cfg)


def build(scope: str, cfg: dict):
    """A backbone, on the meta device where it can be built there."""
    with DefaultScope.overwrite_default_scope(scope):
        with MODELS.switch_scope_and_registry(None) as registry:
            try:
                with weights_on_meta():
                    return registry.build(copy.deepcopy(cfg)).to('meta')
            except NotImplementedError:  # it copies its own weights
                return registry.build(copy.deepcopy(cfg))


def matrix_bytes(place: Place, run: int = -1) -> int:
    """Bytes of the dense matrix N x N in float32 at a place, for one sample."""
    return 4 * math.prod(place.grids[run]) ** 2


def row(place: Place) -> dict:
    """A place in words, its sizes for the last input that was tried."""
    return dict(
        after=place.name,
        type=place.kind,
        in_channels=place.width,
        ndim=place.ndim,
        size=list(place.grids[-1]),
        matrix_bytes=matrix_bytes(place),
        frozen=place.frozen,
    )


def binary(size: float) -> str:
    """``'12.3 MiB'`` and the like."""
    units = iter(('B', 'KiB', 'MiB', 'GiB'))
    unit = next(units)
    while size >= 1024 and unit != 'GiB':
        size, unit = size / 1024, next(units)
    return f'{size:,.1f} {unit}'


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = ['| after | type | width | ndim | size | dense matrix |', '|---' * 6 + '|']
    for one in rows:
        size = 'x'.join(map(str, one['size']))
        frozen = ' (frozen)' if one['frozen'] else ''
        lines.append(
            f'| `{one["after"]}` | {one["type"]}{frozen} | {one["in_channels"]} | '
            f'{one["ndim"]} | {size} | {binary(one["matrix_bytes"])} |'
        )
    return '\n'.join(lines)


def paste(place: Place, frames: int | str | None = None) -> str:
    """The insert of a place, ready for a config.

    Args:
        place (Place): Where the block goes.
        frames (int | str, optional): Frames of a clip of the input, of a network that
            takes stacked frames, or ``'input'``. Defaults to None.
    """
    options, segments = dict(type='NLBlock'), ''
    if frames is not None and place.ndim == 2:
        if isinstance(frames, int):
            frames = round(frames * place.frames[0])
        segments = f'num_segments={frames!r}, '
        options['ndim'] = 3
    elif place.ndim != 2:
        options['ndim'] = place.ndim
    text = ', '.join(f'{key}={value!r}' for key, value in options.items())
    return f'inserts=[dict(after={place.name!r}, {segments}cfg=dict({text}))]'


def clip_of(config: Config, places: Places) -> int | str | None:
    """Frames of a clip where the network takes stacked frames, else None."""
    if config.default_scope != 'mmaction' or config.model.type != 'Recognizer2D':
        return None
    own = getattr(places.backbone, 'num_segments', None)
    return own if isinstance(own, int) else 'input'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--shape', type=int, nargs='+', default=[], help='H W or T H W of the input'
    )
    parser.add_argument('--all', action='store_true', help='modules inside units too')
    parser.add_argument('--json', action='store_true', help='print a list of dicts')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if not Path(args.config).is_file():
        raise SystemExit(f'list_places.py: there is no config {args.config}')
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if args.shape and len(args.shape) not in (2, 3):
        raise SystemExit('list_places.py: --shape takes H W or T H W')
    try:
        places = places_of(config, args.shape)
    except ValueError as error:
        raise SystemExit(f'list_places.py: {error}') from None
    except (KeyError, TypeError, ImportError) as error:
        sentence = error.args[0] if error.args else error
        raise SystemExit(
            f'list_places.py: the backbone of {args.config} cannot be built: {sentence}'
        ) from error
    found = places.all() if args.all else places.outer
    found = [place for place in found if math.prod(place.grids[-1]) > 1]
    if args.json:
        print(json.dumps([row(place) for place in found], indent=2))
        return
    if not found:
        raise SystemExit(
            'list_places.py: no module of this backbone can be followed'
            + (f' ({places.probe.error})' if places.probe.error else '')
        )
    print(table([row(place) for place in found]))
    print('\nReady to paste:')
    for place in places.at_strides().values():
        print(f'  {paste(place, clip_of(config, places))}')


if __name__ == '__main__':
    main()
