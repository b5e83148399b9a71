# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmaction's and mmpretrain's multimodal models import removed transformers names."""

from .repair import Repair, version_of


def needed() -> bool:
    version = version_of('transformers')
    return version is not None and version >= (4, 56)


def apply(module) -> None:
    module.WITH_MULTIMODAL = False


REPAIR = Repair(
    name='multimodal',
    symptom='mmaction.models and mmpretrain.models fail with transformers >= 4.56',
    remedy='their multimodal models are placeholders, as without transformers',
    upstream='mmaction/models/multimodal/vindlu/modeling_bert.py',
    needed=needed,
    apply=apply,
    modules=('mmaction.utils.dependency', 'mmpretrain.utils.dependency'),
)
