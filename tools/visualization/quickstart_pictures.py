# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw predictions of a trained network and note its blocks and chance level.

Writes OUT/prediction.png, for segmentation OUT/attention.png, and OUT/facts.json
with the keys ``blocks`` (class names) and ``chance`` (percent). Works for the
configs of all codebases.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from compare_segmentation import legend  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import load_checkpoint  # noqa: E402

from nl_plugins.analysis import AttentionRecord, record_attention  # noqa: E402
from nl_plugins.analysis.picture import draw_attention  # noqa: E402
from nl_plugins.blocks import BLOCKS  # noqa: E402
from nl_plugins.command import add_debug, run  # noqa: E402
from nl_plugins.files import save_figure, write_picture, write_text  # noqa: E402

plt.switch_backend('Agg')
# A vehicle whose class only a distant sign tells is worth a look.
_QUERY_CLASSES = ('bus', 'truck', 'car')


def load(
    config: str, checkpoint: str, cfg_options: dict | None = None
) -> tuple[str, Any, torch.nn.Module]:
    """Scope, test data and model of a config, on the GPU when there is one."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    scope = cfg.default_scope
    init_default_scope(scope)
    registry = import_module(f'{scope}.registry')
    dataset = registry.DATASETS.build(cfg.test_dataloader.dataset)
    model = registry.MODELS.build(cfg.model)
    load_checkpoint(model, checkpoint, map_location='cpu')
    model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    return scope, dataset, model


def block_names(model: torch.nn.Module) -> list[str]:
    """Class names of our blocks in ``model``, each once, in alphabetical order."""
    kinds = tuple(BLOCKS.values())
    return sorted({type(m).__name__ for m in model.modules() if isinstance(m, kinds)})


def chance_of_labels(labels: list[int]) -> float:
    """Top-1 of the best constant answer, in percent."""
    return 100 * np.bincount(labels).max() / len(labels)


def chance_of_maps(maps: list[np.ndarray], num_classes: int) -> float:
    """mIoU of the better of two blind guesses, in percent.

    The most frequent class everywhere has IoU p_max for itself and 0 for the others;
    classes drawn with their frequencies p have IoU p / (2 - p).
    """
    counts = np.zeros(num_classes)
    for labels in maps:
        counts += np.bincount(labels[labels < num_classes], minlength=num_classes)
    p = counts / counts.sum()
    p = p[p > 0]
    return 100 * max(p.max() / len(p), (p / (2 - p)).mean())


def draw_detections(items: list, results: list, names: list[str]) -> Any:
    """Pictures with the boxes of score 0.4 and more; red where the truth differs."""
    from mmdet.structures.bbox import bbox_overlaps

    figure, axes = plt.subplots(2, len(items) // 2, figsize=(1.6 * len(items), 5.4))
    for axis, item, result in zip(axes.flat, items, results):
        axis.imshow(rgb(item))
        axis.axis('off')
        truth = item['data_samples'].gt_instances
        scale = result.metainfo['scale_factor']
        boxes = result.pred_instances.bboxes.cpu() * torch.tensor(scale).repeat(2)
        overlaps = bbox_overlaps(boxes, truth.bboxes.tensor)
        for box, label, score, overlap in zip(
            boxes,
            result.pred_instances.labels.tolist(),
            result.pred_instances.scores.tolist(),
            overlaps,
        ):
            if score < 0.4:
                continue
            found = (overlap > 0.5) & (truth.labels == label)
            colour = 'lime' if found.any() else 'red'
            x0, y0, x1, y1 = box.tolist()
            axis.add_patch(
                plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour)
            )
            axis.text(x0, y0 - 2, f'{names[label]} {score:.2f}', fontsize=6)
    figure.tight_layout()
    return figure


def _title(axis: Any, truth: str, guess: str) -> None:
    colour = 'tab:green' if truth == guess else 'tab:red'
    axis.set_title(f'{guess}\n(truth: {truth})', fontsize=8, color=colour)


def draw_images(items: list, results: list, names: list[str]) -> Any:
    """Pictures with the predicted class above."""
    figure, axes = plt.subplots(2, len(items) // 2, figsize=(1.6 * len(items) / 2, 4.2))
    for axis, item, result in zip(axes.flat, items, results):
        axis.imshow(item['inputs'].permute(1, 2, 0).numpy())
        axis.axis('off')
        _title(axis, names[int(result.gt_label)], names[int(result.pred_label)])
    return figure


def draw_clips(items: list, results: list, names: list[str]) -> Any:
    """Film strips, time from left to right."""
    figure, axes = plt.subplots(len(items), 1, figsize=(8, 1.5 * len(items)))
    for axis, item, result in zip(axes, items, results):
        frames = item['inputs']  # (T, 3, H, W) or (1, 3, T, H, W)
        frames = frames if frames.dim() == 4 else frames[0].transpose(0, 1)
        shown = frames[:: max(1, len(frames) // 8)][:8]
        axis.imshow(np.concatenate([f.permute(1, 2, 0).numpy() for f in shown], 1))
        axis.axis('off')
        _title(axis, names[int(result.gt_label)], names[int(result.pred_label)])
    figure.tight_layout()
    return figure


def rgb(item: dict) -> np.ndarray:
    """The picture of a sample of mmseg or mmdet, (H, W, 3) RGB."""
    return item['inputs'].flip(0).permute(1, 2, 0).numpy()


def draw_scenes(
    items: list, results: list, palette: np.ndarray, names: list[str]
) -> Any:
    """Picture, truth and prediction side by side; ignored pixels are black."""
    present = set()
    figure, axes = plt.subplots(len(items), 3, figsize=(11, 2 * len(items)))
    for row, item, result in zip(axes, items, results):
        truth = item['data_samples'].gt_sem_seg.data[0].numpy()
        guess = result.pred_sem_seg.data[0].cpu().numpy()
        colours = np.vstack([palette, np.zeros((256 - len(palette), 3), np.uint8)])
        pictures = (rgb(item), colours[truth], colours[guess])
        present |= {*np.unique(truth), *np.unique(guess)}
        for axis, picture, title in zip(
            row, pictures, ('image', 'truth', 'prediction')
        ):
            axis.imshow(picture)
            axis.axis('off')
            axis.set_title(title, fontsize=8)
    figure.tight_layout()
    figure.legend(
        handles=legend(names, palette, sorted(present)),
        loc='upper center',
        bbox_to_anchor=(0.5, 0),
        ncols=8,
        fontsize=8,
        frameon=False,
    )
    return figure


def query_position(labels: np.ndarray, names: list[str]) -> tuple[int, int]:
    """(y, x) in the middle of a vehicle, or of the picture when there is none."""
    for name in (name for name in _QUERY_CLASSES if name in names):
        rows, columns = np.nonzero(labels == names.index(name))
        if len(rows) > 50:
            return int(np.median(rows)), int(np.median(columns))
    return labels.shape[0] // 2, labels.shape[1] // 2


def last_record(model: torch.nn.Module, item: dict) -> tuple[str, AttentionRecord]:
    """Name and graph of the network's last block for one sample."""
    with record_attention(model) as records, torch.no_grad():
        model.test_step(pseudo_collate([item]))
    return list(records.items())[-1]


