"""Figures of studies and the page that holds them: what stands in it, what may not, and how it is added to."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import rcpu
from rcpu import RcpuError, Recipe
from rcpu.measure.tasks_results import Item, TaskResult
from rcpu.runs import (
    STUDIES,
    Bench,
    PerplexityAsk,
    collect_report,
    dense_subject,
    figures,
    keep_task,
    open_store,
    report_html,
    run_recipe,
    run_study,
    sized,
)
from rcpu.runs.reports import DATA, read_report
from tests import tiny

SMALL = {"samples": 6, "window": 16, "held_out": 2}


def bench(kind: str = "gqa") -> Bench:
    return Bench(
        rcpu.Model(f"tiny <{kind}>", tiny.net(kind), tiny.tokenizer(), Path("/nowhere"), f"fingerprint-{kind}")
    )


def study(store, text_file, name="table3", kind="gqa", **more):
    texts = {"text": str(text_file), "evaluation": str(text_file)} | more
    asked = sized(STUDIES[name], **{"limit": 8, **texts})
    return run_study(STUDIES[name], replace(asked, settings={**asked.settings, **SMALL}), bench(kind), store)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def table3(store, text_file):
    return study(store, text_file, seeds=(0, 1))


def named(figure: dict) -> dict[str, dict]:
    return {trace["name"]: trace for trace in figure["data"]}


def test_a_figure_has_a_line_a_label_and_faint_lines_that_name_their_model(table3):
    (figure,) = figures(table3, "perplexity")
    traces = named(figure)
    assert list(traces) == ["dense", "nothing", "o_proj", "down_proj", "both", "LLaMA-7B, published"]
    assert traces["both"]["x"] == [10.0, 30.0]
    both = [p for p in table3.points if p.labels == {"repaired": "both", "ratio": "30 %"}]
    losses = [sum(p.answers["perplexity"]["answer"]["by_window"]) / 8 for p in both]
    assert traces["both"]["y"][1] == pytest.approx(2.718281828459045 ** (sum(losses) / 2))
    assert traces["both"]["error_y"]["array"][1] > 0
    published = [t for t in figure["data"] if t["name"] == "LLaMA-7B, published"]
    assert [t["showlegend"] for t in published] == [True, False, False, False]
    assert all(t["opacity"] < 0.5 for t in published)
    assert published[-1]["y"] == [13.55, 14.40, 18.35]
    assert "seeds 2" in figure["layout"]["title"]["text"], "what was cut stands on the figure"
    assert "both" in figure["layout"]["meta"]["alt"]
    json.dumps(figure)


def test_as_a_multiple_of_the_dense_model_each_is_of_its_own(table3):
    (figure,) = figures(table3, "perplexity", relative=True)
    assert set(named(figure)["dense"]["y"]) == {1.0}
    published = [t for t in figure["data"] if t["name"] == "LLaMA-7B, published"]
    assert published[-1]["y"][0] == pytest.approx(13.55 / 12.4)
    ours = named(figure)["both"]
    absolute = named(figures(table3, "perplexity")[0])
    assert ours["y"][1] == pytest.approx(absolute["both"]["y"][1] / absolute["dense"]["y"][0])
    paired, plain = ours["error_y"]["array"][1], absolute["both"]["error_y"]["array"][1]
    assert paired < plain / absolute["dense"]["y"][0], "the windows are the same"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_drawn(tmp_path, text_file, name):
    store = open_store(tmp_path / "home")
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    found = study(store, text_file, name, ratios=(0.1, 0.3), limit=4, evaluation=str(other))
    assert not found.failed
    for quantity in found.study.quantities:
        made = figures(found, quantity)
        how = found.study.figure
        own = {*found.study.axes, "ratio"} - {how.get(name) for name in ("x", "line", "dash")}
        apart = {tuple(p.labels[axis] for axis in sorted(own)) for p in found.points}
        assert len(made) == len(apart) * (len(found.study.measures) if how.get("facet") == "measured" else 1)
        for trace in (t for figure in made for t in figure["data"] if isinstance(t["x"][0], float)):
            assert trace["x"] == sorted(set(trace["x"])), "a line never goes back"
        ranges = [figure["layout"]["yaxis"]["range"] for figure in made]
        assert all(r == ranges[0] for r in ranges)
    report_html([found])


def test_the_page_holds_everything_and_no_markup_of_names(store, table3):
    page = report_html(collect_report(store, ["table3"]))
    assert page.count("Plotly.newPlot") >= 1
    assert "src=" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL), "it needs nothing else"
    assert "<gqa>" not in page.replace("\\u003c", "<§")
    assert "tiny &lt;gqa&gt;" in page
    for verdict in table3.verdicts:
        assert verdict.claim.says in page
    assert "compensation: rotation" in page


def test_a_report_is_added_to_by_another_machine(store, table3, text_file, tmp_path):
    first = tmp_path / "first.html"
    first.write_text(report_html(collect_report(store, ["table3"])))
    elsewhere = open_store(tmp_path / "elsewhere")
    study(elsewhere, text_file, kind="mha")
    both = collect_report(elsewhere, [str(first), "table3"])
    assert [f.series["model"] for f in both] == ["tiny <gqa>", "tiny <mha>"]
    assert both[0].to_dict() == json.loads(json.dumps(table3.to_dict()))
    page = report_html(both)
    assert "tiny &lt;gqa&gt;, tiny &lt;mha&gt;" in page
    assert page.count("<h3>What is compensated") == 1
    second = tmp_path / "second.html"
    second.write_text(page)
    assert len(collect_report(elsewhere, [str(second), str(first), "table3"])) == 2, "each series once"


def test_a_run_has_its_recipe_environment_errors_perplexities_and_accuracies(store, text_file, tmp_path):
    recipe = Recipe(text=str(text_file), ratio=0.4, **SMALL)
    outcome = run_recipe(bench(), recipe, [PerplexityAsk(str(text_file), 16, 8)], store, name="my <run>")
    (item,) = collect_report(store, ["my <run>"])
    page = report_html([item])
    assert "my &lt;run&gt;" in page
    assert f"{outcome.answers[0]['perplexity']:.3f}" in page
    assert "errors on the calibration windows" in page
    assert "ratio: 0.4" in page
    held = json.loads(DATA.search(page)[1])
    assert held["runs"][0]["run"]["id"] == outcome.run.id
    assert not item.tasks

    def scored(right: int) -> TaskResult:
        items = [Item(f"d{i}", "c", ("a", "b"), (-1.0, -2.0), 0, {"acc": float(i < right)}) for i in range(8)]
        return TaskResult("own <task>", tuple(items), 0, "1")

    dense = dense_subject(outcome.run.fingerprint, "fp32")
    for subject, right in ((outcome.run.id, 4), (dense, 6)):
        keep_task(store, subject, scored(right), "fp32")
    keep_task(store, dense, replace(scored(3), task="of others"), "fp32")
    (item,) = collect_report(store, ["my <run>"])
    assert [(row["model"], row["value"], row["chance"]) for row in item.tasks] == [
        ("dense", 0.75, 0.5),
        ("my <run>", 0.5, 0.5),
    ]
    page = report_html([item])
    assert "own &lt;task&gt;" in page
    assert "of others" not in page
    (tmp_path / "report.html").write_text(page)
    (again,) = read_report(tmp_path / "report.html")
    assert report_html([again]) == page


def test_what_cannot_be_reported_is_said(store, tmp_path):
    with pytest.raises(RcpuError, match="no run is called 'nothing'"):
        collect_report(store, ["nothing"])
    with pytest.raises(RcpuError, match="the store has nothing of the study fig3"):
        collect_report(store, ["fig3"])
    for name, text, sentence in (
        ("a.html", "<p>", "is no report of this program"),
        ("b.json", "{\n[", "b.json is broken: line 2, column 1 of its data is no JSON"),
        ("c.json", '{"studies": [{}]}', "c.json: these are no findings of a study: 'study' is missing"),
        ("e.json", '{"studies": [3]}', "e.json: these are no findings of a study: a value has another form"),
        ("f.json", "[]", "f.json holds no findings of a study: a value has another form"),
        (
            "g.json",
            '{"study": "x", "definition": {"axes": {}}}',
            "g.json: the study x cannot be read: 'title' is missing",
        ),
        ("d.json", '{"version": 99}', "written by a newer version"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RcpuError, match=sentence):
            read_report(tmp_path / name)
    with pytest.raises(RcpuError, match="at least one run or study"):
        report_html([])
