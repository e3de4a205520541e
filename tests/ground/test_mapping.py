"""Items computed at once share the cores, and leave them as they were."""

from __future__ import annotations

from contextlib import closing

import faiss
import pytest
import torch

from blcf_utils.ground.cores import threads_of_one
from blcf_utils.ground.mapping import core_pool, mapped, threads_each


def threads_of(_shared, item: int) -> tuple[int, int, int]:
    return item, torch.get_num_threads(), faiss.omp_get_max_threads()


@pytest.fixture
def several_threads():
    with threads_each(2):
        yield


@pytest.mark.usefixtures("several_threads")
def test_items_computed_at_once_have_few_threads_each_until_the_end():
    with closing(mapped(threads_of, None, range(9), threads=2)) as found:
        few = threads_of_one()
        assert next(found) == (0, (0, few, few))
        assert torch.get_num_threads() == few
    assert torch.get_num_threads() == 2
    with pytest.raises(StopIteration):
        next(found)


@pytest.mark.usefixtures("several_threads")
def test_what_fails_in_a_pool_is_raised_and_gives_the_cores_back():
    with core_pool(2) as pool:
        assert [pool.submit(threads_of, None, k).result()[0] for k in range(3)] == [0, 1, 2]
        wrong = pool.submit(divmod, 1, 0)
        with pytest.raises(ZeroDivisionError):
            wrong.result()
    assert torch.get_num_threads() == 2
