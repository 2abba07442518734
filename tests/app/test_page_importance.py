"""The page Importance in Streamlit's test runner: every view, on a tiny LLaMA whose query heads share KV heads."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

import rcpu
from app.answers import importance as answers
from app.shared import ahead, models
from rcpu.statistics.kept import Collection
from tests.pages import charts, click, finish, notes, numbers, open_page, texts, tiles

VIEWS = {"cut": 1, "layers": 2, "factors": 2, "scorers": 2, "greedy": 1, "values": 1, "unit": 1}  # figures on o_proj


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Statistics of these tests stay out of the user's cache."""
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path_factory.getbasetemp() / "page-cache"))


@pytest.fixture
def settings(model, model_folder, text_file) -> dict:
    models().put((str(model_folder), "auto", "auto"), model)
    return {"model": model_folder, "text": text_file, "samples": 8, "window": 16, "held_out": 2, "ratio": 0.25}


def opened(settings: dict, **others):
    at = open_page("importance", **{**settings, **others})
    if any(b.label == "Measure the dense model" for b in at.button):
        at = finish(click(at, "Measure the dense model"), "collect")
    return at


def test_without_a_model_the_page_points_to_one():
    at = open_page("importance", model="/nothing/loaded")
    assert "No model is loaded" in texts(at, "markdown")


@pytest.mark.parametrize("view", ["cut", "factors", "scorers", "greedy", "values", "unit", "layers"])
def test_what_the_next_move_asks_for_is_made_ready_before(settings, view, monkeypatch):
    asked = []
    monkeypatch.setattr(ahead(), "work_out", lambda *calls: asked.append([*calls[0], *calls[1]]))
    at = opened(settings, view=view, site="o_proj", layer=1, seed=3 + list(VIEWS).index(view))
    with ThreadPoolExecutor(1) as pool:  # without a session, as it is worked out ahead
        for call in asked[-1]:
            with contextlib.suppress(rcpu.RcpuError):  # this model cannot have whole heads
                pool.submit(call).result()
    read = []
    for name in ("get", "vectors"):
        monkeypatch.setattr(Collection, name, lambda *_: read.append(1))  # which no page could go on with
    for name in ("CutAnswer", "FactorsAnswer", "LayersAnswer", "ScorersAnswer"):
        monkeypatch.setattr(answers, name, lambda *_: read.append(1))
    moves = [
        lambda: at.slider(key="set_ratio").set_value(0.3),
        lambda: at.slider(key="set_ratio").set_value(0.25),
        lambda: at.selectbox(key="set_unit").select("kv_group"),
        lambda: at.selectbox(key="set_unit").select("auto"),
        lambda: at.selectbox(key="set_scorer").select("wanda_sp"),
        lambda: at.selectbox(key="set_scorer").select("rcpu"),
        lambda: at.get("button_group")[1].set_value("down_proj"),
    ]
    for move in moves:
        move().run()
        assert not at.exception
        assert not read
    assert at.query_params["site"] == "down_proj"


def test_without_statistics_it_offers_to_measure(settings):
    at = open_page("importance", **{**settings, "seed": 77})
    assert any(b.label == "Measure the dense model" for b in at.button)
    assert not tiles(at)


def test_what_was_measured_in_part_can_be_measured_to_the_end(settings):
    settings = {**settings, "seed": 79}
    at = opened(settings, layers="1")
    assert "were measured" not in texts(at, "info")
    at = opened(settings, site="down_proj")
    assert "Only layers 1 were measured" in texts(at, "info")
    assert len(charts(at)) == 1
    at = finish(click(at, "Measure the rest"), "collect")
    assert "were measured" not in texts(at, "info")
    assert len(at.select_slider(key="set_layer").options) == 3


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws_at_every_unit(settings, view, site):
    at = opened(settings, view=view, site=site, layer=1)
    assert not at.error
    expected = 1 if (view, site) == ("layers", "down_proj") else VIEWS[view]
    assert len(charts(at)) == expected
    assert "dense model's own path" in texts(at, "caption")
    at.selectbox(key="set_unit").select("kv_group").run()
    assert not at.exception
    assert not at.error
    at.slider(key="set_ratio").set_value(0.0).run()
    assert not at.exception


def test_the_cut_follows_the_ratio(settings):
    at = opened(settings, site="down_proj")
    assert tiles(at)["Channels that go"] == "18"
    at.slider(key="set_ratio").set_value(0.5).run()
    assert tiles(at)["Channels that go"] == "36"
    stays, goes = charts(at)[0]["data"]
    assert (len(stays["x"]), len(goes["x"])) == (36, 36)
    assert at.query_params["ratio"] == "0.5"


