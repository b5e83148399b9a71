# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pickles that want to run code, written opcode by opcode, and who must refuse them.

``python tests/hostile_pickles.py FOLDER GROUP [--few]`` writes the files of
:func:`attacks` into FOLDER and lets every reader of GROUP open each of them in a
process of its own, forked from one that has imported the reader. It prints JSON: which
files left a mark.
"""

import io
import json
import os
import pickle
import runpy
import struct
import sys
import tarfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


# --- opcodes ------------------------------------------------------------------------
def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition('.')
    return f'c{module}\n{attribute}\n'.encode()


def text(value: str) -> bytes:
    data = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(data)) + data


def number(value: int) -> bytes:
    return b'J' + struct.pack('<i', value)


def group(*items: bytes) -> bytes:
    return b'(' + b''.join(items) + b't'


def listed(*items: bytes) -> bytes:
    return b'](' + b''.join(items) + b'e'


def mapping(**items: bytes) -> bytes:
    return b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b'R'


def new(cls: bytes, *arguments: bytes) -> bytes:
    return cls + group(*arguments) + b'\x81'


def build(target: bytes, state: bytes) -> bytes:
    return target + state + b'b'


def setitem(target: bytes, key: bytes, value: bytes) -> bytes:
    return target + key + value + b's'


def put(value: bytes, index: int) -> bytes:
    return value + b'q' + bytes([index])


def get(index: int) -> bytes:
    return b'h' + bytes([index])


def drop_first(*values: bytes) -> bytes:
    """Evaluate all, keep a tuple of them."""
    return group(*values)


NONE, TRUE, FALSE = b'N', b'\x88', b'\x89'
GETATTR = name('builtins.getattr')
BUFFER = name('mmengine.logging.history_buffer.HistoryBuffer')
ONE_CYCLE = name('mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler')
NDARRAY = name('numpy.ndarray')
DTYPE = name('numpy.dtype')
RECONSTRUCT = name('numpy._core.multiarray._reconstruct')
SCALAR = name('numpy._core.multiarray.scalar')
FROM_NUMPY = name('torch._utils._rebuild_device_tensor_from_numpy')
FROM_TYPE = name('torch._tensor._rebuild_from_type_v2')
ORDERED = name('collections.OrderedDict')


def attribute(owner: bytes, *path: str) -> bytes:
    for part in path:
        owner = call(GETATTR, owner, text(part))
    return owner


def pickled(value: bytes) -> bytes:
    return b'\x80\x02' + value + b'.'


def raw_bytes(data: bytes) -> bytes:
    return call(name('_codecs.encode'), text(data.decode('latin1')), text('latin1'))


def dtype(code: str, *state: bytes) -> bytes:
    kind = call(DTYPE, text(code), FALSE, TRUE)
    plain = (number(3), text('<'), NONE, NONE, NONE, number(-1), number(-1), number(0))
    return build(kind, group(*(state or plain)))


def empty_array() -> bytes:
    return call(RECONSTRUCT, NDARRAY, group(number(0)), raw_bytes(b'b'))


def array_state(kind: bytes, content: bytes, shape: bytes | None = None) -> bytes:
    shape = shape or group(number(1))
    return group(number(1), shape, kind, FALSE, content)


def array(kind: bytes, content: bytes, shape: bytes | None = None) -> bytes:
    return build(empty_array(), array_state(kind, content, shape))


def good_array() -> bytes:
    return array(dtype('f8'), raw_bytes(struct.pack('<d', 2.0)))


# --- attacks that leave a mark where nothing is restricted ---------------------------
def evaluated(builtins: bytes, code: str) -> bytes:
    """Copy a dict of builtins into an object, write one into the globals of a function
    that torch allows, call that function: each step is a plain opcode."""
    return drop_first(
        put(build(call(ORDERED), builtins), 7),
        setitem(
            attribute(FROM_NUMPY, '__globals__'),
            text('_get_restore_location'),
            attribute(get(7), 'exec'),
        ),
        call(FROM_NUMPY, NONE, NONE, text(code), FALSE),
    )


def attacks(code: str) -> dict[str, bytes]:
    """Pickles that run ``code``, by the way they take."""
    function = attribute(BUFFER, 'mean')
    execute = name('builtins.exec')
    return {
        'exec': call(execute, text(code)),
        'exec of Python 2': call(name('__builtin__.eval'), text(f'exec({code!r})')),
        'attribute of a module': call(
            attribute(call(name('builtins.__import__'), text('builtins')), 'exec'),
            text(code),
        ),
        'builtins of an allowed function': evaluated(
            attribute(FROM_NUMPY, '__builtins__'), code
        ),
        'builtins of a statistic': evaluated(attribute(function, '__builtins__'), code),
        'builtins of a constructor': evaluated(
            attribute(BUFFER, '__init__', '__builtins__'), code
        ),
        'builtins of an annealing': evaluated(
            attribute(ONE_CYCLE, '_annealing_cos', '__builtins__'), code
        ),
        'behind the memo': drop_first(
            put(GETATTR, 1),
            put(call(get(1), FROM_NUMPY, text('__builtins__')), 2),
            evaluated(get(2), code),
        ),
        'inside a checkpoint': mapping(
            meta=mapping(epoch=number(1), iter=number(1)),
            state_dict=call(execute, text(code)),
        ),
        'by a type of torch': call(
            FROM_TYPE, execute, name('builtins.type'), group(text(code)), NONE
        ),
        'in an array': array(dtype('f8'), call(execute, text(code))),
        'in a history': build(
            new(BUFFER), mapping(statistics_methods=call(execute, text(code)))
        ),
    }


# --- containers ----------------------------------------------------------------------
def zipped(data: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', data)
        archive.writestr('archive/byteorder', b'little')
        archive.writestr('archive/version', b'3\n')
        for key, content in (storages or {}).items():
            archive.writestr(f'archive/data/{key}', content)
    return file.getvalue()


def legacy(data: bytes) -> bytes:
    """torch.save before torch 1.6: pickles in a row."""
    sizes = dict(short=2, int=4, long=4)
    system = dict(protocol_version=1001, little_endian=True, type_sizes=sizes)
    first = [0x1950A86A20F9469CFC6C, 1001, system]
    return b''.join(pickle.dumps(part, 2) for part in first) + data + pickled(b']')


def tarred(data: bytes) -> bytes:
    """torch.save of the first versions."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for member in ('storages', 'tensors', 'pickle'):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def scripted(data: bytes) -> bytes:
    file = io.BytesIO(zipped(data))
    with zipfile.ZipFile(file, 'a') as archive:
        archive.writestr('archive/constants.pkl', data)
        archive.writestr('archive/code/__torch__.py', b'')
    return file.getvalue()


