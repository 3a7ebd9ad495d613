"""What reading crops from fields costs: beside an audit, and beside the same crops one TIFF each.

    python benchmarks/reading.py [--quick] [--cells 100]

Fields of synthetic cells are written as TIFFs, plain and deflated, and as OME-Zarr. The audit is
Grad-CAM at the last convolution of ``tiny_cnn``, the smallest network there is, scored with
``grad_camo``, so that nothing else could make reading look smaller. *Opening* looks through every
field once, for its cells and its percentiles, and knows nothing of any file before; *reading* makes
batches of 32 of all cells, with nothing decoded or open beforehand, but with what opening has
learnt of where each file has its pixels. The same crops one TIFF each are two files a cell, image
and label image, deflated where the fields are compressed, read with tifffile and made into the same
batches: float32, normalised by channel, with regions. All files are in the cache of the system. CPU
time, ratios within one run.

The *floor* is what no reader made of NumPy, zlib and zstd can leave out: every strip or chunk
unpacked once, from memory, and of every cell, from arrays in memory into new batches, the window
converted, minus, times and clipped, and its labels compared twice. It opens no file, places no
pixel that was unpacked and checks nothing.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tifffile
import torch
from scipy import ndimage
from timing import begin, measure, parser, table

import attrscore
from attrscore.core.registry import MODELS
from attrscore.datasets import Fields
from attrscore.datasets.images import tiff
from attrscore.engine.run import batches_of

FORMATS = ("tif", "zlib", "zarr")
KINDS = {
    "2D, 5 channels, crops of 64 x 64": ((1024, 1024), 5, (64, 64)),
    "2D, 5 channels, crops of 128 x 128": ((1024, 1024), 5, (128, 128)),
    "3D, 2 channels, crops of 16 x 48 x 48": ((32, 512, 512), 2, (16, 48, 48)),
}


def written(root: Path, shape: tuple[int, ...], channels: int, cells: int, fields: int) -> None:
    """Fields with about as many cells as asked for, in every format that can be had."""
    for number in range(fields):
        draw = np.random.default_rng(number)
        middles = np.zeros(shape, np.int32)
        places = tuple(draw.integers(4, n - 4, cells) for n in shape)
        middles[places] = np.arange(1, cells + 1)
        distance, nearest = ndimage.distance_transform_edt(middles == 0, return_indices=True)
        labels = np.where(distance < (14 if len(shape) == 2 else 9), middles[tuple(nearest)], 0)
        image = draw.poisson(200, (channels, *shape)) + 40 * (labels % 50) * (labels > 0)
        axes = "CZYX"[:1] + "ZYX"[-len(shape) :]
        save(root, f"f{number}", image.astype(np.uint16), labels.astype(np.uint16), axes)


def save(root: Path, name: str, image: np.ndarray, labels: np.ndarray, axes: str) -> None:
    for kind, pixels in (("images", image), ("masks", labels)):
        order = axes if kind == "images" else axes[1:]
        for packed in ("tif", "zlib"):
            folder = root / packed / kind
            folder.mkdir(parents=True, exist_ok=True)
            options = {"compression": "zlib", "rowsperstrip": 64} if packed == "zlib" else {}
            tifffile.imwrite(
                folder / f"{name}.tif",
                pixels,
                photometric="minisblack",
                ome=True,
                metadata={"axes": order},
                **options,
            )
        zarr_written(root / "zarr" / kind / f"{name}.zarr", pixels, order)


def zarr_written(path: Path, pixels: np.ndarray, axes: str) -> None:
    try:
        import zarr
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(str(path), mode="w")
    chunks = tuple(
        1 if axis == "C" else min(n, 256) for axis, n in zip(axes, pixels.shape, strict=True)
    )
    array = group.create_array("0", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)
    array[:] = pixels
    named = [{"name": a.lower(), "type": "channel" if a == "C" else "space"} for a in axes]
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    scales = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}


def opened(root: Path, packed: str, crop: tuple[int, ...]) -> Fields:
    tiff.LAYOUTS.clear()  # as in a new process
    if packed == "zarr":
        from attrscore.datasets.images import ngff

        ngff.LAYOUTS.clear()
    end = "zarr" if packed == "zarr" else "tif"
    folder = root / packed
    fields = Fields(
        images=str(folder / "images" / f"*.{end}"),
        masks=str(folder / "masks" / f"*.{end}"),
        crop=crop,
    )
    len(fields.table)
    return fields


def read(fields: Fields) -> None:
    fields._parts.reader._kept.clear()  # as at the first read: nothing decoded
    for _ in batches_of(fields):
        pass


def one_each(root: Path, fields: Fields, packed: str, crop: tuple[int, ...]) -> list[Path]:
    """The same crops as raw pixels and labels, a pair of files a cell."""
    raw = Fields(images=fields.images, masks=fields.masks, crop=crop, normalise="none")
    folder = root / f"crops-{packed}"
    folder.mkdir()
    options = {} if packed == "tif" else {"compression": "zlib"}
    paths = []
    for batch in batches_of(raw):
        for row, name in enumerate(batch.ids):
            path = folder / f"{name.replace(':', '_')}.tif"
            pixels = batch.inputs[row].numpy().astype(np.uint16)
            regions = {name: region[row].numpy() for name, region in batch.regions.items()}
            numbers = (regions["cell"] + 2 * regions["neighbours"]).astype(np.uint8)
            for each, values in ((path, pixels), (path.with_suffix(".mask.tif"), numbers)):
                tifffile.imwrite(each, values, photometric="minisblack", **options)
            paths.append(path)
    return paths


def read_each(paths: list[Path], low: np.ndarray, factor: np.ndarray) -> None:
    for first in range(0, len(paths), 32):
        some = paths[first : first + 32]
        inputs = np.stack([tifffile.imread(path) for path in some]).astype(np.float32)
        inputs -= low
        inputs *= factor
        inputs.clip(0, 1, out=inputs)
        numbers = np.stack([tifffile.imread(path.with_suffix(".mask.tif")) for path in some])
        attrscore.Batch(
            inputs=torch.from_numpy(inputs),
            regions={
                "cell": torch.from_numpy(numbers == 1),
                "neighbours": torch.from_numpy(numbers == 2),
            },
            ids=[path.stem for path in some],
        )


@dataclass(frozen=True)
class Floor:
    """One field in memory, and what has to be unpacked to have it there."""

    image: np.ndarray
    labels: np.ndarray
    packed: Sequence[bytes]
    unpack: Callable[[bytes], object]
    cells: Sequence[tuple[tuple[slice, ...], int]]
    """Window and number of each."""


def floors(root: Path, fields: Fields, packed: str) -> list[Floor]:
    size, found = fields.spec.size, []
    for name in fields.table["Metadata_image"].unique():
        rows = np.flatnonzero(fields.table["Metadata_image"] == name)
        field = fields._parts.reader.open(name)
        image, labels = np.array(field.pixels()), np.array(field.masks["cell"].image.read()[0])
        first = np.floor(fields.places(rows).first).astype(int)
        first = first.clip(0, np.array(labels.shape) - size)
        windows = [tuple(map(slice, one, one + np.array(size))) for one in first]
        numbers = fields.table["Metadata_object"][rows].tolist()
        pieces: list[bytes] = []
        for kind in ("images", "masks"):
            pieces += pieces_of(root / packed / kind, name, packed)
        unpack = zlib.decompress
        if packed == "zarr":
            chunk = field.image.stored.pixels.chunk
            most = int(np.prod(chunk)) * image.itemsize
            codec = pa.Codec("zstd")
            unpack = lambda data, codec=codec, most=most: codec.decompress(data, most)  # noqa: E731
        elif packed == "zlib":
            most = len(zlib.decompress(pieces[0]))
            unpack = lambda data, most=most: zlib.decompress(data, bufsize=most)  # noqa: E731
        found.append(Floor(image, labels, pieces, unpack, list(zip(windows, numbers, strict=True))))
    return found


def pieces_of(folder: Path, name: str, packed: str) -> list[bytes]:
    """Strips or chunks as they are stored; none of what is not packed."""
    if packed == "zarr":
        chunks = (folder / f"{name}.zarr" / "0" / "c").rglob("*")
        return [path.read_bytes() for path in chunks if path.is_file()]
    if packed == "tif":
        return []
    with tifffile.TiffFile(folder / f"{name}.tif") as file:
        return [
            data
            for page in file.pages
            for data, _ in file.filehandle.read_segments(page.dataoffsets, page.databytecounts)
        ]


def at_least(fields: Sequence[Floor], low: np.ndarray, factor: np.ndarray) -> None:
    for field in fields:
        for data in field.packed:
            field.unpack(data)
        for start in range(0, len(field.cells), 32):
            some = field.cells[start : start + 32]
            size = [each.stop - each.start for each in some[0][0]]
            inputs = np.empty((len(some), len(field.image), *size), np.float32)
            cell, others = np.empty((2, len(some), *size), bool)
            for place, (window, number) in enumerate(some):
                crop = inputs[place]
                crop[...] = np.ascontiguousarray(field.image[(slice(None), *window)])
                crop -= low
                crop *= factor
                crop.clip(0, 1, out=crop)
                labels = field.labels[window]
                np.equal(labels, number, out=cell[place])
                np.greater(labels, 0, out=others[place])


def compared(root: Path, packed: str, crop: tuple[int, ...], repetitions: int) -> list[object]:
    """A row of the table."""
    fields = opened(root, packed, crop)
    model = MODELS.build("tiny_cnn", classes=2)(fields.spec)
    paths = one_each(root, fields, packed, crop)
    batches = list(batches_of(fields))
    least = floors(root, fields, packed)
    levels = fields._parts.normaliser(next(iter(fields._parts.reader.files)), None)
    column = (-1, *(1,) * len(crop))
    low, factor = (
        each.astype(np.float32).reshape(column) for each in (levels.low, 1 / levels.spread)
    )
    taken = measure(
        {
            "audit": lambda: attrscore.evaluate(model, batches),
            "opening": lambda: opened(root, packed, crop),
            "reading": lambda: read(fields),
            "one TIFF each": lambda: read_each(paths, low, factor),
            "floor": lambda: at_least(least, low, factor),
        },
        repetitions,
    )
    audit, opening, reading, each, floor = (seconds for seconds, _ in taken.values())
    whole = audit + opening + reading
    return [
        packed,
        len(paths),
        f"{1e3 * reading / len(paths):.2f}",
        f"{reading / whole:.1%}",
        f"{opening / whole:.1%}",
        f"{each / reading:.1f}",
        f"{1e3 * floor / len(paths):.2f}",
        f"{each / floor:.1f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=100, help="in each field")
    given = options.parse_args(arguments)
    begin(given)
    repetitions = given.repetitions or (1 if given.quick else 5)
    for kind, (shape, channels, crop) in KINDS.items():
        cells = given.cells
        if given.quick:
            shape, cells = tuple(max(n // 4, 32) for n in shape), 6
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            written(root, shape, channels, cells, fields=1 if given.quick else 4)
            there = [packed for packed in FORMATS if (root / packed).is_dir()]
            rows = [compared(root, packed, crop, repetitions) for packed in there]
        print(f"\n### {kind}")
        table(
            [
                *("format", "cells", "ms a cell", "reading", "opening"),
                *("one TIFF each / reading", "floor, ms a cell", "one TIFF each / floor"),
            ],
            rows,
        )


if __name__ == "__main__":
    main()
