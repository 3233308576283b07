"""Recipes: what is accepted, and the one line said about everything else."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path

import pytest

from edgeattn import recipe as recipes
from edgeattn.errors import RecipeError, UnknownName, UsageError
from edgeattn.program import TensorSpec
from edgeattn.recipe import Recipe

GOOD = """\
model: cbam_digits
target: openvino:cpu
precision: int8
quantize: {scheme: int8-static, gate: float, samples: 300, keep: []}
export: {opset: 18, shapes: {x: 1x3x224x224}, dynamic: ["x:0=batch"]}
latency: {pairs: 300, threads: 0}
gates: {task_drop: 5e-3, speedup: 2}
"""


def write(tmp_path: Path, data: str | bytes) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_recipe_becomes_frozen_values_with_defaults(tmp_path: Path) -> None:
    r = Recipe.load(write(tmp_path, GOOD))
    assert (r.model, r.weights, r.task, r.seed) == ("cbam_digits", "default", None, 0)
    assert r.export.shapes == {"x": "1x3x224x224"}
    assert recipes.parse_spec("x", r.export.shapes["x"]) == TensorSpec("x", "float32", (1, 3, 224, 224))
    assert recipes.parse_spec("tokens", "1x16:int64") == TensorSpec("tokens", "int64", (1, 16))
    assert recipes.parse_dynamic(r.export.dynamic[0]) == ("x", 0, "batch")
    assert r.gates.task_drop == 0.005  # 5e-3 is a number, as in YAML 1.2
    assert r.gates.speedup == 2.0
    assert r.gates.parity is True
    with pytest.raises(Exception, match="frozen"):
        r.seed = 3  # type: ignore[misc]


def test_dump_reads_back_to_an_equal_recipe() -> None:
    r = Recipe.parse(GOOD)
    assert Recipe.parse(r.dump()) == r
    odd = r.with_overrides(["model='1e-3'", "weights='null'", "task='true'", "rewrite.skip=[a, a]"])
    assert odd.model == "1e-3"
    assert Recipe.parse(odd.dump()) == odd


BAD = {
    "empty": ("", 1, "expected keys and values, got nothing", "model"),
    "only a comment": ("# hello\n", 1, "expected keys and values, got nothing", "model"),
    "a list": ("- a\n- b\n", 1, "expected keys and values, got a list", "model"),
    "a word": ("hello", 1, "expected keys and values, got 'hello'", "model"),
    "tabs": ("model: m\nlatency:\n\tpairs: 3\n", 3, "is not YAML", "spaces, not tabs"),
    "bom": (b"\xef\xbb\xbf" + GOOD.encode(), 1, "byte-order mark", "without BOM"),
    "not utf-8": (b"model: m\ntarget: caf\xe9\n", 2, "is not UTF-8 (byte 0xe9)", "UTF-8"),
    "utf-16": (GOOD.encode("utf-16-le"), 1, "U+0000", "remove it"),
    "control character": ("model: m\ntarget: a\x07b\n", 2, "U+0007", "remove it"),
    "unclosed": ("model: {a: [1, 2\n", 2, "is not YAML", "check indentation"),
    "two colons": ("model: a: b\n", 1, "is not YAML", "check indentation"),
    "duplicate key": ("model: a\ntarget: onnxruntime\nmodel: b\n", 3, "'model' stands twice (first in line 1)", ""),
    "duplicate in a section": (GOOD + "rewrite: {skip: [],\n skip: [a]}\n", 9, "'skip' stands twice", "remove one"),
    "python tag": ("model: m\ntarget: !!python/object/apply:os.system ['true']\n", 2, "uses the tag", "plain data"),
    "any tag": ("model: !!str m\n", 1, "uses the tag", "plain data"),
    "alias": ("model: &a m\ntarget: *a\n", 1, "anchor or alias", "write the value out"),
    "merge key": ("model: m\n<<: {target: t}\n", 2, "unknown key '<<'", "known:"),
    "second document": (GOOD + "---\nmodel: x\n", 8, "second document", "one recipe a file"),
    "key is a list": ("model: m\n? [a]\n: b\n", 2, "not a plain word", "key: value"),
    "no model": ("target: onnxruntime\n", 1, "lacks the key 'model'", "add 'model: …'"),
    "unknown key": (GOOD + "modle: x\n", 8, "unknown key 'modle'", "did you mean 'model'?"),
    "unknown key in a section": (GOOD + "rewrite:\n  skpi: []\n", 9, "unknown key 'rewrite.skpi'", "'skip'"),
    "key of another level": (GOOD + "pairs: 3\n", 8, "unknown key 'pairs'", ""),
    "text for a number": (GOOD.replace("pairs: 300", "pairs: many"), 6, "a whole number, got 'many'", "pairs"),
    "quoted number": (GOOD.replace("pairs: 300", "pairs: '300'"), 6, "a whole number, got '300'", "pairs"),
    "fraction for a count": (GOOD.replace("pairs: 300", "pairs: 2.5"), 6, "must be a whole number, got 2.5", ""),
    "yes for a bool": (GOOD.replace("speedup: 2", "parity: yes"), 7, "must be true or false, got 'yes'", ""),
    "nan": (GOOD.replace("5e-3", ".nan"), 7, "'gates.task_drop' must be a finite number, got nan", ""),
    "inf": (GOOD.replace("speedup: 2", "speedup: .inf"), 7, "must be a finite number, got inf", ""),
    "negative": (GOOD.replace("5e-3", "-0.1"), 7, "must be greater than or equal to 0, got -0.1", ""),
    "zero pairs": (GOOD.replace("pairs: 300", "pairs: 0"), 6, "must be greater than or equal to 20, got 0", ""),
    "huge int": (GOOD + "seed: " + "9" * 30 + "\n", 8, "must be less than", ""),
    "opset too old": (GOOD.replace("opset: 18", "opset: 6"), 5, "must be greater than or equal to 17, got 6", ""),
    "precision misspelt": (GOOD.replace("int8\nq", "int-8\nq"), 3, "got 'int-8'", "did you mean 'int8'"),
    "section is a list": (GOOD.replace("{pairs: 300, threads: 0}", "[1]"), 6, "be keys and values, got a list", ""),
    "section is a word": (GOOD + "rewrite: all\n", 8, "must be keys and values, got 'all'", ""),
    "bad shape": (GOOD.replace("1x3x224x224", "1x-3"), 5, "expected positive integers joined by 'x'", ""),
    "unknown type": (GOOD.replace("1x3x224x224", "1x3:int46"), 5, "unknown type 'int46' (did you mean 'int64'", ""),
    "shapes and inputs": (GOOD.replace("opset: 18", "inputs: x.npz"), 5, "'shapes' and 'inputs' exclude", "correct"),
    "bad dynamic": (GOOD.replace("x:0=batch", "x=batch"), 5, "expected INPUT:AXIS=NAME", ""),
    "skip and only": (GOOD + "rewrite: {skip: [a], only: [b]}\n", 8, "exclude each other", ""),
    "int8 without quantize": ("model: m\ntarget: t\nprecision: int8\n", 3, "needs a 'quantize' section", "add"),
    "empty name": ("model: ''\ntarget: t\n", 1, "must be a name, got ''", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_gets_its_line_what_is_wrong_and_what_to_do(name: str, tmp_path: Path) -> None:
    data, line, what, hint = BAD[name]
    path = write(tmp_path, data)
    with pytest.raises(RecipeError) as e:
        Recipe.load(path)
    assert e.value.where == f"{path}:{line}"
    assert what in e.value.what
    assert hint in e.value.hint
    assert e.value.hint
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "{a: " * 15_000,
        "- " * 30_000,
        "a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a,*a,*a,*a,*a,*a,*a]\n" for i in range(40)),
        "x: " + "9" * 60_000,
        "? " * 30_000,
    ],
    ids=["brackets", "braces", "dashes", "alias bomb", "digits", "question marks"],
)
def test_hostile_yaml_is_refused_within_a_second(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(RecipeError):
        Recipe.parse(text, "r.yaml")
    assert time.monotonic() - start < 1


def test_a_recipe_beyond_64_kib_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than the limit of 65536"):
        Recipe.load(write(tmp_path, GOOD + "#" * 70_000))


def test_control_characters_of_a_recipe_are_printed_escaped() -> None:
    with pytest.raises(RecipeError) as e:
        Recipe.parse(GOOD + '"\\e[31mred\\u202e": 1\n', "r.yaml")
    assert "\x1b" not in str(e.value)
    assert "\u202e" not in str(e.value)
    assert "\\x1b[31mred\\u202e" in str(e.value)


def test_paths_that_are_not_files_are_usage_errors_and_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    expected = {
        tmp_path: "is a directory",
        tmp_path / "missing": "no such file",
        tmp_path / "fifo": "is a FIFO",
        tmp_path / "sock": "is a socket",
        Path("/dev/zero"): "is a character device",
        tmp_path / ("n" * 300): "cannot be read: File name too long",
        Path("a\0b"): "is not a usable path",
    }
    for path, what in expected.items():
        with pytest.raises(UsageError) as e:
            Recipe.load(path)
        assert what in e.value.what
        assert e.value.exit_code == 2
    listener.close()


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    r = Recipe.parse(GOOD)
    new = r.with_overrides(["latency.pairs=50", "gates.task_drop=null", "weights=none", "export.shapes.y=2x8"])
    assert (new.latency.pairs, new.gates.task_drop, new.weights) == (50, None, "none")
    assert new.export.shapes == {"x": "1x3x224x224", "y": "2x8"}
    assert r == Recipe.parse(GOOD)


def test_an_override_can_switch_int8_off_and_on() -> None:
    fp32 = Recipe.parse(GOOD).with_overrides(["precision=fp32", "quantize=null"])
    assert fp32.quantize is None
    assert fp32.with_overrides(["precision=int8", "quantize.scheme=int8-dynamic"]).quantize == recipes.Quantize(
        scheme="int8-dynamic"
    )


@pytest.mark.parametrize(
    ("setting", "what", "hint"),
    [
        ("latency.piars=3", "unknown key 'latency.piars'", "did you mean 'pairs'?"),
        ("latncy.pairs=3", "unknown key 'latncy.pairs'", "did you mean 'latency'?"),
        ("model.x=3", "unknown key 'model.x'", "none is known"),
        ("latency.pairs", "expected KEY=VALUE", "--set latency.pairs=50"),
        ("=3", "expected KEY=VALUE", "--set latency.pairs=50"),
        ("latency.pairs=x", "must be a whole number, got 'x'", "correct"),
        ("latency.pairs=", "must be a whole number, got nothing", "correct"),
        ("gates.speedup=.nan", "must be a finite number", "correct"),
        ("latency.pairs=!!python/name:os.system", "uses the tag", "plain data"),
    ],
)
def test_a_bad_override_is_named_with_a_suggestion(setting: str, what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as e:
        Recipe.parse(GOOD, "r.yaml").with_overrides([setting])
    assert what in e.value.what
    assert hint in e.value.hint
    assert e.value.where


def test_a_bare_name_is_looked_up_beside_and_misses_get_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "export_configs").mkdir()
    (tmp_path / "export_configs" / "cbam_digits.openvino.int8.yaml").write_text(GOOD)
    assert recipes.find("cbam_digits.openvino.int8") == Path("export_configs/cbam_digits.openvino.int8.yaml")
    assert recipes.find("some/where.yaml") == Path("some/where.yaml")
    with pytest.raises(UnknownName, match=r"unknown recipe 'cbam_digit\.openvino'.*cbam_digits\.openvino\.int8"):
        recipes.find("cbam_digit.openvino")


def test_names_are_checked_against_the_registries_with_their_line() -> None:
    with pytest.raises(UnknownName) as e:
        Recipe.parse("model: m\ntarget: opnvino\n", "r.yaml").check_names()
    assert e.value.where == "r.yaml:2"
    assert "unknown target 'opnvino'" in e.value.what


def test_equal_recipes_are_equal_wherever_they_were_read() -> None:
    assert Recipe.parse(GOOD, "a.yaml") == Recipe.parse("\n\n" + GOOD, "b.yaml")
    assert not math.isnan(Recipe.parse(GOOD).gates.task_drop or 0)


def test_any_value_at_any_key_is_accepted_or_refused_in_one_line() -> None:
    # One of each shape YAML can give; whatever pydantic says about it must come out as ours.
    values = ["5", "-1", "2.5", ".inf", "true", "null", "''", "a", "[]", "[1]", "[[a]]", "{}", "{a: b}", "{a: [1]}"]
    values += ["1x2", "{x: 1x2}", "{x: 0x2}", "{x: 5}", "{x: null}", "['x:0=b']", "[null]", "9" * 400, "1e400", "~"]
    keys = [*Recipe.model_fields, "export.shapes.x", "export.dynamic", "quantize.scheme", "quantize.keep"]
    keys += ["rewrite.skip", "latency.pairs", "gates.parity", "gates.speedup", "quantize.samples"]
    accepted = 0
    for key in keys:
        for value in values:
            try:
                changed = Recipe.parse(GOOD, "r.yaml").with_overrides([f"{key}={value}"])
            except RecipeError as e:
                line = str(e)
                assert line.startswith(("--set ", "r.yaml:")), line
                assert "\n" not in line
                assert e.hint, line  # noqa: PT017
            else:
                accepted += 1
                assert Recipe.parse(changed.dump()) == changed
    assert 20 < accepted < len(keys) * len(values) // 2


def test_a_scheme_that_gives_another_precision_is_refused_with_the_one_it_gives() -> None:
    recipe = Recipe.parse("model: m\ntarget: openvino\nprecision: bf16\nquantize: {scheme: int8-static}\n", "r.yaml")
    with pytest.raises(RecipeError) as e:
        recipe.check_names()
    assert (e.value.where, e.value.what) == (
        "r.yaml:4",
        "scheme 'int8-static' is for precision int8, and precision is bf16",
    )
    assert e.value.hint.startswith("set precision: int8")


def test_a_budget_for_a_scheme_that_does_not_search_is_refused_at_its_line() -> None:
    text = "model: m\ntarget: openvino\nprecision: int8\nquantize:\n  scheme: {}\n  sqnr: 30\n"
    Recipe.parse(text.format("mixed")).check_names()
    with pytest.raises(RecipeError) as e:
        Recipe.parse(text.format("int8-static"), "r.yaml").check_names()
    assert (e.value.where, e.value.hint) == ("r.yaml:6", "leave it out, or take scheme mixed")
