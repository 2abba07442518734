"""Runs side by side: what is compared was measured on the same windows and items, and what differs comes first."""

from dataclasses import replace

import pytest

from rcpu import Perplexity
from rcpu.measure import TaskResult
from rcpu.measure.tasks_results import Item
from rcpu.runs import Shelf, Store, dense_subject, keep_perplexity, keep_task, open_store, published, side_by_side

ABOUT = {"dtype": "fp32", "parameters_before": 100, "parameters_after": 80, "bytes_before": 400, "bytes_after": 320}


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "home")


def made(store: Store, name: str, **recipe) -> str:
    settings = {"ratio": 0.2, "options": {"scorer": "rcpu", "order": "paper"}} | recipe
    about = ABOUT | {"mean_error_compensated": 0.3, "mean_error_compensated_held_out": 0.4}
    with store.begin(name=name, recipe=settings, content=name, fingerprint="f", about=about) as run:
        run.finish({})
    return run.id


def measured(value: float, digest: str) -> Perplexity:
    return Perplexity(value, 15, 16, 1, f"text {digest}", (), (), digest)


def task(name: str, right: list[bool]) -> TaskResult:
    items = tuple(Item(str(i), "", ("a", "b"), (0.0, -1.0), 0, {"acc": float(r)}) for i, r in enumerate(right))
    return TaskResult(name, items, 0, "1")


def test_rows_hold_what_was_measured_on_the_same_windows(store):
    a, b, c = (made(store, name) for name in "abc")
    for run_id, value, digest in ((a, 5.0, "w1"), (b, 6.0, "w1"), (b, 60.0, "w2")):
        keep_perplexity(store, run_id, measured(value, digest), "fp32")
    keep_perplexity(store, dense_subject("f", "fp32"), measured(4.0, "w1"), "fp32")
    keep_perplexity(store, dense_subject("f", "bf16"), measured(4.4, "w1"), "bf16")
    store.measures.put(a, "generation", {"prompt": "x"}, {"text": "y", "tokens_per_second": 12.5})
    shelf = Shelf.of(store)
    assert list(shelf.windows()) == ["w1", "w2"], "what most were measured on comes first"
    rows = {row.run.id: row for row in shelf.rows("w1")}
    assert [rows[i].perplexity and rows[i].perplexity.perplexity for i in (a, b, c)] == [5.0, 6.0, None]
    assert {row.dense_perplexity.perplexity for row in rows.values()} == {4.0}
    assert (rows[a].speed, rows[b].speed) == (12.5, None)
    assert (rows[a].parameters, rows[a].dense_parameters, rows[a].error) == (80, 100, 0.4)
    assert [row.perplexity for row in shelf.rows("w2") if row.run.id != b] == [None, None]
    assert [row.run.id for row in Shelf.of(store, [store.get(c)]).rows("w1")] == [c]


def test_accuracy_is_the_mean_over_tasks_that_all_have(store):
    a, b = made(store, "a"), made(store, "b")
    for run_id in (a, b):
        keep_task(store, run_id, task("one", [True, run_id == a]), "fp32")
        keep_task(store, run_id, task("two", [True, True]), "fp32")
    keep_task(store, a, task("three", [False, False]), "fp32")
    rows = {row.run.id: row for row in Shelf.of(store).rows("")}
    assert (rows[a].accuracy, rows[b].accuracy) == (1.0, 0.75), "the third task was not run on both"
    assert rows[a].dense_accuracy is None


def test_accuracies_of_studies_count_like_those_of_single_tasks(store):
    a, b = made(store, "a"), made(store, "b")
    keep_task(store, a, task("one", [True, False]), "fp32")
    same = {"metric": "acc", "values": [1.0, 1.0], "chance": 0.5, "digest": task("one", [True, True]).digest}
    for subject, values in ((b, [1.0, 1.0]), (dense_subject("f", "fp32"), [0.0, 1.0])):
        store.measures.put(subject, "tasks", {"tasks": ["one"]}, {"one": {**same, "values": values}})
    rows = {row.run.id: row for row in Shelf.of(store).rows("")}
    assert (rows[a].accuracy, rows[b].accuracy, rows[a].dense_accuracy) == (0.5, 1.0, 0.5)


def test_what_differs_comes_first(store):
    a, b = (
        store.get(made(store, "a")),
        store.get(made(store, "b", ratio=0.3, options={"scorer": "flap", "order": "paper", "more": 1})),
    )
    rows = side_by_side(a, b)
    assert rows[:3] == [("ratio", 0.2, 0.3), ("scorer", "rcpu", "flap"), ("more", None, 1)]
    assert all(x == y for _, x, y in rows[3:])
    assert side_by_side(a, replace(a, fingerprint="other"))[0] == ("fingerprint", "f", "other")


def test_published_points_name_their_model_and_stand_beside_their_dense_one():
    points = published()
    assert {p.model for p in points} >= {"LLaMA-7B", "Llama-2-13B", "Llama-2-7B"}
    assert all(0 < p.share < 1 and p.perplexity > p.dense_perplexity and p.source for p in points)
    rcpu = {round(p.share, 2): p for p in points if (p.system, p.model) == ("RCPU", "LLaMA-7B")}
    assert [p.perplexity for p in rcpu.values()] == [13.55, 14.40, 18.35]
    assert {round(s, 3) for s in (p.share for p in rcpu.values())} == {0.906, 0.813, 0.719}
