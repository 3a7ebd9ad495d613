"""Where cells come from. Importing this package registers the built-in datasets."""

from __future__ import annotations

from attrscore.datasets.arrays import HDF5, NPZ, write_hdf5
from attrscore.datasets.deepprofiler import DeepProfiler
from attrscore.datasets.deepprofiler_fields import DeepProfilerFields
from attrscore.datasets.fields import Fields
from attrscore.datasets.jump import Jump
from attrscore.datasets.phantom import Phantom
from attrscore.datasets.torch_datasets import DatasetFactory

__all__ = [
    "HDF5",
    "NPZ",
    "DatasetFactory",
    "DeepProfiler",
    "DeepProfilerFields",
    "Fields",
    "Jump",
    "Phantom",
    "write_hdf5",
]
