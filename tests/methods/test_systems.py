"""The pure functions of whole methods against plain references."""

import math

import pytest
import torch
from torch.nn.functional import linear

import rcpu
from rcpu.compact.building import compact_config
from rcpu.explain import true_gradient
from rcpu.methods import flop, minillm, modegpt, olica, slicegpt, svdllm, twossp, zpruner
from rcpu.methods.svdllm import rank_of
from rcpu.models.families import Heads, embed
from tests import tiny


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_slicing_projects_before_every_block():
    """SliceGPT on the dense axes: project on the top components of what comes in, then run the block."""
    net, windows = tiny.net("gqa"), tiny.calibration(samples=4, held_out=0)
    made = rcpu.prune(net, windows, rcpu.Recipe(method="slicegpt", ratio=0.25, embedding="turned", center=False))
    entered = embed(net, windows.calibration)
    h, axes = entered.hidden, []

    def project(h):
        x = h.flatten(0, 1).double()
        top = torch.linalg.eigh(x.mT @ x)[1][:, -36:].float()
        axes.append(top)
        return h @ top @ top.mT

    for layer in net.model.layers:
        h = project(h)
        h = h + layer.self_attn(layer.input_layernorm(h), **entered.attention)[0]
        h = project(h)
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    expected = net.lm_head(net.model.norm(h))
    found = made.net(windows.calibration).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * expected.std().item())
    for i, top in enumerate(axes):
        ours = made.edits.layers[i // 2][f"{('self_attn', 'mlp')[i % 2]}.axes"]
        torch.testing.assert_close(ours @ ours.mT, top @ top.mT, rtol=0, atol=1e-3)


def test_slicing_nothing_is_the_dense_model():
    net = tiny.net("gqa")
    for options in ({"embedding": "turned"}, {"embedding": "sliced"}, {"embedding": "sliced", "slice_head": True}):
        recipe = rcpu.Recipe(method="slicegpt", ratio=0.0, center=False, **options)
        tiny.assert_same_function(rcpu.prune(net, tiny.calibration(), recipe).net, net, accuracy=1e-3)
    with pytest.raises(rcpu.RcpuError, match="the head is the embedding"):
        rcpu.plan(tiny.net("tied"), rcpu.Recipe(method="slicegpt", embedding="turned", slice_head=True))
    with pytest.raises(rcpu.RcpuError, match="leaves no axis of 48"):
        rcpu.plan(net, rcpu.Recipe(method="slicegpt", multiple=64))
    assert slicegpt.sliced_width(576, 0.2, 1) == 460
    assert slicegpt.sliced_width(576, 0.2, 8) == 456


@pytest.mark.parametrize("group", [1, 3])
def test_turned_values_are_the_same_function_and_ordered(group):
    heads = Heads(2 * group, 2, 4)
    v, o, norms = random(8, 11), random(11, 8 * group, seed=1), random(11, seed=2).abs() + 0.1
    turns = olica.value_turns(o, norms, heads)
    new_v, new_o = olica.turned(v, o, turns, heads)
    for h in range(heads.query):
        g = h // group
        before = o[:, 4 * h : 4 * h + 4] @ v[4 * g : 4 * g + 4]
        after = new_o[:, 4 * h : 4 * h + 4] @ new_v[4 * g : 4 * g + 4]
        torch.testing.assert_close(after, before)
    scaled = (new_o * norms[:, None]).view(11, 2, group, 4)
    energy = scaled.square().sum((0, 2))
    assert (energy.diff(dim=1) <= 1e-9).all()
    gram = torch.einsum("okgr,okgs->krs", scaled, scaled)
    torch.testing.assert_close(gram, torch.diag_embed(energy))


def test_factors_are_nearest_where_inputs_are_scaled():
    weight, norms = random(6, 9), random(9, seed=1).abs() + 0.1
    left, right = olica.low_rank(weight, norms, 3)
    u, s, vh = torch.linalg.svd(weight * norms, full_matrices=False)
    torch.testing.assert_close(left @ right * norms, (u[:, :3] * s[:3]) @ vh[:3])


def test_regression_is_ridge_and_its_correlations_are_pearsons():
    x, y = random(50, 5).float() + 0.3, random(50, 3, seed=1).float()
    y[:, 0] += x @ random(5, seed=2).float()
    fit = olica.Regression(5, 3, torch.device("cpu"))
    fit.add(x[:20], y[:20])
    fit.add(x[20:], y[20:])
    a, correlation = fit.solve(0.5)
    gram = (x.mT @ x).double()
    expected = torch.linalg.solve(gram + 0.5 * gram.diagonal().mean() * torch.eye(5).double(), (x.mT @ y).double())
    torch.testing.assert_close(a, expected, rtol=1e-4, atol=1e-4)
    plain = [torch.corrcoef(torch.stack([(x.double() @ a)[:, j], y[:, j].double()]))[0, 1] for j in range(3)]
    torch.testing.assert_close(correlation, torch.stack(plain), rtol=1e-3, atol=1e-3)
    left, right = olica.branch(a, correlation, 3)
    torch.testing.assert_close(left @ right, a.mT)


def test_the_published_split_of_a_ratio():
    """On SmolLM2-135M with its KV heads repeated: ranks 173, 6 of 64 values, 378 of 1,536 channels."""
    config = rcpu.models.compact_llama.CompactLlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=9, tie_word_embeddings=True,
    )  # fmt: skip
    found = olica.shares(config, 0.2, 3.0)
    assert (found.q_rank, found.k_rank) == (173, 173)
    assert (int(found.values * 64), int(found.channels * 1536)) == (6, 378)
    planned = olica.sizes(config, rcpu.Recipe(method="olica", ratio=0.2))
    assert rcpu.models.sizes.parameter_count(planned) == 118_492_992
    with pytest.raises(rcpu.RcpuError, match="choose a smaller ratio"):
        olica.shares(config, 0.9, 3.0)


