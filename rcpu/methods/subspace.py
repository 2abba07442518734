"""Narrower values that are not a choice of channels: an encoder for each KV head and a decoder for each query head.

The inputs of o_proj are values of width ``dim`` mixed over tokens, so an encoder E (rank × dim) may go into v_proj's
rows, and in o_proj a decoder (d_out × rank) takes the place of the head's columns. Query heads that share a KV head
share its encoder. Sought is min tr((W − D Ē) H (W − D Ē)ᵀ), Ē all encoders on the diagonal; with one
query head a KV head and uncorrelated heads that is reduced-rank regression. Errors in a metric FᵀF: pass F W.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rcpu.methods.obs import factor
from rcpu.models.families import Heads
from rcpu.statistics.decompose import eigh


def narrow(m: Tensor, kept: Tensor) -> Tensor:
    """M Ēᵀ: what is left of columns (…, d_in) when these stay, given as indices (kept,) or encoders (kv, rank, dim)."""
    if kept.ndim == 1:
        return m.index_select(-1, kept.to(m.device))
    kv, _, dim = kept.shape
    grouped = m.reshape(*m.shape[:-1], kv, -1, dim)  # (…, kv, query heads of it, dim)
    return torch.einsum("...khd,krd->...khr", grouped, kept.to(m)).reshape(*m.shape[:-1], -1)


def widen(v: Tensor, kept: Tensor, d_in: int = 0) -> Tensor:
    """V Ē, (d_out, d_in): the weight on all inputs that a weight for those that stay amounts to."""
    if kept.ndim == 1:
        wide = v.new_zeros(len(v), d_in)
        wide[:, kept] = v
        return wide
    kv, rank, _ = kept.shape
    return torch.einsum("okhr,krd->okhd", v.view(len(v), kv, -1, rank), kept.to(v)).reshape(len(v), -1)


def begin(weight: Tensor, h: Tensor, heads: Heads, rank: int) -> Tensor:
    """Encoders as if heads were uncorrelated and those of a KV head had the same moments C: (kv, rank, dim).

    The top eigenvectors of C^½ (Σ_h W_hᵀ W_h) C^½ taken through C^−½, with orthonormal rows.
    """
    found = [torch.linalg.qr(back @ vectors[:, -rank:])[0].mT for _, vectors, back in _axes(weight, h, heads)]
    return torch.stack(found)


def spectrum(weight: Tensor, h: Tensor, heads: Heads) -> Tensor:
    """What each dimension of the values carries of the outputs, the largest first, (kv, dim)."""
    return torch.stack([values.flip(0) for values, _, _ in _axes(weight, h, heads)])


def _axes(weight: Tensor, h: Tensor, heads: Heads) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each KV head eigenvalues, ascending, and eigenvectors of C^½ (Σ_h W_hᵀ W_h) C^½, and C^−½."""
    group = heads.query // heads.kv
    own = h.view(heads.query, heads.dim, heads.query, heads.dim).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    moments = own.reshape(heads.kv, group, heads.dim, heads.dim).mean(1)
    for c, w in zip(moments, weight.to(h).view(-1, heads.kv, group, heads.dim).unbind(1), strict=True):
        values, vectors = eigh(c)
        root = values.clamp_min(values[-1] * 1e-12).sqrt()
        seen = w.flatten(0, 1) @ ((vectors * root) @ vectors.mT)
        yield *eigh(seen.mT @ seen), (vectors / root) @ vectors.mT


def decoder(weight: Tensor, h: Tensor, encoder: Tensor) -> Tensor:
    """D = W H Ēᵀ (Ē H Ēᵀ)⁻¹, the best one for these encoders, (d_out, query heads · rank)."""
    across = narrow(h, encoder)  # H Ēᵀ
    return torch.cholesky_solve((weight.to(h) @ across).mT, factor(narrow(across.mT, encoder))).mT


def refine(weight: Tensor, h: Tensor, encoder: Tensor, *, rounds: int = 3, steps: int = 12) -> Tensor:
    """Better encoders: ``rounds`` of the best decoder for them, then ``steps`` of conjugate gradients for that one."""
    kv, rank, dim = encoder.shape
    heads = h.shape[0] // dim
    across = weight.to(h) @ h
    for _ in range(rounds):
        d = decoder(weight, h, encoder)
        inner = (d.mT @ d).view(heads, rank, heads * rank)

        def normal(e: Tensor, inner: Tensor = inner) -> Tensor:
            """Blocks of Dᵀ D Ē H on the diagonal, added up over the query heads of each KV head."""
            seen = narrow(h, e).mT.view(heads * rank, heads, dim)
            return torch.bmm(inner, seen.transpose(0, 1)).view(kv, -1, rank, dim).sum(1)

        wanted = torch.bmm(d.mT.view(heads, rank, -1), across.view(-1, heads, dim).transpose(0, 1))
        residual = wanted.view(kv, -1, rank, dim).sum(1) - normal(encoder)
        direction, squared = residual, residual.square().sum()
        for _ in range(steps):
            if squared == 0:
                break
            image = normal(direction)
            step = squared / (direction * image).sum()
            encoder, residual = encoder + step * direction, residual - step * image
            before, squared = squared, residual.square().sum()
            direction = residual + squared / before * direction
        encoder = torch.linalg.qr(encoder.mT)[0].mT.contiguous()
    return encoder


def value_subspace(weight: Tensor, h: Tensor, heads: Heads, rank: int) -> Tensor:
    """Encoders (kv, rank, dim) with orthonormal rows for values of this width; H as obs.py damps it."""
    return refine(weight, h, begin(weight, h, heads, rank))
