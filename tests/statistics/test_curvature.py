"""Curvature against one backward through the whole model with a hook on every projection."""

import pytest
import torch

from rcpu.base.errors import Cancelled
from rcpu.models.families import architecture_of, consumer_of, layers_of
from rcpu.statistics.curvature import curvatures
from tests import tiny


def plain(net, ids):
    """Inputs and output gradients of every consumer, by hooks."""
    seen = {}
    handles = []
    for i, layer in enumerate(layers_of(net)):
        for site in architecture_of(net).sites:

            def hook(module, args, out, key=(i, site.name)):
                out.requires_grad_()
                out.retain_grad()
                seen[key] = args[0], out

            handles.append(consumer_of(layer, site).register_forward_hook(hook))
    try:
        logits = net(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return {key: (x.detach().flatten(0, 1), out.grad.flatten(0, 1)) for key, (x, out) in seen.items()}


@pytest.mark.parametrize("kind", ["mha", "gqa", "biased"])
def test_layer_by_layer_is_one_backward(kind):
    net, windows = tiny.net(kind), tiny.calibration()
    before = tiny.snapshot(net)
    expected = plain(net, windows.calibration)
    layers = []
    for i, found in curvatures(net, windows, micro_batch=3, slopes=True):
        layers.append(i)
        for name, c in found.items():
            x, g = expected[i, name]
            weights = g.square().sum(1) / g.square().sum()
            torch.testing.assert_close(c.output, g.mT @ g / len(g), rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(c.slope, g.mT @ x / len(g), rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(c.gram, (x.mT * weights) @ x, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(c.mean, weights @ x, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(
                c.centred, ((x - weights @ x).mT * weights) @ (x - weights @ x), rtol=1e-3, atol=1e-5
            )
            torch.testing.assert_close(c.x.gram, x.mT @ x, rtol=1e-3, atol=1e-4)
    assert layers == [2, 1, 0]
    tiny.assert_unchanged(net, before)


def test_it_can_be_cancelled():
    with pytest.raises(Cancelled):
        next(curvatures(tiny.net("mha"), tiny.calibration(), cancelled=lambda: True))
