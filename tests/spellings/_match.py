"""Whether what was found is what a spelling says must be found."""

from __future__ import annotations

from collections.abc import Sequence

from edgeattn.recognise import Attention
from tests.spellings._spelling import Spelling


def kinds(found: Sequence[Attention]) -> str:
    """The kinds found, as ``Spelling.kind`` writes them."""
    return " + ".join(dict.fromkeys(a.kind for a in found)) or "none"


def wrong(spelling: Spelling, found: Sequence[Attention]) -> list[str]:
    """What was found otherwise than expected, one sentence each; nothing if all is right."""
    if [e.kind for e in spelling.expected] != [a.kind for a in found]:
        return [f"expected {[e.kind for e in spelling.expected]}, found {[a.kind for a in found]}"]
    said = []
    for expected, attention in zip(spelling.expected, found, strict=True):
        for name, want in expected.facts.items():
            got = getattr(attention, name)
            if not (want in got if isinstance(got, tuple) and isinstance(want, str) else want == got):
                said.append(f"{attention.kind}: {name} is {got!r}, expected {want!r}")
    return said