def nested(data: bytes, inner: Callable[[bytes], bytes] = zipped) -> bytes:
    """A storage that is itself an archive."""
    storage = call(name('torch.storage._load_from_bytes'), raw_bytes(inner(data)))
    return pickled(listed(mapping(pred_score=storage, gt_label=storage)))


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    'zip': zipped,
    'raw': lambda data: data,
    'legacy': legacy,
    'legacy, at once': lambda data: data + legacy(data),
    'tar': tarred,
    'torchscript': scripted,
    'nested': nested,
    'nested legacy': lambda data: nested(data, legacy),
}


def write_attacks(folder: Path, few: bool = False) -> dict[str, Path]:
    """The files of all attacks; the mark of ``N.pth`` is ``N.mark``."""
    files = {}
    real = ('exec', 'builtins of a statistic')
    if few:
        chosen = [('exec', 'raw'), ('builtins of a statistic', 'zip')]
    else:
        chosen = [(kind, where) for kind in attacks('') for where in ('zip', 'raw')]
        chosen += [(kind, where) for kind in real for where in list(CONTAINERS)[2:]]
    for index, (kind, container) in enumerate(chosen):
        path = folder / f'{index}.pth'
        code = f'open({str(path.with_suffix(".mark"))!r}, "w").close()'
        path.write_bytes(CONTAINERS[container](pickled(attacks(code)[kind])))
        files[f'{kind} ({container})'] = path
    stored = folder / 'config.pth'
    code = f'open({str(stored.with_suffix(".mark"))!r}, "w").close()'
    stored.write_bytes(
        zipped(
            pickled(
                mapping(
                    meta=mapping(epoch=number(0), iter=number(0), config=text(code)),
                    state_dict=b'}',
                    message_hub=mapping(
                        log_scalars=b'}', runtime_info=b'}', resumed_keys=b'}'
                    ),
                )
            )
        )
    )
    files['a config to run'] = stored
    return files


