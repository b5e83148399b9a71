# Copyright (c) The nl_plugins authors. All rights reserved.
"""Write a model, or one block, as a file of torch.export or ONNX.

    python tools/deployment/export.py CONFIG CHECKPOINT --format onnx --out net.onnx
    python tools/deployment/export.py --block SNLBlock --options '{"sign": -1}' \\
        --shape 1 64 32 32 --format torch_export --out snl.pt2

The network of any of the codebases is what ``model(x, mode='tensor')`` computes in
evaluation mode: from a normalised image or clip to the scores of the head. Sizes are
fixed; with --dynamic-batch all but the number of samples. The file is read back, run
(ONNX under onnxruntime, on the CPU) on an input that the export has not seen, compared
with the model, and only then gets its name.

Every block is exported as it runs. Where ONNX has no operator for that (the
concatenation affinity finds its sums by ``searchsorted``), the block is exported with
its affinity as a matrix: the same function, with memory quadratic in the positions.

Without CHECKPOINT the weights are random, those of the blocks as PyTorch draws a layer:
a block that starts as the identity would agree with anything.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'analysis_tools'))

from benchmark import json_object
from get_flops import input_shape

import nl_plugins  # noqa: F401  (repairs upstream before mm packages are imported)
from nl_plugins import graph
from nl_plugins.blocks import BLOCKS, NonLocalBlock
from nl_plugins.codebases import CODEBASES, require
from nl_plugins.command import add_debug
from nl_plugins.compat.repair import release

#: Format -> (suffix of its files, the first torch that can).
FORMATS = {'torch_export': ('.pt2', '2.5'), 'onnx': ('.onnx', '2.6')}
#: Largest difference accepted, relative to the largest output.
TOLERANCE = 1e-4


class UnsupportedOperator(ValueError):
    """ONNX has no counterpart of an operator.

    Args:
        operator (str): Name such as ``aten.searchsorted.Tensor``.
    """

    def __init__(self, operator: str) -> None:
        super().__init__(f'ONNX has no counterpart of {operator}')
        self.operator = operator


@dataclass
class Exported:
    """What :func:`export` wrote.

    Attributes:
        path (Path): The file.
        difference (float): Largest difference from the model, relative to the largest
            output.
        dense (list[str]): Names of the blocks exported with their matrix.
        shapes (tuple): Of the input and of the output.
    """

    path: Path
    difference: float
    dense: list[str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


class Scores(nn.Module):
    """A model of a codebase as a plain function of its normalised input.

    Args:
        model (nn.Module): Takes ``mode='tensor'``.
        options (dict): Further arguments of its forward.
    """

    def __init__(self, model: nn.Module, **options: str) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x, mode='tensor', **self.options)
        while not isinstance(out, Tensor):
            out = out[-1]
        return out


def model_of(
    config: Config, checkpoint: str | None, shape: Sequence[int]
) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a config and the shape of its input.

    Raises:
        ValueError: Unknown scope, a detector, or a checkpoint of another network.
    """
    scope = config.get('default_scope')
    if scope not in CODEBASES:
        raise ValueError(
            f'default_scope must be one of {sorted(CODEBASES)}, but the config has '
            f'{scope!r}'
        )
    if scope == 'mmdet':
        raise ValueError(
            'a detector has an output for each level and nms behind them, but '
            'export.py writes networks of one output: use mmdeploy'
        )
    require(scope)
    init_default_scope(scope)
    cfg = config.model.to_dict()
    if config.get('data_preprocessor'):
        cfg.setdefault('data_preprocessor', config.data_preprocessor.to_dict())
    # No init_weights(): it would fetch the pretrained weights that a config names.
    model = MODELS.build(cfg)
    if checkpoint is None:
        wake(model)
    else:
        try:
            load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
        except RuntimeError as error:  # names every key that differs
            raise ValueError(f'{checkpoint} does not fit the config: {error}') from None
    options = {'stage': 'head'} if scope == 'mmaction' else {}
    return Scores(model, **options).eval(), input_shape(config, model, shape)


