import pytest
import torch

from bat_core.rng import BatchRNG, PerExampleRNG, as_rng, named_generator, named_seed


def make(seed=3):
    return torch.Generator().manual_seed(seed)


def test_a_named_seed_is_the_same_for_ever():
    assert named_seed(0, "init") == 1519069808562059438
    assert named_seed(7, "draws", 3) == 6460308022633750609


def test_names_and_seeds_give_different_seeds():
    seeds = [named_seed(seed, *names) for seed in (0, 1, 10) for names in ([], ["a"], ["a", 1], ["a", 11], ["b"])]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_named_generator_begins_at_its_seed():
    expected = torch.rand(4, generator=torch.Generator().manual_seed(named_seed(5, "x")))
    assert torch.equal(torch.rand(4, generator=named_generator(5, "x")), expected)


@pytest.mark.parametrize("size", [2, 3])
def test_sharded_draws_interleave_to_what_one_worker_draws(size):
    alone = BatchRNG(make())
    whole_noise, whole_classes = alone.uniform(torch.empty(6, 1, 2, 2)), alone.integers(9, torch.empty(6))
    for rank in range(size):
        worker = BatchRNG(make(), rank, size)
        share = torch.empty(6 // size, 1, 2, 2)
        assert torch.equal(worker.uniform(share), whole_noise[rank::size])
        assert torch.equal(worker.integers(9, share), whole_classes[rank::size])


def example_draws(indices, **changes):
    return PerExampleRNG(**{"seed": 1, "names": ("evaluate", "ce"), "indices": indices, **changes})


def test_an_examples_draws_know_neither_batch_nor_order():
    indices = [4, 0, 17, 2]
    noise = example_draws(indices).uniform(torch.empty(4, 3, 2, 2))
    targets = example_draws(indices).integers(1000, torch.empty(4))
    for position, index in enumerate(indices):
        assert torch.equal(example_draws([index]).uniform(torch.empty(1, 3, 2, 2))[0], noise[position])
        assert example_draws([index]).integers(1000, torch.empty(1)) == targets[position]
    back = example_draws(indices[::-1]).uniform(torch.empty(4, 3, 2, 2))
    assert torch.equal(back, noise.flip(0))


@pytest.mark.parametrize("changes", [{"seed": 2}, {"names": ("evaluate", "cw")}, {"indices": [5]}])
def test_an_examples_draws_depend_on_seed_names_and_index(changes):
    like = torch.empty(1, 1, 4, 4)
    assert not torch.equal(example_draws([4]).uniform(like), example_draws(**{"indices": [4], **changes}).uniform(like))


def test_a_restart_draws_anew_and_the_first_is_no_restart():
    like = torch.empty(1, 1, 4, 4)
    rng = example_draws([4])
    starts = [rng.restart(number).uniform(like) for number in range(4)]
    assert torch.equal(starts[0], rng.uniform(like))
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 4
    assert torch.equal(rng.restart(3).uniform(like), starts[3])


def test_some_of_the_examples_draw_what_they_drew_among_all():
    rng, rows = example_draws([4, 0, 17, 2]), torch.tensor([3, 0])
    noise, targets = rng.uniform(torch.empty(4, 3, 2, 2)), rng.integers(1000, torch.empty(4))
    assert list(rng.take(rows).indices) == [2, 4]
    assert torch.equal(rng.take(rows).uniform(torch.empty(2, 3, 2, 2)), noise[rows])
    assert torch.equal(rng.take(rows).integers(1000, torch.empty(2)), targets[rows])


def test_a_plain_generator_goes_on_over_restarts():
    rng = BatchRNG(make())
    expected = torch.rand(8, generator=make())
    parts = [rng.uniform(torch.empty(4)), rng.restart(1).take(torch.tensor([0])).uniform(torch.empty(4))]
    assert torch.equal(torch.cat(parts), expected)


def test_draws_are_of_the_images_type():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        like = torch.empty(2, 1, 2, 2, dtype=dtype)
        for rng in (BatchRNG(make()), example_draws([0, 1])):
            drawn = rng.uniform(like)
            assert drawn.dtype == dtype
            assert ((drawn >= 0) & (drawn <= 1)).all()


def test_no_generator_is_torchs_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        assert torch.equal(as_rng(None).uniform(torch.empty(3)), expected)


def test_ready_made_draws_pass_as_they_are():
    rng = BatchRNG(make(), 1, 2)
    assert as_rng(rng) is rng
