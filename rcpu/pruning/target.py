"""The ratio that leaves a wanted number of parameters: what "0.2" removes differs from method to method."""

from __future__ import annotations

from dataclasses import replace

from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError, choose
from rcpu.compact.building import compact_config
from rcpu.methods.catalog import METHODS
from rcpu.models.sizes import cost, layer_parameters, parameter_count
from rcpu.pruning.plan import plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.whole import planned_sizes

OF = {"decoder": "The decoder layers", "model": "The whole model, embeddings included"}
MOST = 0.999  # ratio that is tried
DIGITS = 6  # of a ratio that is found


def planned_share(net: LlamaForCausalLM, recipe: Recipe, of: str = "decoder") -> float:
    """Parameters that this recipe leaves, or weights that are not zero, as a share of the dense ones.

    Raises:
        RcpuError: settings that this model cannot have.
    """
    choose("target", of, OF)
    dense = compact_config(net)
    whole, decoder = parameter_count(dense), _decoder(dense)
    if not recipe.whole:
        gone = cost(net).parameters - plan(net, recipe).after.parameters
        return 1 - gone / (decoder if of == "decoder" else whole)
    sizes = planned_sizes(net, recipe)
    zeros = METHODS[recipe.method].zeros
    gone = zeros(compact_config(net), recipe) if zeros else 0
    left = (_decoder(sizes) if of == "decoder" else parameter_count(sizes)) - gone
    return left / (decoder if of == "decoder" else whole)


def with_target(net: LlamaForCausalLM, recipe: Recipe, share: float, of: str = "decoder") -> Recipe:
    """The recipe with the ratio whose parameters come nearest to this share of the dense ones.

    Whole units leave, so the share is met as nearly as they allow; see :func:`planned_share` for what came.

    Raises:
        RcpuError: a share that is not between 0 and 1, ratios of single layers, or more than this recipe can remove.
    """
    check_share(share)
    if recipe.ratios:
        raise RcpuError("ratios of single layers decide how much leaves: give a target or those, not both")

    def left(ratio: float) -> float:
        return planned_share(net, replace(recipe, ratio=ratio), of)

    low, high = 0.0, _most(left)
    if (least := left(high)) > share + 5e-3:
        raise RcpuError(
            f"{share:.0%} of the parameters of {'its layers' if of == 'decoder' else 'the model'} cannot be reached: "
            f"these settings leave at least {least:.1%}"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) > share else (low, middle)
    best = min((round(low, DIGITS), round(high, DIGITS)), key=lambda ratio: abs(left(ratio) - share))
    return replace(recipe, ratio=best)


def check_share(share: float) -> None:
    """Raise ``RcpuError`` for what is no share of parameters that stay."""
    if not 0 < share <= 1:
        raise RcpuError(f"a target is the share of parameters that stay, above 0 and at most 1; got {share:g}")


def with_ratio(net: LlamaForCausalLM, recipe: Recipe, of: str) -> Recipe:
    """The recipe itself, or where ``of`` says of what its ratio is, with the ratio that leaves as many parameters."""
    return with_target(net, recipe, 1 - recipe.ratio, of) if of else recipe


def _most(left) -> float:
    """The largest ratio that the settings allow, nearly."""
    for ratio in (MOST, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        try:
            left(ratio)
        except RcpuError:
            continue
        return ratio
    return 0.2


def _decoder(config) -> int:
    return sum(layer_parameters(config, i) for i in range(config.num_hidden_layers))
