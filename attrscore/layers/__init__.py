"""Which layers, where they keep channels and places, and what they put out on one forward pass."""

from attrscore.layers.capture import OverwrittenError, capture
from attrscore.layers.layouts import Layout, LayoutOptions, hidden_state
from attrscore.layers.light import LightGradients
from attrscore.layers.measuring import watching
from attrscore.layers.path import main_path
from attrscore.layers.selection import LAYER_RULES, Layers, select_layers, with_layouts
from attrscore.layers.stem import PassedByError, Stem, find_stem
from attrscore.layers.tracing import LayerInfo, trace
from attrscore.layers.wrappers import (
    Precision,
    SealedNetwork,
    call,
    device_of,
    dtype_of,
    in_precision,
    parts_of,
    uncompiled,
    unwrap,
)

__all__ = [
    "LAYER_RULES",
    "LayerInfo",
    "Layers",
    "Layout",
    "LayoutOptions",
    "LightGradients",
    "OverwrittenError",
    "PassedByError",
    "Precision",
    "SealedNetwork",
    "Stem",
    "call",
    "capture",
    "device_of",
    "dtype_of",
    "find_stem",
    "hidden_state",
    "in_precision",
    "main_path",
    "parts_of",
    "select_layers",
    "trace",
    "uncompiled",
    "unwrap",
    "watching",
    "with_layouts",
]
