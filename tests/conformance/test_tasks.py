"""What every task must be, whichever it is."""

import json
import subprocess
import sys

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.tasks import Task

TASKS = registry.names("tasks")


@pytest.mark.parametrize("name", TASKS)
def test_is_registered_under_its_file_name_and_says_what_it_is(name):
    task = registry.get("tasks", name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.about
    assert task.metric.name


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_batches_are_arrays_with_the_batch_first_and_repeat_exactly(name, part):
    stream = getattr(registry.get("tasks", name), part)
    first, second = (list(stream(5, 2)) for _ in range(2))
    assert [len(batch.targets) for batch in first] == [2, 2, 1]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.targets, other.targets)
        for key, value in one.feeds.items():
            assert isinstance(value, np.ndarray)
            assert len(value) == len(one.targets)
            assert np.array_equal(value, other.feeds[key])


@pytest.mark.parametrize("name", TASKS)
def test_train_and_test_are_different_data(name):
    task = registry.get("tasks", name)
    one, other = next(task.train(4, 4)).feeds, next(task.test(4, 4)).feeds
    assert any(
        a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("name", TASKS)
def test_assets_are_files_an_app_can_read(name):
    for file, content in registry.get("tasks", name).assets().items():
        assert isinstance(content, bytes)
        if file.endswith(".json"):
            json.loads(content)


@pytest.mark.parametrize("name", TASKS)
def test_needs_no_torch(name):
    code = f"import sys; from edgeattn import registry; t = registry.get('tasks', '{name}'); next(t.test(1, 1)); "
    check = code + "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
