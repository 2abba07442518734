"""Settings: what is refused, and that they survive JSON and hash."""

import json
from dataclasses import replace

import pytest

from rcpu import RECIPES, RcpuError, Recipe, format_layers, load_recipe, parse_layers, parse_ratios


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "best"}, "unknown scorer 'best': choose one of rcpu, wanda_sp, flap, wifv, ifv"),
        ({"compensation": "magic"}, "unknown compensation 'magic': choose one of none, rotation, rotation_scale"),
        ({"unit": "row"}, "unknown unit 'row': choose one of auto, head, kv_group, channel"),
        ({"order": "random"}, "unknown order 'random': choose one of paper, site"),
        ({"sites": ("o_proj", "q_proj")}, "unknown site 'q_proj': choose one of o_proj, down_proj"),
        ({"sites": ()}, "no site to prune"),
        ({"ratio": -0.1}, "ratio must be at least 0 and below 1 .* got -0.1"),
        ({"ratio": 1}, "ratio must be .* got 1"),
        ({"ratio": 20}, "ratio must be .* got 20"),
        ({"ratio": float("nan")}, "ratio must be .* got nan"),
        ({"samples": 0}, "at least 1 window of at least 2 tokens .* got 0 × 128 and 16"),
        ({"window": 1}, "at least 1 window of at least 2 tokens .* got 128 × 1 and 16"),
        ({"held_out": -1}, "no negative number of held-out windows, got 128 × 128 and -1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seed": 2**63}, "seed must be below 2⁶³"),
        ({"ridge": -1e-3}, "ridge must be a finite number of at least 0, or auto; got -0.001"),
        ({"ridge": float("inf")}, "ridge must be .* got inf"),
        ({"ridge": float("nan")}, "ridge must be .* got nan"),
        ({"ridge": None, "compensation": "least_squares", "held_out": 0}, "ridge auto is chosen on held-out windows"),
        ({"layers": ()}, "layers must be one or more numbers from 0"),
        ({"layers": (0, -1)}, "layers must be one or more numbers from 0"),
    ],
    ids=str,
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(RcpuError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ratio": 0, "held_out": 0, "ridge": 0.0},
        {"ridge": None, "compensation": "least_squares"},
        {"ridge": None, "held_out": 0},  # matters to least squares alone
        {"layers": (3, 1), "sites": ("down_proj",), "unit": "kv_group", "order": "site", "proper": True, "seed": 7},
    ],
    ids=str,
)
def test_settings_survive_json(settings):
    config = Recipe(**settings)
    again = Recipe.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"sites": ("o_proj", "o_proj")}, "sites must name each site once; got o_proj, o_proj"),
        ({"ratio": "0.2"}, "the recipe's ratio cannot be '0.2'; a number has no quotes"),
        ({"samples": 2.5}, "the recipe's samples cannot be 2.5; without it, it is 128"),
        ({"samples": True}, "samples cannot be True"),
        ({"samples": "128"}, "samples cannot be '128'"),
        ({"ratio": None}, "ratio cannot be None"),
        ({"ratio": False}, "ratio cannot be False"),
        ({"proper": 1}, "proper cannot be 1"),
        ({"scorer": ["rcpu"]}, "scorer cannot be"),
        ({"layers": 3}, "layers cannot be 3"),
        ({"ridge": "automatic"}, "ridge cannot be 'automatic'"),
        ({"layers": ["1", 2]}, r"layers cannot be \['1', 2\]; write it like \[0, 1, 7\]"),
        ({"layers": [0.5]}, r"layers cannot be \[0.5\]"),
        ({"layers": [True]}, "layers cannot be"),
        ({"layers": "0-1"}, "layers cannot be '0-1'; write it like"),
        ({"ratios": [1, 2]}, r"ratios cannot be \[1, 2\]; write it like"),
        ({"ratios": [[0, 0.1], [1]]}, "ratios cannot be"),
        ({"ratios": [[0.5, 0.1]]}, "ratios cannot be"),
        ({"ratios": [[0, "0.1"]]}, "ratios cannot be"),
        ({"sites": [["o_proj"]]}, "sites cannot be"),
        ({"sites": "o_proj"}, "sites cannot be 'o_proj'"),
        ({"speed": 1}, "unknown settings in the recipe: speed"),
    ],
    ids=str,
)
def test_a_record_of_wrong_kinds_is_refused(record, message):
    with pytest.raises(RcpuError, match=message):
        Recipe.from_dict(record)


