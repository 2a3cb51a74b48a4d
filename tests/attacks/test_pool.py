from __future__ import annotations

import torch

from fairbench.attacks.pool import Pool


def test_the_first_broken_iterate_is_kept_and_rows_leave() -> None:
    x = torch.zeros(4, 1)
    pool = Pool(x)
    pool.look(x + 1, torch.tensor([False, True, False, False]))
    pool.look(x + 2, torch.tensor([False, True, True, False]))
    (number,) = pool.release((torch.arange(4),))
    assert number.tolist() == [0, 3]
    assert len(pool) == 2
    pool.look(torch.full((2, 1), 3.0), torch.tensor([False, True]))
    result, broken = pool.finish(torch.full((2, 1), 9.0))
    assert result.flatten().tolist() == [9.0, 1.0, 2.0, 3.0]
    assert broken.tolist() == [False, True, True, True]
    assert torch.equal(x, torch.zeros(4, 1))


def test_nothing_broken_leaves_rows_alone() -> None:
    pool, row = Pool(torch.zeros(2, 3)), torch.ones(2)
    assert pool.release((row,))[0] is row