# --- what must be refused, whether or not it could do harm today ---------------------
def refused() -> Iterator[tuple[str, bytes]]:
    """Pickles that must end in an error, with what each tries."""
    import torch

    from nl_plugins.compat import checkpoint_globals

    ours = [dotted for _, dotted in checkpoint_globals.safe_globals() if '.' in dotted]
    unpickler = torch._weights_only_unpickler
    everything = [*ours, *unpickler._get_allowed_globals()]
    chains = ('__globals__', '__builtins__', '__init__', '__class__', '__dict__')
    chains += ('__call__', '__getattribute__', '__setstate__', '__self__', '_call')
    for dotted in everything:
        for chain in chains:
            yield f'{dotted}.{chain}', attribute(name(dotted), chain)
    allowed = [(BUFFER, method) for method in checkpoint_globals.STATISTICS] + [
        (ONE_CYCLE, method) for method in checkpoint_globals.ANNEALINGS
    ]
    for owner, method in allowed:
        pair = attribute(owner, method)
        yield f'{method}, called', call(pair, number(1), number(1), number(1))
        yield f'{method}, built', build(pair, mapping(x=NONE))
        yield f'{method}, item', setitem(pair, text('x'), NONE)
        yield f'{method}, new', new(pair)
        for chain in chains:
            yield f'{method}.{chain}', attribute(pair, chain)
        yield f'{method} of another', attribute(NDARRAY, method)
        yield f'{method} with a default', call(GETATTR, owner, text(method), NONE)
        yield f'{method} as bytes', call(GETATTR, owner, raw_bytes(method.encode()))
        yield (
            f'state of {method}',
            call(FROM_TYPE, GETATTR, BUFFER, group(owner, text(method)), b'}'),
        )
    for dotted in ours:
        value = name(dotted)
        yield f'{dotted}, built', build(value, mapping(__call__=GETATTR))
        yield f'{dotted}, slots built', build(value, group(b'}', mapping(x=NONE)))
        yield f'{dotted}, item', setitem(value, text('x'), NONE)
        yield f'{dotted}, appended', value + b'(' + NONE + b'e'
        hostile = {
            'getattr': (GETATTR, text('__globals__')),
            'itself': (value, value, value, value),
            'text': (text('O'), text('__import__'), text('os')),
            'lists': (b']', b']', b']'),
        }
        for kind, arguments in hostile.items():
            yield f'{dotted} of {kind}', call(value, *arguments)
            yield f'{dotted} new, of {kind}', new(value, *arguments)

    # numpy
    codes = ('O', 'O8', '|O', 'object', 'V8', 'M8', 'm8', 'f8,O', 'f9', 'U0', 'S0', '')
    for code in codes:
        yield f'dtype {code!r}', call(DTYPE, text(code), FALSE, TRUE)
    yield 'dtype of a list', call(DTYPE, listed(group(text('a'), text('O'))))
    yield 'dtype of bytes', call(DTYPE, raw_bytes(b'f8'))
    yield 'dtype of a dtype', call(DTYPE, dtype('f8'))
    three = number(3)
    states = {
        'subarray': (three, text('<'), group(dtype('f8'), group(number(9)))),
        'names': (three, text('<'), NONE, group(text('a')), NONE),
        'fields': (three, text('<'), NONE, NONE, mapping(a=group(dtype('f8')))),
        'order': (three, text('O'), NONE, NONE, NONE),
        'nothing': (three,),
    }
    for kind, state in states.items():
        yield f'dtype with {kind}', dtype('f8', *state)
    yield 'array of objects', array(call(DTYPE, text('O')), listed(GETATTR))
    yield 'array of a list', array(dtype('f8'), listed(GETATTR))
    yield 'array too short', array(dtype('f8'), raw_bytes(b'1234'))
    yield 'array too long', array(dtype('f8'), raw_bytes(b'1' * 80))
    huge = group(number(2**31 - 1), number(2**31 - 1), number(2**31 - 1))
    yield 'array that is huge', array(dtype('f8'), raw_bytes(b'1' * 8), huge)
    yield (
        'array of negative size',
        array(dtype('f8'), raw_bytes(b''), group(number(-1))),
    )
    yield 'array without shape', array(dtype('f8'), raw_bytes(b''), NONE)
    yield 'array without dtype', array(NONE, raw_bytes(b'1' * 8))
    yield 'array of a name', array(DTYPE, raw_bytes(b'1' * 8))
    twice = array_state(dtype('f8'), raw_bytes(b'1' * 8))
    yield 'array, built twice', build(good_array(), twice)
    yield (
        'array, incomplete, for torch',
        call(FROM_NUMPY, empty_array(), name('torch.float64'), text('cpu'), FALSE),
    )
    yield (
        'memory that is freed',
        drop_first(
            put(good_array(), 3),
            call(FROM_NUMPY, get(3), name('torch.float64'), text('cpu'), FALSE),
            build(get(3), twice),
        ),
    )
    yield (
        'array of another type',
        call(RECONSTRUCT, BUFFER, group(number(0)), text('b')),
    )
    yield 'array, item', setitem(good_array(), number(0), GETATTR)
    yield 'array as a function', call(good_array())
    yield 'numpy.ndarray called', call(NDARRAY, group(number(1)), text('O'))
    yield 'scalar of objects', call(SCALAR, call(DTYPE, text('O')), raw_bytes(b'1' * 8))
    yield 'scalar of a pickle', call(SCALAR, DTYPE, raw_bytes(pickled(GETATTR)))
    yield 'scalar too short', call(SCALAR, dtype('f8'), raw_bytes(b'1'))
    yield 'scalar without content', call(SCALAR, dtype('f8'))

    # the history
    memory = build(
        call(ORDERED),
        mapping(
            __array_interface__=mapping(
                version=number(3),
                typestr=text('<f8'),
                shape=group(number(1)),
                data=group(number(8), FALSE),
            )
        ),
    )
    for kind, content in {
        'memory': memory,
        'functions': listed(GETATTR),
        'an incomplete array': empty_array(),
        'text': array(dtype('U1'), raw_bytes(b'a\0\0\0')),
        'nothing': NONE,
    }.items():
        histories = dict(_log_history=content, _count_history=good_array())
        state = mapping(max_length=number(9), **histories)
        yield f'history of {kind}', build(new(BUFFER), state)
        yield f'history called with {kind}', call(BUFFER, content, content)
        yield (
            f'history of {kind} by torch',
            call(FROM_TYPE, BUFFER, BUFFER, group(), state),
        )
    good = mapping(
        max_length=number(9), _log_history=good_array(), _count_history=good_array()
    )
    yield 'history, built twice', build(build(new(BUFFER), good), good)
    yield 'history, item', setitem(build(new(BUFFER), good), text('mean'), GETATTR)
    yield 'history without a state dict', build(new(BUFFER), group(good, good))


