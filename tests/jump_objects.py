"""A tiny plate as JUMP's objects/ hold it: the arrays and names of the Cell Painting Gallery."""

from __future__ import annotations

import json

import numpy as np
import zarr

NAMES = ("NucleusMask", "CellMask", "DNA", "AGP", "ER", "Mito", "RNA")
SIDE = 12


def image_of(seed, cells):
    """Labels (2, Y, X), crops (cells, 7, Y, X) float16 and the numbers of the cells."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((2, 40, 40), np.uint32)
    crops = np.zeros((cells, len(NAMES), SIDE, SIDE), np.float16)
    numbers = 3 + np.arange(cells)
    for cell, number in enumerate(numbers):
        y, x = 2 + 12 * (cell // 3), 2 + 12 * (cell % 3)
        labels[1, y : y + 8, x : x + 6 + cell % 3] = number
        labels[0, y + 2 : y + 5, x + 2 : x + 5] = number
        crops[cell, 1, 2:10, 3 : 9 + cell % 3] = 1
        crops[cell, 0, 4:7, 5:8] = 1
        crops[cell, 2] = crops[cell, 0] * rng.uniform(0.2, 1, (SIDE, SIDE))
        crops[cell, 3:] = crops[cell, 1] * rng.uniform(0.2, 1, (4, SIDE, SIDE))
    return labels, crops, numbers


def plate(folder, *, by_well=False, mapping=True):
    """The Zarr of a plate P1 with the wells A01 (two sites) and B02, and its channel mapping."""
    sites = [("A01", 1, 3), ("A01", 2, 2), ("B02", 1, 4)]
    path = folder / "P1.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    made = {f"source_4__Batch1__P1__{w}__{s}": image_of(i, n) for i, (w, s, n) in enumerate(sites)}
    for well in ("A01", "B02") if by_well else ():
        images = {name: each for name, each in made.items() if f"__{well}__" in name}
        group = root.create_group(well)
        group.attrs.update({"well": well, "n_fovs": len(images), "fov_lut": list(images)})
        index = [
            (at, number) for at, (_, _, numbers) in enumerate(images.values()) for number in numbers
        ]
        labels, crops = ([each[n] for each in images.values()] for n in (0, 1))
        write(group, np.stack(labels), np.concatenate(crops), index)
    for name, (labels, crops, numbers) in made.items() if not by_well else ():
        write(root.create_group(name), labels, crops, list(enumerate(numbers)))
    if mapping:
        named = {str(number): name for number, name in enumerate(NAMES)}
        (folder / "channel_mapping.json").write_text(json.dumps(named))
    return path


def write(group, labels, crops, index):
    group.create_array("label_image", data=labels)
    group.create_array("single_cell_data", data=crops, chunks=(1, *crops.shape[1:]))
    group.create_array("single_cell_index", data=np.array(index, np.uint32))
