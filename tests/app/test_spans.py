"""Spans hold their text and nothing else of it: no tag, no attribute, no lost blank; readable in both themes."""

from html.parser import HTMLParser

import pytest
from streamlit.string_util import clean_text

from app.spans import OPAQUE, RGB, border_spans, diff_spans, ground, legend, token_spans, token_titles
from rcpu.measure.differences import first_divergence, word_diff, words
from rcpu.measure.predictions import compare_tokens

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp; &#10; &",
    "<!-- --><style>*{}</style><a href='javascript:x'>",
    "</span></div><iframe>",
    "**bold** [link](http://x) $x$ :smile: `code`",
    "  a\n\n   \n\tb\r\n",
    "nul \x00 escape \x1b delete \x7f",
    "naïve 😀 שלום",
]
ATTRIBUTES = {"style", "title", "dir", "role", "aria-label", "aria-hidden"}


class Page(HTMLParser):
    """What a browser would make of the HTML."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.text, self.titles, self.open = "", [], []
        self.feed(clean_text(source))  # as st.html does
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "span")
        assert {name for name, _ in attrs} <= ATTRIBUTES
        self.open.append(dict(attrs))
        if "title" in dict(attrs):
            self.titles.append(dict(attrs)["title"])

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if not any("user-select:none" in a.get("style", "") for a in self.open):  # signs are not part of the text
            self.text += data

    def handle_comment(self, data):
        pytest.fail("a comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


def shown(text: str) -> str:
    """Control characters have signs of their own; line ends and tabs are themselves."""
    signs = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {127: 0x2421}
    return text.translate(signs)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text):
    pieces = [text, "", text]
    page = Page(token_spans(pieces, [1.0, None, 0.0], 0, 2, [text] * 3))
    assert page.text == shown("".join(pieces))
    assert page.titles == [shown(text)] * 3
    assert Page(diff_spans([(text, True), (text, False)], mark=1)).text == shown(text * 2)
    assert shown(text) in Page(legend(0, 1, text)).text


def test_blank_lines_survive():
    source = token_spans(["a\n", "   \n", "\n  b"], [None] * 3, 0, 1)
    assert "\n" not in source  # st.html would take the blanks out of a blank line
    assert Page(source).text == "a\n   \n\n  b"
    assert "white-space:pre-wrap" in source
    assert source.count("↵") == 3


def test_the_ground_deepens_with_the_value_and_stays_within_its_ends():
    assert ground(None, 0, 1) == ground(float("nan"), 0, 1) == "none"
    values = (-1, 0, 0.5, 1, 99, float("inf"))
    assert [ground(v, 0, 1) for v in values] == [f"rgba({RGB},{a:.3f})" for a in (0, 0, 0.35, 0.7, 0.7, 0.7)]
    assert ground(3, 2, 4) == ground(0.5, 0, 1)
    assert ground(1, 1, 1) == f"rgba({RGB},0.000)"


@pytest.mark.parametrize(("text", "page"), [("#31333F", "#FFFFFF"), ("#FAFAFA", "#0E1117")], ids=["light", "dark"])
def test_text_on_the_deepest_ground_has_contrast(text, page):
    def channels(color: str) -> list[float]:
        return [int(color[i : i + 2], 16) for i in (1, 3, 5)]

    def luminance(color: list[float]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    over = [OPAQUE * int(c) + (1 - OPAQUE) * p for c, p in zip(RGB.split(","), channels(page), strict=True)]
    light, dark = sorted((luminance(channels(text)), luminance(over)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG AA


def test_tokens_of_a_model_with_their_tooltips(gqa, mha, tokenizer):
    view = compare_tokens({"dense": mha, "pruned": gqa}, tokenizer, "a <b>\n")["pruned"]
    page = Page(token_spans(view.tokens, view.loss, 0, 8, token_titles(view)))
    assert page.text == "a <b>\n"
    assert page.titles[0] == "first token: only read, not predicted"
    for i in range(1, 6):
        for part in (f"loss {view.loss[i]:.3f} nats", f"{view.probability[i]:.2%}", f"{view.divergence[i]:.4f}"):
            assert part in page.titles[i]


def test_pieces_without_values_of_their_own_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        token_spans(["a", "b"], [1.0], 0, 1)


def test_differing_words_are_told_by_more_than_colour():
    a, b = "the cat sat", "the dog sat"
    source = diff_spans(word_diff(a, b), first_divergence(words(a), words(b)))
    before, _, rest = source.partition("◆")
    assert "the" in before
    assert "dog" not in before
    assert "underline" in rest
    assert "font-weight:700" in rest
    assert source.count("underline 2px") == 1
    assert 'aria-label="first difference"' in source


def test_a_text_that_ends_early_is_marked_at_its_end():
    a, b = "the cat sat", "the cat"
    source = diff_spans(word_diff(a, b), first_divergence(words(a), words(b)))
    assert source.count("◆") == 1
    assert source.index("cat") < source.index("◆")
    assert "◆" not in diff_spans(word_diff(a, a), first_divergence(words(a), words(a)))


@pytest.mark.parametrize("text", HOSTILE)
def test_borders_hold_the_text_and_nothing_else_of_it(text):
    page = Page(border_spans([text, "", text], [text, "second", "third"]))
    assert page.text == shown(text * 2)
    assert page.titles == [shown(text), "second", "third"]


def test_neighbouring_tokens_have_unlike_grounds():
    source = border_spans(["a", "b", "c"], [""] * 3)
    grounds = [part.split(")")[0] for part in source.split("background:rgba(")[1:]]
    assert grounds[0] == grounds[2] != grounds[1]
    assert source.count("border-left") == 3