def fingerprint() -> object:
    """What a file must not change: functions, classes and dtypes that it can name."""
    import builtins

    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    from nl_plugins.compat import checkpoint_globals, plain_arrays

    HistoryBuffer()  # The first one fills in the statistics of the class.
    owners = (torch._utils, torch._tensor, builtins, plain_arrays, checkpoint_globals)
    owners += (HistoryBuffer, checkpoint_globals.History, plain_arrays.StandIn)
    owners += (plain_arrays.Array, plain_arrays.Kind, checkpoint_globals.Annealing)
    functions = torch._weights_only_unpickler._tensor_rebuild_functions()
    return (
        [{key: id(value) for key, value in vars(owner).items()} for owner in owners],
        dict(HistoryBuffer._statistics_methods),
        [
            (function, dict(vars(function)), function.__defaults__, function.__code__)
            for function in sorted(functions, key=lambda function: function.__name__)
        ],
        [np.dtype(code).__reduce__() for code in 'bBhHiIlLqQefdgFDG?'],
    )


# --- readers -------------------------------------------------------------------------
def _tool(path: str) -> dict:
    path = ROOT / 'tools' / path
    sys.path.insert(0, str(path.parent))
    return runpy.run_path(str(path), run_name=path.stem)


def _command(path: str, *arguments: str) -> Callable[[Path], None]:
    """The ``main`` of a tool, imported now; ``{}`` is the hostile file."""
    main = _tool(path)['main']

    def read(file: Path) -> None:
        sys.argv[:] = [path, *(argument.format(file) for argument in arguments)]
        main()

    return read


