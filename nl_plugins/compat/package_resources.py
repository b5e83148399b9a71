# Copyright (c) The nl_plugins authors. All rights reserved.
"""setuptools 82 dropped ``pkg_resources``, which mmengine asks for packages."""

import sys
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

from .imports import is_installed
from .repair import Repair

_NAME = 'pkg_resources'


class DistributionNotFound(ImportError):
    """No distribution of that name is installed."""


class Distribution:
    """The part of pkg_resources' Distribution that mmengine and mim read."""

    def __init__(self, name: str) -> None:
        try:
            self._distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise DistributionNotFound(name) from error
        self.project_name = self._distribution.metadata['Name']
        self.version = self._distribution.version
        self.location = str(self._distribution.locate_file(''))

    def has_metadata(self, name: str) -> bool:
        return self._distribution.read_text(name) is not None

    def get_metadata(self, name: str) -> str:
        return self._distribution.read_text(name) or ''


class _Finder(MetaPathFinder, Loader):
    """Last in line, so that a real ``pkg_resources`` always wins."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(_NAME, self) if fullname == _NAME else None

    def exec_module(self, module) -> None:
        module.DistributionNotFound = DistributionNotFound
        module.get_distribution = Distribution


_FINDER = _Finder()


def needed() -> bool:
    return not is_installed(_NAME)


def apply() -> None:
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


REPAIR = Repair(
    name='package_resources',
    symptom="pkg_resources is missing, _base_ = 'mmseg::...' cannot be resolved",
    remedy='a stand-in answers through importlib.metadata',
    upstream='https://github.com/open-mmlab/mmengine/pull/1676',
    needed=needed,
    apply=apply,
)
