"""Layouts, kept units and producer rows against index loops."""

from fractions import Fraction
from math import floor

import pytest
import torch

from rcpu.base.errors import RcpuError
from rcpu.methods.units import (
    UNITS,
    attention_units,
    channel_units,
    keep_units,
    kept_columns,
    removed_count,
    resolve_unit,
)
from rcpu.models.families import Heads, attention_rows
from tests import reference

SHAPES = {"mha": Heads(4, 4, 3), "gqa": Heads(6, 2, 4), "mqa": Heads(4, 1, 2)}
ALLOWED = [(kind, unit) for kind in SHAPES for unit in list(UNITS)[1:] if unit != "head" or kind == "mha"]


@pytest.mark.parametrize(("kind", "unit"), ALLOWED)
def test_attention_layout(kind, unit):
    heads = SHAPES[kind]
    layout = attention_units(heads, unit).tolist()
    assert layout == reference.attention_strata(heads.query, heads.kv, heads.dim, unit)
    assert sorted(torch.tensor(layout).flatten().tolist()) == list(range(heads.query * heads.dim))


def test_channel_layout():
    assert channel_units(4).tolist() == [[[0], [1], [2], [3]]]


@pytest.mark.parametrize(
    ("unit", "kind", "expected"),
    [("auto", "mha", "head"), ("auto", "gqa", "channel"), *[(unit, kind, unit) for kind, unit in ALLOWED]],
)
def test_unit_resolution(unit, kind, expected):
    assert resolve_unit(unit, SHAPES[kind]) == expected


def test_single_heads_are_refused_where_heads_share():
    with pytest.raises(RcpuError, match=r"6 query heads on 2 KV heads: choose 'kv_group' .* or 'channel'"):
        resolve_unit("head", SHAPES["gqa"])


def test_unknown_unit_lists_the_known_ones():
    with pytest.raises(RcpuError, match="unknown unit 'row': choose one of auto, head, kv_group, channel"):
        resolve_unit("row", SHAPES["mha"])


def test_removed_count_takes_the_ratio_as_written():
    assert removed_count(100, 0.29) == 29  # 0.29 * 100 is 28.999999999999996
    assert [removed_count(32, ratio) for ratio in (0.1, 0.2, 0.3)] == [3, 6, 9]  # LLaMA-7B in the paper
    for percent in range(100):
        for units in (1, 2, 3, 7, 9, 32, 64, 100, 1536, 11008):
            assert removed_count(units, percent / 100) == floor(Fraction(percent, 100) * units)


@pytest.mark.parametrize("ratio", [0, 0.2, 0.29, 0.5, 0.9])
@pytest.mark.parametrize(("kind", "unit"), ALLOWED)
def test_the_lowest_sums_leave(kind, unit, ratio):
    heads = SHAPES[kind]
    scores = torch.rand(heads.query * heads.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layout = attention_units(heads, unit)
    unit_scores, keep = keep_units(scores, layout, ratio)
    strata = reference.attention_strata(heads.query, heads.kv, heads.dim, unit)
    expected = [[sum(scores[j].item() for j in columns) for columns in units] for units in strata]
    torch.testing.assert_close(unit_scores, torch.tensor(expected, dtype=torch.float64))
    assert kept_columns(layout, keep).tolist() == reference.keep(scores.tolist(), strata, ratio)


def test_every_kv_head_keeps_as_many_value_channels():
    heads = Heads(6, 3, 8)
    scores = torch.arange(48.0)  # all of the first KV head below all of the last
    _, keep = keep_units(scores, attention_units(heads, "channel"), 0.4)
    assert keep.sum(1).tolist() == [5, 5, 5]


def test_of_equal_units_the_last_leave():
    _, keep = keep_units(torch.ones(6), channel_units(6), 0.5)
    assert keep.tolist() == [[True, True, True, False, False, False]]


def test_kept_columns_ascend():
    layout = attention_units(Heads(6, 2, 4), "channel")
    keep = torch.tensor([[True, False, False, True], [False, True, True, False]])
    assert kept_columns(layout, keep).tolist() == [0, 3, 4, 7, 8, 11, 13, 14, 17, 18, 21, 22]


@pytest.mark.parametrize(("kind", "unit"), ALLOWED)
def test_producer_rows(kind, unit):
    heads = SHAPES[kind]
    group = heads.query // heads.kv
    layout = attention_units(heads, unit)
    scores = torch.rand(heads.query * heads.dim, generator=torch.Generator().manual_seed(2))
    columns = kept_columns(layout, keep_units(scores, layout, 0.5)[1])
    query, key, value = set(), set(), set()
    for column in columns.tolist():
        head, channel = divmod(column, heads.dim)
        kv = head // group
        value.add(kv * heads.dim + channel)
        for c in range(heads.dim):
            query.add(head * heads.dim + c)
            key.add(kv * heads.dim + c)
    rows = {name: found.tolist() for name, found in attention_rows(columns, heads).items()}
    assert rows == {"query": sorted(query), "key": sorted(key), "value": sorted(value)}
