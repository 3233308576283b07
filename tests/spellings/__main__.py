"""``python -m tests.spellings``: the whole table through every variant, as a confusion matrix in Markdown.

``--variant TEXT …`` takes only variants whose name holds one of the texts; ``--out FILE`` puts the tables between the
marks of a document instead of printing them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgeattn.recognise import recognise
from tests.spellings import SPELLINGS
from tests.spellings._match import kinds, wrong
from tests.spellings._variants import VARIANTS, Absent, Unexportable

START, END = "<!-- measured -->", "<!-- /measured -->"


def main() -> int:
    """Run, print or write, and exit with 1 where anything was found otherwise than expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", nargs="*", default=[""])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chosen = [name for name in VARIANTS if any(text in name for text in options.variant)]
    cells, misses, seen = measure(chosen)
    text = page(chosen, cells, misses, seen)
    if options.out:
        before, _, rest = options.out.read_text().partition(START)
        options.out.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        sys.stdout.write(f"{text}\n")
    return 1 if misses else 0


def measure(chosen: Sequence[str]) -> tuple[Counter[tuple[str, str]], list[str], Counter[tuple[str, str]]]:
    """What was found of what there is; every miss in words; how many graphs a variant gave, or could not give."""
    cells: Counter[tuple[str, str]] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    misses = []
    for variant in chosen:
        for spelling in SPELLINGS:
            try:
                found = recognise(VARIANTS[variant](spelling))
            except (Absent, Unexportable):
                seen[variant, "none"] += 1
                continue
            seen[variant, "graphs"] += 1
            cells[spelling.kind, kinds(found)] += 1
            misses += [f"`{spelling.name}` by {variant}: {said}" for said in wrong(spelling, found)]
        sys.stderr.write(f"{variant}: {len(misses)} otherwise than expected so far\n")
    return cells, misses, seen


def page(
    chosen: Sequence[str], cells: Counter[tuple[str, str]], misses: list[str], seen: Counter[tuple[str, str]]
) -> str:
    """The tables in Markdown."""
    order = dict.fromkeys([s.kind for s in SPELLINGS if s.expected])
    rows = [*order, "none"]
    columns = [*rows, *sorted({found for _, found in cells} - set(rows))]
    lines = [
        f"{sum(cells.values())} graphs of {len(SPELLINGS)} spellings. Rows: what it is; columns: what was found.",
        "",
    ]
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        numbers = [str(cells[row, column] or "·") for column in columns]
        lines.append(f"| **{row}** | " + " | ".join(numbers) + " |")
    lines += ["", "| variant | graphs | not exportable, or the tool failed |", "|---|---|---|"]
    lines += [f"| {v} | {seen[v, 'graphs']} | {seen[v, 'none']} |" for v in chosen]
    lines += ["", "Found otherwise than expected:" if misses else "Nothing was found otherwise than expected.", ""]
    return "\n".join([*lines, *(f"- {m}" for m in misses)]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
