"""Figures of Benchmarks carry their numbers, errors and chance, and never markup of names."""

import pytest

from app.figures.benchmarks import accuracy_bars, difference_points
from app.figures.compare import style
from rcpu.measure import Item, TaskResult, compare_tasks, mean_difference

STYLES = {"dense": style("dense", "dense"), "1": style("<b>first</b>", "compensated")}


def result(right, task="quiz") -> TaskResult:
    metrics = [{"acc": r, "acc_norm": 1 - r} for r in right]
    return TaskResult(
        task, tuple(Item(f"{i}", "q", ("a", "b"), (0.0, -1.0), 0, m) for i, m in enumerate(metrics)), 0, "1"
    )


RESULTS = {
    "dense": {"quiz": result([1, 0] * 20), "<i>": result([1] * 8, "<i>")},
    "1": {"quiz": result([1, 0, 0, 0] * 10), "<i>": result([1] * 8, "<i>")},
}


def test_bars_have_errors_and_chance_and_the_metric_asked_for():
    fig = accuracy_bars(RESULTS, STYLES, "acc")
    assert [trace.name for trace in fig.data] == ["dense", "&lt;b&gt;first&lt;/b&gt;", "chance"]
    assert fig.data[0].x == ("quiz (acc)", "&lt;i&gt; (acc)")
    assert fig.data[0].y == (50, 100)
    assert fig.data[1].y == (25, 100)
    assert fig.data[0].error_y.array[0] == pytest.approx(100 * RESULTS["dense"]["quiz"].score("acc").error)
    assert fig.data[2].y == (50, 50)
    assert accuracy_bars(RESULTS, STYLES).data[1].y == (75, 0), "each task's main metric is by length"
    assert "40 of quiz" in fig.layout.title.text
    assert "dense 50.0%" in fig.layout.meta["alt"]
    fig.to_json()


def test_differences_have_paired_intervals_and_a_mean():
    made = {task: compare_tasks(RESULTS["dense"][task], RESULTS["1"][task], "acc") for task in RESULTS["dense"]}
    mean = mean_difference([(RESULTS["dense"][t], RESULTS["1"][t]) for t in RESULTS["1"]], "acc")
    (points,) = difference_points(made, mean, "dense", "<b>first</b>", "#000").data
    assert points.y == ("quiz", "&lt;i&gt;", "<b>mean</b>")
    assert points.x == (-25, 0, -12.5)
    gap = made["quiz"].difference
    assert points.error_x.array[0] == pytest.approx(gap.high - gap.value)
    assert points.error_x.arrayminus[0] == pytest.approx(gap.value - gap.low)
