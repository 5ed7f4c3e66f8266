"""Reads and writes safetensors files: 8 bytes of header size, a JSON header, raw little-endian data."""

import json
import struct
from pathlib import Path
from typing import Mapping

import numpy as np

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (tensors by name, metadata). Raises ValueError where the file is not well formed."""
    data = Path(path).read_bytes()
    if len(data) < 8:
        raise ValueError(f"{path}: too short for a safetensors file")
    (header_bytes,) = struct.unpack("<Q", data[:8])
    if 8 + header_bytes > len(data):
        raise ValueError(f"{path}: its header ends after the file")
    header = json.loads(data[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__", {})
    body = memoryview(data)[8 + header_bytes :]
    tensors: dict[str, np.ndarray] = {}
    used = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        if begin != used or end - begin != count * dtype.itemsize or end > len(body):
            raise ValueError(f"{path}: the place of {name} does not fit its shape")
        tensors[name] = np.frombuffer(body[begin:end], dtype=dtype).reshape(shape)
        used = end
    if used != len(body):
        raise ValueError(f"{path}: {len(body) - used} bytes belong to no tensor")
    return tensors, metadata


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors in the given order; their numpy types must be among DTYPES."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    blobs = []
    for name, tensor in tensors.items():
        blob = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": names[tensor.dtype.newbyteorder("<")],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)