def converters(folder: Path) -> dict[str, Callable[[Path], None]]:
    """Every converter and the other tools whose files are pickles."""
    out = str(folder / 'out.pth')
    readers = {
        path.name: _command(f'model_converters/{path.name}', '{}', out)
        for path in sorted((ROOT / 'tools/model_converters').glob('*_to_*.py'))
    }
    fuse = _command('analysis_tools/fuse_scores.py', '{}')
    blobs = _tool('model_converters/caffe2_blobs.py')['load_blobs']
    core = _tool('model_converters/conversion.py')['load_checkpoint']
    return readers | {
        'fuse_scores.py': fuse,
        'load_blobs': blobs,
        'conversion.load_checkpoint': core,
    }


def package(folder: Path) -> dict[str, Callable[[Path], None]]:
    """What loads checkpoints, and the data sets that read pickles."""
    import nl_plugins  # noqa: F401, I001 - the repairs come first
    import torch
    from mmengine.runner import load_checkpoint
    from nl_plugins.classification import CIFAR10Subset, CIFAR100Subset

    def batch(cls, parts: str):
        def read(file: Path) -> None:
            root = folder / file.stem
            (root / parts).parent.mkdir(parents=True, exist_ok=True)
            (root / parts).write_bytes(file.read_bytes())
            cls(data_root=str(root)).full_init()

        return read

    model = torch.nn.Linear(1, 1)
    return {
        'torch.load': lambda file: torch.load(file),
        'load_checkpoint': lambda file: load_checkpoint(model, str(file)),
        'CIFAR10Subset': batch(CIFAR10Subset, 'cifar-10-batches-py/batches.meta'),
        'CIFAR100Subset': batch(CIFAR100Subset, 'cifar-100-python/meta'),
    }


CONFIG = """
custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=2, base_channels=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
)
dataset = dict(type='CIFAR10Subset', data_root={data!r}, split='test',
               pipeline=[dict(type='PackInputs')])
test_dataloader = dict(dataset=dataset, batch_size=1, num_workers=0,
                       persistent_workers=False,
                       sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = test_dataloader
test_evaluator = dict(type='Accuracy')
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
work_dir = {work_dir!r}
log_level = 'ERROR'
"""


