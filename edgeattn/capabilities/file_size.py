"""file_size: a graph above 2 GB keeps its weights in a file beside it.

Protocol buffers hold at most 2 GiB; every parser here reads external data.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn import outside
from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

LIMIT = 1 << 31  # bytes; protobuf.dev: the largest message


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """The weights that lie inside the file."""
    inside = sum(t.ByteSize() for t in view.initializers.values() if not outside.is_outside(t))
    if inside >= LIMIT:
        reason = f"{inside:,} bytes of weights inside one file; a protocol buffer holds 2 GiB"
        yield Found(
            "", reason, "save it with external data: edgeattn rewrite does", "", "protobuf.dev, encoding limits"
        )


CHECK = find
