"""Scores and comparisons of tasks against counts by hand and SciPy's own tests."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

import rcpu
from rcpu.measure import (
    PAPER,
    PUBLISHED,
    Item,
    TaskResult,
    columns,
    compare_tasks,
    latex,
    mean_accuracy,
    mean_difference,
)

RIGHT_A = [1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1] * 4
RIGHT_B = [1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1] * 4


def result(right, task="quiz", few_shot=0, start=0) -> TaskResult:
    """Four choices, gold is always the second; the model's favourite is it where it was right."""
    items = tuple(
        Item(
            f"{start + i}", f"q{i}", ("a", "bb", "ccc", "dddd"), (-9.0, -1.0 if r else -99.0, -8.0, -7.0), 1, {"acc": r}
        )
        for i, r in enumerate(right)
    )
    return TaskResult(task, items, few_shot, "1")


def words(lls) -> TaskResult:
    items = (
        Item(f"{i}", "x", (f" {'ab'[i % 2]}",), (ll,), 0, {"perplexity": ll, "acc": 0}) for i, ll in enumerate(lls)
    )
    return TaskResult("words", tuple(items), 0, "1")


def test_a_score_has_error_interval_chance_and_the_best_single_answer():
    score = result(RIGHT_A).score()
    share = sum(RIGHT_A) / 48
    assert score.value == share
    assert score.error == pytest.approx(np.std(RIGHT_A, ddof=1) / math.sqrt(48))
    assert score.interval.low < share < score.interval.high
    assert (score.chance, score.constant, score.items) == (0.25, 1.0, 48)


def test_last_words_go_by_accuracy_and_have_a_perplexity():
    found = words([-1.0, -2.0, -3.0])
    assert found.main == "acc"
    assert found.score("perplexity").value == pytest.approx(math.exp(2))
    assert found.score("perplexity").chance is None
    assert (found.score().chance, found.score().constant) == (0.0, pytest.approx(2 / 3))


def test_a_comparison_is_mcnemars():
    found = compare_tasks(result(RIGHT_A), result(RIGHT_B))
    only_a = sum(a > b for a, b in zip(RIGHT_A, RIGHT_B, strict=True))
    only_b = sum(a < b for a, b in zip(RIGHT_A, RIGHT_B, strict=True))
    assert (len(found.only_first), len(found.only_second)) == (only_a, only_b)
    assert all(RIGHT_A[i] and not RIGHT_B[i] for i in found.only_first)
    assert found.p == pytest.approx(binomtest(only_b, only_a + only_b, 0.5).pvalue)
    assert found.p == pytest.approx(2 * sum(math.comb(20, k) for k in range(5)) / 2**20), "16 against 4"
    assert found.difference.value == pytest.approx(100 * (only_b - only_a) / 48)
    assert found.difference.low < found.difference.value < found.difference.high < 0
    assert found.difference.decided


def test_models_that_agree_have_p_one_and_no_difference():
    found = compare_tasks(result(RIGHT_A), result(RIGHT_A))
    assert (found.p, found.difference.value, found.difference.decided) == (1.0, 0, False)


def test_perplexities_of_last_words_are_compared_in_percent():
    found = compare_tasks(words([-1.0, -2.0, -3.0]), words([-1.1, -2.2, -3.3]), "perplexity")
    assert found.difference.value == pytest.approx(100 * (math.exp(0.2) - 1))
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.p is None


@pytest.mark.parametrize("other", [result(RIGHT_B[:-1]), result(RIGHT_B, few_shot=1), result(RIGHT_B, start=5)])
def test_other_items_are_refused(other):
    with pytest.raises(rcpu.RcpuError, match="the same items only"):
        compare_tasks(result(RIGHT_A), other)


def test_the_mean_of_tasks_and_its_difference():
    tasks = [result(RIGHT_A), result(RIGHT_B, "quiz2")]
    assert mean_accuracy(tasks) == pytest.approx((sum(RIGHT_A) + sum(RIGHT_B)) / 96)
    gap = mean_difference([(result(RIGHT_A), result(RIGHT_B)), (result(RIGHT_B), result(RIGHT_B))])
    assert gap.value == pytest.approx(compare_tasks(result(RIGHT_A), result(RIGHT_B)).difference.value / 2)
    assert gap.low < gap.value < gap.high < 0
    same = mean_difference([(result(RIGHT_A), result(RIGHT_A))])
    assert (same.value, same.decided) == (0, False)
    assert mean_accuracy([]) is None


def test_what_a_model_chose_depends_on_the_metric():
    item = Item("x", "q", ("a", "much longer"), (-5.0, -6.0), 0, {"acc": 1, "acc_norm": 0})
    assert (item.chosen("acc"), item.chosen("acc_norm")) == (0, 1)
    assert words([-1.0]).items[0].chosen("acc") is None


def test_results_survive_json():
    found = result(RIGHT_A)
    assert TaskResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "items" not in found.to_dict(items=False)
    assert found.to_dict()["scores"]["acc"]["value"] == found.score().value


def test_the_table_has_a_row_a_model_and_what_guessing_gives():
    results = {"dense": {"quiz": result(RIGHT_A)}, "half_1 & <2>": {"quiz": result(RIGHT_B)}}
    table = columns(results)
    assert list(table) == ["model", "quiz (acc, %)"]
    assert table["model"] == ["dense", "half_1 & <2>", "chance", "always one answer"]
    score = result(RIGHT_A).score()
    assert table["quiz (acc, %)"][0] == f"{100 * score.value:.2f} ± {100 * score.error:.2f}"
    assert table["quiz (acc, %)"][2:] == ["25.00", "100.00"]
    two = {"a": {"quiz": result(RIGHT_A), "other": result(RIGHT_B, "other")}, "b": {"quiz": result(RIGHT_B)}}
    assert columns(two)["mean (%)"] == [f"{100 * (sum(RIGHT_A) + sum(RIGHT_B)) / 96:.2f}", "–", "", ""]


def test_latex_escapes_names_and_says_what_its_numbers_are():
    text = latex({"half_1 & <2> 50%": {"quiz": result(RIGHT_A)}})
    assert r"half\_1 \& \textless{}2\textgreater{} 50\% & " in text
    assert r"$\pm$" in text
    assert "quiz: 48 items" in text
    assert text.count("\\\\\n") == 4
    assert "few-shot: 0" in text


def test_published_rows_name_their_model_and_their_means_are_those_of_their_tasks():
    for row in PUBLISHED:
        assert row.model
        assert row.source
        assert list(row.accuracies) == list(PAPER)
        assert sum(row.accuracies.values()) / 7 == pytest.approx(row.mean, abs=0.02)
