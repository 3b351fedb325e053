"""Mixtures over depth in plain torch: the definition."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """sum_j w_j v_j: weights [tokens, J], values [tokens, C]."""
    wide = torch.promote_types(values[0].dtype, torch.float32)
    terms = (w.to(wide).unsqueeze(-1) * v.to(wide) for w, v in zip(weights.unbind(-1), values))
    return sum(terms, torch.zeros_like(values[0], dtype=wide)).to(values[0].dtype)


def attend(query: Tensor, scales: Tensor, values: Sequence[Tensor]) -> Tensor:
    """sum_j softmax_j(s_j q . v_j) v_j: query [C], scales [tokens, J], values [tokens, C]."""
    wide = torch.promote_types(values[0].dtype, torch.float32)
    logits = torch.stack([v.to(wide) @ query.to(wide) for v in values], -1) * scales.to(wide)
    return mix(logits.softmax(-1), values)
