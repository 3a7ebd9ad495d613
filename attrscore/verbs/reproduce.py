"""``attrscore reproduce``: the same computation again, and whether it gives the same numbers."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attrscore.errors import AttrscoreError
from attrscore.store import Comparison, JobFolder

__all__ = ["reproduce"]

OK, FAILED, INCOMPLETE = 0, 1, 3


def reproduce(arguments: Sequence[str], settings_of: Callable[[str], Mapping[str, Any]]) -> int:
    """Run a job, or the rows of one of its files, again from its stored configuration; compare.

    ``settings_of`` makes settings of the text of a configuration. Nothing that exists is changed.
    Relative paths in the configuration start from the working folder.
    """
    parser = argparse.ArgumentParser(
        prog="attrscore reproduce",
        description=(reproduce.__doc__ or "").partition("\n")[0],
        epilog="example: attrscore reproduce results/jobs/0123456789abcdef",
    )
    parser.add_argument("path", type=Path, help="the folder of a job, or one of its files")
    path = parser.parse_args(list(arguments)).path
    from attrscore import terminal

    found = _reproduced(path, settings_of)
    terminal.say_comparison(found)
    return {"identical": OK, "differs": INCOMPLETE, "impossible": FAILED}[found.verdict]


def _reproduced(path: Path, settings_of: Callable[[str], Mapping[str, Any]]) -> Comparison:
    from attrscore.store.compare import compare, moved
    from attrscore.store.places import find
    from attrscore.store.tables import read_part_table

    jobs, _ = find([path])
    if len(jobs) != 1:
        return _impossible(f"{path} holds {len(jobs)} jobs; name the folder of one, or its file.")
    found = jobs[0]
    folder = found.folder
    try:
        from attrscore.assembly import build  # loads torch

        settings = {**settings_of(folder.config), "figures": "none", "show": []}
        parts = build(settings)
    except AttrscoreError as error:
        return _impossible(str(error))
    changed = moved(folder.job.base, parts.job.base)
    cells = len(parts.dataset.table)
    if cells != folder.job.rows:
        changed["dataset.cells"] = f"{folder.job.rows} then, {cells} now"
    if "dataset.cells" in changed or any("fingerprint" in name for name in changed):
        told = _impossible("The network or the data are not those of then:")
        return replace(told, differences=changed)
    import pandas as pd

    stored = pd.concat(map(read_part_table, found.parts.values()), ignore_index=True)
    again = _again(folder, parts, list(found.parts))
    told = compare(stored, again)
    return replace(told, differences={**told.differences, **changed})


def _impossible(why: str) -> Comparison:
    return Comparison("impossible", f"This cannot be run again here. {why}")


def _again(folder: JobFolder, parts: Any, names: Sequence[str]) -> Any:
    """The same rows computed now, written to a temporary folder and read back."""
    from attrscore import store
    from attrscore.computing import compute
    from attrscore.jobs import refused_by_preflight
    from attrscore.store.parts import part_ranges

    wanted = {condition.triple for condition in folder.job.conditions}
    refused = refused_by_preflight(parts, {method for method, _, _ in wanted})
    with tempfile.TemporaryDirectory(prefix="attrscore-") as aside:
        writer = store.Writer(aside, folder.job, labels=parts.labels)
        for start, stop in sorted(part_ranges(names)):
            part = compute(parts, range(start, stop), wanted=wanted, refused=refused)
            writer.write_part(start, stop, part)
        import pandas as pd

        paths = sorted(writer.folder.glob("*.h5"))
        return pd.concat([store.read_part(each).table for each in paths], ignore_index=True)
