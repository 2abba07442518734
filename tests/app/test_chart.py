"""Figures on their way to the browser and what comes back from there; what it draws is seen in test_browser.py."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from app import chart
from app.figures.base import new_figure
from tests.pages import sent_charts


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
    chart.chart(figure, "figure", "layer 3", heard.append)
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

    words = "words **about** <b> W_K ([paper](https://arxiv.org/abs/2510.07782))"
    figure(new_figure("title", "x", "y", "what it shows"), "one", words)


def test_words_come_with_the_figure_and_signs_of_html_in_them_are_text():
    at = AppTest.from_function(_one_figure, default_timeout=60).run()
    assert not at.exception
    (sent,) = sent_charts(at)
    assert sent["name"] == "one"
    assert sent["alt"] == "what it shows"
    assert "<strong>about</strong> &lt;b&gt; W<sub>K</sub>" in sent["words"]
    link = '<a href="https://arxiv.org/abs/2510.07782" target="_blank" rel="noopener noreferrer">paper</a>'
    assert link in sent["words"]


def test_curves_keep_what_plotly_knows_them_by(monkeypatch):
    mounted = {}
    monkeypatch.setattr(chart.st.components.v2, "component", lambda *_, **__: lambda **sent: mounted.update(sent))
    figure = new_figure("title", "x", "y", "what it shows").add_scatter(x=[1], y=[2], uid="50%")
    chart.chart(figure, "figure")
    assert json.loads(mounted["data"]["figure"])["data"][0]["uid"] == "50%"
