"""Tulou: one house for a province's digital infrastructure."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tulou")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+source"
