"""Write docs/rules.md from the rules' own cards: ``python -m tests.benchmarks.rules --out docs/rules.md``.

Everything on the page is what ``edgeattn list rules`` and ``edgeattn explain RULE`` print.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeattn import registry
from edgeattn.cli import rules
from edgeattn.report.summary import escape, render_table
from edgeattn.rewrite import ORDER, _benefits

HEAD = """# Rewrite rules

Written by `make rules` from the rules themselves; `edgeattn explain RULE` prints the same. They are applied in this
order, each to standard operators only, and each result is held against the numbers of the graph as it was. The figures
are a rule's workload before / after it in FP32, measured in the same rounds, with a 95 % interval; whole models are in
[zoo.md](zoo.md), what rewriting breaks in [regressions.md](regressions.md).

"""


def page() -> str:
    """The whole page."""
    known = _benefits.known()
    facts = [rules.facts_of(name, registry.get("rewrite", name), known.get(name)) for name in ORDER]
    engines = sorted({engine for fact in facts for engine in fact["benefit"]})
    rows = [
        (
            f"[{fact['rule']}](#{fact['rule']})",
            *(escape(str(fact[key])) for key in ("about", "exactness", "applied")),
            *(str(known[fact["rule"]].engines[e]) if e in fact["benefit"] else "not measured" for e in engines),
        )
        for fact in facts
    ]
    table = render_table(("rule", "what", "exactness", "applied", *engines), rows)
    return HEAD + table + "\n\n" + "\n\n".join(_section(name) for name in ORDER) + "\n"


def _section(name: str) -> str:
    return f"## {name}\n\n```\n{rules.card_of(name)}\n```"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file")
    parser.parse_args().out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