@pytest.mark.parametrize(("read", "part"), [(parse_layers, "1"), (parse_ratios, "1=0.1")])
def test_a_list_that_no_person_wrote_is_refused_before_it_is_read(read, part):
    with pytest.raises(RcpuError, match="characters, more than 1,000: write ranges"):
        read(",".join([part] * 600))


def test_whole_numbers_are_ratios_too():
    assert Recipe.from_dict({"ratio": 0, "ridge": 1}).ratio == 0


def test_different_settings_are_different_keys():
    assert len({Recipe(), Recipe(seed=1), Recipe(ratio=0.3), Recipe(proper=True)}) == 4


def test_yaml_is_read_back():
    recipe = Recipe(layers=(1, 2), ratios=((1, 0.1),), ridge=None, compensation="least_squares")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest != Recipe().digest


def test_auto_is_written_as_on_the_command_line():
    assert Recipe.from_yaml("{compensation: least_squares, ridge: auto}").ridge is None
    assert Recipe.from_yaml("{compensation: least_squares, options: {ridge: auto}}").ridge is None
    with pytest.raises(RcpuError, match="scorer 'auto'"):
        Recipe.from_yaml("scorer: auto")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratio: [", "a recipe is YAML, and this cannot be read"),
        ("layers: &here [1, *here]", "a value contains itself"),
        ("- 1", r"expected settings with a value each, like 'ratio: 0.2', a line each; got a list \[1\]"),
        ("", "a line each; got nothing"),
        ("rotation", "got the value 'rotation'"),
        ("options: {ridgee: 1}", "did you mean 'ridge'"),
        ("options: 3", "the recipe's options must be names with values"),
        ("method: cake", "unknown method 'cake'"),
        ("method: 3", "the recipe's method cannot be 3"),
        ("options: {colour: red}", "unknown settings in the recipe: colour; known are "),
        ("options: {scorer: 3}", "the recipe's scorer cannot be 3"),
    ],
)
def test_bad_yaml_is_said(text, message):
    with pytest.raises(RcpuError, match=message):
        Recipe.from_yaml(text)


def test_options_of_another_method_are_refused():
    with pytest.raises(RcpuError, match="method 'columns' has no option 'colour': it has scorer, "):
        Recipe(colour="red")


def test_recipes_ship_by_name():
    assert {"rcpu-paper", "wanda-sp"} <= set(RECIPES)
    for name, published in RECIPES.items():
        assert load_recipe(name) == published.recipe
        assert published.about
        assert published.source
    assert load_recipe("rcpu-paper") == Recipe()


def test_fields_and_options_are_replaced_alike():
    changed = replace(Recipe(scorer="flap"), ratio=0.3, compensation="bias")
    assert (changed.scorer, changed.ratio, changed.compensation) == ("flap", 0.3, "bias")


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Recipe().ratio = 0.5


def test_unknown_settings_of_a_record_are_named():
    with pytest.raises(RcpuError, match="unknown settings in the recipe: colour, shape"):
        Recipe.from_dict({"shape": 1, "ratio": 0.1, "colour": 2})


@pytest.mark.parametrize(
    ("layers", "count", "expected"), [(None, 3, (0, 1, 2)), ((2, 0, 2), 3, (0, 2)), ((4,), 5, (4,))]
)
def test_layer_indices_ascend(layers, count, expected):
    assert Recipe(layers=layers).layer_indices(count) == expected


def test_layers_end_with_the_model():
    with pytest.raises(RcpuError, match="layer 5 does not exist: this model has layers 0 to 4"):
        Recipe(layers=(0, 5)).layer_indices(5)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", None),
        (" all ", None),
        ("0", (0,)),
        ("0-3,7", (0, 1, 2, 3, 7)),
        ("7, 0-1", (0, 1, 7)),
        ("5-5,5", (5,)),
        ("0,1,2,4", (0, 1, 2, 4)),
    ],
)
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers
    assert parse_layers(format_layers(layers)) == layers


@pytest.mark.parametrize(
    ("layers", "text"), [(None, "all"), ((7, 0, 1, 2, 3), "0-3,7"), ((0, 2, 4), "0,2,4"), ((3, 4), "3-4"), ((9,), "9")]
)
def test_layers_are_written_short(layers, text):
    assert format_layers(layers) == text


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "-1", "1-", "3-1", "1-2-3", "1.5", "All", "0x1", "²", "1 2", "0-999999999999999"]
)
def test_layers_that_cannot_be_read_are_refused(text):
    with pytest.raises(RcpuError, match="layers"):
        parse_layers(text)