def commands(folder: Path) -> dict[str, Callable[[Path], None]]:
    """Every command that takes a checkpoint, as it is typed."""
    import nl_plugins  # noqa: F401, I001 - the repairs come first
    import cv2
    import numpy as np
    import torch
    from mmengine.model import PretrainedInit

    for package in ('mmpretrain', 'mmseg'):  # once, not in each fork
        for module in ('apis', 'datasets', 'engine', 'models'):
            import_module(f'{package}.{module}')

    data = folder / 'data' / 'cifar-10-batches-py'
    data.mkdir(parents=True)
    batch = dict(data=np.zeros((1, 3072), np.uint8), labels=[0])
    for file in ('test_batch', *(f'data_batch_{index}' for index in range(1, 6))):
        (data / file).write_bytes(pickle.dumps(batch, 2))
    names = dict(label_names=list('abcdefghij'))
    (data / 'batches.meta').write_bytes(pickle.dumps(names, 2))
    config = folder / 'tiny.py'
    content = CONFIG.format(data=str(data.parent), work_dir=str(folder / 'runs'))
    config.write_text(content)
    picture = folder / 'picture.png'
    cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))

    def script(path: str, *arguments: str) -> Callable[[Path], None]:
        main = _tool('codebase_script.py')['main']

        def read(file: Path) -> None:
            sys.argv[:] = [path, *(argument.format(file) for argument in arguments)]
            main(path)

        return read

    picture_tools = _tool('visualization/quickstart_pictures.py')
    compare = _tool('visualization/compare_segmentation.py')
    torch.set_num_threads(1)
    return {
        'test.py': script('test.py', str(config), '{}'),
        'train.py --resume': script('train.py', str(config), '--resume', '{}'),
        'train.py, load_from': script(
            'train.py', str(config), '--cfg-options', 'load_from={}'
        ),
        'Pretrained': lambda file: PretrainedInit(str(file))(torch.nn.Linear(1, 1)),
        'export.py': _command('deployment/export.py', str(config), '{}'),
        'vis_attention.py': _command(
            'visualization/vis_attention.py', str(picture), str(config), '{}'
        ),
        'quickstart_pictures.py': lambda file: picture_tools['load'](
            str(config), str(file)
        ),
        'compare_segmentation.py': lambda file: compare['predict'](
            compare['Model'](title='', config=str(config), checkpoint=str(file)),
            [],
            'cpu',
        ),
    }


def everything_allowed(folder: Path) -> dict[str, Callable[[Path], None]]:
    """The control: readers that restrict nothing."""
    import nl_plugins  # noqa: F401, I001 - the repairs come first
    import torch
    from mmengine.config import Config

    def config(file: Path) -> None:
        content = torch.load(file, weights_only=False)
        Config.fromstring(content['meta']['config'], '.py')

    return {
        'pickle': lambda file: pickle.loads(file.read_bytes()),
        'torch': lambda file: torch.load(file, weights_only=False),
        'config': config,
    }


GROUPS = dict(
    readers=lambda folder: package(folder) | converters(folder),
    commands=commands,
    everything_allowed=everything_allowed,
)


def _read_in_a_fork(read: Callable[[Path], None], file: Path, log: Path) -> str:
    child = os.fork()
    if not child:
        outcome = 'read'
        with log.open('a') as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        try:
            read(file)
        except BaseException as error:
            outcome = f'{type(error).__name__}: {error}'
            traceback.print_exc()
        (file.with_suffix('.outcome')).write_text(outcome)
        os._exit(0)
    os.waitpid(child, 0)
    outcome = file.with_suffix('.outcome')
    result = outcome.read_text() if outcome.exists() else 'died'
    outcome.unlink(missing_ok=True)
    return result


def main() -> None:
    folder, group_name = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir()
    os.chdir(folder)
    files = write_attacks(folder, few='--few' in sys.argv)
    results = []
    for reader, read in GROUPS[group_name](folder).items():
        for kind, file in files.items():
            outcome = _read_in_a_fork(read, file, folder / 'log.txt')
            mark = file.with_suffix('.mark')
            results.append((reader, kind, mark.exists(), outcome[:300]))
            mark.unlink(missing_ok=True)
    print(json.dumps(results))


if __name__ == '__main__':
    main()
