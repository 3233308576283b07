"""``run --targets``, and ``check`` and ``report`` of what that leaves: one recipe for many engines, one table."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from edgeattn.cli.ui import Ui
from edgeattn.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from edgeattn.report.matrix import Matrix, Part

NAME = "matrix.json"


def run(
    recipe: str,
    out: Path | None,
    settings: Sequence[str],
    targets: str | None,
    precisions: str | None,
    allow_refused: bool,
    force: bool,
    timeout: float,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Build every target in every precision, write the table, and exit with the worst of their codes."""
    from edgeattn import matrix, parts, publish
    from edgeattn.recipe import Recipe, find
    from edgeattn.report import matrix as table

    for setting in settings:
        if setting.partition("=")[0].strip() == "target":
            raise UsageError("names the target, as --targets does", where=f"--set {setting}", hint="leave it out")
    with Ui(as_json, quiet, out=out) as ui:
        path = find(recipe)
        wanted = Recipe.load(path).with_overrides(settings)
        listed = parts.targets_in(targets) if targets is not None else [wanted.target]
        levels = parts.precisions_in(precisions) if precisions is not None else [wanted.precision]
        asked = parts.parts_of(wanted, listed, levels)
        name = path.name.removesuffix(".yaml").removesuffix(".yml")
        directory = out or Path("runs") / f"{name}.targets"
        if out is None:
            directory.parent.mkdir(exist_ok=True)
        notes = parts.left_out(wanted, listed, levels)
        done: list[Part] = []
        with publish.new_directory(directory, force, mark=True) as work, publish.scratch() as shelf:
            for number, part in enumerate(asked, 1):
                said = f"[{number}/{len(asked)}] {part.target} {part.precision}"
                ui.listen(said, number - 1, len(asked))
                heard = functools.partial(_heard, ui, said)
                done.append(matrix.build(part, str(path), settings, work, shelf, timeout, heard))
            publish.sweep(work)
            result = table.Matrix(
                recipe=name,
                model=wanted.model,
                allow_refused=allow_refused,
                exit_code=table.exit_code(done, allow_refused),
                parts=tuple(done),
                notes=tuple(notes),
            )
            write(ui, result, work)
            (work / "recipe.yaml").write_text(wanted.dump(), encoding="utf-8")
        ui.emit(result.model_dump(mode="json"))
        show(ui, result)
        ui.log(f"written: {directory}: {', '.join(sorted(p.name for p in directory.iterdir() if p.name[0] != '.'))}")
    raise typer.Exit(result.exit_code)


def _heard(ui: Ui, part: str, line: str) -> None:
    """A part's own progress, a line a stage, and its warnings in full."""
    if line.startswith(_WARNING):
        ui.warn(f"{part}: {line.removeprefix(_WARNING)}")
    else:
        ui.listen(f"{part}: {line.partition(': ')[0]}", 0, None)


_WARNING = "edgeattn: warning: "


def is_one(directory: Path) -> bool:
    """Whether a directory is what ``run --targets`` leaves."""
    return (directory / NAME).is_file() and not (directory / "report.json").exists()


def check(
    directory: Path,
    baseline: Path | None,
    junit: Path | None,
    summary: Path | None,
    force: bool,
    timeout: float,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Judge every part again by its recipe, verify every bundle, and exit with the worst of their codes."""
    from edgeattn import matrix
    from edgeattn.publish import new_file
    from edgeattn.report import matrix as table

    with Ui(as_json, quiet, [directory], timeout=timeout) as ui:
        found = table.Matrix.read(directory / NAME)
        parts = tuple(matrix.judged_again(part, directory, baseline) for part in found.parts)
        code = table.exit_code(parts, found.allow_refused)
        judged = found.model_copy(update={"parts": parts, "exit_code": code})
        for path, text in ((junit, table.junit(judged)), (summary, table.markdown(judged))):
            if path is not None:
                with new_file(path, force) as file:
                    file.write_text(text, encoding="utf-8")
        ui.emit(judged.model_dump(mode="json"))
        show(ui, judged)
    raise typer.Exit(code)


def report(directory: Path, out: Path | None, force: bool, as_json: bool, quiet: bool) -> None:
    """Build the page of the table again, and beside it those of the parts that its lines lead to.

    With ``out`` that one page is written alone; its lines lead from there to the parts' pages.
    """
    from edgeattn.publish import new_file
    from edgeattn.report import matrix as table

    with Ui(as_json, quiet) as ui:
        found = table.Matrix.read(directory / NAME)
        target = out or directory / "matrix.html"
        page = table.html(found, "" if out is None else os.path.relpath(directory.resolve(), out.parent.resolve()))
        renewed = [] if out is not None else _parts_pages(ui, found, directory)
        with new_file(target, force or out is None) as file:
            file.write_text(page, encoding="utf-8")
        ui.emit({"report": str(target), "bytes": len(page.encode()), "parts": [str(p) for p in renewed]}, str(target))


def _parts_pages(ui: Ui, found: Matrix, directory: Path) -> list[Path]:
    """Build the pages of the parts again; a part whose report is not here any more keeps what it has."""
    from edgeattn import report as reports
    from edgeattn.publish import new_file

    renewed = []
    for part in (part for part in found.parts if part.verdict is not None):
        place = directory / part.name
        if not (place / "report.json").is_file():
            ui.warn(f"{place}: holds no report.json, so its page is not built again")
            continue
        page = reports.html(*reports.load(place))
        with new_file(place / "report.html", force=True) as file:
            file.write_text(page, encoding="utf-8")
        renewed.append(place / "report.html")
    return renewed


def write(ui: Ui, result: Matrix, folder: Path) -> None:
    """Every form of the table, into an existing directory."""
    from edgeattn.report import matrix as table

    (folder / NAME).write_text(result.to_json(), encoding="utf-8")
    (folder / "matrix.md").write_text(table.markdown(result), encoding="utf-8")
    (folder / "matrix.xml").write_text(table.junit(result), encoding="utf-8")
    try:
        page = table.html(result)
    except MissingPackage as missing:
        ui.warn(f"no matrix.html: {missing}")
        return
    (folder / "matrix.html").write_text(page, encoding="utf-8")


def show(ui: Ui, result: Matrix) -> None:
    """The table a person reads."""
    from edgeattn.report import matrix as table

    for note in result.notes:
        ui.warn(note)
    ui.table(table.HEADS, table.rows(result.parts), title=result.model)
    if not ui.as_json:
        ui.emit(None, table.sentence(result))


def word_left(shelf: Path | None, out: Path | None) -> contextlib.AbstractContextManager[None]:
    """For a run that is a part of another: its error is told to that one too."""
    if shelf is None or out is None:
        return contextlib.nullcontext()
    from edgeattn.matrix import leaving_word

    return leaving_word(shelf, out)
