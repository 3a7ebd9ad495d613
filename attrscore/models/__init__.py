"""Models by name, and the files that hold their weights.

Every model here has the options ``weights`` (a .safetensors or .pt/.pth file) and ``seed``, and
takes its channels, axes and classes from the dataset; those of a file with code are in it. On the
command line all have ``randomize`` and ``randomize_to`` too
(:func:`attrscore.models.randomized.randomized`), ``prefix`` (:func:`load_weights`), ``channels``,
``mean`` and ``std`` (:mod:`attrscore.models.inputs`), ``output``, and ``memory_format``
(:func:`attrscore.core.layers.in_memory_format`).
"""

from __future__ import annotations

from attrscore.models import factory, libraries, tiny  # noqa: F401  # importing registers
from attrscore.models.randomized import randomized
from attrscore.models.weights import fingerprint, load_weights, save_weights

__all__ = ["fingerprint", "load_weights", "randomized", "save_weights"]
