"""Keys of keyed tables: 64 bits, of any integer, text or combination of keys."""

from __future__ import annotations

import hashlib
import operator
from typing import Any, Iterable

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .errors import InvalidError


def key(value: int | str | bytes) -> int:
    """The key of one thing, as a signed number of 64 bits.

    An integer from -2 ** 63 to 2 ** 64 - 1 is its own key (modulo 2 ** 64). A text's is BLAKE2b with a digest of 8
    bytes over its UTF-8, little-endian: of a billion texts two have the same key with a chance of 3%.
    """
    if isinstance(value, (str, bytes)):
        data = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
    truth = isinstance(value, (bool, np.bool_)) or isinstance(value, torch.Tensor) and value.dtype == torch.bool
    try:
        number = None if truth else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InvalidError(f"key: {value!r} is neither an integer nor a text")
    if not -(1 << 63) <= number < 1 << 64:
        raise InvalidError(f"key: {number} does not fit 64 bits; give it as a text")
    return number - (1 << 64) if number >= 1 << 63 else number


def keys(values: Iterable[int | str | bytes]) -> torch.Tensor:
    """int64 [N], the `key` of each."""
    if isinstance(values, (str, bytes)):
        raise InvalidError(f"keys: {values!r} is one text; give a list of them, or use key()")
    return torch.tensor([key(value) for value in values], dtype=torch.int64)


def cross(*parts: Any) -> torch.Tensor:
    """Keys of combinations: int64 in the shape that the parts, keys as layers take them, broadcast to, on the device
    of the first tensor.

    h = mix(number of parts), then h = mix(h + part) for one part after the other, modulo 2 ** 64, where mix is the
    finaliser of MurmurHash3 (fmix64). The order of the parts counts.
    """
    if not parts:
        raise InvalidError("cross: give one key or more")
    separate = [as_bits(part) for part in parts]
    try:
        bits = np.broadcast_arrays(*separate)
    except ValueError as error:
        raise InvalidError(f"cross: {error}") from None
    mixed = _mix(np.full(bits[0].shape, len(bits), np.uint64))
    for part in bits:
        mixed = _mix(mixed + part)
    devices = [part.device for part in parts if isinstance(part, torch.Tensor)]
    return torch.from_numpy(mixed.view(np.int64)).to(devices[0] if devices else "cpu")


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    flat = np.ascontiguousarray(numbers).reshape(-1)
    mixed = np.empty_like(flat)
    _native.rows_of_keys(flat, mixed)
    return mixed.reshape(np.shape(numbers))


def as_bits(values: Any) -> NDArray[np.uint64]:
    """Keys as people give them, in their shape: a tensor or an array of integers, an integer, or lists of integers and
    texts."""
    if isinstance(values, torch.Tensor):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise InvalidError(f"keys: a tensor of {values.dtype}; keys are integers, mf.keys() makes them of texts")
        if values.layout != torch.strided:
            raise InvalidError(f"keys: a tensor of layout {values.layout}; give a dense one")
        bits: NDArray[np.uint64] = values.detach().cpu().contiguous().to(torch.int64).numpy().view(np.uint64)
        return bits
    if isinstance(values, (str, bytes)):
        raise InvalidError(f"keys: {values!r} is one text; give a list of them")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iu":  # texts, or integers that NumPy has no type for
            array = np.array(values, dtype=object)
    except ValueError:
        raise InvalidError("keys: lists of different lengths; use an EmbeddingBag with offsets") from None
    if array.dtype == object:
        array = np.array([key(value) for value in array.reshape(-1)], np.int64).reshape(array.shape)
    return array.astype(np.uint64 if array.dtype.kind == "u" else np.int64, order="C").view(np.uint64)


def rows_of(values: Any) -> NDArray[np.uint64]:
    """The rows that keys have in a keyed table."""
    return _mix(as_bits(values))


def keys_of(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The inverse."""
    found = np.empty_like(rows)
    _native.keys_of_rows(rows, found)
    return found
