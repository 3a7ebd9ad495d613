"""The store: results that nothing loses, and the table they make.

A results folder holds immutable HDF5 parts; all else is derived from them. ``Writer`` commits
parts, ``missing_conditions`` says what is left to compute, ``read_scores`` and ``read_maps`` read
back. None of it needs torch. ``docs/format.md`` describes the files.
"""

from __future__ import annotations

from attrscore.errors import StoreError
from attrscore.store.folders import JobFolder, folders_of, jobs_like, missing_conditions, serving
from attrscore.store.identity import SCHEMA, Condition, Job, Plugin, identify
from attrscore.store.kept_maps import Kept, kept, read_maps
from attrscore.store.maps import (
    SIDES,
    Crops,
    Exchanged,
    chosen_cells,
    order_of,
    stored_crops,
    stretched,
)
from attrscore.store.part import Part, read_crops, read_part, read_table
from attrscore.store.rows import overlaid
from attrscore.store.scores import collect, read_scores, table_and_kinds
from attrscore.store.status import JobStatus, provenance_of, status_of
from attrscore.store.tables import Kinds
from attrscore.store.verify import Report, verify
from attrscore.store.writer import Writer

__all__ = [
    "SCHEMA",
    "SIDES",
    "Condition",
    "Crops",
    "Exchanged",
    "Job",
    "JobFolder",
    "JobStatus",
    "Kept",
    "Kinds",
    "Part",
    "Plugin",
    "Report",
    "StoreError",
    "Writer",
    "chosen_cells",
    "collect",
    "folders_of",
    "identify",
    "jobs_like",
    "kept",
    "missing_conditions",
    "order_of",
    "overlaid",
    "provenance_of",
    "read_crops",
    "read_maps",
    "read_part",
    "read_scores",
    "read_table",
    "serving",
    "status_of",
    "stored_crops",
    "stretched",
    "table_and_kinds",
    "verify",
]
