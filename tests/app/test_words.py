"""Words about figures: formulas are set, and nothing in them becomes HTML but our Markdown."""

import pytest

from app.words import as_html


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("W_K X_K and Q_ii, ‖W_j‖₂", "W<sub>K</sub> X<sub>K</sub> and Q<sub>ii</sub>, ‖W<sub>j</sub>‖₂"),
        ("U_rᵀ V_r", "U<sub>r</sub>ᵀ V<sub>r</sub>"),
        ("‖Y‖_F ÷ 2", "‖Y‖<sub>F</sub> ÷ 2"),
        ("e^{±iθ}", "e<sup>±iθ</sup>"),
        ("o_proj, down_proj", "o_proj, down_proj"),
        ("[text](https://a.b/x_y)", '<a href="https://a.b/x_y" target="_blank" rel="noopener noreferrer">text</a>'),
        ("<script>x_i</script> & `a_b`", "&lt;script&gt;x<sub>i</sub>&lt;/script&gt; &amp; <code>a_b</code>"),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
    ],
)
def test_words_as_html(words, expected):
    assert as_html(words) == f"<p>{expected}</p>\n"


def test_no_words_are_nothing():
    assert not as_html("")
