"""Projection of a matrix onto the doubly stochastic ones (`odenets.kernels.sinkhorn`), and how far it is from them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from odenets.kernels.sinkhorn import sinkhorn

__all__ = ["DoublyStochasticError", "doubly_stochastic_error", "sinkhorn"]


class DoublyStochasticError(NamedTuple):
    """How far row and column sums are from 1: smallest and largest (sum - 1), each [..]."""

    row_min: Tensor
    row_max: Tensor
    column_min: Tensor
    column_max: Tensor


def doubly_stochastic_error(p: Tensor) -> DoublyStochasticError:
    """Row and column errors of matrices p [.., n, n]."""
    rows, columns = p.sum(-1) - 1, p.sum(-2) - 1
    return DoublyStochasticError(rows.amin(-1), rows.amax(-1), columns.amin(-1), columns.amax(-1))
