"""Our own words about a figure, Markdown, as HTML: indices and powers are set as such, links open beside the app."""

from __future__ import annotations

import html
import re
from functools import cache, lru_cache

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

INDEX = re.compile(r"(\b[^\W\d_]|‖)_([A-Za-z]{1,2})(?![A-Za-z0-9_])")  # W_K, x_j and ‖Y‖_F, but not o_proj
POWER = re.compile(r"\^\{(.+?)\}")


@lru_cache(maxsize=256)
def as_html(words: str) -> str:
    """Markdown as HTML; signs of HTML in it are text."""
    return _markdown().render(words)


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False})
    markdown.add_render_rule("link_open", _link)
    markdown.add_render_rule("text", _text)
    return markdown


def _link(self: RendererHTML, tokens: list[Token], index: int, options: object, env: object) -> str:
    tokens[index].attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    return self.renderToken(tokens, index, options, env)


def _text(self: RendererHTML, tokens: list[Token], index: int, options: object, env: object) -> str:
    text = html.escape(tokens[index].content)
    return POWER.sub(r"<sup>\1</sup>", INDEX.sub(r"\1<sub>\2</sub>", text))