def test_nystrom_keeps_the_largest_leverage_and_solves_for_the_rest():
    x, weight = random(8, 40), random(5, 8, seed=1)
    c = x @ x.mT / 40
    kept, new = modegpt.nystrom(weight, c, 5, 0.01)
    ridge = 0.01 * c.diagonal().mean() * torch.eye(8).double()
    leverage = (c @ torch.linalg.inv(c + ridge)).diagonal()
    assert kept.tolist() == sorted(leverage.argsort(descending=True)[:5].tolist())
    expected = torch.linalg.lstsq(x[kept].mT, (weight @ x).mT).solution.mT
    torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-4)


def test_pairs_are_chosen_for_a_kv_head_and_all_its_query_heads():
    heads = Heads(4, 2, 6)
    q, k = random(24).square(), random(12, seed=1).square()
    found = modegpt.best_pairs(q, k, heads, 2)
    for g in range(2):
        scores = [
            sum(q[6 * h + j + c] * k[6 * g + j + c] for h in (2 * g, 2 * g + 1) for c in (0, 3)).item()
            for j in range(3)
        ]
        assert found[g].tolist() == sorted(sorted(range(3), key=lambda j: -scores[j])[:2])
    rows = modegpt.pair_rows(torch.tensor([[0, 2], [1, 2]]), heads, 1)
    assert rows.tolist() == [0, 2, 3, 5, 7, 8, 10, 11]


