"""What each recipe is, in a few words of ours, with what it needs; numbers come from ``make compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """One method: its idea in two sentences, its formula, what leaves a layer, and what it takes."""

    title: str
    idea: str
    formula: str  # LaTeX
    leaves: Mapping[str, str]  # what becomes of each matrix, see picture.py
    data: str
    memory: str
    gradients: str = "none"
    loads: str = "here; elsewhere padded with zeros"
    extras: tuple[str, ...] = field(default=())


HEADS = {"q": "rows", "k": "rows", "v": "rows", "gate": "rows", "up": "rows"}
PLAIN = HEADS | {"o": "columns", "down": "columns"}
REPAIRED = HEADS | {"o": "repaired", "down": "repaired"}
ONE_LAYER = "inputs of one layer, and a Gram matrix a projection"

CARDS = {
    "rcpu-paper": Card(
        "RCPU",
        "Heads and MLP channels leave by a score that asks how much an input varies. What is left of the output is "
        "turned so that it lies as near as a rotation can bring it to the original.",
        r"\min_{Q^\top Q = I} \lVert Y - Q Z \rVert_F \;\Rightarrow\; W_K \leftarrow Q W_K",
        REPAIRED,
        "128 windows; with 8 it does harm",
        ONE_LAYER,
    ),
    "wanda-sp": Card(
        "WANDA-sp",
        "Columns leave whose weights times the size of their inputs add up to least. Nothing is repaired: it is the "
        "baseline that a repair has to beat.",
        r"\gamma_j = \textstyle\sum_i |W_{ij}| \cdot \mathrm{mean}\,|x_j|",
        PLAIN,
        "a few windows",
        "sums of inputs alone",
    ),
    "flap": Card(
        "FLAP",
        "Inputs that hardly fluctuate can be replaced by their mean, so columns of low variance leave and a bias keeps "
        "what they gave on average. One threshold over all layers decides how much each of them loses.",
        r"f_j \lVert W_j \rVert^2, \qquad b = W_R\, \bar x_R",
        PLAIN,
        "128 to 1,024 windows",
        "sums of inputs alone",
        extras=("bias",),
    ),
    "grail": Card(
        "GRAIL",
        "Whatever chose the columns, the ones that stay are fitted anew to the original outputs by ridge regression. "
        "It is an option of every method that drops columns.",
        r"W' = W G_{:K} (G_{KK} + \lambda I)^{-1}",
        REPAIRED,
        "more than inputs, or it learns them by heart",
        ONE_LAYER,
    ),
    "obc": Card(
        "Structured OBC",
        "The column leaves whose loss costs least once all others have made up for it; then the rest is repaired and "
        "looked at again. The optimal brain surgeon, for columns and groups of them.",
        r"\lVert W_j \rVert^2 \,/\, [H^{-1}]_{jj}, \qquad H = X X^\top + \lambda I",
        REPAIRED,
        "more than inputs, or a strong ridge",
        "a Gram matrix a projection and its inverse",
    ),
    "coec": Card(
        "COEC",
        "RCPU's successor turns the kept weight on both sides and rescales its singular values. Its exact equations "
        "were not at hand: the steps here are ours, after its idea.",
        r"W' = Q_L W_K Q_R, \quad \sigma_i \leftarrow \sigma_i(\lambda_{\mathrm{GCV}})",
        REPAIRED,
        "128 windows",
        ONE_LAYER,
    ),
    "best": Card(
        "Ours",
        "The recipe below, after one step along the natural gradient of the loss on the calibration text, from the "
        "backward pass that prices columns anyway. So it learns, as gates of FLOP do, and is no repair alone.",
        r"W \leftarrow W - \eta\, (\Gamma + \delta I)^{-1} \big(\nabla_{\!W} L\big) (C_g + \delta I)^{-1}",
        HEADS | {"v": "turned", "o": "repaired", "down": "repaired"},
        "128 windows, near to what the model is for",
        "hidden states between layers, one layer's matrices, and a step for every site",
        "one backward, a layer at a time",
        extras=("bias",),
    ),
    "best-repair": Card(
        "Ours, repair alone",
        "One backward pass prices every column in nats, and the budget goes where it is cheapest over all layers. Then "
        "values are narrowed in their best directions, channels leave one by one, and what stays is refitted.",
        r"\tfrac12 \operatorname{tr}\big(\Gamma\, \Delta W\, C_g\, \Delta W^\top\big)",
        HEADS | {"v": "turned", "o": "repaired", "down": "repaired"},
        "128 windows; with few it trusts itself less",
        "hidden states between layers, and one layer's matrices",
        "one backward, a layer at a time",
        extras=("bias",),
    ),
    "olica": Card(
        "Olica",
        "Values and outputs of a head are turned together, which changes nothing, and lose their weakest directions; "
        "queries and keys become two thin factors. In six layers a linear branch makes up for lost channels.",
        r"W_o W_v = U S V^\top, \qquad f(x) \approx \hat f(x) + x\,U' V'",
        {
            "q": "factors",
            "k": "factors",
            "v": "turned",
            "o": "repaired",
            "gate": "rows",
            "up": "rows",
            "down": "columns",
        },
        "128 to 256 windows",
        ONE_LAYER,
        loads="here alone: factors and branches",
        extras=("branch",),
    ),
    "slicegpt": Card(
        "SliceGPT",
        "The residual stream is turned to its principal components and the weakest are sliced off, so every matrix "
        "gets narrower. Between blocks stays a turn from one basis to the next, which costs parameters and time.",
        r"X = U S V^\top, \quad W_{\mathrm{in}} \leftarrow W_{\mathrm{in}} V_r, \quad W_{\mathrm{out}} \leftarrow "
        r"V_r^\top W_{\mathrm{out}}",
        {
            "q": "columns",
            "k": "columns",
            "v": "columns",
            "o": "rows",
            "gate": "columns",
            "up": "columns",
            "down": "rows",
        },
        "128 windows and more",
        "a Gram matrix of the stream",
        loads="here alone: turns between blocks",
        extras=("turns",),
    ),
    "modegpt": Card(
        "MoDeGPT",
        "Each pair of matrices that works together gets narrower by a decomposition of its own: Nyström for the MLP, "
        "RoPE pairs for queries and keys, an SVD for values and outputs. Layers that change the stream less lose more.",
        r"[C (C + \lambda I)^{-1}]_{jj}, \qquad C^{1/2} W_v = U S V^\top",
        {"q": "rows", "k": "rows", "v": "turned", "o": "repaired", "gate": "rows", "up": "rows", "down": "repaired"},
        "128 windows and more",
        ONE_LAYER,
        loads="here alone: narrower queries and keys",
    ),
    "z-pruner": Card(
        "Z-Pruner",
        "Single weights that are small among those of their row and column, times the size of their input, become "
        "zero. The model is neither smaller nor faster unless a kernel knows what to do with zeros.",
        r"\big(\alpha |z_r|^3 + (1 - \alpha)|z_c|^3\big) \cdot \lVert x_j \rVert^{1.5}",
        dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), "zeros"),
        "128 windows",
        "sums of inputs alone",
        loads="anywhere: the shape is the dense one",
    ),
    "flop": Card(
        "FLOP",
        "A gate stands before each input or each rank of a factored matrix and learns, on the calibration text, "
        "whether it may close. Weights stay as they are; a Lagrangian holds the size at its target.",
        r"W = P\,\mathrm{diag}(z)\,Q, \qquad \lambda_1 (s - t) + \lambda_2 (s - t)^2",
        PLAIN | {"o": "gated", "down": "gated"},
        "hundreds of steps over the calibration text",
        "inputs of all layers, activations of one, and logits, of a batch",
        "at every step, of the gates alone",
    ),
    "mini-llm": Card(
        "MINI-LLM",
        "Heads and channels leave by magnitude times activation times gradient. The gradient is estimated from the "
        "loss at two points a random step apart, so that no backward is needed.",
        r"\hat g = \frac{L(\theta + \epsilon z) - L(\theta - \epsilon z)}{2\epsilon}\, z",
        PLAIN,
        "a few windows, many forwards",
        "as a forward",
        "estimated from forwards (SPSA)",
    ),
    "svd-llm": Card(
        "SVD-LLM",
        "Every matrix becomes two thin factors, the best ones for the inputs that it meets: inputs are whitened before "
        "the SVD. Each layer keeps its width, so nothing that feeds or reads it changes.",
        r"W L = U S V^\top, \quad L L^\top = X X^\top, \quad W \approx U_r S_r\, (V_r^\top L^{-1})",
        dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), "factors"),
        "256 windows of 2,048 in the paper",
        ONE_LAYER,
        loads="here alone: factors",
    ),
    "2ssp": Card(
        "2SSP",
        "First MLP neurons leave whose outputs are small, the same number in every layer. Then whole attention blocks "
        "leave, always the one without which the perplexity is lowest.",
        r"\lVert h_j \rVert_2, \qquad \arg\min_{\text{block}} \mathrm{PPL}",
        {"q": "both", "k": "both", "v": "both", "o": "both", "gate": "rows", "up": "rows", "down": "columns"},
        "a few windows, many forwards",
        "as a forward",
    ),
}
