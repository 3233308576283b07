import numpy as np
import pytest

pytestmark = pytest.mark.torch


def test_a_picture_is_turned_in_all_eight_ways_and_never_otherwise():
    from edgeattn.training._augment import turned

    picture = np.arange(3 * 4 * 4).reshape(3, 4, 4)
    quarters = [np.rot90(picture, k, axes=(1, 2)) for k in range(4)]
    ways = {view.tobytes() for q in quarters for view in (np.ascontiguousarray(q), np.ascontiguousarray(q[:, :, ::-1]))}
    seen = {image.tobytes() for image in turned(np.stack([picture] * 200), np.random.RandomState(0))}
    assert len(ways) == 8
    assert seen == ways
