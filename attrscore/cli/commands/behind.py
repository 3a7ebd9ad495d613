"""The dataset behind results, made again from the configuration that they keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrscore.errors import ConfigError, DataError, preview
from attrscore.store import Kept
from attrscore.store.identity import canonical

if TYPE_CHECKING:
    from attrscore.core.contracts import Dataset

__all__ = ["SettingsOf", "dataset_behind"]

SettingsOf = Callable[[str], Mapping[str, Any]]
"""Makes settings of the text of a configuration."""


def dataset_behind(kept: Sequence[Kept], settings_of: SettingsOf, /) -> Dataset:
    """The whole dataset, all its shards, that these maps were computed on. Loads torch.

    Relative paths in the configuration start from the working folder.

    :raises ConfigError: maps of several datasets.
    :raises DataError: the files are gone, or not those of then.
    """
    from attrscore.jobs.assembly import dataset_of

    nodes: dict[str, dict[str, Any]] = {}
    digests: set[str] = set()
    for each in kept:
        node = {**settings_of(each.folder.config)["dataset"], "shard": None}
        nodes.setdefault(canonical(node), node)
        told = each.folder.job.base["dataset"]
        if "shard" not in told:
            digests.add(str(told["fingerprint"]))
    if len(nodes) > 1 or len(digests) > 1:
        folders = sorted({str(each.folder.path) for each in kept})
        raise ConfigError(
            f"These maps are of several datasets; give the folder of one job: {preview(folders)}."
        )
    dataset = dataset_of({"dataset": next(iter(nodes.values()))})
    if digests and digests != {dataset.fingerprint()}:
        raise DataError(
            "The images or masks are not those that these maps were computed on, so the maps "
            "cannot be laid over them; put the files back, or compute the maps again."
        )
    return dataset
