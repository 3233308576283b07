"""Ways in which people write attention: the table that the recogniser and the rewrite rules are tested on.

``SPELLINGS`` holds small PyTorch modules, each with its inputs and what must be found in its graph; a look-alike
expects nothing. ``Spelling.export(exporter, opset)`` gives a Program of one graph, ``main``, with eager PyTorch's
outputs for two sizes of every dynamic dimension. A new spelling is one line in the file of its family; the whole
table against every exporter, opset and simplifier, as a confusion matrix: ``python -m tests.spellings``.
"""

from __future__ import annotations

from tests.spellings import bahdanau, cbam, luong, mha, negatives, se_and_channel, spatial
from tests.spellings._export import Unexportable
from tests.spellings._spelling import EXPORTERS, Expected, Spelling

__all__ = ["EXPORTERS", "SPELLINGS", "Expected", "Spelling", "Unexportable", "family", "spelling"]

SPELLINGS: tuple[Spelling, ...] = tuple(
    entry
    for module in (se_and_channel, spatial, cbam, luong, bahdanau, mha, negatives)
    for entry in module.FAMILY.found
)


def family(*names: str) -> tuple[Spelling, ...]:
    """The spellings of some families, by their files' names."""
    return tuple(s for s in SPELLINGS if s.family in names)


def spelling(name: str) -> Spelling:
    """One spelling by its name."""
    return next(s for s in SPELLINGS if s.name == name)
