"""Widgets for recipe, method and its options: drawn from the rows that the library declares, none by name."""

from __future__ import annotations

from typing import Any

import streamlit as st

import rcpu
from app.settings import PREFIX, Settings, change, control, field_of, settings
from app.widgets import say
from rcpu.base import Option, named, options_of

OWN = "own settings"
#: What a named recipe says; model, text, layers and ratio stay as they were.
OF_RECIPE = ("method", "samples", "window", "held_out", "seed")
MANY = 6  # options that are shown without being folded
LARGEST = 64 * 1024  # bytes of an uploaded recipe


def settings_of(recipe: rcpu.Recipe, everything: bool = False) -> dict[str, Any]:
    """The settings that make this recipe: those of a named one, or ``everything`` as a file has it."""
    found = {name: getattr(recipe, name) for name in OF_RECIPE}
    if everything:
        found |= {"model": recipe.model, "text": recipe.text, "ratio": recipe.ratio, "sites": ",".join(recipe.sites)}
        found |= {"ratios": rcpu.format_ratios(recipe.ratios), "layers": rcpu.format_layers(recipe.layers)}
    for name, row in options_of(type(recipe.options)).items():
        value, field = getattr(recipe, name), field_of(name)
        plain = isinstance(getattr(Settings(), field), bool)
        found[field] = value if plain else "" if value == row.default and field != name else row.written(value)
    return found


def recipe_name(recipe: rcpu.Recipe) -> str:
    """The named recipe that these settings follow, or that they are nobody's."""
    for name, published in rcpu.RECIPES.items():
        known = published.recipe
        if recipe.options == known.options and all(getattr(recipe, n) == getattr(known, n) for n in OF_RECIPE):
            return name
    return OWN


def pick_recipe() -> None:
    """Widgets for recipe and method, download and upload; a recipe sets method, options and windows at once."""
    s = settings()
    for row in options_of(rcpu.METHODS[s.method].options).values():
        _note(row)  # widgets further down the page were set before this run of it
    try:
        now = s.recipe()
    except rcpu.RcpuError:
        now = None
    name = OWN if now is None else recipe_name(now)
    st.session_state["recipe"] = name
    line = st.container(horizontal=True, vertical_alignment="bottom", key="recipe_line")

    def take() -> None:
        if (chosen := st.session_state["recipe"]) in rcpu.RECIPES:
            change(**_cleared() | settings_of(rcpu.RECIPES[chosen].recipe))

    line.selectbox(
        "Recipe", [OWN, *rcpu.RECIPES], key="recipe", on_change=take, help="Published settings by name, to start from"
    )
    with line:
        before = s.method
        control(st.selectbox, "Method", "method", options=list(rcpu.METHODS), format_func=named(rcpu.METHODS).get)
        if s.method != before:
            change(**_cleared())
    if now is not None:
        line.download_button(
            "Recipe",
            now.to_yaml(),
            "recipe.yaml",
            "application/yaml",
            on_click="ignore",
            icon=":material/download:",
            help="What is set here as YAML: read it, edit it, pass it on",
        )
    with line.popover("Open a recipe", icon=":material/upload:"):
        upload_recipe()
    method = rcpu.METHODS[s.method]
    about = rcpu.RECIPES[name].about + f" {rcpu.RECIPES[name].source}." if name in rcpu.RECIPES else ""
    st.caption(about or f"{method.summary} {method.source}.")


def pick_target(model: rcpu.Model) -> None:
    """A way to ask for parameters instead of a ratio: the share that stays, and a button that finds the ratio."""

    def find() -> None:
        try:
            found = rcpu.with_target(model.net, settings().recipe(), settings().target)
            change(ratio=found.ratio)
        except rcpu.RcpuError as error:
            st.session_state["target_error"] = str(error)

    with st.popover("By parameters", icon=":material/straighten:", width="stretch"):
        st.caption(
            "A ratio means another thing to every method. Ask for the parameters of the decoder layers that stay, and "
            "methods can be compared at equal size."
        )
        control(st.number_input, "Share that stays", "target", min_value=0.05, max_value=1.0, step=0.05)
        st.button("Find the ratio", on_click=find, width="stretch")
    if error := st.session_state.pop("target_error", None):
        say(error)


def pick_options(names: list[str]) -> None:
    """A widget for each of these options that the chosen method has and that matters beside the others."""
    rows = options_of(rcpu.METHODS[settings().method].options)
    for name in names:
        if name in rows and _matters(rows[name], rows):
            option_control(rows[name])


