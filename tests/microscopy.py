"""Real images, which lie beside the checkout and are no part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"

needs_images = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="real images stay out of the repository, for their licences: no shared/data beside it",
)


def fields(name: str, pattern: str, **options: str) -> list[str]:
    """The settings that read some files of a collection."""
    folder = DATA / name
    settings = {
        "images": f"'{folder}/images/{pattern}'",
        "masks": f"'{folder}/labels/{pattern}'",
        "labels": f"{folder}/labels.csv",
        **options,
    }
    return ["dataset=fields", *(f"dataset.{key}={value}" for key, value in settings.items())]
