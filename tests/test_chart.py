"""Figures on their way to the browser and what comes back from there; what it draws is seen in test_browser.py."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from app import chart
from app.figures.base import new_figure
from tests.pages import charts


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, []),
        ({}, []),
        ({"picked": None}, []),
        ({"picked": [1, 2]}, []),
        ({"picked": {"points": "12"}}, []),
        ({"picked": {"points": [3, -1, 2.5, "7", True, None, 9], "at": 1}}, [3, 9]),
    ],
)
def test_only_whole_numbers_come_back_from_the_browser(monkeypatch, sent, expected):
    monkeypatch.setattr(chart.st, "session_state", {"figure": sent})
    assert chart._picked("figure") == expected


def test_a_figure_goes_with_its_words_its_height_and_the_place_of_the_script(monkeypatch):
    mounted = {}
    monkeypatch.setattr(chart.st.components.v2, "component", lambda *_, **__: lambda **sent: mounted.update(sent))
    monkeypatch.setattr(chart.st, "session_state", {"figure": {"picked": {"points": [4]}}})
    figure, heard = new_figure("title", "x", "y", "what it shows", height=210), []
    assert chart.chart(figure, "figure", "layer 3", heard.append) == [4]
    assert mounted["data"]["alt"] == "what it shows"
    assert mounted["data"]["height"] == 210
    assert mounted["data"]["of"] == "layer 3"
    assert mounted["data"]["pick"]
    assert json.loads(mounted["data"]["figure"])["layout"]["title"]["text"] == "title"
    address, _, version = mounted["data"]["plotly"].partition("?v=")
    assert address == "component/app.chart.plotly/plotly.min.js"
    assert version
    mounted["on_picked_change"]()
    assert heard == [[4]]
    chart.chart(figure, "figure")
    assert not mounted["data"]["pick"]
    assert mounted["on_picked_change"] is None


def _one_figure():
    from app.figures.base import new_figure
    from app.widgets import figure

    figure(new_figure("title", "x", "y", "what it shows"), "one", "words about it")


def test_words_and_downloads_come_when_they_are_opened():
    at = AppTest.from_function(_one_figure, default_timeout=60).run()
    assert len(charts(at)) == 1
    assert not at.markdown
    assert not at.get("download_button")
    at.session_state["words-one"] = at.session_state["downloads-one"] = True
    for _ in range(2):  # they stay open
        at.run()
        assert not at.exception
        assert [m.value for m in at.markdown] == ["words about it\n\n*what it shows.*"]
        assert len(at.get("download_button")) == 3
