"""A user's task in a file of theirs: found, run, and its mistakes told at its own lines."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgeattn import tasks
from edgeattn.arrays import check_feeds
from edgeattn.errors import BadInput, UnknownName, UsageError
from edgeattn.harness.task import scores
from edgeattn.program import TensorSpec

GOOD = """
import numpy as np
from edgeattn.tasks import ACCURACY, Batch, Task

def load(samples, size):
    for start in range(0, samples or 6, size):
        yield Batch({"x": np.ones((size, 2), np.float32)}, np.zeros(size, np.int64))

def score(outputs, targets):
    return (outputs["y"].argmax(1) == targets).astype(float)

TASK = Task("mine", ACCURACY, load, load, score, dict)
"""


def written(tmp_path: Path, text: str = GOOD) -> str:
    (tmp_path / "mine.py").write_text(text)
    return str(tmp_path / "mine.py")


def line(text: str, code: str) -> int:
    return next(i for i, found in enumerate(text.splitlines(), 1) if code in found)


def run(task: tasks.Task) -> float:
    outputs = {"y": np.array([[1.0, 0.0]] * 2)}
    return float(scores(lambda _: outputs, task, 4, 2).scores.mean())


def test_a_registered_task_is_found_by_name() -> None:
    assert tasks.find("digits").name == "digits"
    with pytest.raises(UnknownName, match="unknown task 'digit'; did you mean 'digits'"):
        tasks.find("digit")


def test_a_file_brings_its_task_or_another_by_name(tmp_path: Path) -> None:
    assert run(tasks.find(written(tmp_path))) == 1.0
    named = written(tmp_path, GOOD.replace("TASK =", "OTHER ="))
    assert tasks.find(f"{named}:OTHER").name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("TASK =", "TASKS =", UsageError, "mine.py: has no task 'TASK'; did you mean 'TASKS'?"),
        ("TASK = Task", "TASK = print; Task", BadInput, "mine.py: 'TASK' is builtin_function_or_method, not a Task;"),
        ("def load(", "def load(:", BadInput, "mine.py:5: syntax error"),
        ("import numpy", "import nunpy", UsageError, "mine.py: cannot be imported: No module named 'nunpy'"),
        ("TASK = Task(", "TASK = Task(1, ", BadInput, "mine.py: its metric is str; give a Metric, such as"),
        ("load, load, score", "load, score", BadInput, "mine.py:12: raised TypeError: Task.__init__() missing 1"),
    ],
)
def test_a_file_without_a_task_is_told(tmp_path: Path, old: str, new: str, error: type, said: str) -> None:
    with pytest.raises(error, match=re.escape(f"{tmp_path}/{said}")):
        tasks.find(written(tmp_path, GOOD.replace(old, new, 1)))


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/no.py: no such file; give path/to/file.py:task")):
        tasks.find(f"{tmp_path}/no.py")


RUNNING = {
    "a loader that raises": (
        "for start in",
        "open('/absent/images.npy')\n    for start in",
        "mine.py:6 in load: raised FileNotFoundError: [Errno 2] No such file or directory: '/absent/images.npy'",
    ),
    "a loader that gives something else": (
        "yield Batch({",
        "yield ({",
        "mine.py: test(): gives tuple, not a Batch; yield Batch(feeds={input: array}, targets=array)",
    ),
    "feeds that are no arrays": (
        "np.ones((size, 2), np.float32)}",
        "[[1, 2]] * size}",
        "mine.py: test(): feeds 'x' with list; feed numpy arrays",
    ),
    "fewer targets than samples": (
        "np.zeros(size, np",
        "np.zeros(size - 1, np",
        "mine.py: test(): gives 2 samples of 'x' and 1 targets; axis 0 counts the samples in both",
    ),
    "a score that raises": (
        'outputs["y"].argmax(1)',
        'outputs["y"].argmax(7)',
        "mine.py:10 in score: raised AxisError: axis 7 is out of bounds for array of dimension 2",
    ),
}


@pytest.mark.parametrize("fault", RUNNING)
def test_a_users_mistake_is_told_at_their_line(fault: str, tmp_path: Path) -> None:
    old, new, said = RUNNING[fault]
    with pytest.raises(BadInput, match=re.escape(f"{tmp_path}/{said}")):
        run(tasks.find(written(tmp_path, GOOD.replace(old, new, 1))))


def test_a_score_of_the_wrong_shape_is_told(tmp_path: Path) -> None:
    text = GOOD.replace(".astype(float)", ".mean()")
    with pytest.raises(BadInput, match=re.escape("task mine: scores have shape () for 2 samples")):
        run(tasks.find(written(tmp_path, text)))


def test_a_score_of_an_output_that_is_not_there_is_told(tmp_path: Path) -> None:
    for task in (
        tasks.find("digits"),
        tasks.find(written(tmp_path, GOOD.replace('outputs["y"]', 'outputs["logits"]'))),
    ):
        with pytest.raises(
            BadInput,
            match=r"(task digits|mine\.py:10 in score): scores the output 'logits', .* does not have; it has y",
        ):
            run(task)


def test_feeds_that_do_not_name_the_models_inputs_are_told(tmp_path: Path) -> None:
    batch = next(tasks.find(written(tmp_path)).test(2, 2))
    with pytest.raises(BadInput, match=r"task mine\.py: has an array 'x' that is no input; known: image"):
        check_feeds(batch.feeds, [TensorSpec("image", "float32", ("batch", 2))], "task mine.py")
    with pytest.raises(BadInput, match=re.escape("'x' has shape [2, 2]; expected x: float32[batch, 3]")):
        check_feeds(batch.feeds, [TensorSpec("x", "float32", ("batch", 3))], "task mine.py")
