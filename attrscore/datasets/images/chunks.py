"""Pixels of a Zarr array by chunk, where zarr takes long or does not look closely enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attrscore.datasets.images.files import shown
from attrscore.datasets.images.stored import Pixels
from attrscore.errors import DataError

__all__ = ["pixels_of"]

_HEADER = 16
"""Bytes of Blosc before its data; the last four say how many there are, these included."""


def pixels_of(array: Any, folder: Path, /) -> Pixels:
    """Of the zarr.Array in this folder."""
    packed = [type(each).__name__ for each in array.compressors]
    if packed[-1:] in (["Blosc"], ["BloscCodec"]):
        return _Blosc(array, folder)
    byte_order = _byte_order(array)
    if byte_order is None:
        pixels: Pixels = array
        return pixels
    return _Chunks(
        shape=tuple(array.shape),
        dtype=array.dtype,
        chunk=tuple(array.chunks),
        held=array.dtype.newbyteorder(byte_order),
        fill=array.fill_value,
        packed=bool(packed),
        folder=folder,
        key=array.metadata.encode_chunk_key,
    )


def _byte_order(array: Any) -> str | None:
    """Of chunks that hold nothing but their pixels, or these packed by zstd; None: of others."""
    metadata = array.metadata
    if array.dtype.kind not in "buif":
        return None
    if metadata.zarr_format == 2:
        packed = [type(each).__name__ for each in array.compressors]
        plain = not array.filters and metadata.order == "C" and packed in ([], ["Zstd"])
        return array.dtype.byteorder if plain else None
    codecs = [type(each).__name__ for each in metadata.codecs]
    if (
        type(metadata.chunk_grid).__name__ != "RegularChunkGrid"
        or codecs[:1] != ["BytesCodec"]
        or codecs[1:] not in ([], ["ZstdCodec"])
    ):
        return None
    endian = metadata.codecs[0].endian  # None where a pixel is one byte
    return ">" if getattr(endian, "value", endian) == "big" else "<"


@dataclass(frozen=True, eq=False, kw_only=True)
class _Chunks:
    """An array whose chunks are decoded here, one after the other.

    zarr hands each to a thread, which for chunks of usual size takes as long as decoding them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    held: np.dtype[Any]
    """As a chunk has its pixels."""
    fill: Any
    packed: bool
    """By zstd."""
    folder: Path
    key: Callable[[tuple[int, ...]], str]
    """The file of a chunk."""

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        out = np.empty([each.stop - each.start for each in window], self.dtype)
        size = math.prod(self.chunk) * self.held.itemsize
        # checks the size, and allocates large chunks faster than numcodecs
        codec = pa.Codec("zstd") if self.packed else None
        for place in _touched(window, self.chunk):
            source, target = [], []
            for each, at, extent in zip(window, place, self.chunk, strict=True):
                begin = at * extent
                low, high = max(each.start, begin), min(each.stop, begin + extent)
                source.append(slice(low - begin, high - begin))
                target.append(slice(low - each.start, high - each.start))
            try:
                with FileIO(f"{self.folder}/{self.key(place)}") as file:
                    data = file.readall()
            except FileNotFoundError:
                out[tuple(target)] = 0 if self.fill is None else self.fill
                continue
            if codec is not None:
                data = codec.decompress(data, size)
            out[tuple(target)] = np.frombuffer(data, self.held).reshape(self.chunk)[tuple(source)]
        return out


@dataclass(frozen=True, eq=False)
class _Blosc:
    """An array compressed by Blosc, whose chunks are looked at before they are decoded.

    numcodecs gives whatever lies behind the end of a chunk that was cut short, without an error.
    """

    array: Any
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        for place in _touched(window, self.array.chunks):
            chunk = self.folder / self.array.metadata.encode_chunk_key(place)
            if chunk.is_file():  # else all of it is the fill value
                with chunk.open("rb") as file:
                    header = file.read(_HEADER)
                size = chunk.stat().st_size
                if len(header) < _HEADER or int.from_bytes(header[12:16], "little") != size:
                    raise DataError(
                        f"'{shown(chunk)}' cannot be read as a Zarr: the chunk is cut short or "
                        "damaged; copy it again."
                    )
        return np.asarray(self.array[window])


def _touched(window: tuple[slice, ...], chunk: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    return itertools.product(
        *(range(e.start // n, -(-e.stop // n)) for e, n in zip(window, chunk, strict=True))
    )
