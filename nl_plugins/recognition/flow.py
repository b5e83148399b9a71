# Copyright (c) The nl_plugins authors. All rights reserved.
"""Optical flow as 3D networks take it: frames of two channels, u and v."""

import os.path as osp

import mmcv
import numpy as np
from mmaction.datasets.transforms import Flip, RawFrameDecode
from mmaction.registry import TRANSFORMS
from mmengine.fileio import get

from ..options import Share, checked


@TRANSFORMS.register_module()
@checked
class FlowFolderDecode(RawFrameDecode):
    """Read flow whose two components lie in folder trees of their own.

    The layout of inception-I3D-NON-LOCAL: ``<root>/u/<video>/frame000001.jpg`` and
    ``<root>/v/...``, grey JPEGs with the value 128 for no motion. ``frame_dir`` of the
    data set points into the tree of the first component; for the other its last folder
    called like the first component is replaced. Frames become (H, W, 2) uint8,
    u first. For both components in one folder use ``RawFrameDecode``.

    Args:
        components (tuple[str]): Names of the two folders. Defaults to ('u', 'v').

    Raises:
        ValueError: If ``frame_dir`` has no folder called like the first component, or a
            frame cannot be decoded.
        FileNotFoundError: If a frame is missing.
    """

    def __init__(self, components: tuple[str, str] = ('u', 'v')) -> None:
        super().__init__()
        self.components = tuple(components)

    def _folders(self, frame_dir: str) -> list[str]:
        parts = osp.normpath(frame_dir).split(osp.sep)
        first, second = self.components
        if first not in parts:
            raise ValueError(
                f'{type(self).__name__}: {frame_dir!r} has no folder {first!r}; point '
                f'data_prefix at the tree of {first!r} or set components'
            )
        last = len(parts) - 1 - parts[::-1].index(first)
        other = parts[:last] + [second] + parts[last + 1 :]
        return [frame_dir, osp.sep.join(other)]

    def transform(self, results: dict) -> dict:
        """Add ``imgs``, ``original_shape`` and ``img_shape``."""
        folders = self._folders(results['frame_dir'])
        offset = results.get('offset', 0)
        cache = {}
        for index in results['frame_inds'].reshape(-1):
            if index not in cache:
                name = results['filename_tmpl'].format(index + offset)
                cache[index] = np.stack(
                    [_grey(osp.join(folder, name)) for folder in folders], axis=-1
                )
        # Copies, since later transforms may work in place.
        results['imgs'] = [cache[i].copy() for i in results['frame_inds'].reshape(-1)]
        results['original_shape'] = results['imgs'][0].shape[:2]
        results['img_shape'] = results['imgs'][0].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(components={self.components})'


def _grey(path: str) -> np.ndarray:
    frame = mmcv.imfrombytes(get(path), flag='grayscale', backend='cv2')
    if frame is None:
        raise ValueError(f'{path} is not a readable picture')
    return frame


@TRANSFORMS.register_module()
@checked
class FlowFlip(Flip):
    """Horizontal flip of flow frames (H, W, 2) that mirrors the motion as well.

    A mirrored scene moves the other way in u only: u becomes 255 - u and v stays.
    mmaction2's ``Flip`` inverts both channels of every second frame, which is meant
    for the older list of alternating u and v pictures.

    Args:
        flip_ratio (float): Probability of a flip. Defaults to 0.5.
        invert_u (bool): Invert u; False is what inception-I3D-NON-LOCAL trained with.
            Defaults to True.

    Raises:
        ValueError: If a frame does not have two channels.
    """

    def __init__(self, flip_ratio: Share = 0.5, invert_u: bool = True) -> None:
        super().__init__(flip_ratio=flip_ratio)
        self.invert_u = invert_u

    def _flip_imgs(self, imgs: list[np.ndarray], modality: str) -> list[np.ndarray]:
        flipped = []
        for img in imgs:
            if img.ndim != 3 or img.shape[2] != 2:
                raise ValueError(
                    f'{type(self).__name__} takes flow of shape (H, W, 2), but got '
                    f'{img.shape}'
                )
            img = img[:, ::-1].copy()
            if self.invert_u:
                img[..., 0] = 255 - img[..., 0]
            flipped.append(img)
        return flipped

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(flip_ratio={self.flip_ratio}, '
            f'invert_u={self.invert_u})'
        )