def block_of(name: str, options: dict, shape: Sequence[int]) -> nn.Module:
    """One block for inputs of ``shape`` (B, C, *S).

    Raises:
        ValueError: Unknown block, or no shape of a feature map.
    """
    if name not in BLOCKS:
        raise ValueError(f'there is no block {name!r}: choose from {sorted(BLOCKS)}')
    if len(shape) not in (3, 4, 5):
        raise ValueError(
            f'--block needs the whole --shape of a feature map, batch and channels '
            f'first, such as 1 64 32 32, but got {list(shape)}'
        )
    block = BLOCKS[name](shape[1], ndim=len(shape) - 2, **options)
    wake(block)
    return block.eval()


def wake(model: nn.Module) -> None:
    """Let every block act: its layers as PyTorch draws them, none at zero."""
    torch.manual_seed(0)
    for block in blocks_of(model).values():
        for layer in block.modules():
            if (
                callable(getattr(layer, 'reset_parameters', None))
                and layer is not block
            ):
                layer.reset_parameters()


def blocks_of(model: nn.Module) -> dict[str, NonLocalBlock]:
    """The non-local blocks of a model by their names."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, NonLocalBlock)
    }


def export(
    model: nn.Module,
    shape: Sequence[int],
    fmt: str,
    path: Path,
    dynamic_batch: bool = False,
) -> Exported:
    """Write a module, compare the file with it, then give the file its name.

    Args:
        model (nn.Module): In evaluation mode, from one tensor to one tensor.
        shape (Sequence[int]): Of the input.
        fmt (str): 'torch_export' or 'onnx'.
        path (Path): The file; its suffix is '.pt2' or '.onnx'.
        dynamic_batch (bool): Whether the file takes any number of samples; it is
            compared at another number than the export saw.

    Returns:
        Exported: What was written.

    Raises:
        ValueError: The format does not know an operator, this torch is too old, or
            the results differ; no file is left then.
    """
    suffix, oldest = FORMATS[fmt]
    if path.suffix != suffix:
        raise ValueError(f'--out {path}: a file of {fmt} ends in {suffix}')
    if release(torch.__version__) < release(oldest):
        raise ValueError(
            f'{fmt} needs torch>={oldest}, but found {torch.__version__}: '
            f'pip install "torch>={oldest}"'
        )
    generator = torch.Generator().manual_seed(0)
    samples = [shape[0]] * 2
    if dynamic_batch:  # torch.export takes a size of one for a constant
        samples = [max(2, shape[0]), max(2, shape[0]) + 1]
    example, unseen = (
        torch.randn(batch, *shape[1:], generator=generator) for batch in samples
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}')
    try:
        with torch.no_grad(), _quiet():
            dense = _write(model, example, fmt, temporary, dynamic_batch)
            expected = model(unseen)
            found = _run(temporary, fmt, unseen)
        difference = relative_difference(found, expected)
        if not difference <= TOLERANCE:
            raise ValueError(
                f'the exported file computes something else: {difference:.1e} of the '
                f'largest output, {TOLERANCE:.0e} is accepted; no file is written'
            )
        os.replace(temporary, path)
    except OSError as error:  # of a full disk, say, which may not name the file
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    shapes = tuple(unseen.shape), tuple(expected.shape)
    return Exported(path, difference, dense, shapes)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest output; nan for other sizes."""
    if found.shape != expected.shape:
        return float('nan')
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _write(
    model: nn.Module, x: Tensor, fmt: str, path: Path, dynamic_batch: bool
) -> list[str]:
    if fmt == 'torch_export':
        buffer = io.BytesIO()  # torch ends the process where a disk is full
        torch.export.save(_capture(model, x, dynamic_batch), buffer)
        path.write_bytes(buffer.getbuffer())
        return []
    try:
        _onnx(model, x, dynamic_batch).save(path, external_data=False)
        return []
    except UnsupportedOperator as error:
        blocks = _unsupported_blocks(model, x)
        if not blocks:
            raise error
    with _as_matrices(blocks.values()):
        try:
            _onnx(model, x, dynamic_batch).save(path, external_data=False)
        except UnsupportedOperator as error:
            kinds = {type(block).__name__ for block in blocks.values()}
            raise ValueError(
                f'{error}, which {" and ".join(sorted(kinds))} needs with these '
                'options, with its matrix too: --format torch_export keeps it'
            ) from None
    return [name or type(block).__name__ for name, block in blocks.items()]


