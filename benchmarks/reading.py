"""What reading crops from fields costs, beside an audit.

    python benchmarks/reading.py [--quick] [--cells 100]

Fields of synthetic cells are written as TIFFs, plain and deflated, and as OME-Zarr. The audit is
Grad-CAM at the last convolution of ``tiny_cnn``, the smallest model there is, scored with
``grad_camo``, so that nothing else could make reading look smaller. *Opening* decodes every field,
finds its cells and its percentiles; *reading* then cuts batches of 32 of all cells from what was
kept. *Again* is reading where nothing was kept, as of fields beyond the bound: they are decoded a
second time. All files are in the cache of the system. CPU time, shares of opening, reading and
audit together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage
from timing import begin, measure, parser, table

import attrscore
from attrscore.core.registry import MODELS
from attrscore.datasets import Fields
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
    end = "zarr" if packed == "zarr" else "tif"
    fields = Fields(
        images=str(root / packed / "images" / f"*.{end}"),
        masks=str(root / packed / "masks" / f"*.{end}"),
        crop=crop,
    )
    len(fields.table)
    return fields


def read(fields: Fields, *, forget: bool = False) -> None:
    if forget:
        fields._reader._kept.clear()
    for _ in batches_of(fields):
        pass


def compared(root: Path, packed: str, crop: tuple[int, ...], repetitions: int) -> list[object]:
    """A row of the table."""
    fields = opened(root, packed, crop)
    model = MODELS.build("tiny_cnn", classes=2)(fields.spec)
    batches = list(batches_of(fields))
    taken = measure(
        {
            "audit": lambda: attrscore.evaluate(model, batches),
            "opening": lambda: opened(root, packed, crop),
            "again": lambda: read(fields, forget=True),
            "reading": lambda: read(fields),
        },
        repetitions,
    )
    audit, opening, again, reading = (seconds for seconds, _ in taken.values())
    cells, whole = len(fields.table), audit + opening + reading
    return [
        packed,
        cells,
        *(f"{1e3 * seconds / cells:.2f}" for seconds in (opening, reading, again)),
        f"{opening / whole:.1%}",
        f"{reading / whole:.1%}",
        f"{(opening + reading) / whole:.1%}",
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
                *(
                    "format",
                    "cells",
                    "opening, ms a cell",
                    "reading, ms a cell",
                    "again, ms a cell",
                ),
                *("opening, share", "reading, share", "both, share"),
            ],
            rows,
        )


if __name__ == "__main__":
    main()
