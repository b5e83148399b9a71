# Copyright (c) The nl_plugins authors. All rights reserved.
"""Blocks between a video backbone and its head."""

from mmaction.registry import MODELS
from torch import Tensor

from ..attach import BaseNonLocalNeck
from ..attach.layout import clip_to_frames


@MODELS.register_module()
class NonLocalNeck(BaseNonLocalNeck):
    """Non-local blocks as a neck of mmaction2's recognisers.

    ``Recognizer3D`` passes one feature map (N, C, T, H, W), or a tuple of them, and
    gets the same back. ``Recognizer2D`` folds the levels that its backbone returns
    to (N, C, T, H, W); its backbone must return a tuple, that is, have two or more
    ``out_indices``. The last level goes to the head: as it is, for ``I3DHead`` and
    ``TPNHead``, or, with ``num_segments``, unfolded to the frames (N * T, C, H, W)
    that ``TSMHead`` takes.

    Args:
        in_channels (int | Sequence[int]): Channels of the feature map or of each
            level.
        block (dict | Sequence[dict]): Config of a block with ``ndim=3``, or of several
            in a row.
        levels (Sequence[int]): Levels that get blocks. Defaults to (-1, ).
        num_segments (int, optional): In a ``Recognizer2D`` with ``TSMHead``, the frames
            of a clip. Defaults to None.
        init_cfg (dict, optional): Config of an initialisation.

    Raises:
        ValueError: If a level does not exist or features of another number of levels
            arrive.
    """

    def forward(
        self,
        inputs: Tensor | tuple[Tensor, ...] | list[Tensor],
        data_samples: list | None = None,
    ) -> tuple[Tensor | tuple[Tensor, ...], dict]:
        """Features with the blocks applied, and no auxiliary losses."""
        if isinstance(inputs, list) and len(inputs) != self.num_levels:
            # What Recognizer2D makes of a tensor: one item a frame.
            raise ValueError(
                f'NonLocalNeck has {self.num_levels} level(s), but Recognizer2D '
                f'passed {len(inputs)}: give the backbone two or more out_indices, and '
                'in_channels for each'
            )
        features = self.refine(inputs)
        if isinstance(inputs, list):
            features = features[-1]
            if self.num_segments is not None:
                features = clip_to_frames(features)
        return features, {}
