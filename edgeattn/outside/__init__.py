"""Weights that stay in a file: a graph in memory holds where they lie, and whoever needs them maps them.

A tensor that is *outside* keeps ``data_location = EXTERNAL`` with an absolute path, offset and length, and a *stamp*:
device, inode, size and times of the file when it was checked. Copies of a graph cost nothing, whatever its weights
weigh; ONNX Runtime and numpy map the same pages. A file that changed since is refused, never read.

Who puts tensors outside: ``preflight`` (external data beside a model, and the weights of large files, which move to a
scratch file of this process) and the rewrite stage (large constants that rules made of such weights).
Who reads any tensor calls :func:`array`; who writes a graph calls :func:`write`.
"""

from __future__ import annotations

from edgeattn.outside._place import (
    FILE_LIMIT,
    LARGE_BYTES,
    STAMP,
    array,
    chunks,
    digest,
    forget,
    hollow,
    is_outside,
    mapped,
    put,
    rooted,
    size,
    size_of,
    stamp_of,
    tensors,
    varint,
    verify,
)
from edgeattn.outside._scratch import place_of, scratch
from edgeattn.outside._write import WIRING, write, write_program, write_wiring

__all__ = [
    "FILE_LIMIT",
    "LARGE_BYTES",
    "STAMP",
    "WIRING",
    "array",
    "chunks",
    "digest",
    "forget",
    "hollow",
    "is_outside",
    "mapped",
    "place_of",
    "put",
    "rooted",
    "scratch",
    "size",
    "size_of",
    "stamp_of",
    "tensors",
    "varint",
    "verify",
    "write",
    "write_program",
    "write_wiring",
]
