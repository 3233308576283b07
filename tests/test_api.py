from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgeattn


@pytest.mark.parametrize("name", edgeattn.__all__)
@pytest.mark.torch
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    assert getattr(edgeattn, name).__doc__
    assert name in dir(edgeattn)


def test_the_lazy_table_and_the_list_agree() -> None:
    assert sorted(edgeattn._HOME) == sorted(edgeattn.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeattn' has no attribute 'lod'"):
        edgeattn.lod  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    project = (Path(edgeattn.__file__).parent.parent / "pyproject.toml").read_text()
    assert f'version = "{edgeattn.__version__}"' in project


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(edgeattn.__file__).read_text())
    (typing_only,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name for n in typing_only.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == set(edgeattn.__all__)
