"""Embed engines in an app: numpy and one engine, no PyTorch.

    python examples/use_bundles.py DIGITS_BUNDLE DATES_BUNDLE

`edgeattn.runtime.load` checks every file of a bundle against its manifest before an engine sees it.
"""

from __future__ import annotations

import json
import sys

import numpy as np

import edgeattn.runtime

SHADES = " .:-=+*#%@"


def read_digit(bundle: str) -> None:
    """Classify the scanned digit that is packed in the bundle for its self-test."""
    with edgeattn.runtime.load(bundle) as model:
        labels = json.loads(model.asset("labels.json"))
        feeds = model.sample()
        logits = model.run(feeds)["logits"][0]
        draw(feeds["image"][0, 0])
        print(f"this is a {labels[int(logits.argmax())]}   [{model.manifest.target}]\n")


def read_date(bundle: str, text: str) -> None:
    """Translate a date as a person writes it into an ISO date; the loop over steps is the runtime's."""
    with edgeattn.runtime.load(bundle) as model:
        words = json.loads(model.asset("vocabulary.json"))
        ids = {character: i for i, character in enumerate(words["source"])}
        src = np.array([[ids.get(c, words["unknown"]) for c in text.lower()]], np.int64)
        tokens = model.run(src=src, src_mask=np.ones(src.shape, bool))["tokens"][0]
        date = "".join(words["target"][t] for t in tokens if t != words["end"])
        print(f"{text!r} is {date}   [{model.manifest.target}]")


def draw(image: np.ndarray) -> None:
    small = image[::2, ::1]  # a character is about twice as high as wide
    levels = (small - small.min()) / (np.ptp(small) or 1) * (len(SHADES) - 1)
    print("\n".join("".join(SHADES[int(v)] for v in row) for row in levels))


if __name__ == "__main__":
    read_digit(sys.argv[1])
    for text in ("3rd of march, 1999", "Tue 04/12/01", "july 4, 1976"):
        read_date(sys.argv[2], text)
    assert "torch" not in sys.modules
