"""Plots of the HTML page as inline SVG: latency samples and attention maps.

Colours are placeholders that the page's CSS fills in, so one drawing serves light and dark. Heat maps use viridis and
PuOr, which read the same with every kind of colour vision. matplotlib is imported on the first drawing.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.errors import MissingPackage, printable

if TYPE_CHECKING:
    from edgeattn.program import Array
    from edgeattn.report.evidence import AttentionFigure, RawSamples

INK, GRID, REFERENCE, ENGINE, CONTROL = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", GRID: "--line", REFERENCE: "--reference", ENGINE: "--engine", CONTROL: "--control"}
MAX_TOKENS = 48
"""Longer sequences are drawn without a label per token: labels below 4 pt help nobody."""

IDS = "panel-ids"
"""Prefix of the ids in a drawing; the page gives each drawing its own."""
MAX_MARKERS = 600
"""Rounds drawn; of longer runs every n-th, so that the page stays small."""


@dataclass(frozen=True)
class Panel:
    """One drawing: caption, what it shows in words, and the ``<svg>``."""

    caption: str
    alt: str
    svg: str


def latency(raw: RawSamples, unit: str, baseline: str = "PyTorch") -> list[Panel]:
    """How the samples are distributed, and the ratio of every round in the order they were taken."""
    if not len(raw.reference_ms):
        return []
    return [_distributions(raw, unit, baseline), _rounds(raw, baseline)]


def attention(figure: AttentionFigure) -> list[Panel]:
    """PyTorch, the engine, and their difference, drawn on one scale."""
    reference, engine = np.asarray(figure.reference, float), np.asarray(figure.engine, float)
    difference = engine - reference
    worst = float(np.nanmax(np.abs(difference))) if np.isfinite(difference).any() else float("nan")
    finite = np.concatenate([reference[np.isfinite(reference)], engine[np.isfinite(engine)], [0.0]])
    top = float(finite.max()) or 1.0
    draw: Callable[..., str] = _mask if figure.kind == "spatial" else _matrix
    what = "mask over the input" if figure.kind == "spatial" else "weights, target by source"
    panels = [
        Panel(
            "PyTorch", f"{figure.title}: PyTorch's {what}", draw(figure, reference, "viridis", float(finite.min()), top)
        ),
        Panel(
            "engine", f"{figure.title}: the engine's {what}", draw(figure, engine, "viridis", float(finite.min()), top)
        ),
        Panel(
            f"difference, at most {worst:.2g}",
            f"{figure.title}: engine minus PyTorch, largest magnitude {worst:.2g} of a scale to {top:.2g}",
            draw(figure, difference, "PuOr", -(worst or 1.0), worst or 1.0, plain=True),
        ),
    ]
    if figure.kind == "spatial":
        panels.insert(0, Panel("input", f"{figure.title}: the input image", _picture(figure)))
    return panels


def _distributions(raw: RawSamples, unit: str, baseline: str) -> Panel:
    columns = {baseline: raw.reference_ms, "engine": raw.engine_ms, "engine again (A/A)": raw.control_ms}
    everything = np.concatenate(list(columns.values()))
    low, high = np.quantile(everything, [0.001, 0.995])
    wide = high > 3 * low
    # A margin on either side, so that the outermost bars are whole.
    bins = np.geomspace(low / 1.1, high * 1.1, 90) if wide else np.linspace(low - 0.02 * high, high * 1.02, 90)

    def draw(axes: Any) -> None:
        styles = {baseline: (REFERENCE, True, "-"), "engine": (ENGINE, True, "-")}
        for name, samples in columns.items():
            colour, filled, dash = styles.get(name, (CONTROL, False, (0, (3, 2))))
            counts, _ = np.histogram(samples, bins)
            axes.stairs(counts, bins, color=colour, fill=filled, alpha=0.35 if filled else 1.0, linewidth=0)
            axes.stairs(counts, bins, color=colour, linestyle=dash, linewidth=1.2, label=name)
            if filled:
                axes.axvline(np.median(samples), color=colour, linewidth=1.2)
        if wide:
            axes.set_xscale("log")
            _plain_log_ticks(axes)
        axes.set_xlabel(f"milliseconds per {printable(unit, 40)}" + (", logarithmic" if wide else ""))
        axes.set_ylabel("rounds")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, frameon=False, handlelength=1.4)

    medians = ", ".join(f"{name} {np.median(samples):.3g} ms" for name, samples in columns.items())
    hidden = int(np.count_nonzero((everything < bins[0]) | (everything > bins[-1])))
    caption = "How long one call takes; lines mark medians" + (f" ({hidden} outliers lie outside)" if hidden else "")
    return Panel(caption, f"Histogram of latencies. Medians: {medians}.", _svg(draw, (5.4, 2.9)))


def _rounds(raw: RawSamples, baseline: str) -> Panel:
    speedup, control = raw.reference_ms / raw.engine_ms, raw.engine_ms / raw.control_ms
    every = -(-len(speedup) // MAX_MARKERS)

    def draw(axes: Any) -> None:
        n = np.arange(1, len(speedup) + 1)
        for values, colour, marker, name in (
            (speedup, ENGINE, "o", f"{baseline} ÷ engine"),
            (control, CONTROL, "x", "A/A"),
        ):
            axes.plot(
                n[::every],
                values[::every],
                marker,
                color=colour,
                markersize=2.6,
                alpha=0.6,
                label=name,
                markeredgewidth=0.8,
            )
            axes.axhline(np.median(values), color=colour, linewidth=1.2)
        axes.set_yscale("log")
        low, high = np.quantile(np.concatenate([speedup, control]), [0.005, 0.995])
        axes.set_ylim(low / 1.15, high * 1.15)
        _plain_log_ticks(axes, "y")
        axes.set_xlabel("round, in the order they were taken")
        axes.set_ylabel("ratio, logarithmic")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, frameon=False)

    alt = f"Ratio of every round. Medians: speedup {np.median(speedup):.3g}, A/A control {np.median(control):.4g}."
    which = "Every round" if every == 1 else f"Every {every}th round"
    return Panel(
        f"{which}: drift shows as a slope, a busy spell as scatter; lines mark medians", alt, _svg(draw, (5.4, 2.9))
    )


def _picture(figure: AttentionFigure) -> str:
    image = _unit(np.asarray(figure.image, float))

    def draw(axes: Any) -> None:
        axes.imshow(image, cmap="gray", interpolation="nearest")
        axes.set_anchor("N")
        axes.set_axis_off()

    return _svg(draw, (1.9, 2.2))


def _mask(figure: AttentionFigure, values: Array, cmap: str, low: float, high: float, plain: bool = False) -> str:
    image = _unit(np.asarray(figure.image, float))
    height, width = image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)

    def draw(axes: Any) -> None:
        shown = axes.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        if not plain:
            # Colour says how much attention, brightness what was looked at: the input dims the mask, ink lights it up.
            rows = np.arange(height) * values.shape[0] // height
            columns = np.arange(width) * values.shape[1] // width
            colours = shown.to_rgba(values)[rows][:, columns, :3]
            ink = image[..., None]
            lit = np.clip(colours * (0.62 + 0.1 * ink) + 0.34 * ink, 0.0, 1.0)
            axes.imshow(lit, extent=extent, interpolation="nearest")
        _colour_bar(axes, shown)
        axes.set_axis_off()

    return _svg(draw, (1.9, 2.2))


def _matrix(figure: AttentionFigure, values: Array, cmap: str, low: float, high: float, plain: bool = False) -> str:
    targets, sources = values.shape

    def draw(axes: Any) -> None:
        shown = axes.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        _tokens(axes.xaxis, figure.source)
        _tokens(axes.yaxis, figure.target)
        axes.xaxis.set_ticks_position("top")
        axes.set_ylabel("target")
        axes.set_xlabel("source")
        axes.xaxis.set_label_position("top")
        _colour_bar(axes, shown)

    wide = float(np.clip(0.9 + 0.12 * min(sources, MAX_TOKENS), 2.6, 5.0))
    tall = float(np.clip(1.3 + 0.13 * min(targets, MAX_TOKENS), 2.4, 5.0))
    return _svg(draw, (wide, tall))


def _tokens(axis: Any, tokens: tuple[str, ...]) -> None:
    if len(tokens) > MAX_TOKENS:
        return
    shown = [("␣" if t == " " else printable(t, 12)) for t in tokens]
    longest = max(map(len, shown), default=0)
    vertical = axis.axis_name == "x" and longest > 1
    axis.set_ticks(range(len(tokens)), shown, fontsize=6.5, rotation=90 if vertical else 0)
    axis.set_tick_params(length=0)


def _colour_bar(axes: Any, shown: Any) -> None:
    bar = axes.figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.06, pad=0.05, aspect=24)
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1.0)
    bar.ax.tick_params(length=0, labelsize=6.5, colors=INK)
    bar.locator = _matplotlib().ticker.MaxNLocator(3)
    bar.update_ticks()


def _plain_log_ticks(axes: Any, which: str = "x") -> None:
    """1, 2, 5, 10 … instead of powers: latencies rarely span a decade."""
    ticker = _matplotlib().ticker
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _unit(image: Array) -> Array:
    """An image scaled to [0, 1]; what is not finite becomes 0."""
    image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    span = float(image.max() - image.min())
    return (image - image.min()) / span if span else np.zeros_like(image)


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.ticker
        from matplotlib.backends import backend_svg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("matplotlib", "report", why=str(error) if "matplotlib" not in str(error) else "") from None
    del backend_svg, Figure
    return matplotlib


def require() -> None:
    """Raise MissingPackage unless matplotlib is here."""
    _matplotlib()


def _svg(draw: Callable[[Any], None], inches: tuple[float, float]) -> str:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "edgeattn",
        "text.parse_math": False,  # tokens may hold dollar signs
        "font.family": "sans-serif",
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.edgecolor": GRID,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    out = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's own font lacks; the browser has them
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue().decode())


def _inline(svg: str) -> str:
    """An SVG file as an element of a page: no prolog, no metadata, no ids that could clash, CSS colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)
    svg = re.sub(r'(id="|href="#|url\(#)(?=[a-z]?[0-9a-f]{8,})', rf"\g<1>{IDS}-", svg)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*" ', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)width="([\d.]+)pt"', r'\1style="--natural:\2px" aria-hidden="true"', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]+; ?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
