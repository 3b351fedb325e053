"""The phi functions against 100-digit arithmetic and against scipy's exponential of augmented matrices."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from odenets.solvers.structured.phi import phi, phi_functions, phi_matrices

COUNT = 4
DIRECTIONS = {"negative": -1, "imaginary": 1j, "oblique": -0.6 + 0.8j, "positive": 1}


def reference(index: int, z: complex) -> mpmath.mpc:
    """phi_index(z) by its recurrence in 100 digits, of which a small z costs 12 per index."""
    with mpmath.workdps(100):
        exact = mpmath.mpc(z)
        value = mpmath.exp(exact)
        for k in range(index):
            value = (value - 1 / mpmath.factorial(k)) / exact
        return value


def relative_error(got: complex, index: int, z: complex) -> float:
    wanted = reference(index, z)
    return float(abs(mpmath.mpc(got) - wanted) / max(abs(wanted), mpmath.mpf(10) ** -280))


def arguments(direction: complex) -> list[complex]:
    top = 2.5 if direction == 1 else 3.0
    return [complex(direction * r) for r in (*np.logspace(-12, top, 26), 0.99999, 1.00001)]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=list(DIRECTIONS))
def test_elementwise_to_the_last_digits(direction):
    for z in arguments(direction):
        values = phi_functions(torch.tensor(z, dtype=torch.complex128), COUNT)
        for index, value in enumerate(values):
            assert relative_error(value.item(), index, z) < 1e-14, (index, z)
            if z.imag == 0:
                assert relative_error(phi(index, z.real), index, z) < 1e-14, (index, z)
                assert phi(index, torch.tensor(z.real, dtype=torch.float64)).item() == pytest.approx(
                    phi(index, z.real), rel=1e-14
                )


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=list(DIRECTIONS))
def test_matrices_keep_thirteen_digits_over_fifteen_decades(direction):
    """On a normal matrix with eigenvalues of every size at once; errors are relative to the largest entry.

    e^z of a matrix of norm |z| is known to about |z| roundings only: 1000 of them are 2e-13.
    """
    zs = arguments(direction)
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(len(zs), len(zs))))
    got = phi_matrices(torch.from_numpy((q * np.array(zs)) @ q.T), COUNT)
    for index, value in enumerate(got):
        exact = np.array([complex(reference(index, z)) for z in zs])
        error = np.abs(q.T @ value.numpy() @ q - np.diag(exact)).max() / np.abs(exact).max()
        assert error < (1e-13 if direction == -1 else 1e-12), index


@pytest.mark.parametrize("direction", [-1, 1j])
def test_one_by_one_matrices_keep_thirteen_digits(direction):
    """Relative to the value, and for e^z, which is 1 plus what is computed, to 1. On the imaginary axis a matrix of norm
    |z| has its phase, in phi_0 and phi_1, to |z| roundings."""
    for z in arguments(direction):
        for index, value in enumerate(phi_matrices(torch.tensor([[z]], dtype=torch.complex128), COUNT)):
            wanted = reference(index, z)
            error = float(abs(mpmath.mpc(value.item()) - wanted) / (1 if index == 0 else abs(wanted)))
            assert error < (1e-15 * max(abs(z), 100) if z.imag and index < 2 else 1e-13), (index, z)


@pytest.mark.parametrize("scale", [1e-8, 0.3, 4.0, 30.0])
def test_non_normal_matrices_against_scipys_augmented_exponential(scale):
    """exp [[m, I, 0, ..], [0, 0, I, ..], ..] has phi_k(m) in its first row of blocks."""
    rng = np.random.default_rng(1)
    m = scale * (np.triu(rng.normal(size=(5, 5))) - 2 * np.eye(5))
    n, blocks = 5, COUNT + 1
    augmented = np.kron(np.eye(blocks, k=1), np.eye(n))
    augmented[:n, :n] = m
    wanted = scipy.linalg.expm(augmented)[:n].reshape(n, blocks, n).swapaxes(0, 1)
    got = phi_matrices(torch.from_numpy(np.stack([m, 0 * m])), COUNT)
    for index, value in enumerate(got):
        size = 1.0 if index == 0 else np.abs(wanted[index]).max()  # e^z is 1 plus what is computed
        np.testing.assert_allclose(value[0], wanted[index], rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(value[1], np.eye(n) * float(reference(index, 1e-18).real), atol=1e-16)


def test_a_huge_negative_argument_neither_overflows_nor_cancels():
    m = torch.diag(torch.tensor([-1e6, -1.0, 0.0], dtype=torch.float64))
    for index, value in enumerate(phi_matrices(m, 3)):
        for i in range(2):
            wanted = float(reference(index, complex(m[i, i])).real)
            assert value[i, i].item() == pytest.approx(wanted, rel=1e-13, abs=1e-15 if index == 0 else 0)


def test_derivatives_against_finite_differences():
    m = torch.tensor([[-0.7, 0.4], [0.2, -3.0]], dtype=torch.float64, requires_grad=True)
    z = torch.tensor([-2.0, -1e-9, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: phi_matrices(m, 3), m)
    assert torch.autograd.gradcheck(lambda z: phi_functions(z, 3), z)
    assert torch.autograd.gradgradcheck(lambda m: phi_matrices(m, 2), m)


def test_a_matrix_that_is_not_finite_gives_nan_and_ends():
    assert all(value.isnan().all() for value in phi_matrices(torch.full((2, 2), float("inf")), 2))
