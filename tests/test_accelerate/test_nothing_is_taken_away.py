# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every accelerated class and every property of a module: as before the import."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch.utils._pytree import tree_map

pytest.importorskip('mmseg')

from nl_plugins import accelerate, graph

from .cases import CASES, build

# What mmcv's and mmseg's in-place operations keep from being differentiated.
NO_GRADIENT = (
    'NonLocal2d concatenation',
    'DisentangledNonLocal2d gaussian',
    'DisentangledNonLocal2d concatenation',
)


@pytest.fixture(autouse=True)
def restore():
    accelerate.undo()
    yield
    accelerate.undo()


def clones(inputs):
    return tuple(x.clone() for x in inputs)


def gradients(module, inputs):
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    # Some of the originals write to their input.
    out = module(*(x * 1 for x in inputs))
    parameters = [p for p in module.parameters() if p.requires_grad]
    return out, torch.autograd.grad(
        out.square().sum(), (*inputs, *parameters), allow_unused=True
    )


def forward(module, inputs, other):
    return module(*clones(inputs)), module(*clones(other))


def backward(module, inputs, other):
    return gradients(module, inputs)


def double_backward(module, inputs, other):
    x = inputs[0].clone().requires_grad_()
    out = module(x * 1, *inputs[1:])
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return first.detach(), second


def hooks(module, inputs, other):
    """What hooks before and after each layer see, in order."""
    seen = []
    for name, part in module.named_modules():
        part.register_forward_pre_hook(
            lambda m, args, name=name: seen.append((name, 'in', args[0].clone()))
        )
        part.register_forward_hook(
            lambda m, args, out, name=name: seen.append((name, 'out', out.clone()))
        )
    module(*clones(inputs))
    return seen


def a_hook_that_changes_a_layer(module, inputs, other):
    for part in list(module.modules())[1:]:
        part.register_forward_hook(lambda m, args, out: out * 1.1)
    return module(*clones(inputs))


def backward_hooks(module, inputs, other):
    seen = []
    for name, part in module.named_modules():
        if name and not list(part.children()):
            part.register_full_backward_hook(
                lambda m, grads_in, grads_out, name=name: seen.append(
                    (name, grads_out[0].detach().clone())
                )
            )
    gradients(module, inputs)
    return sorted(seen, key=lambda entry: entry[0])


def fuse_conv_bn(module, inputs, other):
    from mmcv.cnn import fuse_conv_bn as fuse

    return fuse(module)(*clones(inputs))


def efficient_conv_bn_eval(module, inputs, other):
    from mmcv.cnn import ConvModule
    from mmengine.model.efficient_conv_bn_eval import efficient_conv_bn_eval_forward

    for part in module.modules():
        if isinstance(part, ConvModule) and part.with_norm:
            part.efficient_conv_bn_eval_forward = efficient_conv_bn_eval_forward
    return module(*clones(inputs))


def efficient_conv_bn_eval_by_fx(module, inputs, other):
    from mmengine.model.efficient_conv_bn_eval import (
        turn_on_efficient_conv_bn_eval_for_single_model,
    )

    turn_on_efficient_conv_bn_eval_for_single_model(module)
    return module(*clones(inputs))


def fx(module, inputs, other):
    return torch.fx.symbolic_trace(module)(*clones(inputs))


def jit_trace(module, inputs, other):
    traced = torch.jit.trace(module, clones(inputs))
    return traced(*clones(inputs)), traced(*clones(other))


def compiled(module, inputs, other):
    torch._dynamo.reset()
    return torch.compile(module, backend='eager', fullgraph=True)(*clones(inputs))


def copies(module, inputs, other):
    loaded = pickle.loads(pickle.dumps(module))
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    loaded.load_state_dict(torch.load(saved), strict=True)
    return loaded(*clones(inputs)), copy.deepcopy(module)(*clones(inputs))


def attributes(module, inputs, other):
    """A forward pass leaves the same attributes behind, and the same weights."""
    module(*clones(inputs))
    return [
        (name, sorted(vars(part)), sorted(part.state_dict()))
        for name, part in module.named_modules()
    ]


def subclass_that_calls_super(module, inputs, other):
    class Mine(type(module)):
        def forward(self, *args):
            return 2 * super().forward(*args)

    module.__class__ = Mine
    return module(*clones(inputs))


def subclass_with_its_own_weights(module, inputs, other):
    def uniform(self, theta_x, phi_x):
        keys = phi_x.shape[3] if self.mode == 'concatenation' else phi_x.shape[2]
        return theta_x.new_full((len(theta_x), theta_x.shape[-2], keys), 1 / keys)

    if not hasattr(module, 'mode'):
        raise TypeError('its weights are no method')
    if module.mode == 'concatenation':

        def uniform(self, theta_x, phi_x):
            queries, keys = theta_x.shape[2], phi_x.shape[3]
            return theta_x.new_full((len(theta_x), queries, keys), 1 / keys)

    module.__class__ = type('Mine', (type(module),), {module.mode: uniform})
    return module(*clones(inputs))


