"""Crops, masks and heat as layers of napari."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attrscore.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrscore.core.contracts import Batch

__all__ = ["LayerData", "layers_of", "show"]

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keywords and kind, as ``napari.layers.Layer.create`` takes them."""

_COLOURS = ("cyan", "green", "red", "yellow", "magenta", "blue")


def layers_of(batch: Batch, heats: Mapping[str, NDArray[np.float32]], /) -> list[LayerData]:
    """Make a layer a channel, one of labels for each region, one of heat for each name.

    Their first axis is the cell. In the labels of cells 1 is the cell and 2 its neighbours. Heat
    (N, *S) is divided map by map by its maximum, for display only; NaN is shown as 0.
    """
    pixels = batch.inputs.cpu().numpy()
    scale = (1.0, *(batch.spacing or [1.0] * (pixels.ndim - 2)))
    stains = batch.stains or [f"channel {number}" for number in range(pixels.shape[1])]
    layers: list[LayerData] = []
    for number, stain in enumerate(stains):
        channel = pixels[:, number]
        finite = channel[np.isfinite(channel)]
        low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 1.0)
        shown = {
            "colormap": _COLOURS[number % len(_COLOURS)] if len(stains) > 1 else "gray",
            "contrast_limits": (float(low), float(high) if high > low else float(low) + 1),
        }
        layers.append((channel, _named(stain, scale, blending="additive", **shown), "image"))
    regions = {name: region.cpu().numpy() > 0.5 for name, region in batch.regions.items()}
    cells = regions.pop("cell").astype(np.uint8)
    if "neighbours" in regions:
        cells[regions.pop("neighbours")] = 2
    layers.append((cells, _named("cells", scale, opacity=0.8), "labels"))
    for name, region in regions.items():
        hidden = _named(name, scale, opacity=0.8, visible=False)
        layers.append((region.astype(np.uint8), hidden, "labels"))
    for name, heat in heats.items():
        top = np.nanmax(heat, axis=tuple(range(1, heat.ndim)), keepdims=True, initial=0)
        scaled = np.nan_to_num(heat / np.where(top > 0, top, 1))
        shown = {"colormap": "inferno", "contrast_limits": (0.0, 1.0), "blending": "additive"}
        first = name == next(iter(heats))
        layers.append((scaled, _named(name, scale, opacity=0.7, visible=first, **shown), "image"))
    return layers


def show(
    layers: list[LayerData], captions: list[str], /, *, screenshot: Path | None = None
) -> None:
    """Open napari, the caption of the cell that is shown in its corner; returns when it is closed.

    ``screenshot`` writes what it shows as PNG, and closes it.

    :raises UnsupportedError: napari, or a library that it needs to open a window, is not there.
    """
    try:
        import napari
    except ImportError as error:
        raise UnsupportedError(
            f"attrscore view needs napari, which cannot be loaded ({error}): pip install "
            '"attrscore[view]".'
        ) from error
    viewer = napari.Viewer(title="attrscore", show=screenshot is None)
    for data, keywords, kind in layers:
        layer = viewer.add_layer(napari.layers.Layer.create(data, keywords, kind))
        if kind == "labels":
            layer.contour = 1  # an outline, so that the image shows inside
    viewer.dims.axis_labels = ["cell", *"zyx"[-(viewer.dims.ndim - 1) :]]
    viewer.text_overlay.visible = True
    viewer.text_overlay.position = "top_left"

    def show_caption(_event: object = None) -> None:
        viewer.text_overlay.text = captions[viewer.dims.current_step[0]]

    viewer.dims.events.current_step.connect(show_caption)
    viewer.dims.set_point(0, 0)
    show_caption()
    if screenshot is None:
        napari.run()
        return
    viewer.window.resize(1200, 800)
    viewer.reset_view()
    viewer.screenshot(str(screenshot), canvas_only=False)
    viewer.close()


def _named(name: str, scale: tuple[float, ...], **options: Any) -> dict[str, Any]:
    return {"name": name, "scale": scale, **options}
