"""Files of named tensors (https://github.com/huggingface/safetensors, README: Format), written and read."""

from __future__ import annotations

import json
import mmap
import os
from typing import Any, Mapping

import numpy as np
from numpy.typing import NDArray

from .checks import whole
from .errors import InvalidError

_TYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


def write(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Whole or not at all: the file gets its name when all of it is on the disk."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, values in tensors.items():
        header[name] = {"dtype": _NAMES[values.dtype], "shape": list(values.shape),
                        "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidError(f"{path}: is no file that can be replaced; name another one")
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise InvalidError(f"{path}: there is no folder {folder}")
    partial = os.path.join(folder, f".{name[:100]}.partial-{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for values in tensors.values():
                file.write(np.ascontiguousarray(values).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read-only views of the mapped file. InvalidError, naming it, for one that is damaged or of unknown types."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InvalidError(f"{path}: is no safetensors file, or was cut")
        try:
            header = json.loads(file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            tensors = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                narrow = entry["dtype"] == "BF16"  # the upper half of a float32
                kind = np.dtype(np.uint16 if narrow else _TYPES[entry["dtype"]])
                begin, end = entry["data_offsets"]
                if 8 + length + end > size:
                    raise InvalidError(f"{path}: was cut: {name} is not whole")
                values = np.frombuffer(data, kind, (end - begin) // kind.itemsize, 8 + length + begin)
                if narrow:
                    values = (values.astype(np.uint32) << 16).view(np.float32)
                tensors[name] = values.reshape([whole("shape", size, 0) for size in entry["shape"]])
            return tensors
        except InvalidError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidError(f"{path}: is no safetensors file that can be read here: {error!r}") from error
