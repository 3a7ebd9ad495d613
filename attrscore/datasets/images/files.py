"""Image files by pattern and by name, of any format; a Zarr folder counts as a file."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable
from pathlib import Path

from attrscore.datasets.images.readers import SUFFIXES, in_zarr, shown
from attrscore.errors import AbsentError

_LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
"""Files of a group or an array that say what it is."""


def find_files(pattern: str, /, *, option: str) -> list[Path]:
    """The files behind a glob, a folder (its images) or a single path, sorted.

    :raises DataError: there are none.
    """
    where = Path(pattern).expanduser()
    if where.is_file() or _is_zarr(where):  # before globbing: a real name may hold brackets
        return [where]
    if where.is_dir():
        found = [path for path in where.iterdir() if path.name.lower().endswith(SUFFIXES)]
    else:
        found = [Path(name) for name in glob.glob(str(where), recursive=True)]  # noqa: PTH207  # absolute patterns
    files = sorted(path for path in found if path.is_file() or _is_zarr(path))
    if not files:
        raise AbsentError(
            f"No file matches {option}='{pattern}'; check the path, or give a pattern such as "
            "'folder/*.tif'."
        )
    return files


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and (
        path.suffix.lower() == ".zarr" or any((path / name).exists() for name in _ZARR_METADATA)
    )


def stem(path: Path | str, /) -> str:
    r"""The name without folder and without the endings that image files have.

    Labels inside a Zarr folder are called as the image that they belong to, and one field of a
    plate by its path in it. A table may hold paths of Windows.

    >>> stem("plate 1/a.b.ome.tif"), stem("a.b"), stem("brain.nii.gz")
    ('a.b', 'a.b', 'brain')
    >>> stem(r"D:\plate 1\a.tif")
    'a'
    >>> stem("p.zarr/A/1/0"), stem("p.zarr/A/1/0/labels/cells")
    ('p_A_1_0', 'p_A_1_0')
    """
    path = Path(path.replace("\\", "/")) if isinstance(path, str) else path
    found = in_zarr(path)
    if found is not None:
        folder, inside = found
        if "labels" in inside:
            inside = inside[: inside.index("labels")]
        return "_".join((_bare(folder.name), *inside))
    return _bare(path.name)


def _bare(name: str) -> str:
    name = _unsuffixed(name)
    return name[:-4] if name.lower().endswith(".ome") else name


def _unsuffixed(name: str) -> str:
    endings = (*SUFFIXES, ".jpg", ".jpeg")
    ending = next((each for each in endings if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]


def match_files(
    images: Iterable[Path], masks: Iterable[Path], /, *, what: str = "mask"
) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pairs by stem, and the files without a partner with the reason.

    A mask named like its image wins over one with an ending such as ``_cp_masks``; that of
    ``a.ome.tif`` may be ``a_cp_masks.tif`` or ``a.ome_cp_masks.tif``, as Cellpose calls it.
    """
    problems: dict[str, str] = {}
    image_by = _by_name(images, problems, "image")
    exact = _by_name(masks, problems, what)
    used: set[str] = set()
    pairs: dict[str, tuple[Path, Path]] = {}
    for name, image in image_by.items():
        keys = [name + ending for ending in ("", *_LABEL_ENDINGS)]
        if _unsuffixed(image.name).lower().endswith(".ome"):
            keys += [_unsuffixed(image.name) + ending for ending in _LABEL_ENDINGS]
        found = next((key for key in keys if key in exact), None)
        if found is None:
            problems.setdefault(
                shown(image),
                f"no {what} is called like the image '{shown(image)}'; expected '{name}.tif' or "
                f"'{name}{_LABEL_ENDINGS[0]}.tif' among the {what}s.",
            )
        else:
            used.add(found)
            pairs[name] = image, exact[found]
    for name, mask in exact.items():
        if name not in used:
            problems.setdefault(
                shown(mask),
                f"no image belongs to the {what} '{shown(mask)}'; expected an image with the same "
                "name before its ending.",
            )
    return pairs, problems


def _by_name(files: Iterable[Path], problems: dict[str, str], what: str, /) -> dict[str, Path]:
    named: dict[str, list[Path]] = {}
    for path in files:
        name = stem(path)
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python keeps other bytes
            problems[shown(path)] = (
                f"the {what} '{shown(path)}' has a name that is not UTF-8, under which no result "
                "can be written; rename it."
            )
            continue
        named.setdefault(name, []).append(path)
    for name, paths in named.items():
        if len(paths) > 1:
            problems[shown(paths[0])] = (
                f"{len(paths)} {what}s are called '{name}': "
                f"{', '.join(str(path) for path in paths)}; rename them, or read one folder at a "
                "time."
            )
    return {name: paths[0] for name, paths in named.items() if len(paths) == 1}


def digest_of(path: Path, /) -> bytes:
    """Of the bytes of a file; of a folder, of every file in it with its path."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    digest = hashlib.blake2b()
    for inner in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(inner.relative_to(path).as_posix().encode("utf-8", "surrogateescape"))
        digest.update(digest_of(inner))
    return digest.digest()
