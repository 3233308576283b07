"""``list`` and ``explain``: what there is, and what it does."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import Debug, Json, Quiet, app
from edgeattn.cli.rules import explain_rule, list_rules
from edgeattn.cli.ui import Ui
from edgeattn.errors import UnknownName

if TYPE_CHECKING:
    from edgeattn.backends import Backend

_KINDS = ("models", "blocks", "rules", "schemes", "targets", "recipes", "tasks")
_FOLDERS = {"blocks": "blocks", "schemes": "quantize", "targets": "backends", "tasks": "tasks"}


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(_KINDS)}.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List what edgeattn knows of a kind."""
    with Ui(as_json, quiet) as ui:
        if kind not in _KINDS:
            raise UnknownName("kind", kind, _KINDS)
        if kind in ("models", "rules"):
            _models(ui) if kind == "models" else list_rules(ui)
            return
        rows = {"recipes": _recipes, "targets": _targets}.get(kind, lambda: _folder(kind))()
        ui.emit([dict(row) for row in rows])
        if rows:
            ui.table(tuple(rows[0]), [tuple(row.values()) for row in rows])


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A block, rule, scheme, target, task or model.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print the card of a block, rule, scheme, target, task or model family: what, why, when safe, source."""
    from edgeattn import registry

    with Ui(as_json, quiet) as ui:
        stem = name.replace("-", "_")
        for folder in registry.KINDS:
            if stem in registry.names(folder) and folder == "rewrite":
                explain_rule(ui, stem, name)
                return
            if stem in registry.names(folder):
                card, facts = registry.card(folder, stem), {"name": name, "kind": folder}
                knobs = registry.get(folder, stem).knobs.listed() if folder == "backends" else ()
                told = {"settings": [asdict(knob) for knob in knobs]} if folder == "backends" else {}
                ui.emit({**facts, "card": card, **told}, card)
                if knobs:
                    rows = [(knob.name, knob.takes, knob.default, knob.help) for knob in knobs]
                    title = "settings: engine: {NAME: VALUE} in a recipe, --engine NAME=VALUE"
                    ui.table(("setting", "takes", "by default", "what it does"), rows, title)
                return
        _explain_configuration(ui, name)


def _explain_configuration(ui: Ui, name: str) -> None:
    """The card of a configuration's family, below the line that tells the configuration."""
    from edgeattn import models, registry

    configurations = models.configurations()
    if name not in configurations:
        known = [n for folder in registry.KINDS for n in registry.names(folder)]
        raise UnknownName("name", name, [*known, *configurations])
    family, config = configurations[name]
    card = registry.card("models", family.name)
    head = f"{name}: {config.about}\nA configuration of '{family.name}'.\n\n"
    ui.emit({"name": name, "kind": "models", "family": family.name, "about": config.about, "card": card}, head + card)


def _models(ui: Ui) -> None:
    from edgeattn import models, registry, weights
    from edgeattn.models import _facts
    from edgeattn.report import wording

    known, data, rows = _facts.known(), [], []
    for name, (family, config) in models.configurations().items():
        facts = known.get(name) or _facts.measure(name)  # a model that was just added is not in the file yet
        trained = dict(weights.metadata(config.weights)) if config.weights else {}
        score, shown = (float(trained["score"]) if trained else None), "untrained"
        if trained and config.task:
            metric = registry.get("tasks", config.task).metric
            shown = f"{config.task}: {wording.metric(metric.name)} {wording.figure(score, metric.unit)}"
        data.append(
            {
                **{"model": name, "family": family.name, "parameters": facts.parameters, "macs": dict(facts.macs)},
                **{"task": config.task, "metric": trained.get("metric"), "score": score, "about": config.about},
            }
        )
        macs = ", ".join(_amount(n) + (f" {graph}" if len(facts.macs) > 1 else "") for graph, n in facts.macs.items())
        rows.append((name, f"{facts.parameters:,}", macs, shown, config.about))
    ui.emit(data)
    ui.table(("model", "parameters", "MACs", "trained to", "about"), rows)
    ui.log(f"MACs: multiply-accumulates at {_facts.SETTING}; `edgeattn explain FAMILY` prints the card of a family")


def _amount(count: int) -> str:
    """``12.2 M``, ``3.86 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _recipes() -> list[dict[str, str]]:
    from edgeattn.recipe import FOLDER, Recipe

    rows = []
    for path in sorted(FOLDER.glob("*.yaml")):
        recipe = Recipe.load(path)
        name = path.name.removesuffix(".yaml")
        rows.append({"recipe": name, "model": recipe.model, "target": recipe.target, "precision": recipe.precision})
    return rows


def _targets() -> list[dict[str, str]]:
    from edgeattn import registry

    rows = []
    for name in registry.names("backends"):
        backend = registry.get("backends", name)
        here = backend.probe()
        state = _state(backend, here.version) if here.available else f"{here.why}; {here.hint}"
        rows.append({"target": name.replace("_", "-"), "devices": ", ".join(backend.devices), "here": state})
    return rows


def _state(backend: Backend, version: str) -> str:
    """An engine's version, and which of its devices are missing, with what brings them; or why it only builds here."""
    from edgeattn.backends import Options

    found = {device: backend.executes(Options(device)) for device in backend.devices}
    missing = {device: answer for device, answer in found.items() if not answer.available}
    if len(missing) == len(found):
        return f"{version}, to build with: {next(iter(missing.values())).why}"
    return "; ".join([version, *(f"{device}: {answer.why} ({answer.hint})" for device, answer in missing.items())])


def _folder(kind: str) -> list[dict[str, str]]:
    from edgeattn import registry

    folder = _FOLDERS[kind]
    names = registry.names(folder)
    shown = [n if kind in ("blocks", "tasks") else n.replace("_", "-") for n in names]
    heads = [registry.card(folder, n).splitlines()[0].removeprefix(f"{n}: ") for n in names]
    heads = [head.removeprefix(f"{name}: ") for head, name in zip(heads, shown, strict=True)]
    return [{kind.removesuffix("s"): name, "about": head} for name, head in zip(shown, heads, strict=True)]
