# Copyright (c) The nl_plugins authors. All rights reserved.
"""What every weight converter shares: loading, moving keys, reporting, saving.

A converter reads a state dict, tells a :class:`Conversion` where each key goes, and
checks the result against a model built from a config. Nothing is lost without a
line in the report.
"""

import argparse
import io
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside these tools, installed or not

from nl_plugins.compat.plain_arrays import torch_globals  # noqa: E402
from nl_plugins.compat.repair import release  # noqa: E402
from nl_plugins.files import open_whole  # noqa: E402

# Since then a name may be answered by a stand-in.
_TAKES_STAND_INS = release(torch.__version__) >= (2, 6)
# Where the originals keep the weights: mmengine and most, tea1528, others.
CONTAINERS = ('state_dict', 'net', 'model', 'model_state')


@dataclass
class Checkpoint:
    """A file's tensors and whatever else it held.

    Attributes:
        state_dict (dict[str, Tensor]): Keys without the ``module.`` of DataParallel.
        meta (dict): The other entries of the file, such as the best accuracy.
        path (Path): The file.
    """

    state_dict: dict[str, Tensor]
    meta: dict = field(default_factory=dict)
    path: Path = Path()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a checkpoint without executing anything it holds.

    Args:
        path (str | Path): A file of ``torch.save``: a state dict, or a dict that
            holds one under ``state_dict``, ``net``, ``model`` or ``model_state``.

    Returns:
        Checkpoint: Tensors on the CPU.

    Raises:
        ValueError: Not a file, empty, truncated, no PyTorch file, holding objects
            other than tensors and plain values, no state dict inside, or weights that
            :func:`check_weights` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'there is no checkpoint {path}')
    if not path.stat().st_size:
        raise ValueError(f'{path} is empty. Download or copy it again')
    try:
        with _numpy_values():
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # The second wording is that of torch below 2.4.
        found = re.search(
            r'(?:GLOBAL |Unsupported class |(?=getattr\())([\w.]+)', str(error)
        )
        if found is None:
            raise ValueError(
                f'{path} is truncated or not a PyTorch checkpoint. Download or copy '
                'it again'
            ) from error
        if found[1].startswith('numpy.') and not _TAKES_STAND_INS:
            raise ValueError(
                f'{path} holds {found[1]}, which torch {torch.__version__} cannot load '
                'without running code: use torch>=2.6, or save only the state dict '
                'with the program that made it'
            ) from error
        raise ValueError(
            f'{path} holds {found[1]}, which is not loaded because loading objects '
            'other than tensors and plain values runs code. Save only the state dict '
            'with the program that made it'
        ) from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise ValueError(
            f'{path} is truncated or not a PyTorch checkpoint. Download or copy it '
            'again'
        ) from error
    return _unwrap(content, path)


def _numpy_values():
    """Accept the arrays and scalars of numpy that some programs save as accuracies."""
    if not _TAKES_STAND_INS:
        return nullcontext()
    # On leaving, the context removes all it was given, also what was allowed before.
    allowed = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals(
        [item for item in torch_globals() if item not in allowed]
    )


def _unwrap(content: object, path: Path) -> Checkpoint:
    meta: dict = {}
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if isinstance(content.get(name), Mapping):
                meta = {key: value for key, value in content.items() if key != name}
                content = content[name]
                break
        else:
            for name in CONTAINERS:
                if name in content and not isinstance(content[name], Tensor):
                    raise ValueError(
                        f'{path} holds no state dict: its {name!r} is '
                        f'{_kind(content[name])}, not a dict of tensors'
                    )
    if not isinstance(content, Mapping) or not any(
        isinstance(value, Tensor) for value in content.values()
    ):
        keys = isinstance(content, Mapping)
        found = f'the keys {list(content)[:5]}' if keys else _kind(content)
        raise ValueError(
            f'{path} holds no state dict, neither bare nor under one of '
            f'{list(CONTAINERS)}; it holds {found}'
        )
    unnamed = [key for key in content if not isinstance(key, str)]
    if unnamed:
        raise ValueError(
            f'{path} holds no state dict: a key is {unnamed[0]!r}, not a string'
        )
    tensors = {
        key: value for key, value in content.items() if isinstance(value, Tensor)
    }
    meta.update((key, content[key]) for key in content.keys() - tensors.keys())
    if all(key.startswith('module.') for key in tensors):
        tensors = {key[len('module.') :]: value for key, value in tensors.items()}
    check_weights(tensors, path)
    return Checkpoint(tensors, meta, path)


def _kind(value: object) -> str:
    return 'None' if value is None else f'a {type(value).__name__}'


