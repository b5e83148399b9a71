# Copyright (c) The nl_plugins authors. All rights reserved.
"""scikit-learn 1.7 calls ``n_iter`` of TSNE ``max_iter``; mmpretrain's vis_tsne not."""

from .repair import Repair, replace, version_of


def _renamed(original):
    def __init__(self, *args, n_iter=None, **kwargs):
        if n_iter is not None:
            kwargs['max_iter'] = n_iter
        original(self, *args, **kwargs)

    return __init__


def needed() -> bool:
    version = version_of('scikit-learn')
    return version is not None and version >= (1, 7)


def apply(module) -> None:
    replace(module.TSNE, '__init__', _renamed)


REPAIR = Repair(
    name='tsne_iterations',
    symptom="scikit-learn 1.7 has no n_iter of TSNE, mmpretrain's vis_tsne passes it",
    remedy='it becomes max_iter, as it is called now',
    upstream='https://scikit-learn.org/stable/whats_new/v1.7.html',
    needed=needed,
    apply=apply,
    modules=('sklearn.manifold',),
)