def method_of_an_instance(module, inputs, other):
    def half(theta_x, phi_x):
        return type(module).embedded_gaussian(module, theta_x, phi_x) / 2

    if getattr(module, 'mode', None) != 'embedded_gaussian':
        raise TypeError('its weights are no method')
    module.embedded_gaussian = half
    return module(*clones(inputs))


def forward_of_an_instance(module, inputs, other):
    original = module.forward
    module.forward = lambda *args: original(*args) + 1
    return module(*clones(inputs))


def undo_between_forward_and_backward(module, inputs, other):
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    out = module(*(x * 1 for x in inputs))
    accelerate.undo()
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs[0])
    return gradient, module(*(x.detach().clone() for x in inputs))


def deterministic(module, inputs, other):
    torch.use_deterministic_algorithms(True)
    try:
        return gradients(module, inputs)
    finally:
        torch.use_deterministic_algorithms(False)


def training_mode(module, inputs, other):
    return gradients(module.train(), inputs)


def inference_mode(module, inputs, other):
    with torch.inference_mode():
        return module(*clones(inputs)) * 1


def channels_last(module, inputs, other):
    if inputs[0].ndim != 4:
        raise TypeError('no image')
    return module(*(x.to(memory_format=torch.channels_last) for x in inputs))


def checkpointed(module, inputs, other):
    from torch.utils.checkpoint import checkpoint

    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    out = checkpoint(
        lambda *xs: module(*(x * 1 for x in xs)), *inputs, use_reentrant=False
    )
    return torch.autograd.grad(out.square().sum(), inputs)


def hooks_on_every_module(module, inputs, other):
    """What a hook for all modules, as a profiler's, sees, in order."""
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda m, args, out: seen.append((type(m).__name__, out.clone()))
    )
    try:
        module(*clones(inputs))
    finally:
        handle.remove()
    return seen


