"""What ``edgeattn list models`` says of every configuration is what its modules have."""

import pytest

from edgeattn import models
from edgeattn.models import _facts

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", models.configurations())
def test_the_stored_facts_are_those_of_the_modules(name):
    assert _facts.known().get(name) == _facts.measure(name), (
        f"models/facts.json is not up to date for {name}: make facts"
    )


def test_no_facts_are_kept_of_what_is_gone():
    assert set(_facts.known()) == set(models.configurations())
