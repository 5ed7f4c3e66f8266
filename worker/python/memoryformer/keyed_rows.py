"""Keys of keyed tables: 64 bits, of any integer, text or combination of keys."""

from __future__ import annotations

import hashlib
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
        data = value.encode() if isinstance(value, str) else value
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
    try:
        number = value.__index__()
    except AttributeError:
        raise InvalidError(f"key: {value!r} is neither an integer nor a text") from None
    if not -(1 << 63) <= number < 1 << 64:
        raise InvalidError(f"key: {number} does not fit 64 bits; give it as a text")
    return number - (1 << 64) if number >= 1 << 63 else number


def keys(values: Iterable[int | str | bytes]) -> torch.Tensor:
    """int64 [N], the `key` of each."""
    return torch.tensor([key(value) for value in values], dtype=torch.int64)


def cross(*parts: torch.Tensor) -> torch.Tensor:
    """Keys of combinations: int64 in the shape that the parts, keys of any integer type, broadcast to.

    h = mix(part 1), then h = mix(h + part 2) and so on modulo 2 ** 64, where mix is the finaliser of MurmurHash3
    (fmix64). The order of the parts counts.
    """
    if not parts:
        raise InvalidError("cross: give one key or more")
    first, *others = np.broadcast_arrays(*[as_bits(part) for part in parts])
    mixed = _mix(first)
    for other in others:
        mixed = _mix(mixed + other)
    return torch.from_numpy(mixed.view(np.int64))


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    numbers = np.ascontiguousarray(numbers).reshape(numbers.shape)
    mixed = np.empty_like(numbers)
    _native.rows_of_keys(numbers, mixed)
    return mixed


def as_bits(values: Any) -> NDArray[np.uint64]:
    """Keys as people give them: a tensor or an array of integers, or what `keys` takes."""
    if isinstance(values, torch.Tensor):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise InvalidError(f"keys: a tensor of {values.dtype}; keys are integers, mf.keys() makes them of texts")
        bits: NDArray[np.uint64] = values.detach().cpu().contiguous().to(torch.int64).numpy().view(np.uint64)
        return bits
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        array = keys(values).numpy()
    return np.ascontiguousarray(array).astype(np.int64 if array.dtype.kind == "i" else np.uint64).view(np.uint64)


def rows_of(values: Any) -> NDArray[np.uint64]:
    """The rows that keys have in a keyed table."""
    return _mix(as_bits(values))


def keys_of(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The inverse."""
    found = np.empty_like(rows)
    _native.keys_of_rows(rows, found)
    return found
