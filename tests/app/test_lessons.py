"""What the lessons say: complete, pointing at pages and settings that exist, and true in every case of the numbers."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import rcpu
from app.figures import learn as figures
from app.job_panels import JOB_PAGES
from app.lessons import LESSONS, work
from app.lessons.drag import LIMIT, format_points, parse_points
from app.lessons.findings import (
    about_crossing,
    about_drift,
    about_fit,
    about_ladder,
    about_orders,
    about_size,
    about_variance,
    shown,
)
from app.lessons.procrustes import EXAMPLES, FIRST
from app.settings import RESULTS, Settings
from rcpu.explain.growth import Step, squares
from rcpu.explain.ladder import Rung
from rcpu.explain.outline import outline
from rcpu.explain.plane import fit
from rcpu.models.families import SITES
from tests.tables import to_csv

PAGES = Path(__file__).parents[2] / "pages"
NAMES = {f.name: type(getattr(Settings(), f.name)) for f in fields(Settings)}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.short)
def test_a_lesson_is_whole_and_points_at_what_exists(lesson):
    assert 3 <= len(lesson.steps) <= 5
    for text in (lesson.title, lesson.idea, lesson.formula, lesson.task, lesson.question, lesson.answer):
        assert text.strip()
    for text in (*lesson.steps, lesson.answer, lesson.task, lesson.question):
        assert text.count("$") % 2 == 0, "a formula is open"
        assert text.count("**") % 2 == 0
    assert lesson.question.endswith("?")
    for link in lesson.links:
        assert (PAGES / f"{link.page}.py").is_file()
    for settings in (lesson.settings, *(link.settings for link in lesson.links)):
        for name, value in settings.items():
            assert NAMES[name] is type(value)


def test_there_are_seven_and_names_are_not_shared():
    assert len(LESSONS) == 7
    labels = [link.label for lesson in LESSONS for link in lesson.links]
    assert len(set(labels)) == len(labels)
    assert {"drift", "curve", "ladder", "orders"} <= set(JOB_PAGES) < set(RESULTS)


def test_a_link_says_which_view_it_opens():
    views = {"importance": "view", "rotation": "spectrum", "calibration": "calibration_view"}
    for link in (link for lesson in LESSONS for link in lesson.links):
        assert link.page not in views or views[link.page] in link.settings, link.label


def test_examples_show_what_their_names_say():
    found = {}
    for name, text in EXAMPLES.items():
        y, z = parse_points(text)
        found[name] = fit(torch.tensor(y).T, torch.tensor(z).T)
    assert found["Turned"].determinant == 1
    assert found["Turned"].after < 0.01
    assert found["Turned"].angle == pytest.approx(40, abs=0.5)
    assert found["Mirrored"].determinant == -1
    assert found["Mirrored"].after < 0.01
    assert found["Half as large"].angle == pytest.approx(0, abs=0.1)
    assert found["Half as large"].after == pytest.approx(0.5, abs=1e-6)
    assert found["Half as large"].free < 0.01
    assert 0.05 < found["Turned and noisy"].after < found["Turned and noisy"].before / 2
    assert found["Squeezed flat"].free < 0.01 < 0.1 < found["Squeezed flat"].after
    assert EXAMPLES["Turned and noisy"] == FIRST


def test_points_are_read_back_and_clipped():
    y, z = parse_points(FIRST)
    assert format_points(y, z) == FIRST
    clipped = parse_points("9,-9;0,0;1,1;0,0;0,0;1e5,0")
    assert clipped[0][0] == pytest.approx((LIMIT / 2**0.5, -LIMIT / 2**0.5))
    assert clipped[1][2] == (LIMIT, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2",
        "1,2;3,4;5,6",
        "1,2,3;1,1",
        "a,b;1,1;1,1;1,1;1,1;1,1",
        "nan,0;1,1;1,1;1,1;1,1;1,1",
        "1,1;1,1;1,1;1,1;1,1;inf,1",
        "<script>,1;1,1;1,1;1,1;1,1;1,1",
        "0,0;" * 40 + "0,0",
    ],
)
def test_points_that_are_none_are_refused(text):
    assert parse_points(text) is None


def test_size_and_drift_in_words():
    assert "nothing leaves" in about_size(0.0, 100, 100)
    assert "**13.7%**" in about_size(0.2, 1000, 863)
    errors = {"o_proj": {0: 0.1, 1: 0.4}, "down_proj": {0: 0.05, 1: 0.3}}
    said = about_drift(errors, 0.2)
    assert "`o_proj` of layer 1 drifts most" in said
    assert "`down_proj` of layer 0 drifts least" in said
    assert "Nothing is removed" in about_drift({"o_proj": {0: 0.0}}, 0.0)


def test_fit_in_words():
    assert "turns by **40°**" in about_fit(1, 40.0, 0.7, 0.2, 0.1)
    assert "71%" in about_fit(1, 40.0, 0.7, 0.2, 0.1)
    assert "**mirror**: it flips the points over at the line that rises by 40°, and takes" in about_fit(
        -1, 40.0, 0.7, 0.2, 0.2
    )
    assert "the line that falls by 69°" in about_fit(-1, -69.0, 0.7, 0.2, 0.2)
    assert "takes away only **2%** of the error: hardly anything here was turned" in about_fit(1, -7.0, 0.5, 0.49, 0)
    assert "nothing of the error is left" in about_fit(1, 40.0, 0.7, 0.0, 0.0)
    assert "little or nothing" in about_fit(1, 0.0, 0.5, 0.5, 0.0)
    assert "down to 0.00" in about_fit(1, 0.0, 0.5, 0.5, 0.0)
    assert "little or nothing" in about_fit(1, 0.0, 0.0, 0.0, 0.0)


def test_variance_in_words_says_who_loses_less():
    def errors(a, b, c, d):
        return {"with": {"none": a, "bias": b}, "without": {"none": c, "bias": d}}

    said = about_variance(3, 10, errors(0.2, 0.1, 0.15, 0.14), True)
    assert "no score saw" in said
    assert "no windows are held out" in about_variance(3, 10, errors(0.2, 0.1, 0.15, 0.14), False)
    assert "3 of 10" in said
    assert "score *without* variance loses less (20.0% with, 15.0% without)" in said
    assert "score with variance loses less (10.0% with, 14.0% without)" in said
    assert "in place of the lost means the score with variance loses less (10.0%" in said
    both = about_variance(3, 10, errors(0.2, 0.1, 0.3, 0.15), True)
    assert both.count("loses less") == 1
    assert "(20.0% with, 30.0% without) and with a bias in place of the lost means (10.0% with, 15.0% without)" in both
    assert "both scores lose the same within one percent" in about_variance(3, 10, errors(0.2, 0.1, 0.2, 0.1), True)
    assert "(3.06% with, 3.14% without)" in about_variance(3, 10, errors(0.0306, 0.1, 0.0314, 0.1), True)
    assert "decides nothing" in about_variance(0, 10, errors(0.2, 0.1, 0.2, 0.1), True)
    assert "Nothing is removed" in about_variance(0, 0, errors(0, 0, 0, 0), True)


def test_crossing_in_words():
    def said(ridge: float, *errors: tuple[float, float, float | None]) -> str:
        parts = ({"none": a, "rotation": b, squares(ridge): c} for a, b, c in errors)
        return about_crossing([Step(2**i, 2**i * 128, 100, held, held) for i, held in enumerate(parts)], ridge)

    usual = said(1e-4, (0.04, 0.05, 0.06), (0.04, 0.045, 0.06), (0.04, 0.035, 0.05), (0.04, 0.03, 0.02))
    assert "worse than no repair up to 2 windows, and helps from 4 on" in usual
    assert "least squares is worse than none as well: both **over-fit**" in usual
    assert "**between 4 and 8 windows**" in usual
    assert "starts ahead" not in usual
    assert usual.endswith(
        "With 8 windows the rotation takes away **25%** and least squares takes away **50%** of the error that is "
        "there without repair."
    )
    strong = said(0.1, (0.04, 0.05, 0.03), (0.04, 0.03, 0.02))
    assert "up to 1 window, and" in strong
    assert "This ridge keeps least squares from it" in strong
    assert "**from the first point on**" in strong
    assert "over-fitting more than the rotation does" in strong
    behind = said(1e-4, (0.04, 0.03, 0.05), (0.04, 0.03, 0.05))
    assert "The rotation is never worse" in behind
    assert "At the first point" not in behind
    assert "**not** overtake the rotation up to 2 windows." in behind
    assert "least squares adds **25%**" in behind
    assert "over-fit" not in said(1e-4, (0.04, 0.03, None), (0.04, 0.03, None))
    fallen = said(0.01, (0.04, 0.05, 0.03), (0.04, 0.041, 0.042))
    assert "still worse than no repair with 2 windows" in fallen
    assert "starts **ahead** of the rotation" in fallen
    assert "is behind at 2 windows" in fallen
    twice = said(1e-4, (0.34, 0.42, 0.40), (0.34, 0.3, 0.4), (0.34, 0.3, 0.2))
    assert "starts ahead of the rotation" in twice
    assert "between 2 and 4" in twice
    assert "of the error" not in said(1e-4, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def test_orders_in_words():
    def said(none, paper, site, a=30.0, b=30.0):
        perplexity = {"dense": 25.0, "none": 32.0, "paper": a, "site": b}
        return about_orders({"none": [none], "paper": [paper], "site": [site]}, perplexity, 0)

    assert "hardly a difference" in said(0.3, 0.2, 0.2)
    assert "less than the repair" in said(0.3, 0.2, 0.19)
    assert "no better" in said(0.3, 0.2, 0.22)
    assert "within half a percent" in said(0.3, 0.2, 0.2)
    assert "pruning costs 7.00, and repair in the paper's order wins 2.00 of it back" in said(0.3, 0.2, 0.2)
    assert "wins nothing back" in said(0.3, 0.2, 0.2, a=33.0)
    assert "With `o_proj` first it is **lower** by 1.00 (3.3%)." in said(0.3, 0.2, 0.1, b=29.0)
    assert "With `o_proj` first it is **higher** by 1.00" in said(0.3, 0.2, 0.1, b=31.0)
    far = said(0.3, 0.2, 0.1, a=280.2, b=273.0)  # tiles have no room for five figures
    assert "costs 7.00" in far
    assert "lower** by 7.20 (2.6%)" in far
    assert shown(1234.5) == "1234"
    assert "The order changes 0.05" in said(0.3, 0.2, 0.2, a=27.986, b=28.044)  # of 27.99 and 28.04, as shown


def test_matrices_are_drawn_before_and_after_and_download(model):
    drawn = outline(model.net, 1, {"o_proj": torch.arange(24), "down_proj": torch.arange(36)})
    blocks = [[[m] for m in matrices] for matrices in drawn.values()]
    before, after = (figures.matrices(blocks, 1, shown) for shown in (False, True))
    assert sum(t.type == "heatmap" for t in before.data) == 7
    assert not any(t.type == "heatmap" for t in after.data)
    assert len(after.layout.shapes) == 14
    assert "weights leave" in before.layout.meta["alt"]
    assert "down_proj" in to_csv(before)


def test_figures_of_errors_have_alt_texts_units_and_gaps_where_there_is_no_answer():
    key = "least_squares 0.0001"
    parts = {"none": 0.4, "rotation": 0.3, key: None}
    steps = [Step(1, 16, 8, parts, parts), Step(2, 32, 8, parts | {key: 0.2}, parts | {key: 0.2})]
    fig = figures.growing(steps, key, "Layer 0 o_proj")
    assert fig.data[2].y == (None, 0.2)
    assert fig.layout.yaxis.title.text.startswith("error")
    assert "1 to 2 calibration windows" in fig.layout.meta["alt"]
    assert figures.growing([], key, "empty").layout.meta["alt"]
    drift = figures.order_drift({"none": [0.2, 0.3], "paper": [0.1, 0.2], "site": [0.1, 0.2]}, (0,))
    assert len(drift.data) == 3
    bars = figures.order_gains({"none": [0.2, 0.0], "paper": [0.1, 0.0], "site": [0.3, 0.0]}, (0, 1))
    assert [v for bar in bars.data for v in bar.y] == pytest.approx([50, 0, -50, 0])
    assert not fig.layout.shapes
    few = [Step(1, 16, 24, parts, parts), Step(2, 32, 24, parts, parts)]
    assert figures.growing(few, key, "Layer 0 o_proj").layout.shapes[0].x0 == 1.5  # windows of 16 tokens
    mask = torch.tensor([True, True, False, False])
    dots = figures.channels(torch.ones(4), torch.ones(4), mask, mask.roll(1), "Inputs")
    assert sum(len(t.x) for t in dots.data) == 4
    assert "1 leave" in dots.layout.meta["alt"]


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"scorer": "flap"}, True),
        ({"seed": 1}, True),
        ({"window": 64}, True),
        ({"text": "wikitext2"}, True),
        ({"ratio": 0.3}, True),
        ({"unit": "kv_group"}, True),
        ({"ratios": ((0, 0.5),)}, False),
        ({"layers": (1,)}, False),
        ({"compensation": "bias"}, False),
        ({"samples": 7}, False),  # lessons take their own
    ],
)
def test_jobs_of_lessons_are_joined_by_all_that_matters(model, changes, matters):
    config = rcpu.Recipe()
    changed = replace(config, **changes)
    assert (work.growth_asked(model, config, 0, "o_proj") != work.growth_asked(model, changed, 0, "o_proj")) is matters
    assert (work.orders_asked(model, config, "embedded") != work.orders_asked(model, changed, "embedded")) is matters


def test_jobs_of_lessons_are_apart_by_projection_and_evaluation_text(model):
    config = rcpu.Recipe()
    assert len({work.growth_asked(model, config, layer, site) for layer in (0, 1) for site in SITES}) == 4
    assert work.orders_asked(model, config, "embedded") != work.orders_asked(model, config, "wikitext2")


def rung(windows: int, **held_out: float) -> Rung:
    return Rung(windows, 128 * windows, held_out, held_out)


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ({"none": 0.2, "rotation": 0.3, "ridge": 0.25}, "With 8 windows **nothing repaired** is best"),
        ({"none": 0.2, "rotation": 0.1, "ridge": 0.25}, "the **rotation** is best, −50% against no repair"),
        (
            {"none": 0.2, "rotation": 0.16, "ridge": 0.12, "bias": 0.08},
            "about the mean, with a bias**, −60% against",
        ),
        ({"none": 0.2, "rotation": 0.16, "ridge": 0.12, "bias": 0.08}, "−50% against the rotation"),
    ],
)
def test_the_ladder_is_told_by_its_numbers(held_out, words):
    assert words in about_ladder([rung(8, **held_out)])
    assert about_ladder([rung(8, **held_out), rung(128, **held_out)]).count("With 128 windows") == 1
