"""The six lessons as data: what they say, what they ask, and the settings of the pages they point at.

Sentences that depend on numbers are in findings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAPER = "[RCPU, arXiv 2510.07782](https://arxiv.org/abs/2510.07782)"


@dataclass(frozen=True)
class Link:
    """A button that sets controls and opens another page, where the same thing can be seen."""

    label: str
    page: str  # a file of pages/
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Lesson:
    """One lesson; all texts are Markdown of ours."""

    short: str  # in the list of lessons
    title: str
    idea: str  # in one sentence
    formula: str  # LaTeX
    formula_says: str
    steps: tuple[str, ...]
    task: str  # what to try with the figure
    question: str
    answer: str
    links: tuple[Link, ...]
    settings: Mapping[str, Any]  # of the controls, where the lesson begins


LESSONS = (
    Lesson(
        short="What goes",
        title="What structured pruning removes",
        idea="Whole columns of two matrices leave, and with each the row that made its input: the model gets smaller.",
        formula=r"y \;=\; W x \;=\; x_1\, W_{:,1} + x_2\, W_{:,2} + \dots",
        formula_says="Each input $x_j$ meets one column of $W$ and nothing else.",
        steps=(
            "A LLaMA is a stack of **layers**, and each layer has two blocks: **attention** and an **MLP**. Both end "
            "in one matrix that writes their result back to the rest of the model: `o_proj` for attention, "
            "`down_proj` for the MLP. These two are the **projections** that all lessons are about, and their inputs "
            "are **channels**. The model as it was before anything is removed is called **dense**.",
            "Take such a matrix $W$. Strike out its column $j$, and nobody reads the input $x_j$ any more. So the row "
            "that *computes* $x_j$ can go too: a row of `v_proj` for attention, a row of `gate` and one of `up` for "
            "the MLP. (Where heads share their values, one row of `v_proj` makes several inputs and leaves with all of "
            "them: three columns of `o_proj` in the small model.)",
            "That is **structured** pruning: matrices shrink, and any machine has less to do. Setting single weights "
            "to zero (unstructured pruning) leaves matrices as large as they were.",
            "Which columns? Those with the lowest **importance score**; lesson 4 is about it. How many is the "
            "**ratio**.",
        ),
        task="Once the model is measured, move the ratio and watch the orange stripes: each is a column of `o_proj` or "
        "`down_proj`, or a row that fed it. Then switch on *Show what is left*.",
        question="You remove 20% of the columns in every layer. Is the model 20% smaller?",
        answer="No. Embeddings and norms stay whole, and so may queries and keys: the ratio counts *columns of two "
        "kinds of matrices*. Look at the tiles above: parameters shrink by less than the ratio, so always compare "
        "models by parameters or memory, and never by the ratio alone.",
        links=(
            Link("Show me the scores on the Importance page", "importance", {"view": "cut", "site": "down_proj"}),
            Link("Show me what a run would remove", "prune", {"compensation": "rotation", "order": "paper"}),
        ),
        settings={"ratio": 0.2, "layer": 0, "lesson_after": False},
    ),
    Lesson(
        short="Why outputs drift",
        title="Why outputs drift",
        idea="What the removed columns would have added is now missing from every output.",
        formula=r"Y - Z \;=\; W X - W_K X_K \;=\; W_R X_R",
        formula_says="$K$ are the columns that are kept, $R$ those that are removed.",
        steps=(
            "Let the model read some text and write down the inputs of one projection, one column a token: the matrix "
            "$X$. Before pruning its outputs are $Y = WX$; after it only the kept columns are left: $Z = W_K X_K$.",
            "The difference is exactly what the removed columns would have added, $W_R X_R$. It is no random noise: "
            "the same columns are missing at every token. The outputs have **drifted**.",
            "We measure the drift as a share: $\\lVert Y - Z \\rVert \\div \\lVert Y \\rVert$. At 0 nothing is lost, "
            "at 1 the error is as large as the output itself.",
            "Every later layer was trained to read $Y$, gets $Z$ instead, and hands on its own drift with it. In the "
            "end the text that the model writes gets worse. The pictures here show every projection pruned *alone*; "
            "lesson 6 follows the drift along the layers.",
        ),
        task="Move the ratio and see the drift of every layer. Which one is hurt most? Choose it as *Layer*: the "
        "second picture shows it at every ratio. (A layer hardly drifts where a few enormous inputs, which stay, make "
        "most of its output.)",
        question="Could we avoid the drift by choosing *better* which columns leave?",
        answer="Only in part. A good score finds the columns that carry least. But even those carry something, and "
        "what is missing adds up: the curve rises from the very first columns. What is left to do is to **change the "
        "columns that stay** so that their sum comes near to $Y$ again. That is compensation, and the next lesson "
        "shows RCPU's way.",
        links=(Link("Show me the scores of all layers", "importance", {"view": "layers"}),),
        settings={"ratio": 0.2, "layer": 0},
    ),
    Lesson(
        short="Procrustes in 2-D",
        title="The best rotation: orthogonal Procrustes",
        idea="One turn for all points at once, found by a singular value decomposition, brings them back best.",
        formula=r"\begin{gathered} Q = \operatorname*{arg\,min}_{Q^\top Q = I} \lVert Y - QZ \rVert_F \\[1ex] "
        r"Y Z^\top = U S V^\top \;\Rightarrow\; Q = U V^\top \end{gathered}",
        formula_says="$Q$ turns or mirrors, and never stretches. $\\lVert \\cdot \\rVert_F$ is the length of a "
        "matrix, all its numbers taken as one long vector.",
        steps=(
            "We have the outputs $Z$ of the pruned projection and want the targets $Y$. The mildest repair is to "
            "multiply all outputs by one matrix $Q$. It costs nothing when the model runs: $Q W_K$ simply replaces "
            "$W_K$.",
            "RCPU allows only **orthogonal** $Q$: turns and mirrors. Lengths stay as they are, so $Q$ cannot blow up "
            "noise, and it has fewer freedoms to tune than an arbitrary matrix. To find the best one is the "
            "*orthogonal Procrustes problem*, and one SVD of $YZ^\\top$ solves it exactly.",
            "Missing columns turn, shrink and flatten the cloud of outputs all at once, and $Q$ undoes only the turn. "
            "Lesson 5 measures how much of a real error that is; the points here are made up.",
            "Here the outputs have 2 numbers instead of hundreds, so you can see it. **Blue** circles: the targets "
            "$Y$. **Orange** squares: what pruning left of them, $Z$. **Green**, dashed: $QZ$, the same turn for all. "
            "A circle and a square of equal number belong together; a thin grey line leads from each circle to its "
            "green point: the error that remains.",
        ),
        task="Drag any circle or square (or focus it with Tab and use the arrow keys, with Shift for larger steps). "
        "Green follows. Can you make $Q$ a mirror, ${\\det Q = -1}$? Try the examples too.",
        question="Take the example *Half as large*: $Z$ is $Y$ at half its size. Why does the best rotation not help "
        "at all?",
        answer="Nothing has to be turned, so $Q = I$, and an orthogonal matrix cannot change lengths: the error stays "
        "at 0.5. The paper therefore also tries one factor $s$ for all, $W_K \\leftarrow s\\,Q W_K$ (*Rotation and "
        "scale* on the Prune page), which would be 2 here. *Any matrix* can do it and much more; lesson 5 shows what "
        "that freedom costs.",
        links=(
            Link(
                "Show me a real rotation, in all its dimensions",
                "rotation",
                {"spectrum": "space", "layer": 5, "site": "o_proj", "ratio": 0.2},
            ),
            Link("Prune with rotation and scale", "prune", {"compensation": "rotation_scale", "ratio": 0.2}),
        ),
        settings={"points": "", "proper": False},
    ),
    Lesson(
        short="Why variance",
        title="Why the score looks at variance",
        idea="A large input that never changes tells tokens apart no better than a constant does.",
        formula=r"\gamma_j = \lVert W_{:,j} \rVert \cdot \operatorname{mean}|x_j| \cdot \operatorname{Var}(x_j)",
        formula_says="Importance of column $j$: weight, size of its input, and how much that input changes.",
        steps=(
            "Which columns matter least? A first answer: those with small weights and small inputs, "
            "$\\lVert W_{:,j}\\rVert \\cdot \\operatorname{mean}|x_j|$.",
            "Now think of an input that is 3 at every token. Its product is large, yet it adds the *same* vector "
            "$3\\,W_{:,j}$ to every output. It says nothing about the token, and one constant vector (a **bias**) "
            "could stand in for it.",
            "So RCPU multiplies by the **variance** over tokens: a channel that hardly changes scores low however "
            "large it is, and one that reacts to the text is kept. RCPU itself adds *no* bias, so whether this pays "
            "has to be measured: the sentence under the picture says what it does here.",
            "In the picture each mark is one input channel: to the right it is larger, further up it changes more. "
            "Orange crosses leave only if variance is ignored, green diamonds only if it counts.",
        ),
        task="Where do the green diamonds lie? Look for one far to the right of its crowd, large but calm: open the "
        "table below the picture, whose first row names it. Then try other layers, and `o_proj`.",
        question="Two channels with equal weights: A has mean|x| 2 and variance 0.001, B has mean|x| 0.3 and variance "
        "0.2. Which one does RCPU remove, and what is lost with it?",
        answer="A: 2 · 0.001 = 0.002 against 0.3 · 0.2 = 0.06. What is lost is almost the same vector at every token, "
        "and so the plain error can even be *larger* than without B; but a bias mends it nearly whole. A rotation "
        "cannot add a constant, so with RCPU's own repair the score cannot keep all that it promises. In this small "
        "model, without any repair, variance helps a little in most layers of `down_proj`, and in `o_proj` about as "
        "often as not; with a bias it helps in most layers of both. Take a score as a guess, and measure.",
        links=(
            Link("Show me the three factors", "importance", {"view": "factors"}),
            Link("Compare the scorers", "importance", {"view": "scorers"}),
        ),
        settings={"ratio": 0.2, "layer": 12, "site": "down_proj"},
    ),
    Lesson(
        short="Rotation or least squares",
        title="Least squares against rotation",
        idea="The freest repair is best on the text it was fitted to, and may be worse on any other.",
        formula=r"\min_A \; \lVert Y - A X_K \rVert_F^2 + \lambda \lVert A - W_K \rVert_F^2",
        formula_says="Least squares looks for any weight $A$; $\\lambda$ (the ridge) pulls it back to $W_K$.",
        steps=(
            "Why only turn? One could ask for the best of *all* weights: **least squares**. The rotated weight is one "
            "of its choices, so on the text it is fitted to it does no worse than the rotation, unless $\\lambda$, the "
            "**ridge** in the formula below, is strong and holds it back.",
            "But it tunes every single weight, and learns from the calibration text only, cut into **windows** of 128 "
            "tokens. With few tokens for each input it also fits their accidents: it **over-fits**, and on other text "
            "the error grows. Worst is the middle, with about as many tokens as kept inputs (the grey line in the "
            "picture). With far fewer, the ridge holds it at $W_K$ in all directions that the text does not reach.",
            "The rotation has fewer freedoms and cannot stretch. It never goes as wrong as least squares does in that "
            "middle with a weak ridge. But it has no ridge to hold it at $W_K$, so with very little text it may be the "
            "worse of the two, and with plenty it may be left behind.",
            "So we calibrate on 1, 2, 4, … 128 windows and look at **held-out** windows, text that no repair has seen. "
            "Where the solid line of least squares finally falls below that of the rotation, freedom pays.",
        ),
        task="Press *Measure*: the lines grow as windows come. Compare dotted (the windows it was fitted to) with "
        "solid (held-out). Then choose a stronger ridge: what does it do to the crossing?",
        question="Why can even the rotation be worse than no repair when there is only one window?",
        answer="$Q$ is estimated too. In the 576 dimensions of the small model a rotation has 576 · 575 ÷ 2 = 165,600 "
        "free angles (least squares has 576 · 468 = 269,568 free weights in `o_proj` at a ratio of 20%), and one "
        "window of 128 tokens is little to learn them from. The rotation has no ridge to choose, which spares a "
        "decision and takes away a means. The paper reports the same need for text with LLaMA-7B: with 8 windows the "
        "pruned model breaks down (its *perplexity*, how surprised it is by "
        "real text, shoots up), and from 64 on it hardly changes. Mind the other side too: with a ridge that suits, "
        "least squares may be ahead from the start. Which repair is best is a question to your text and your model.",
        links=(
            Link("Show me how far the tokens reach", "calibration", {"calibration_view": "reach"}),
            Link("Prune with least squares", "prune", {"compensation": "least_squares"}),
        ),
        settings={"ratio": 0.2, "layer": 5, "site": "o_proj", "curve_ridge": "0.0001"},
    ),
    Lesson(
        short="Which one first",
        title="o_proj before down_proj? What the order is worth",
        idea="Repair a projection for the inputs it will really get: go along the stream, front to back.",
        formula=r"\begin{gathered} h' = h + \mathrm{attention}(h) \\ h'' = h' + \mathrm{mlp}(h') \end{gathered}",
        formula_says="$h$ is the **stream**, the vector that runs through all layers. Within a layer the MLP reads "
        "what attention has written; never the other way round.",
        steps=(
            "Everything that a pruned projection gets wrong changes the inputs of all that follow. A repair that was "
            "fitted to the *old* inputs then no longer fits quite. So layers are pruned front to back, and each is "
            "calibrated on what the pruned layers before it hand on.",
            "The same question comes up inside a layer: `down_proj` comes after `o_proj`. Two orders are possible.",
            "**Both measured, then repaired** (the paper): one pass through the dense layer gives the inputs of both. "
            "Cheap, but `down_proj` is repaired for inputs from before `o_proj` was pruned.",
            "**o_proj repaired first**: then the layer runs again, and `down_proj` is repaired for the inputs it will "
            "really get. One more pass for each layer. (The reverse, `down_proj` first, would change nothing for "
            "`o_proj`: it lies upstream.)",
        ),
        task="Press *Prune in both orders*: the first four layers are pruned in both orders and repaired by RCPU's "
        "rotation. Compare the drift along the layers and the **perplexity** (how surprised the model is by "
        "real text: as if it had to guess among so many tokens each time). How large is the difference, compared with "
        "repairing at all?",
        question="Why not prune the *last* layer first, while its inputs are still those of the dense model?",
        answer="Because they would not stay so. As soon as an earlier layer is pruned, the inputs of the last one "
        "change, and its repair was fitted to inputs that no longer occur. Front to back, every *layer* is repaired "
        "for what the layers before it really hand on. The order of the two projections within a layer is the same "
        "thought in small, and matters as much or as little as the sentence below the tiles says.",
        links=(Link("Set the order on the Prune page", "prune", {"order": "site", "compensation": "rotation"}),),
        settings={"ratio": 0.3},
    ),
)

#: Points of the 2-D lesson, targets first: the text of app/drag.py.
_TARGETS = "-1.4,-1.2;1.6,-1.2;1.6,-0.2;-0.2,0.3;-0.6,1.8;"
EXAMPLES = {
    "Turned and noisy": _TARGETS + "-1.92,0.53;-0.28,-2.42;0.47,-1.99;0.41,0.35;1.65,1.2",
    "Turned": _TARGETS + "-1.84,-0.02;0.45,-1.95;1.1,-1.18;0.04,0.36;0.7,1.76",
    "Mirrored": _TARGETS + "0.61,-1.74;-1.99,-0.24;-1.49,0.63;0.32,0.16;1.42,1.26",
    "Half as large": _TARGETS + "-0.7,-0.6;0.8,-0.6;0.8,-0.1;-0.1,0.15;-0.3,0.9",
    "Squeezed flat": _TARGETS + "-1.4,-0.36;1.6,-0.36;1.6,-0.06;-0.2,0.09;-0.6,0.54",
}
FIRST = next(iter(EXAMPLES.values()))