def weights_that_are_computed(module, inputs, other):
    """Normalised by a parametrisation, normalised by a hook, and pruned."""
    from torch.nn.utils import parametrizations, prune, weight_norm

    convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    if len(convs) < 3:
        raise TypeError('too few images')
    parametrizations.weight_norm(convs[0])
    prune.l1_unstructured(convs[1], 'weight', 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        weight_norm(convs[2])
    return gradients(module, inputs)


def per_sample_gradients(module, inputs, other):
    parameters = {key: p.detach() for key, p in module.named_parameters()}

    def loss(parameters, *sample):
        sample = tuple(x.unsqueeze(0) for x in sample)
        return torch.func.functional_call(module, parameters, sample).square().sum()

    per_sample = torch.func.vmap(
        torch.func.grad(loss), in_dims=(None, *[0] * len(inputs))
    )
    found = per_sample(parameters, *(x * 1 for x in inputs))
    return [found[key] for key in parameters]


def directional_derivative(module, inputs, other):
    return torch.func.jvp(
        lambda *xs: module(*(x * 1 for x in xs)), inputs, tuple(map(torch.cos, inputs))
    )


def exported(module, inputs, other):
    return torch.export.export(module, clones(inputs)).module()(*clones(inputs))


def amp(module, inputs, other):
    module, inputs = module.float(), tuple(x.float() for x in inputs)
    with torch.autocast('cpu', torch.bfloat16):
        out = module(*inputs)
    return str(out.dtype), out.float()


def single_precision(module, inputs, other):
    return module.float()(*(x.float() for x in inputs))


PROPERTIES = {
    function.__name__: function
    for function in (
        forward,
        backward,
        double_backward,
        hooks,
        a_hook_that_changes_a_layer,
        backward_hooks,
        fuse_conv_bn,
        efficient_conv_bn_eval,
        efficient_conv_bn_eval_by_fx,
        fx,
        jit_trace,
        compiled,
        copies,
        attributes,
        subclass_that_calls_super,
        subclass_with_its_own_weights,
        method_of_an_instance,
        forward_of_an_instance,
        undo_between_forward_and_backward,
        deterministic,
        training_mode,
        inference_mode,
        channels_last,
        checkpointed,
        hooks_on_every_module,
        weights_that_are_computed,
        per_sample_gradients,
        directional_derivative,
        exported,
        amp,
        single_precision,
    )
}
# What the originals of some classes cannot do, or what they have no method for.
FOR_SOME_CLASSES = {
    'backward_hooks',
    'channels_last',
    'compiled',
    'directional_derivative',
    'efficient_conv_bn_eval_by_fx',
    'fx',
    'exported',
    'method_of_an_instance',
    'per_sample_gradients',
    'subclass_with_its_own_weights',
    'weights_that_are_computed',
}
# The table is in double precision; mmseg's DNL divides by numbers of single precision.
TOLERANCE = dict(amp=0.06, single_precision=2e-5)


def in_double(module, inputs, other):
    return module.double(), *(tuple(x.double() for x in xs) for xs in (inputs, other))


def outcome(case, prop):
    """What the property is, or the error that it ends with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return tree_map(
                lambda x: x.detach() if isinstance(x, torch.Tensor) else x,
                PROPERTIES[prop](*in_double(*build(case))),
            )
    except Exception as error:  # whatever upstream raises is the finding
        return error


def assert_alike(found, expected, tolerance):
    assert type(found) is type(expected)
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_alike(*pair, tolerance)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        scale = max(1e-3, expected.abs().max().item())
        assert (found - expected).abs().max() <= tolerance * scale
    else:
        assert found == expected


# A second each, so once a class.
FIRST = {case.target: name for name, case in reversed(CASES.items())}
TABLE = [
    (case, prop)
    for case in CASES
    for prop in PROPERTIES
    if prop not in ('compiled', 'exported') or case in FIRST.values()
]


@pytest.mark.parametrize('case, prop', TABLE)
def test_as_before_the_import(case, prop):
    expected = outcome(case, prop)
    # At these sizes the matrix is cheapest; on large maps the operators compute.
    for formulation in ('auto', 'fast'):
        accelerate.apply()
        with graph.force(formulation):
            found = outcome(case, prop)
        if isinstance(expected, Exception):
            # What did not work before may work now.
            assert prop in FOR_SOME_CLASSES or case in NO_GRADIENT, expected
            continue
        if isinstance(found, Exception):
            raise AssertionError(f'{prop} worked before, {formulation}') from found
        assert_alike(found, expected, TOLERANCE.get(prop, 1e-7))


@pytest.mark.parametrize('prop', sorted(FOR_SOME_CLASSES))
def test_the_property_can_be_lost(prop):
    """It works for one of the originals at least, so that the table says something."""
    assert any(not isinstance(outcome(case, prop), Exception) for case in CASES)


def test_every_class_is_in_the_table():
    assert {case.target for case in CASES.values()} == set(accelerate.TARGETS)


@pytest.mark.parametrize('case', CASES)
def test_the_class_computes_otherwise_until_undo(case):
    module, inputs, _ = build(case)
    owner = next(
        cls
        for cls in type(module).__mro__
        if (cls.__module__, cls.__name__) == CASES[case].target
    ) if case not in ('APNB of ANNHead', 'AFNB of ANNHead') else type(
        module.stages[0]
    ).__mro__[1]  # fmt: skip
    before = set(vars(owner))
    original = owner.forward
    accelerate.apply()
    assert owner.forward is not original
    accelerate.undo()
    assert owner.forward is original
    assert set(vars(owner)) == before


@pytest.mark.parametrize('case', NO_GRADIENT)
def test_what_had_no_gradient_has_one(case):
    assert isinstance(outcome(case, 'backward'), RuntimeError)
    accelerate.apply()
    module, inputs, _ = build(case)
    module = module.double()
    inputs = tuple(x[:1, :, :3, :2].double().requires_grad_() for x in inputs)
    torch.autograd.gradcheck(lambda x: module(x * 1), inputs)


def test_disentangled_gaussian_leaves_its_input_alone():
    module, (x,), _ = build('DisentangledNonLocal2d gaussian')
    written = x.clone()
    expected = module(written)
    assert not torch.equal(written, x)
    accelerate.apply()
    kept = x.clone()
    torch.testing.assert_close(module(kept), expected)
    assert torch.equal(kept, x)


@pytest.mark.parametrize('case', CASES)
def test_legacy_onnx_export_with_open_sizes(case, tmp_path):
    """Opset 17, what mmdeploy asks for; other sizes under onnxruntime."""
    onnxruntime = pytest.importorskip('onnxruntime')
    module, inputs, other = build(case)
    accelerate.apply()
    names = [f'x{i}' for i in range(len(inputs))]
    axes = {name: {0: 'batch', 2: 'height', 3: 'width'} for name in names}
    if len(inputs[0].shape) != 4:
        axes = {
            name: {0: 'batch', **{i: f'size{i}' for i in range(2, inputs[0].ndim)}}
            for name in names
        }
    path = tmp_path / 'module.onnx'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            module,
            clones(inputs),
            path,
            dynamo=False,
            opset_version=17,
            input_names=names,
            dynamic_axes=axes,
        )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for values in (inputs, other):
        feed = {name: x.numpy() for name, x in zip(names, values)}
        (found,) = session.run(None, feed)
        with torch.no_grad():
            expected = module(*clones(values))
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4
        )
