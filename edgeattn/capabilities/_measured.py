"""Tables that were filled by asking an engine, stored beside this file with what was asked and how to ask again."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def table(name: str) -> dict[str, Any]:
    """``measured/NAME.json``."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "measured" / f"{name}.json").read_text())
    return found
