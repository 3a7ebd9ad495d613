"""``attrscore reproduce``: the same computation again, and whether it gives the same numbers."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attrscore.errors import AttrscoreError, StoreError
from attrscore.store import Comparison, JobFolder
from attrscore.store.places import Found

__all__ = ["reproduce"]

OK, FAILED, INCOMPLETE = 0, 1, 3


def reproduce(arguments: Sequence[str], settings_of: Callable[[str], Mapping[str, Any]]) -> int:
    """Run jobs, or the rows of one of their files, again from their configuration; compare.

    ``settings_of`` makes settings of the text of a configuration. Nothing that exists is changed.
    Relative paths in the configuration start from the working folder.
    """
    parser = argparse.ArgumentParser(
        prog="attrscore reproduce",
        description=(reproduce.__doc__ or "").partition("\n")[0],
        epilog="example: attrscore reproduce results/jobs/0123456789abcdef; of moved files: "
        "... dataset.images='moved/*.tif'",
    )
    parser.add_argument("path", type=Path, help="a folder of results or of a job, or a part")
    parser.add_argument("--json", action="store_true", help="for other programs")
    options = parser.parse_args(list(arguments))
    path = options.path
    from attrscore.cli import output as terminal
    from attrscore.store.places import find

    jobs = [found for found in find([path])[0] if found.parts]
    if not jobs:
        raise StoreError(
            f"{path} holds no part of a job, which is what can be run again; a merged file names "
            "the jobs that it was made of: attrscore status"
        )
    verdicts, listed = [], []
    for found in jobs:
        told = _reproduced(found, settings_of)
        if len(jobs) > 1:
            told = replace(told, sentence=f"{found.folder.job.id}: {told.sentence}")
        if not options.json:
            terminal.say_comparison(told)
        listed.append({"job": found.folder.job.id, **asdict(told)})
        verdicts.append(told.verdict)
    if options.json:
        sys.stdout.write(json.dumps(listed, indent=1, default=str) + "\n")
    return max({"identical": OK, "differs": INCOMPLETE, "impossible": FAILED}[v] for v in verdicts)


def _reproduced(found: Found, settings_of: Callable[[str], Mapping[str, Any]]) -> Comparison:
    from attrscore.store.compare import compare, moved
    from attrscore.store.tables import read_part_table

    folder = found.folder
    try:
        from attrscore.jobs.assembly import build  # loads torch

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
    if told.verdict == "differs" and "scored_from" in folder.provenance:
        changed["kept maps"] = "its scores were made from them, and they are rounded to float16"
    return replace(told, differences={**told.differences, **changed})


def _impossible(why: str) -> Comparison:
    return Comparison("impossible", f"This cannot be run again here. {why}")


def _again(folder: JobFolder, parts: Any, names: Sequence[str]) -> Any:
    """The same rows computed now, written to a temporary folder and read back."""
    from attrscore import store
    from attrscore.jobs.computing import compute
    from attrscore.jobs.run import refused_by_preflight
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