def check_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that cannot be the weights of a trained network.

    Raises:
        ValueError: Naming the file and the first tensor that is complex, quantized,
            sparse or without values, or holds NaN or infinite ones.
    """
    for key, value in tensors.items():
        where = f'{path}: the tensor {key!r}'
        if value.is_quantized or value.is_meta or value.layout != torch.strided:
            kind = 'quantized' if value.is_quantized else 'sparse'
            kind = 'without values' if value.is_meta else kind
            raise ValueError(f'{where} is {kind}; save it as a dense tensor of numbers')
        if value.is_complex():
            raise ValueError(
                f'{where} is complex ({value.dtype}), the weights of our networks are '
                'real'
            )
        if value.is_floating_point():
            bad = (~value.float().isfinite()).sum().item()
            # Beyond the range of float32, yet a number
            if bad and value.dtype == torch.float64:
                bad = (~value.isfinite()).sum().item()
            if bad:
                raise ValueError(
                    f'{where} holds {bad} NaN or infinite values of {value.numel()}: '
                    'the training diverged or the file is damaged; take an earlier '
                    'checkpoint'
                )


class Conversion:
    """A state dict on its way from one set of names to another.

    Every source key must be moved or dropped, each with its line in the report.

    Args:
        source (Mapping[str, Tensor]): The state dict to convert.
    """

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self.source = dict(source)
        self.target: dict[str, Tensor] = {}
        self._gone: dict[str, str] = {}
        self._added: dict[str, str] = {}

    def move(
        self,
        old: str,
        new: str,
        change: Callable[[Tensor], Tensor] | None = None,
        note: str = '',
    ) -> None:
        """Carry ``old`` to ``new``, changed by ``change``, of which ``note`` tells.

        Raises:
            ValueError: If the source lacks ``old``, it has moved already, or ``new``
                is taken.
        """
        self._take(old, f'-> {new}' + (f' ({note})' if note else ''))
        value = self.source[old]
        self._put(new, value if change is None else change(value))

    def move_prefix(self, old: str, new: str) -> None:
        """Carry every key that starts with ``old`` to the same key with ``new``."""
        for key in self.under(old):
            self.move(key, new + key[len(old) :])

    def join(self, olds: Sequence[str], new: str, dim: int = 1) -> None:
        """Put several tensors side by side into one."""
        for i, old in enumerate(olds):
            self._take(old, f'-> {new} (part {i + 1} of {len(olds)} along {dim})')
        self._put(new, torch.cat([self.source[old] for old in olds], dim))

    def split(self, old: str, news: Sequence[str], dim: int = 1) -> None:
        """Cut one tensor into equal parts; the opposite of :meth:`join`."""
        self._take(old, f'-> {", ".join(news)} (parts along {dim})')
        for new, part in zip(news, self.source[old].chunk(len(news), dim)):
            self._put(new, part.clone())

    def drop(self, old: str, why: str) -> None:
        """Leave ``old`` behind."""
        self._take(old, f'dropped: {why}')

    def drop_prefix(self, old: str, why: str) -> None:
        """Leave every key that starts with ``old`` behind."""
        for key in self.under(old):
            self.drop(key, why)

    def merge(self, old: str, new: str, value: Tensor, note: str) -> None:
        """Replace the target ``new`` by ``value``, into which ``old`` went."""
        self._take(old, f'-> {new} ({note})')
        self.target[new] = value

    def add(self, new: str, value: Tensor, why: str) -> None:
        """Put a tensor into the target that the source does not have."""
        self._put(new, value)
        self._added[new] = why

    def under(self, prefix: str) -> list[str]:
        """The source keys below ``prefix`` that are still to be placed."""
        return [
            key
            for key in self.source
            if key.startswith(prefix) and key not in self._gone
        ]

    def finish(self) -> dict[str, Tensor]:
        """The target state dict.

        Raises:
            ValueError: If a source key has neither moved nor been dropped.
        """
        left = self.under('')
        if left:
            raise ValueError(
                f'{len(left)} keys of the checkpoint have no place in the model, the '
                f'first are {left[:5]}: it is another network than assumed'
            )
        return self.target

    def report(self) -> str:
        """One line for each source key and for each tensor that was added."""
        lines = [
            f'{key} {tuple(self.source[key].shape)} {fate}'
            for key, fate in self._gone.items()
        ]
        lines += [
            f'(new) -> {key} {tuple(self.target[key].shape)} ({why})'
            for key, why in self._added.items()
        ]
        return '\n'.join(lines)

    def summary(self) -> str:
        """One line of counts."""
        dropped = sum(fate.startswith('dropped') for fate in self._gone.values())
        return (
            f'{len(self._gone) - dropped} keys moved, {dropped} dropped, '
            f'{len(self._added)} added'
        )

    def _take(self, old: str, fate: str) -> None:
        if old not in self.source:
            raise ValueError(f'the checkpoint lacks the key {old!r}')
        if old in self._gone:
            raise ValueError(f'{old!r} is placed twice: {self._gone[old]}; {fate}')
        self._gone[old] = fate

    def _put(self, new: str, value: Tensor) -> None:
        if new in self.target:
            raise ValueError(f'two keys of the checkpoint go to {new!r}')
        self.target[new] = value


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict that must fit exactly.

    ``num_batches_tracked`` may be missing: files from before PyTorch 0.4.1 lack it.

    Raises:
        ValueError: Naming missing keys, unknown keys and shapes that differ.
    """
    expected = model.state_dict()
    complaints = []
    missing = [
        key
        for key in expected
        if key not in state_dict and not key.endswith('num_batches_tracked')
    ]
    unknown = [key for key in state_dict if key not in expected]
    wrong = [
        f'{key} {tuple(state_dict[key].shape)}, the model has '
        f'{tuple(expected[key].shape)}'
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    for found, what in (
        (wrong, 'shapes differ'),
        (missing, 'keys are missing'),
        (unknown, 'keys are unknown to the model'),
    ):
        if found:
            complaints.append(f'{len(found)} {what}: {"; ".join(found[:4])}')
    if complaints:
        raise ValueError('the weights do not fit the model. ' + '. '.join(complaints))
    model.load_state_dict({**expected, **state_dict})


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file that appears under its name once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_checkpoint(
    path: str | Path, state_dict: Mapping[str, Tensor], meta: dict | None = None
) -> None:
    """Write ``{'meta': ..., 'state_dict': ...}``, completely or not at all."""
    content = dict(meta=meta or {}, state_dict=dict(state_dict))
    # torch.save itself says of a full disk that a position is unexpected.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def save_report(path: str | Path, conversion: Conversion) -> None:
    """Write the report beside the checkpoint."""
    write_whole(path, f'{conversion.summary()}\n{conversion.report()}\n')


class _Parser(argparse.ArgumentParser):
    parsed: argparse.Namespace | None = None  # what the last one read, for `run`

    def parse_args(self, *args, **kwargs):
        _Parser.parsed = super().parse_args(*args, **kwargs)
        return _Parser.parsed


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every converter takes."""
    arguments = _Parser(description=description)
    arguments.add_argument('checkpoint', type=Path, help='the file to convert')
    arguments.add_argument('out', type=Path, help='the file to write')
    arguments.add_argument(
        '--report',
        type=Path,
        help='where every key went; default: the output name with .txt',
    )
    arguments.add_argument(
        '--debug', action='store_true', help='end an error with its traceback'
    )
    return arguments


def two_way_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of converters that read the model from the keys, and go back."""
    arguments = parser(description)
    arguments.add_argument(
        '--config',
        type=Path,
        help='a config whose model the weights must fit; default: the model that the '
        'keys of the checkpoint tell of',
    )
    arguments.add_argument(
        '--write-config',
        type=Path,
        metavar='FILE.py',
        help='write the model that the keys tell of, blocks and their places included',
    )
    arguments.add_argument(
        '--back', action='store_true', help="from our names to the original's"
    )
    return arguments


def write_config(path: Path, model: dict) -> None:
    """Write a model as a config of its own."""
    from mmengine.config import Config

    imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
    text = Config(dict(custom_imports=imports, model=model)).pretty_text
    write_whole(path, text)
    print(f'{path} holds the model')


def run(main: Callable[[], None]) -> None:
    """Run a converter; an error ends in one sentence with the file and status 1.

    With ``--debug`` it ends in its traceback.
    """
    _Parser.parsed = None
    try:
        main()
    except Exception as error:  # an unforeseen file fails in many ways
        arguments = _Parser.parsed
        if arguments is None or arguments.debug:
            raise
        sys.exit(f'error: {_sentence(error, arguments.checkpoint)}')


def _sentence(error: Exception, path: Path) -> str:
    text = ' '.join(str(error).split())
    # What Python says about a shape of another length tells a user nothing.
    told = isinstance(error, ValueError) and 'values to unpack' not in text
    if told or (isinstance(error, OSError) and error.strerror):
        return text if str(path) in text else f'{path}: {text}'
    return (
        f'{path} cannot be converted, its tensors are not those of a network that is '
        f'known ({type(error).__name__}: {text}); --debug shows the traceback'
    )