def test_a_layer_with_a_ratio_of_its_own_is_cut_by_it(settings):
    at = opened(settings, site="down_proj", layer=1, ratios="1=0.5")
    assert tiles(at)["Channels that go"] == "36"
    assert "a ratio of its own: 0.5" in texts(at, "caption")


def test_value_channels_go_from_every_kv_head(settings):
    assert tiles(opened(settings))["Channels that go"] == "4"
    assert tiles(opened(settings, unit="kv_group", ratio=0.5))["KV groups that go"] == "1"


def test_a_unit_chosen_by_a_click_is_shown_below(settings):
    at = opened(settings, site="down_proj")
    assert not at.subheader
    chosen = opened(settings, site="down_proj", shown_unit=5)
    assert texts(chosen, "subheader").startswith("Channel 5 ")
    ring = charts(chosen)[0]["data"][-1]
    assert ring["name"] == "channel 5"
    assert not opened(settings, site="down_proj", shown_unit=9999).subheader


def test_the_unit_view_starts_with_the_most_important_and_takes_a_number(settings):
    at = opened(settings, site="down_proj", view="unit")
    found = notes(at)
    assert found["Score"] == "rank 1 of 72"
    assert "Tokens that excite it most" in texts(at, "markdown")
    assert "".join(e.value for e in at.get("html")).count("font-weight:700") >= 1
    at.number_input(key="set_shown_unit").set_value(11).run()
    assert texts(at, "subheader").startswith("Channel 11 ")
    assert at.query_params["shown_unit"] == "11"


def test_a_unit_beyond_the_last_falls_back(settings):
    at = opened(settings, view="unit", shown_unit=70, site="down_proj")
    assert texts(at, "subheader").startswith("Channel 70 ")
    at.segmented_control(key="set_site").set_value("o_proj").run()
    assert not at.exception
    assert "of KV head" in texts(at, "subheader")


def test_factors_and_their_ablation_are_in_numbers(settings):
    at = opened(settings, view="factors", site="down_proj")
    table = numbers(at, "factors-table")
    assert table["score"][0] == "all three"
    assert table["same units go (%)"][0] == 100
    assert (table["other units"] <= 18).all()
    shares = [float(v.replace("−", "-").rstrip("%")) for k, v in tiles(at).items() if k.startswith("Order set by")]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_scorers_agree_with_themselves(settings):
    at = opened(settings, view="scorers", site="down_proj")
    overlap, correlation = (c["data"][0]["z"] for c in charts(at))
    for square in (overlap, correlation):
        assert [square[i][i] for i in range(5)] == pytest.approx([1] * 5)
    assert list(numbers(at, "scorers-table")["score"]) == [
        *("RCPU", "WANDA-sp", "FLAP", "FLAP's WIFN", "Wanda-sp (L2)", "Magnitude", "Random")
    ]


def test_another_scorer_sorts_anew(settings):
    at = opened(settings, site="down_proj")
    before = charts(at)[0]["data"][0]["customdata"]
    at.selectbox(key="set_scorer").select("magnitude").run()
    assert charts(at)[0]["data"][0]["customdata"] != before


@pytest.mark.parametrize(
    ("changes", "words"), [({"unit": "head"}, "unit 'head' needs one KV head"), ({"ratios": "x"}, "ratios of single")]
)
def test_bad_settings_are_said(settings, changes, words):
    at = open_page("importance", **{**settings, **changes})
    assert words in texts(at, "error")


def test_every_point_carries_the_unit_that_a_click_on_it_shows(settings):
    stays, goes = charts(opened(settings, site="down_proj"))[0]["data"]
    assert sorted([*stays["customdata"], *goes["customdata"]]) == list(range(72))


def test_the_map_of_all_layers_follows_every_setting(settings):
    at = opened(settings, view="layers", site="o_proj")
    seen = [charts(at)]
    for change in (
        lambda: at.slider(key="set_ratio").set_value(0.5),
        lambda: at.selectbox(key="set_scorer").select("magnitude"),
        lambda: at.selectbox(key="set_unit").select("kv_group"),
        lambda: at.toggle(key="set_relative").set_value(False),
        lambda: at.get("button_group")[1].set_value("down_proj"),
    ):
        change().run()
        assert not at.exception
        assert charts(at) not in seen
        seen.append(charts(at))
