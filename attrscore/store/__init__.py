"""The store: results that nothing loses, and the table they make.

A results folder holds immutable HDF5 parts; all else is derived from them. ``Writer`` commits
parts, ``missing_conditions`` says what is left to compute, ``read_scores`` and ``read_maps`` read
back. None of it needs torch.
"""

from __future__ import annotations

from attrscore.store.identity import SCHEMA, Condition, Job, Plugin, identify
from attrscore.store.kept import read_maps
from attrscore.store.tables import collect, read_scores
from attrscore.store.writer import Writer, folders_of, missing_conditions

__all__ = [
    "SCHEMA",
    "Condition",
    "Job",
    "Plugin",
    "Writer",
    "collect",
    "folders_of",
    "identify",
    "missing_conditions",
    "read_maps",
    "read_scores",
]