def attention_picture(
    model: torch.nn.Module, item: dict, names: list[str]
) -> np.ndarray:
    """Where the last block of the network looks from one pixel, (H, W, 3)."""
    labels = item['data_samples'].gt_sem_seg.data[0].numpy()
    y, x = query_position(labels, names)
    _, record = last_record(model, item)
    position = (y / labels.shape[0], x / labels.shape[1])
    (picture,) = draw_attention(record, [rgb(item)], position)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    add_debug(parser)
    args = parser.parse_args()
    scope, dataset, model = load(args.config, args.checkpoint, args.cfg_options)
    count = {'mmpretrain': 10, 'mmaction': 4, 'mmseg': 3, 'mmdet': 6}[scope]
    items = [dataset[i] for i in range(count)]
    with torch.no_grad():
        results = model.test_step(pseudo_collate(items))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    args.out.mkdir(parents=True, exist_ok=True)
    if scope == 'mmseg':
        names = list(dataset.metainfo['classes'])
        palette = np.array(dataset.metainfo['palette'], np.uint8)
        figure = draw_scenes(items, results, palette, names)
        truths = (dataset[i]['data_samples'] for i in range(len(dataset)))
        maps = [truth.gt_sem_seg.data[0].numpy() for truth in truths]
        chance = chance_of_maps(maps, len(names))
        picture = attention_picture(model, items[0], names)
        write_picture(args.out / 'attention.png', picture)
    elif scope == 'mmpretrain':
        figure = draw_images(items, results, list(dataset.metainfo['classes']))
        chance = chance_of_labels([info['gt_label'] for info in infos])
    elif scope == 'mmdet':
        figure = draw_detections(items, results, list(dataset.metainfo['classes']))
        chance = 0.0  # boxes that no one looked for hit nothing
    else:
        label_map = Path(dataset.ann_file).parent / 'label_map.txt'
        figure = draw_clips(items, results, label_map.read_text().splitlines())
        chance = chance_of_labels([info['label'] for info in infos])
    save_figure(args.out / 'prediction.png', figure, dpi=110, bbox_inches='tight')
    facts = dict(blocks=block_names(model), chance=chance)
    write_text(args.out / 'facts.json', json.dumps(facts) + '\n')


if __name__ == '__main__':
    run(main)
