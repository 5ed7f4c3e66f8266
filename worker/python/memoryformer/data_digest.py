"""What a run is trained on, by some of its micro-batches."""

from __future__ import annotations

import hashlib
from typing import Any, Callable, Mapping

import numpy as np
import torch

from .errors import InvalidError
from .seeds import seed_all
from .shared_parameters import bytes_of


def digest_of(batch: Callable[[int, int], Any], steps: int, micro_batches: int, seed: int) -> str:
    """Digest of some micro-batches. InvalidError if one is not the same each time: a batch that is taken from an
    iterator, say, would depend on what a process did before."""
    places = sorted({(1, 0), (1, micro_batches - 1), (steps, micro_batches - 1)})
    first: list[str] = []
    again: list[str] = []
    for digests, order in ((first, places), (again, places[::-1])):
        for step, number in order:
            seed_all(seed, step, number)
            digest = hashlib.sha256(f"{step} {number}".encode())
            _add(digest, batch(step, number))
            digests.append(digest.hexdigest())
    if first != again[::-1]:
        raise InvalidError("data: the function gave two different micro-batches for the same (step, number); it has to "
                           "follow from them alone, as any process may compute any micro-batch, at any time and again")
    return "batches of digest " + hashlib.sha256("".join(first).encode()).hexdigest()


def _add(digest: Any, value: Any) -> None:
    """The bytes of tensors and arrays, and of what holds them."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise InvalidError(f"data: a micro-batch has a tensor of layout {value.layout}; give dense ones")
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
        return
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        digest.update(f"object {value.shape}".encode())
        _add(digest, value.reshape(-1).tolist())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            _add(digest, part)
    elif value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
        digest.update(repr(value).encode())
    else:
        raise InvalidError(f"data: a micro-batch has a {type(value).__name__}; tensors, arrays, numbers, texts, and "
                           "lists, tuples and dicts of them can be compared")
