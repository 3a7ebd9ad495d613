"""Image files of every format: found by name, opened, and read as fields."""

from __future__ import annotations

from attrscore.datasets.images.field import Field, FieldFiles, FieldReader, Kept
from attrscore.datasets.images.image import Image, Labels, open_image, open_labels, stacked

__all__ = [
    "Field",
    "FieldFiles",
    "FieldReader",
    "Image",
    "Kept",
    "Labels",
    "open_image",
    "open_labels",
    "stacked",
]
