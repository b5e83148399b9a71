# Copyright (c) The nl_plugins authors. All rights reserved.
"""Receptive fields of known networks, and orders of frames."""

import pytest
import torch
import torch.nn as nn

from nl_plugins.analysis import ablate, effective_receptive_field, frame_order
from nl_plugins.blocks import NLBlock


def test_a_convolution_reaches_its_kernel():
    conv = nn.Conv2d(2, 3, 5, padding=2).double()
    x = torch.randn(4, 2, 21, 21, dtype=torch.double)
    found = effective_receptive_field(conv, x.split(2))
    inside = torch.zeros(21, 21, dtype=torch.bool)
    inside[8:13, 8:13] = True
    assert (found.energy[~inside] == 0).all() and (found.energy[inside] > 0).all()
    assert found.energy.sum().item() == pytest.approx(1) and found.samples == 4
    assert found.centre == (10, 10) and found.radius(1.0) == pytest.approx(2 * 2**0.5)


def test_the_energy_is_that_of_the_jacobian():
    """One channel: the sign drops out, so the dense Jacobian gives it exactly."""
    torch.manual_seed(0)
    block = NLBlock(4, zeros_init=False).double().eval()
    nn.init.normal_(block.conv_out.conv.weight)
    model = nn.Sequential(block, nn.Conv2d(4, 1, 1).double())
    x = torch.randn(1, 4, 5, 6, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0, 0, 2, 3], x)
    expected = jacobian[0].square().sum(0)
    found = effective_receptive_field(model, [x])
    torch.testing.assert_close(found.energy, expected / expected.sum())


def test_a_block_widens_and_its_ablation_narrows():
    torch.manual_seed(0)
    block = NLBlock(4, zeros_init=False).eval()
    nn.init.normal_(block.conv_out.conv.weight)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), block)
    x = torch.randn(3, 4, 15, 15)
    wide = effective_receptive_field(model, [x])
    with ablate(model, 'off'):
        narrow = effective_receptive_field(model, [x])
    assert narrow.radius(1.0) < 2 < 6 < wide.radius(1.0)
    assert narrow.radius(0.1) <= narrow.radius(0.5) <= narrow.radius(0.9)


def test_modes_are_restored_and_layers_are_found():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
    model.train()
    x = torch.randn(2, 1, 9, 9)
    found = effective_receptive_field(model, [x], layer='0')
    assert model[1].training and model[1].num_batches_tracked == 0
    assert found.radius(1.0) < 2
    with pytest.raises(ValueError, match="no layer 'head'"):
        effective_receptive_field(model, [x], layer='head')
    with pytest.raises(ValueError, match='no inputs'):
        effective_receptive_field(model, [])
    with pytest.raises(ValueError, match='no map'):
        effective_receptive_field(nn.Flatten(), [x])
    with pytest.raises(ValueError, match='share'):
        found.radius(0)


class Video(nn.Module):
    """Its backbone remembers what it was given."""

    def __init__(self, segments=None):
        super().__init__()
        self.backbone = nn.Identity()
        if segments:
            self.backbone.num_segments = segments

    def forward(self, x):
        return self.backbone(x)


def clips(stacked):
    """Two clips of four frames, whose pixels are the number of the frame."""
    time = torch.arange(4.0).view(1, 1, 4, 1, 1) + torch.tensor([0, 10.0]).view(
        2, 1, 1, 1, 1
    )
    x = time.expand(2, 3, 4, 2, 2)
    return x.transpose(1, 2).flatten(0, 1) if stacked else x


@pytest.mark.parametrize('stacked', [False, True])
def test_frames_come_in_the_wanted_order(stacked):
    model, x = Video(4 if stacked else None), clips(stacked)

    def seen(how, **options):
        with frame_order(model, how, **options):
            y = model(x)
        if stacked:
            y = y.unflatten(0, (2, 4)).transpose(1, 2)
        assert (y == y[:, :1, :, :1, :1]).all()
        return y[:, 0, :, 0, 0].tolist()

    assert seen('in_order') == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert seen('reversed') == [[3, 2, 1, 0], [13, 12, 11, 10]]
    assert seen('repeated') == [[2] * 4, [12] * 4]
    first, second = seen('shuffled')
    assert sorted(first) == [0, 1, 2, 3] and first != [0, 1, 2, 3]
    assert sorted(second) == [10, 11, 12, 13] and second != [10, 11, 12, 13]
    assert seen('shuffled') == [first, second]
    assert any(seen('shuffled', seed=s) != [first, second] for s in range(1, 5))
    assert torch.equal(model(x), x)


def test_what_has_no_order_is_refused():
    with pytest.raises(ValueError, match='how must be one of'):
        with frame_order(Video(), 'backwards'):
            pass
    with (
        pytest.raises(ValueError, match='backbone'),
        frame_order(nn.Identity(), 'reversed'),
    ):
        pass
    with frame_order(Video(), 'reversed'):
        pass
    for model, x, message in [
        (Video(), clips(True), 'give num_frames'),
        (Video(3), clips(True), 'no clips of 3 frames'),
        (Video(), clips(False)[:, :, :1], 'no order'),
        (Video(), clips(False)[:, :2], 'optical flow'),
    ]:
        with frame_order(model, 'reversed'), pytest.raises(ValueError, match=message):
            model(x)
