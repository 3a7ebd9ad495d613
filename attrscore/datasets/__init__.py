"""Where cells come from. Importing this package registers the built-in datasets."""

from __future__ import annotations

from attrscore.datasets.deepprofiler import DeepProfiler
from attrscore.datasets.deepprofiler_fields import DeepProfilerFields
from attrscore.datasets.factory import DatasetFactory
from attrscore.datasets.fields import Fields
from attrscore.datasets.hdf5 import HDF5, write_hdf5
from attrscore.datasets.npz import NPZ
from attrscore.datasets.phantom import Phantom

__all__ = [
    "HDF5",
    "NPZ",
    "DatasetFactory",
    "DeepProfiler",
    "DeepProfilerFields",
    "Fields",
    "Phantom",
    "write_hdf5",
]
