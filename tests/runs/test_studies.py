"""Studies: grids as they are declared, cells that are run once, and verdicts that follow from paired intervals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rcpu
from rcpu import Cancelled, RcpuError
from rcpu.pruning import survey
from rcpu.runs import (
    STUDIES,
    Bench,
    Findings,
    Store,
    figures,
    gathered,
    load_study,
    markdown,
    open_store,
    run_study,
    sized,
)
from rcpu.runs.printed import in_print
from rcpu.runs.readings import Point, paired, readings
from rcpu.runs.studies import read_study
from rcpu.runs.verdicts import verdicts
from tests import tiny

SMALL = {"samples": 6, "window": 16, "held_out": 2}


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "home")


@pytest.fixture
def bench() -> Bench:
    return Bench(rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa"))


@pytest.fixture
def asked(text_file):
    def ask(study, **more):
        texts = {"text": str(text_file), "evaluation": str(text_file)} | more
        found = sized(study, **{"limit": 8, **texts})
        return replace(found, settings={**found.settings, **SMALL})

    return ask


@pytest.fixture
def other_text(text_file, tmp_path) -> str:
    path = tmp_path / "other.txt"
    path.write_text(text_file.read_text()[::-1])
    return str(path)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("size", ["small", "paper"])
def test_every_study_names_recipes_and_claims_that_it_has_cells_for(name, size):
    study = STUDIES[name]
    cells = study.cells(sized(study, size, evaluation="wikitext2"))
    assert len({c.recipe for c in cells}) == len(cells)
    if size == "paper":
        present = [labels for cell in cells for labels in cell.labels]
        measured = [{}, *({"measured": m} for m in study.measures)]
        for claim in study.claims:
            for side in (claim.first, {**claim.first, **claim.than}):
                assert any(side.items() <= {**p, **m}.items() for p in present for m in measured), claim.says
        for row in study.published:
            labels = {label for axis in study.axes.values() for label in axis.values}
            labels |= {p["ratio"] for p in present}
            assert set(row.get("rows", row.get("level"))) <= labels
            assert set(row.get("at", {}).values()) <= labels


def test_the_paper_grid_of_table_1_is_the_papers():
    study = STUDIES["table1"]
    cells = study.cells(sized(study, "paper"))
    assert len(cells) == 4 * 2 * 3 * 3
    small = sized(study)
    assert (small.seeds, small.ratios, small.limit) == ((0,), (0.1, 0.3), 64)
    assert len(study.cells(small)) == 4 * 1 * 2
    assert len(study.cells(sized(study, seeds=(0, 1), ratios=(0.5,)))) == 8


def test_labels_that_come_to_the_same_run_are_one_cell():
    values = {
        "title": "t",
        "axes": {
            "repair": {"values": {"none": {"compensation": "none"}, "ridge": {"compensation": "least_squares"}}},
            "ridge": {"values": {"weak": {"ridge": 1e-4}, "strong": {"ridge": 1.0}}},
        },
        "figure": {"x": "ridge"},
    }
    cells = read_study("own", values).cells(sized(read_study("own", values), ratios=(0.2,), seeds=(0,)))
    assert [len(cell.labels) for cell in cells] == [2, 1, 1]


EQUAL = {
    "title": "t",
    "equal": "decoder",
    "axes": {
        "method": {
            "values": {
                "FLAP": {"recipe": "flap"},
                "FLAP, no bias": {"recipe": "flap", "compensation": "none"},
                "SliceGPT": {"recipe": "slicegpt"},
            }
        }
    },
    "figure": {"x": "method", "line": "ratio", "bars": True},
    "notes": ["Each recipe as it ships."],
}


def test_a_label_may_name_a_recipe_that_ships():
    flap, bare, sliced = read_study("own", EQUAL).cells(sized(read_study("own", EQUAL), ratios=(0.3,), seeds=(0,)))
    shipped = rcpu.RECIPES["flap"].recipe
    assert flap.recipe.options == shipped.options
    assert bare.recipe.options == replace(shipped.options, compensation="none")
    assert sliced.recipe.method == "slicegpt"
    assert [c.recipe.ratio for c in (flap, bare, sliced)] == [0.3] * 3


def test_methods_are_compared_at_equal_size(store, bench, asked, monkeypatch):
    study, dense = read_study("own", EQUAL), rcpu.cost(bench.model.net).parameters
    ask = asked(study, ratios=(0.3, 0.9), seeds=(0,))
    found = run_study(study, ask, bench, store)
    told = {(p.labels["method"], p.labels["ratio"]): p.about["parameters_after"] for p in found.points}
    decoder = sum(p.numel() for p in bench.model.net.model.layers.parameters())
    for method in ("FLAP", "FLAP, no bias"):
        assert dense - told[method, "30 %"] == pytest.approx(0.3 * decoder, rel=0.1), method
    recipes = [rcpu.Recipe.from_dict(run.recipe) for run in store.runs() if run.recipe["ratio"] < 0.8]
    assert {r.method for r in recipes} == {"columns", "slicegpt"}
    for recipe in recipes:
        assert rcpu.planned_share(bench.model.net, recipe) == pytest.approx(0.7, abs=0.02), recipe
    assert len({r.ratio for r in recipes}) > 1
    labels = [f"own · {method} · 90 % · 0" for method in study.axes["method"].values]
    assert [told.split(":")[0] for told in found.failed] == labels
    assert "cannot be reached" in found.failed[0]
    (figure,) = figures(found, "perplexity")
    assert figure["layout"]["xaxis"]["categoryarray"] == list(study.axes["method"].values), "as they are declared"
    assert "\nEach recipe as it ships.\n" in markdown(found)
    by_unit = read_study("own", {k: v for k, v in EQUAL.items() if k != "equal"})
    run_study(by_unit, asked(by_unit, ratios=(0.3,), seeds=(0,)), bench, store)
    assert len(gathered(store, "own")) == 2, "ratios of another thing are another series"
    monkeypatch.setattr("rcpu.runs.running.prune_into", None)
    assert run_study(study, ask, bench, store).points == found.points


def test_a_study_can_be_cancelled_while_it_is_planned(store, bench, asked, monkeypatch):
    monkeypatch.setattr("rcpu.runs.studying.measure_dense", None)
    study = read_study("own", EQUAL)
    with pytest.raises(Cancelled):
        run_study(study, asked(study), bench, store, cancelled=lambda: True)
    assert store.runs() == []


def test_a_study_runs_once_goes_on_and_grows(store, bench, asked, monkeypatch):
    study = STUDIES["table3"]
    told, seen = [], []
    ask = asked(study, ratios=(0.3,), seeds=(0,))
    found = run_study(study, ask, bench, store, progress=lambda p: told.append(p.fraction), found=seen.append)
    assert [dict(p.labels) for p in found.points] == [
        {"repaired": label, "ratio": "30 %"} for label in ("nothing", "o_proj", "down_proj", "both")
    ]
    assert told == sorted(told)
    assert [len(f.points) for f in seen] == [1, 2, 3, 4]
    assert not any("so far" in note for note in found.cut)
    half = replace(run_study(study, asked(study, ratios=(0.1, 0.3), seeds=(0,)), bench, store), points=found.points[:3])
    more = [p for p in gathered(store, "table3")[0].points if p.labels["ratio"] == "10 %"]
    assert "7 of 8 cells so far" in replace(half, points=(*half.points, *more)).cut
    for run in store.runs():
        if run.recipe["ratio"] == 0.1:
            store.delete(run.id)
    assert len(store.runs()) == 4
    monkeypatch.setattr("rcpu.runs.asks.perplexity", None)
    assert run_study(study, ask, bench, store).points == found.points
    monkeypatch.undo()
    grown = run_study(study, asked(study, ratios=(0.3,), seeds=(1,)), bench, store)
    assert {p.seed for p in grown.points} == {"0", "1"}
    assert len(store.runs()) == 8
    (again,) = gathered(store, "table3")
    assert again == grown
    assert gathered(store, "table1") == []


def test_cells_that_look_at_the_dense_model_alike_share_the_look(store, bench, asked, monkeypatch, tmp_path):
    axes = {
        "method": {
            "values": {
                "flap": {"scorer": "wifv", "compensation": "bias", "allocation": "flap"},
                "plain": {},
                "prices": {"compensation": "least_squares", "allocation": "prices"},
            }
        }
    }
    study = read_study("own", {"title": "t", "axes": axes, "figure": {"x": "ratio"}})
    ask, taken, plain = asked(study, ratios=(0.1, 0.2, 0.3), seeds=(0, 1)), [], survey._look
    monkeypatch.setattr(survey, "_look", lambda *a: taken.append(a) or plain(*a))
    found = run_study(study, ask, bench, store)
    assert len(found.points) == 18
    assert len(taken) == 4, "two methods that look, two seeds, and three ratios that share"
    monkeypatch.setattr(survey.Looks, "of", lambda self, asked, made: (made(), True))
    again = run_study(study, ask, bench, open_store(tmp_path / "alone"))
    assert len(taken) == 4 + 12
    alone = {(p.labels["method"], p.labels["ratio"], p.seed): p.answers for p in again.points}
    assert {(p.labels["method"], p.labels["ratio"], p.seed): p.answers for p in found.points} == alone


def test_two_studies_share_cells(store, bench, asked):
    for name in ("table3", "geometry"):
        found = run_study(STUDIES[name], asked(STUDIES[name], ratios=(0.3,), only={}, seeds=(0,)), bench, store)
        assert len(found.points) == 4
    assert {run.tags for run in store.runs()} >= {("table3",), ("geometry",), ("table3", "geometry")}
    assert len(store.runs()) == 6, "without repair and with the rotation of both sites they are the same runs"


def test_a_cancelled_study_keeps_what_it_has(store, bench, asked):
    study, done = STUDIES["table3"], []
    ask = asked(study, ratios=(0.3,), seeds=(0,))
    with pytest.raises(Cancelled):
        run_study(study, ask, bench, store, found=done.append, cancelled=lambda: len(done) == 2)
    (part,) = gathered(store, "table3")
    assert len(part.points) == 2
    assert len(run_study(study, ask, bench, store).points) == 4
    assert sum(run.state == "done" for run in store.runs()) == 4


def test_a_cell_that_fails_is_told_and_ends_nothing_else(store, bench, asked):
    values = {
        "title": "t",
        "axes": {"unit": {"values": {"heads": {"unit": "head"}, "channels": {"unit": "channel"}}}},
        "figure": {"x": "ratio"},
    }
    study = read_study("own", values)
    found = run_study(study, asked(study, ratios=(0.3,), seeds=(0,)), bench, store)
    assert [p.labels["unit"] for p in found.points] == ["channels"]
    assert len(found.failed) == 1
    assert "unit 'head' needs one KV head" in found.failed[0]


def test_a_model_that_no_cell_can_have_is_refused_at_once(store, bench, asked, windows):
    pruned = rcpu.prune(bench.model.net, windows, rcpu.Recipe(ratio=0.3)).net
    with pytest.raises(RcpuError, match="already pruned"):
        run_study(STUDIES["table3"], asked(STUDIES["table3"]), Bench(replace(bench.model, net=pruned)), store)
    assert store.runs() == []


def test_other_windows_are_another_series(store, bench, asked):
    study = STUDIES["table3"]
    for limit in (6, 8):
        run_study(study, asked(study, ratios=(0.3,), seeds=(0,), limit=limit), bench, store)
    assert [f.series["asks"]["perplexity"]["limit"] for f in gathered(store)] == [8, 6]
    assert len(store.runs()) == 4, "pruned once, measured twice"


def test_what_was_cut_and_what_leaks_is_said(store, bench, asked):
    found = run_study(STUDIES["table3"], asked(STUDIES["table3"], ratios=(0.3,), seeds=(0,)), bench, store)
    assert found.cut == [
        "not run: ratios 10 %, 20 %; seeds 1, 2",
        "measured on at most 8 windows of a text or items of a task",
    ]
    assert "stands in the calibration text" in found.series["warnings"][0]
    told = markdown(found)
    assert "Repairing both is better than repairing o_proj alone." in told
    assert "not run: ratios 10 %, 20 %" in told
    assert Findings.from_dict(json.loads(json.dumps(found.to_dict()))).to_dict() == json.loads(
        json.dumps(found.to_dict())
    )


@pytest.mark.parametrize("name", ["geometry", "table5", "transfer", "reflection"])
def test_other_quantities_are_read(store, bench, asked, name, other_text):
    study = STUDIES[name]
    found = run_study(study, asked(study, ratios=(0.1, 0.3), seeds=(0,), evaluation=other_text), bench, store)
    assert not found.failed
    for quantity in study.quantities:
        values = readings(found.points, quantity)
        assert len(values) >= 4
        assert all(np.isfinite(r.value) for r in values)
    assert all(v.settings for v in found.verdicts)
    assert found.verdicts[0].state == {"table5": "holds"}.get(name, found.verdicts[0].state)


def point(label: str, losses, seed: str = "0", **labels) -> Point:
    answer = {"kind": "perplexity", "asked": {"windows": "w"}, "answer": {"by_window": tuple(losses)}}
    return Point({"method": label, "ratio": "20 %", **labels}, seed, {"perplexity": answer})


def claimed(relation: str, **more):
    claim = {"says": "A beats B.", "first": {"method": "a"}, "is": relation, "than": {"method": "b"}, **more}
    axes = {"method": {"values": {"a": {}, "b": {}}}, "size": {"values": {"1": {}, "2": {}}}}
    return read_study("own", {"title": "t", "axes": axes, "figure": {"x": "ratio"}, "claims": [claim]})


NOISE = np.random.default_rng(0).normal(scale=1.0, size=50)  # how hard a window is, the same for both models


@pytest.mark.parametrize(
    ("relation", "margin", "gap", "state"),
    [
        ("lower", 0, -0.05, "holds"),
        ("lower", 0, 0.05, "fails"),
        ("lower", 0, 0.0, "open"),
        ("higher", 0, 0.05, "holds"),
        ("higher", 10, 0.05, "fails"),
        ("higher", 10, 0.2, "holds"),
        ("same", 3, 0.0, "holds"),
        ("same", 3, 0.2, "fails"),
        ("same", 3, 0.03, "open"),
    ],
)
def test_a_verdict_follows_from_the_paired_interval(relation, margin, gap, state):
    jitter = np.random.default_rng(1).normal(scale=0.02, size=50)
    points = [point("a", 3 + NOISE + gap + jitter), point("b", 3 + NOISE)]
    (verdict,) = verdicts(claimed(relation, margin=margin), points)
    assert verdict.state == state
    assert "a against b" in verdict.sentence
    assert "perplexity" in verdict.sentence


def test_what_was_printed_says_where_a_claim_holds_there():
    told = {n: [in_print(study, claim) for claim in study.claims] for n, study in STUDIES.items()}
    assert told["table2"][0] == "LLaMA-7B, mean of seven tasks: holds, but not at 30 %", "55.50 against 56.20"
    assert told["table1"][3] == "LLaMA-7B: holds, but not at 20 %; Llama-2-13B: holds", "14.83 against 14.40"
    off = "20 %, 128 calibration windows"
    assert told["table1"][2].startswith(f"LLaMA-7B: holds, but not at {off};"), "14.55 against 14.40 is 1.04 %"
    assert told["fig2"][0] == f"LLaMA-7B (read off a plot): holds, but not at {off}", "16.85 against 16.7"
    assert set(told["blocks"]) == set(told["few"]) == {""}
    contrary = replace(STUDIES["table3"].claims[0], relation="higher")
    assert in_print(STUDIES["table3"], contrary) == "LLaMA-7B: does not hold"


def test_unpaired_the_same_gap_would_not_be_seen():
    a, b = (readings([point(label, 3 + NOISE + gap)], "perplexity")[0] for label, gap in (("a", -0.05), ("b", 0.0)))
    assert a.interval.high > b.interval.low
    assert paired("perplexity", b, a).decided


def test_seeds_that_disagree_leave_it_open():
    gaps = {"0": -0.05, "1": 0.05, "2": 0.01}
    points = [p for s, g in gaps.items() for p in (point("a", 3 + NOISE + g, s), point("b", 3 + NOISE, s))]
    (verdict,) = verdicts(claimed("lower"), points)
    assert verdict.state == "open"
    (alone,) = verdicts(claimed("lower"), points[:2])
    assert alone.state == "holds"


def test_a_claim_must_hold_everywhere_unless_somewhere_is_enough():
    points = []
    for size, gap in (("1", -0.05), ("2", 0.05)):
        points += [point("a", 3 + NOISE + gap, size=size), point("b", 3 + NOISE, size=size)]
    (everywhere,) = verdicts(claimed("lower"), points)
    assert everywhere.state == "fails"
    assert "(in 1 of 2 settings)" in everywhere.sentence
    assert "at 20\N{NO-BREAK SPACE}%, size 2 perplexity +5." in everywhere.sentence
    (somewhere,) = verdicts(claimed("lower", some="size"), points)
    assert somewhere.state == "holds"


def test_without_cells_a_claim_is_not_decided():
    (verdict,) = verdicts(claimed("lower"), [point("a", NOISE)])
    assert (verdict.state, verdict.settings) == ("open", ())
    assert "Not run yet" in verdict.sentence


def test_other_windows_are_not_paired():
    other = replace(point("b", NOISE), answers={"perplexity": {**point("b", NOISE).answers["perplexity"], "asked": {}}})
    (verdict,) = verdicts(claimed("lower"), [point("a", NOISE), other])
    assert verdict.settings == ()


def test_bad_studies_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(RcpuError, match="no study 'table9': give one of fig2"):
        load_study("table9")
    for text, sentence in (
        ("axes: 3", "cannot be read: a value has another form"),
        ("title: t\ncolour: red", "unknown settings colour"),
        ("title: t\naxes: {a: {values: {b: {recipe: bestt}}}}\nfigure: {}", "unknown recipe 'bestt'.*best"),
        ("title: t\naxes: {}\nfigure: {}\nequal: layers", "unknown equal in the study own 'layers'.*decoder"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(RcpuError, match=sentence):
            load_study(str(tmp_path / "own.yaml"))
    with pytest.raises(RcpuError, match="unknown relation in the study own 'better'"):
        claimed("better")
    with pytest.raises(RcpuError, match="unknown size 'huge': choose one of small, paper"):
        sized(STUDIES["table3"], "huge")
