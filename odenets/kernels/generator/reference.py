"""Functions of small matrices in plain torch: the definition."""

import torch
from torch import Tensor


def _wide(m: Tensor) -> Tensor:
    return m.to(torch.promote_types(m.dtype, torch.float32))


def resolvent(m: Tensor) -> Tensor:
    """(I - m)^(-1) [.., n, n]."""
    m = _wide(m)
    return torch.linalg.inv(torch.eye(m.shape[-1], dtype=m.dtype, device=m.device) - m)


def exponential(m: Tensor) -> tuple[Tensor, Tensor]:
    """e^m and phi_1(m) from exp [[m, I], [0, 0]] = [[e^m, phi_1(m)], [0, I]] (Al-Mohy, Higham 2011, theorem 2.1)."""
    m = _wide(m)
    n = m.shape[-1]
    eye = torch.eye(n, dtype=m.dtype, device=m.device).expand_as(m)
    upper = torch.cat([m, eye], dim=-1)
    with torch.autocast(m.device.type, enabled=False):
        e = torch.linalg.matrix_exp(torch.cat([upper, torch.zeros_like(upper)], dim=-2))
    return e[..., :n, :n], e[..., :n, n:]
