import torch
from torch import nn

from bat_core.workers import Workers


def test_shares_interleave_to_the_whole():
    whole = torch.arange(12)
    shares = [Workers(rank, 3).share(whole) for rank in range(3)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(), whole)
    assert Workers(1, 2).share([5, 6, 7, 8]) == [6, 8]


def test_one_worker_shares_with_nobody():
    alone, model, counts = Workers.current(), nn.BatchNorm1d(2), torch.tensor([1.0, 2.0])
    assert alone == Workers(0, 1)
    assert alone.wrap(model) is model
    assert torch.equal(alone.sum(counts), torch.tensor([1.0, 2.0]))
    alone.average_buffers(model)
    assert torch.equal(model.running_var, torch.ones(2))
