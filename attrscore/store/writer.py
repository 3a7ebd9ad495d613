"""Writing the parts of a job, and how its runs ended."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from attrscore.core.secrets import Hidden
from attrscore.core.statuses import reasons_of, stored
from attrscore.errors import StoreError, preview
from attrscore.store.columns import Array
from attrscore.store.commit import commit, make_folder, remove_leftovers
from attrscore.store.folders import FAILED, JOBS, JobFolder, paths_in
from attrscore.store.identity import Job, Range
from attrscore.store.maps import Crops, MapKey
from attrscore.store.part import Part, encode, part_name, part_ranges
from attrscore.store.status import failure_kind, tally

MOST_REASON = 500


class Writer:
    """The one writer of a job: it commits parts and never changes one that exists.

    ``labels`` are the names shown for ``model`` and ``dataset``. ``config`` is the configuration as
    text, references to the environment unresolved. ``provenance`` is what else to keep of this
    run, in job.json and in each part: no times and no machines. ``carried`` names columns that are
    metadata though not called ``Metadata_...``. ``readings`` say how scores are to be read; None
    leaves what is known. ``hidden`` knows what texts must not show.

    :raises StoreError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        job: Job,
        *,
        labels: Mapping[str, str],
        config: str = "",
        provenance: Mapping[str, Any] | None = None,
        carried: Collection[str] = (),
        readings: Mapping[str, Mapping[str, Any]] | None = None,
        hidden: Hidden | None = None,
    ) -> None:
        self.job = job
        self._hidden = hidden or Hidden({})
        labels = self._hidden.texts(dict(labels))
        self.folder = Path(folder) / JOBS / job.id
        self._carried = frozenset(carried)
        self._provenance = dict(provenance or {})
        self._known: dict[str, Mapping[str, Any]] = {}
        self._pairs = {(c.method.key, c.layer) for c in job.conditions}
        make_folder(self.folder)
        remove_leftovers([self.folder])
        shown: dict[str, Any] = {"labels": dict(labels)}
        if readings is not None:
            shown["readings"] = dict(readings)
        new = JobFolder(self.folder, job, config=config, provenance=self._provenance, **shown)
        try:
            before = JobFolder.read(self.folder)
        except StoreError as error:
            if error.kind == "unreadable":
                raise
            new.write()
        else:
            if {name: dict(getattr(before, name)) for name in shown} != shown:
                replace(before, **shown).write()
            new = before
        self._config = new.config

    def missing(self) -> list[Range]:
        """The ranges that have no part yet, in order."""
        have = part_ranges([part.name for part in paths_in(self.folder)])
        return [each for each in self.job.ranges if each not in have]

    def write(
        self,
        start: int,
        stop: int,
        table: pd.DataFrame,
        maps: Mapping[MapKey, Array] | None = None,
        *,
        ids: Sequence[str] | None = None,
        traces: pd.DataFrame | None = None,
        crops: Crops | None = None,
        existing: Literal["keep", "replace"] = "keep",
    ) -> Path:
        """Commit the part of rows ``start`` to ``stop``; where it exists already, that one stays.

        ``table`` has a row a (cell, method, layer, target). ``maps`` are signed (n, C, *s) by
        (method, layer), or by (method, layer, target) in a job with several targets, for the n
        cells ``ids``; all cells of the table where None. Reasons are cut at 500 characters.
        ``traces`` says where failures were raised: method, layer, status, reason, traceback.
        ``crops`` are of some of the cells.
        ``existing="replace"`` puts the part in the place of one that exists.

        :raises StoreError: no range of the job, a table or maps that do not fit it, or a disk that
            is full or read-only; earlier parts are untouched.
        """
        path = self.folder / part_name(start, stop)
        if (start, stop) not in self.job.ranges:
            raise StoreError(
                f"{start}-{stop} is no range of job {self.job.id}; "
                f"its ranges are {preview(self.job.ranges)}."
            )
        if ids is None:
            ids = list(dict.fromkeys(table["id"].astype(str))) if "id" in table else []
        part = Part(table, maps or {}, ids, traces, tuple(self._carried), crops)
        self._check(part, stop - start)
        if existing == "keep" and path.exists():
            return path
        part = self._without_secrets(part)
        data = encode(
            self.job,
            part,
            rows=(start, stop),
            config=self._config,
            provenance=self._provenance,
        )
        if existing == "replace":
            self._forget(path.name)
        commit(path, data)
        self._known[path.name] = {"bytes": len(data), **tally(part.table).as_dict()}
        return path

    def write_part(
        self, start: int, stop: int, part: Part, *, existing: Literal["keep", "replace"] = "keep"
    ) -> Path:
        """As :meth:`write`, all of it in one value."""
        return self.write(
            start,
            stop,
            part.table,
            part.maps,
            ids=part.ids if part.maps else None,
            traces=part.traces,
            crops=part.crops,
            existing=existing,
        )

    def fail(self, error: BaseException, /, run: Mapping[str, Any] | None = None) -> None:
        """Record why the job stopped, in failed.json, and what ``run`` was; never raises."""
        said = {
            "kind": failure_kind(error),
            "type": type(error).__name__,
            "message": str(error),
            "notes": list(getattr(error, "__notes__", [])),
            "traceback": "".join(traceback.format_exception(error)),
        }
        text = json.dumps(self._hidden.texts(said), indent=1, ensure_ascii=False)
        with contextlib.suppress(StoreError):  # a full disk: the error itself is on its way
            commit(self.folder / FAILED, text.encode("utf-8", "backslashreplace"))
            self._log(run)

    def succeed(self, run: Mapping[str, Any] | None = None) -> None:
        """Forget an earlier failure; ``run`` is what to keep of this run in job.json."""
        (self.folder / FAILED).unlink(missing_ok=True)
        self._log(run)

    def _log(self, run: Mapping[str, Any] | None) -> None:
        folder = JobFolder.read(self.folder)  # another process may have written to it
        known = {**folder.known, **self._known}
        runs = [*folder.runs, *([] if run is None else [self._hidden.texts(run)])]
        replace(folder, known=known, runs=runs).write()

    def _forget(self, name: str) -> None:
        """Before a part is replaced: what job.json says of it would be wrong if we were killed."""
        folder = JobFolder.read(self.folder)
        if name in folder.known:
            known = {part: of for part, of in folder.known.items() if part != name}
            replace(folder, known=known).write()

    def _without_secrets(self, part: Part) -> Part:
        """What may be shown; reasons of 500 characters at most: a column is as wide as its text."""

        def shown(text: str) -> str:
            text = self._hidden.text(text)
            return text if len(text) <= MOST_REASON else f"{text[: MOST_REASON - 1]}…"

        def values(text: str) -> str:
            each = [why._replace(sentence=shown(why.sentence)) for why in reasons_of(text)]
            return stored(each)

        table, traces = part.table, part.traces
        if "reason" in table:
            table = table.assign(reason=table["reason"].map(shown, na_action="ignore"))
        if "reasons" in table:
            table = table.assign(reasons=table["reasons"].map(values, na_action="ignore"))
        if traces is not None:
            hidden = traces["traceback"].map(self._hidden.text)
            reasons = traces["reason"].map(shown, na_action="ignore")
            traces = traces.assign(reason=reasons, traceback=hidden)
        return replace(part, table=table, traces=traces)

    def _check(self, part: Part, cells: int) -> None:
        table = part.table
        absent = [name for name in ("id", "method", "layer") if name not in table]
        if absent:
            raise StoreError(f"The table lacks {preview(absent)}; it has {preview(table.columns)}.")
        pairs = table[["method", "layer"]].drop_duplicates().itertuples(index=False, name=None)
        foreign = [
            f"{method} at {layer}" for method, layer in pairs if (method, layer) not in self._pairs
        ]
        if foreign:
            raise StoreError(f"Job {self.job.id} has no condition for {preview(foreign)}.")
        if table.duplicated([n for n in ("id", "method", "layer", "target") if n in table]).any():
            raise StoreError(
                "The table has several rows for one cell, method, layer and target; ids must be "
                "unique."
            )
        if table["id"].nunique() > cells:
            raise StoreError(f"The table has {table['id'].nunique()} cells in a range of {cells}.")
        for (method, layer, *_), values in part.maps.items():
            if values.ndim not in (4, 5) or len(values) != len(part.ids):
                raise StoreError(
                    f"Maps of {method} at {layer} must have the shape (N, C, *s) with N = "
                    f"{len(part.ids)}, a map for each of the ids; given: {values.shape}."
                )
