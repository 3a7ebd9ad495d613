"""The store: results that nothing loses, and the table they make.

A results folder holds immutable HDF5 parts; all else is derived from them. ``Writer`` commits
parts, ``missing_conditions`` says what is left to compute, ``read_scores`` and ``read_maps`` read
back. None of it needs torch. ``FORMAT.md`` beside this package describes the files.
"""

from __future__ import annotations

from attrscore.errors import StoreError
from attrscore.store.again import Part, overlaid, read_part
from attrscore.store.compare import Comparison, compare
from attrscore.store.crops import Crops, chosen_cells, stored_crops
from attrscore.store.folders import JobFolder, folders_of, missing_conditions, serving
from attrscore.store.halves import Halves, Piece, joined
from attrscore.store.identity import SCHEMA, Condition, Job, Plugin, identify
from attrscore.store.kept import Kept, kept, read_crops, read_maps
from attrscore.store.merge import collect
from attrscore.store.outcomes import FAILURES, failed
from attrscore.store.status import JobStatus, provenance_of, status_of
from attrscore.store.tables import Kinds, read_scores, table_and_kinds
from attrscore.store.verify import Report, verify
from attrscore.store.writer import Writer

__all__ = [
    "FAILURES",
    "SCHEMA",
    "Comparison",
    "Condition",
    "Crops",
    "Halves",
    "Job",
    "JobFolder",
    "JobStatus",
    "Kept",
    "Kinds",
    "Part",
    "Piece",
    "Plugin",
    "Report",
    "StoreError",
    "Writer",
    "chosen_cells",
    "collect",
    "compare",
    "failed",
    "folders_of",
    "identify",
    "joined",
    "kept",
    "missing_conditions",
    "overlaid",
    "provenance_of",
    "read_crops",
    "read_maps",
    "read_part",
    "read_scores",
    "serving",
    "status_of",
    "stored_crops",
    "table_and_kinds",
    "verify",
]
