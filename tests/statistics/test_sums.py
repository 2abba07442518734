"""Sums of activations against direct ones in fp64."""

import pytest
import torch

from rcpu.statistics.sums import BLOCK, Accumulator, Statistics


def activations(tokens: int, d_in: int, seed: int = 0) -> torch.Tensor:
    """Inputs that have a mean and are correlated, (tokens, d_in)."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, 4, generator=generator) @ torch.randn(4, d_in, generator=generator)
    return mixed + torch.randn(tokens, d_in, generator=generator) + torch.linspace(-1, 2, d_in)


def statistics(*batches: torch.Tensor, dtype=torch.float32) -> Statistics:
    accumulator = Accumulator(batches[0].shape[-1], dtype=dtype)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.result()


def assert_close(a: Statistics, b: Statistics, accuracy: float = 1e-5) -> None:
    assert a.tokens == b.tokens
    for name in ("gram", "total", "absolute", "square"):
        x, y = getattr(a, name).double(), getattr(b, name).double()
        torch.testing.assert_close(x, y, rtol=0, atol=accuracy * y.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d_in", [5, BLOCK, BLOCK + 1, 2 * BLOCK + 8])
def test_sums_are_the_direct_ones(d_in, dtype):
    x = activations(60, d_in).to(dtype)
    found = statistics(x[:24].view(2, 12, d_in), x[24:25], x[25:], dtype=dtype)
    wide = x.double()
    direct = Statistics(wide.T @ wide, wide.sum(0), wide.abs().sum(0), (wide**2).sum(0), 60)
    assert_close(found, direct, 1e-5 if dtype == torch.float32 else 1e-13)
    assert found.gram.dtype == dtype
    assert found.gram.equal(found.gram.T)
    assert {found.total.dtype, found.absolute.dtype, found.square.dtype} == {torch.float64}


def test_means_and_variance_are_those_of_torch():
    x = activations(50, 7).double()
    found = statistics(x[:20], x[20:], dtype=torch.float64)
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.mean_absolute, x.abs().mean(0))
    torch.testing.assert_close(found.variance, x.var(0, correction=0))


def test_halves_add_up_to_the_whole():
    x = activations(90, 300)
    assert_close(statistics(x[:40]) + statistics(x[40:]), statistics(x))


def test_adding_changes_neither_part():
    x = activations(20, 6)
    a, b = statistics(x[:8]), statistics(x[8:])
    kept = statistics(x[:8]), statistics(x[8:])
    whole = a + b
    for sums in (whole.gram, whole.total, whole.absolute, whole.square):
        sums.zero_()
    assert_close(a, kept[0], 0)
    assert_close(b, kept[1], 0)


def test_a_result_is_not_touched_by_what_comes_after():
    x = activations(20, 6)
    accumulator = Accumulator(6)
    accumulator.add(x[:8])
    early = accumulator.result()
    accumulator.add(x[8:])
    assert_close(early, statistics(x[:8]), 0)
    assert_close(accumulator.result(), statistics(x))


def test_variance_survives_a_mean_that_is_large():
    x = 1000 + 0.05 * activations(400, 9)
    found = statistics(*x.split(16))
    torch.testing.assert_close(found.variance, x.double().var(0, correction=0), rtol=1e-3, atol=0)
    constant = statistics(*torch.full((64, 3), 1000.1).split(16))
    assert (constant.variance >= 0).all()
    assert (constant.variance < 1e-6).all()


def test_narrow_activations_are_summed_wide():
    ones = torch.ones(600, 2, dtype=torch.bfloat16)  # in bf16 a sum of ones stops at 256
    found = statistics(*ones.split(100))
    assert found.gram.tolist() == [[600, 600], [600, 600]]
    assert found.total.tolist() == [600, 600]


def test_moving_keeps_the_sums():
    found = statistics(activations(20, 6))
    assert_close(found.to("cpu"), found, 0)


def test_no_activations_is_an_error():
    with pytest.raises(RuntimeError, match="no activations"):
        Accumulator(4).result()