def _capture(
    model: nn.Module, x: Tensor, dynamic_batch: bool
) -> torch.export.ExportedProgram:
    dynamic = ({0: torch.export.Dim('batch')},) if dynamic_batch else None
    try:
        return torch.export.export(model, (x,), strict=False, dynamic_shapes=dynamic)
    except Exception as error:  # whatever a module that cannot be captured raises
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(
            f'torch.export cannot capture this network ({reason or repr(error)})'
        ) from error


def _onnx(
    model: nn.Module, x: Tensor, dynamic_batch: bool = False
) -> torch.onnx.ONNXProgram:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError(
            'ONNX files need onnx, onnxscript and onnxruntime: '
            'pip install "nl_plugins[deploy]"'
        ) from None
    try:
        program = _capture(model, x, dynamic_batch)
        return torch.onnx.export(program, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        operators = re.findall(r'target=torch\.ops\.([\w.]+)', str(error))
        if not operators:
            raise
        suffix = ' of complex numbers' if 'complex-valued' in str(error) else ''
        raise UnsupportedOperator(operators[-1] + suffix) from None


def _unsupported_blocks(model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """The blocks that cannot become ONNX as they run, each tried alone."""
    inputs: dict[str, Tensor] = {}
    blocks = blocks_of(model)
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, name=name: inputs.__setitem__(name, args[0])
        )
        for name, block in blocks.items()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    verdicts: dict[str, bool] = {}
    for name, given in inputs.items():
        alike = _signature(blocks[name], given)
        if alike not in verdicts:
            try:
                _onnx(blocks[name], given)
                verdicts[alike] = True
            except UnsupportedOperator:
                verdicts[alike] = False
        if verdicts[alike]:
            del blocks[name]
    return blocks


def _signature(block: nn.Module, x: Tensor) -> str:
    """Equal for blocks with the same layers and options on inputs of one size."""
    plain = (bool, int, float, str, tuple, type(None))
    options = {k: v for k, v in vars(block).items() if isinstance(v, plain)}
    return f'{block} {options} {tuple(x.shape)}'


@contextmanager
def _as_matrices(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Let these blocks build their affinity as a matrix."""
    blocks = list(blocks)

    def dense(forward):
        def call(x: Tensor) -> Tensor:
            with graph.force('dense'):
                return forward(x)

        return call

    for block in blocks:
        block.forward = dense(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class has its own


def _run(path: Path, fmt: str, x: Tensor) -> Tensor:
    """What the file computes."""
    if fmt == 'torch_export':
        return torch.export.load(path).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    (name,) = (one.name for one in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of exporters on operators that nothing here uses."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='config file of a model')
    parser.add_argument('checkpoint', nargs='?', help='its weights')
    parser.add_argument('--block', help='a block instead of a config')
    parser.add_argument(
        '--options', type=json_object, default={}, help="the block's options as JSON"
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[],
        help='a side; height and width; frames, height and width; or all of it. '
        'Default: as tools/analysis_tools/get_flops.py takes it from the config',
    )
    parser.add_argument(
        '--dynamic-batch', action='store_true', help='a file for any number of samples'
    )
    parser.add_argument('--format', choices=FORMATS, default='onnx')
    parser.add_argument('--out', type=Path, help='default: in work_dirs/export')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    add_debug(parser)
    args = parser.parse_args(argv)
    if (args.config is None) == (args.block is None):
        parser.error('give a CONFIG or a --block')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    name = args.block or Path(args.config).stem
    suffix = FORMATS[args.format][0]
    out = args.out or Path('work_dirs', 'export', name + suffix)
    try:
        if args.block:
            shape = tuple(args.shape)
            model = block_of(args.block, args.options, shape)
        else:
            config = Config.fromfile(args.config)
            if args.cfg_options:
                config.merge_from_dict(args.cfg_options)
            model, shape = model_of(config, args.checkpoint, args.shape)
        result = export(model, shape, args.format, out, args.dynamic_batch)
    except (ImportError, OSError, TypeError, ValueError) as error:
        if args.debug:
            raise
        sys.exit(f'export.py: {error}')
    print(
        f'{result.path}: {result.shapes[0]} -> {result.shapes[1]}, '
        f'{result.path.stat().st_size / 2**20:.1f} MiB, differs from the model by '
        f'{result.difference:.1e} of the largest output'
    )
    if result.dense:
        print(f'with their affinity as a matrix: {", ".join(result.dense)}')


if __name__ == '__main__':
    main()