@pytest.mark.parametrize("group", [1, 2])
def test_value_axes_are_the_best_of_their_rank_on_plain_inputs(group):
    heads = Heads(2 * group, 2, 4)
    x, v, o = random(9, 60), random(8, 9, seed=1), random(9, 8 * group, seed=2)
    encoder, outputs, s = modegpt.value_axes(v, o, x @ x.mT, heads, 2)
    for g in range(2):
        values = v[4 * g : 4 * g + 4] @ x
        wide = torch.cat([o[:, 4 * h : 4 * h + 4] @ values for h in range(group * g, group * (g + 1))])
        new = torch.cat(
            [outputs[:, 2 * h : 2 * h + 2] @ encoder[g] @ values for h in range(group * g, group * (g + 1))]
        )
        u, sigma, vh = torch.linalg.svd(wide, full_matrices=False)
        torch.testing.assert_close(new, (u[:, :2] * sigma[:2]) @ vh[:2], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(s[g], sigma[:4])


def test_layers_share_units_without_losing_any():
    config = compact_config(tiny.net("gqa"))
    for ratios in ([0.1, 0.3, 0.5], [0.21, 0.22, 0.47], [0.0, 0.0, 0.9]):
        kept = modegpt.kept_of(config, ratios)
        mean = sum(ratios) / 3
        assert sum(k.channels for k in kept) == 3 * (72 - int(mean * 72 + 1e-9))
        assert sum(k.values for k in kept) == 3 * (8 - int(mean * 8 + 1e-9))


def test_z_scores_by_hand():
    options, w, norms = zpruner.ZOptions(), random(5, 7), random(7, seed=1).abs()
    rows, columns = w / w.norm(dim=1, keepdim=True), w / w.norm(dim=0, keepdim=True)
    alpha = 0.7 * (1 - 0.3 * (w.abs() < 0.1 * w.abs().mean()).double().mean())
    z = [((m - m.mean()) / m.std()).abs() ** 3 for m in (rows, columns)]
    expected = (alpha * z[0] + (1 - alpha) * z[1]) * norms**1.5
    torch.testing.assert_close(zpruner.z_scores(w, norms, options), expected.float(), rtol=1e-4, atol=1e-5)


def test_weights_that_stay_lie_above_the_threshold():
    scores = random(6, 8).square()
    keep = zpruner.keep_weights(scores, 0.5)
    assert keep.sum() == 48 - 25  # at the threshold it goes, too
    assert scores[keep].min() > scores[~keep].max()
    assert zpruner.keep_weights(scores, 0.0).all()
    keep = zpruner.keep_weights(scores, 0.5, "2:4").view(6, 2, 4)
    assert (keep.sum(2) == 2).all()
    low, high = (
        torch.where(m, s, v) for m, s, v in ((~keep, scores.view(6, 2, 4), 0), (keep, scores.view(6, 2, 4), 9))
    )
    assert (low.amax(2) <= high.amin(2)).all()


def test_whitening_cuts_what_matters_least_to_the_outputs():
    x, weight = random(7, 30), random(5, 7, seed=1)
    left, right, s = svdllm.whitened(weight, x @ x.mT, 3, 0.0)
    u, sigma, vh = torch.linalg.svd(weight @ x, full_matrices=False)
    torch.testing.assert_close(left @ right @ x, (u[:, :3] * sigma[:3]) @ vh[:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s[:5], sigma)
    assert rank_of(10, 10, 0.2) == 4


def test_gates_follow_their_distribution():
    alpha = torch.tensor([-3.0, 0.0, 2.0])
    u = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    z = flop.gate(alpha, u)
    assert z.min() == 0
    assert z.max() == 1
    torch.testing.assert_close((z > 0).float().mean(0), flop.expected(alpha), rtol=0, atol=5e-3)
    torch.testing.assert_close(flop.expected(alpha), torch.sigmoid(alpha + math.log(11)))
    first, second = torch.tensor(2.0), torch.tensor(3.0)
    assert flop.lagrangian(torch.tensor(0.3), 0.1, first, second).item() == pytest.approx(0.4 + 0.12)


def test_a_size_between_two_gates_is_met_as_nearly_as_they_allow():
    gates = [flop.Gated(0, "a", torch.zeros(4), cost=10), flop.Gated(0, "b", torch.zeros(4), cost=10)]
    alphas = [torch.tensor([0.0, 1.0, 2.0, 3.0])] * 2  # gates of both close at once
    for wanted, kept in ((56, 60), (46, 40), (52, 60), (48, 40)):
        gone = flop.closed(gates, alphas, flop._shift(gates, alphas, wanted))
        assert sum(10 * (4 - n) for n in gone) == kept


def test_open_gates_change_nothing_and_gates_learn():
    net, windows = tiny.net("gqa"), tiny.calibration()
    result = rcpu.prune(
        net, windows, rcpu.Recipe(method="flop", form="factors", ratio=0.3, steps=30, rate=0.3, pressure=5.0)
    )
    curves = result.found["curves"]
    assert (curves[-5:, 1].mean() - 0.3).abs() < (curves[0, 1] - 0.3).abs()
    assert curves.shape == (30, 4)


def test_spsa_points_along_the_gradient():
    net, windows = tiny.net("gqa"), tiny.calibration()
    result = rcpu.prune(net, windows, rcpu.Recipe(method="mini-llm", ratio=0.3, draws=16, step=1e-3))
    layer = net.model.layers[1]
    seeds = [minillm.seed_of(0, n, 1) for n in range(16)]
    found = minillm.mean_gradient(layer, result.found["slopes"].tolist(), seeds, "normal")
    true = true_gradient(net, windows, 1)
    assert found.keys() == true.keys()
    # what a draw measures is the slope along all noise; along this layer's own part it is the true one on average
    ids = windows.calibration
    slope = sum((true[n] * z).sum() for n, z in minillm.noises(layer, seeds[0], "normal"))
    moved = {n: layer.get_parameter(n) + 1e-3 * z for n, z in minillm.noises(layer, seeds[0], "normal")}
    losses = []
    for sign in (1, -1):
        other = tiny.llama(**tiny.KINDS["gqa"])
        for n, z in minillm.noises(layer, seeds[0], "normal"):
            other.model.layers[1].get_parameter(n).add_(sign * 1e-3 * z)
        logits = other(ids).logits[:, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
    assert moved
    assert minillm.spsa([tuple(losses)], 1e-3)[0] == pytest.approx(slope.item(), rel=0.05, abs=0.02)


def test_a_unit_is_scored_with_all_that_leaves_with_it():
    from rcpu.methods.units import attention_units
    from rcpu.models.families import ARCHITECTURE

    heads, site = Heads(4, 2, 3), ARCHITECTURE.sites[0]
    scores = {"q_proj": random(12, 5).abs(), "k_proj": random(6, 5, seed=1).abs(), "v_proj": random(6, 5, seed=2).abs()}
    scores["o_proj"] = random(5, 12, seed=3).abs()
    layout = attention_units(heads, "kv_group")
    found = minillm.unit_scores(scores, site, layout, heads, "sum")
    for g in range(2):
        plain = scores["q_proj"][6 * g : 6 * g + 6].sum() + scores["o_proj"][:, 6 * g : 6 * g + 6].sum()
        plain += sum(scores[n][3 * g : 3 * g + 3].sum() for n in ("k_proj", "v_proj"))
        torch.testing.assert_close(found[0, g], plain)
    channels = minillm.unit_scores(scores, site, attention_units(heads, "channel"), heads, "max")
    expected = max(scores["v_proj"][4].max(), scores["o_proj"][:, 7].max(), scores["o_proj"][:, 10].max())
    torch.testing.assert_close(channels[1, 1], expected)


def test_an_attention_block_that_went_adds_nothing():
    net = tiny.net("gqa")
    recipe = rcpu.Recipe(method="2ssp", ratio=0.3, balance=10.0)
    blocks, channels = twossp.shares(compact_config(net), 0.3, 10.0)
    assert blocks == 2
    result = rcpu.prune(net, tiny.calibration(), recipe)
    gone = result.found["gone"].tolist()
    assert list(result.net.config.query_heads) == [0 if i in gone else 6 for i in range(3)]
    ids = tiny.ids(2, 9)
    entered = embed(net, ids)
    h = entered.hidden
    for i, layer in enumerate(net.model.layers):
        if i not in gone:
            h = h + layer.self_attn(layer.input_layernorm(h), **entered.attention)[0]
        kept = result.edits.layers[i]["mlp.down_proj.columns"]
        x, mlp = layer.post_attention_layernorm(h), layer.mlp
        inner = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        h = h + linear(inner[..., kept], mlp.down_proj.weight[:, kept])
        assert len(kept) == 72 - channels
    torch.testing.assert_close(tiny.logits(result.net, ids), net.lm_head(net.model.norm(h)), rtol=1e-4, atol=1e-4)
    losses = result.found["losses"]
    assert [int(row.nan_to_num(9e9).argmin()) for row in losses] == gone