def pick_other_options(drawn: list[str]) -> None:
    """All others that matter, in two columns; of many, those of the chosen parts first and the rest folded away."""
    rows = options_of(rcpu.METHODS[settings().method].options)
    shown = [row for name, row in rows.items() if name not in drawn and _matters(row, rows)]
    first = shown if len(shown) <= MANY else [row for i, row in enumerate(shown) if i < 2 or row.when is not None]
    _in_columns(first)
    rest = [row for row in shown if row not in first]
    if rest:
        changed = any(getattr(settings(), field_of(row.name)) not in _usual(row) for row in rest)
        with st.expander("More options", expanded=changed, key="more_options"):
            _in_columns(rest)


def _usual(row: Option) -> tuple:
    """How a setting says that an option has its default."""
    return "", row.default, row.written(row.default)


def _in_columns(rows: list[Option]) -> None:
    for i in range(0, len(rows), 2):
        for place, row in zip(st.columns(2, vertical_alignment="bottom"), rows[i : i + 2], strict=False):
            with place:
                option_control(row)


def option_control(row: Option) -> None:
    """The widget for one option: what kind of value it has decides which."""
    key = PREFIX + field_of(row.name)
    more = {"key": key, "help": row.help}
    st.session_state[key] = _shown(row)
    if row.choices is not None:
        st.selectbox(row.label, list(row.choices), format_func=named(row.choices).get, **more)
    elif row.kind is bool:
        st.toggle(row.label, **more)
    elif _as_text(row):
        st.text_input(f"{row.label}{', or auto' if row.auto else ''}", max_chars=40, **more)
    else:
        bounds = {bound: int(b) for bound, b in (("min_value", row.low), ("max_value", row.high)) if b is not None}
        st.number_input(row.label, step=1, **bounds, **more)
    _note(row)


def _as_text(row: Option) -> bool:
    return row.choices is None and row.kind is not bool and (row.auto or row.kind is float)


def _shown(row: Option) -> Any:
    """What the widget of an option shows: what was set in it, else what the link says, else the default."""
    key, raw = PREFIX + field_of(row.name), getattr(settings(), field_of(row.name))
    if _as_text(row):
        return st.session_state.get(key, raw or row.written(row.default))
    try:
        return row.check(st.session_state[key]) if key in st.session_state else settings().option(row)
    except rcpu.RcpuError:  # of a link, or of the method before
        return row.default


def _note(row: Option) -> None:
    """Have the setting of an option be what its widget shows, empty where that is the default."""
    name, value = field_of(row.name), _shown(row)
    usual = getattr(Settings(), name)
    if isinstance(usual, bool):
        setattr(settings(), name, value)
        return
    written = value.strip() if isinstance(value, str) else row.written(value)
    setattr(settings(), name, "" if not usual and written == row.written(row.default) else written)


def _matters(row: Option, rows: dict[str, Option]) -> bool:
    if row.when is None:
        return True
    chooser, values = row.when
    try:
        return settings().option(rows[chooser]) in values
    except rcpu.RcpuError:
        return True


def _cleared() -> dict[str, Any]:
    """Options as they are by default."""
    names = {field_of(name) for method in rcpu.METHODS.values() for name in options_of(method.options)}
    return {name: getattr(Settings(), name) for name in names}


def settings_from(recipe: rcpu.Recipe) -> dict[str, Any]:
    """Every setting that makes exactly this recipe."""
    return _cleared() | settings_of(recipe, everything=True)


def upload_recipe() -> bool:
    """A widget that takes a recipe from a file and sets all that it says; whether it has taken the one it shows."""
    file = st.file_uploader("A recipe (YAML)", type=["yaml", "yml"], key="recipe_file", max_upload_size=1)
    if file is None:
        return False
    if st.session_state.get("recipe_read") == file.file_id:
        return True
    try:
        if file.size > LARGEST:
            raise rcpu.RcpuError(f"{file.name} has {file.size:,} bytes: a recipe has a few hundred")
        recipe = rcpu.Recipe.from_yaml(file.getvalue().decode("utf-8-sig"))
    except (rcpu.RcpuError, UnicodeDecodeError) as error:
        say(error if isinstance(error, rcpu.RcpuError) else f"{file.name} is not UTF-8 text")
        return False
    st.session_state["recipe_read"] = file.file_id
    change(**settings_from(recipe))
    st.rerun()
    return True
