"""Zero-stability of multistep methods that are known to be stable or not."""

import pytest
import torch

from odenets.blocks import HyperConnections, LinearMultistep, ManifoldHyperConnections, Momentum, Residual
from odenets.diagnostics import propagation_matrices, root_condition, zero_stability
from odenets.fields import MLP
from odenets.models import FlowStack

DOUBLE = torch.float64
# rho of the backward differentiation formulas, highest power first (HNW I, eq. III.1.22')
BDF = {
    2: [3 / 2, -2, 1 / 2],
    3: [11 / 6, -3, 3 / 2, -1 / 3],
    6: [147 / 60, -6, 15 / 2, -20 / 3, 15 / 4, -6 / 5, 1 / 6],
    7: [363 / 140, -7, 21 / 2, -35 / 3, 35 / 4, -21 / 5, 7 / 6, -1 / 7],
}


@pytest.mark.parametrize("coefficients", [[1, -1], [1, -1, 0, 0], [1, 0, -1], BDF[2], BDF[3], BDF[6]])
def test_adams_leapfrog_and_bdf_up_to_six_are_zero_stable(coefficients: list[float]):
    found = root_condition(coefficients)
    assert found.stable
    assert found.cause == ""
    assert found.radius == pytest.approx(1)  # consistency: 1 is a root


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [
        (BDF[7], "outside"),  # Cryer 1972: unstable from 7 on
        ([1, 4, -5], "modulus 5"),  # the explicit two-step method of order 3 (HNW I, eq. III.3.4)
        ([1, -2, 1], "multiple root"),
    ],
)
def test_unstable_methods_are_told_with_the_cause(coefficients: list[float], says: str):
    found = root_condition(coefficients)
    assert not found.stable
    assert says in found.cause
    with pytest.raises(ValueError, match="alpha_k"):
        root_condition([0, 1])


@pytest.mark.parametrize(("k", "stable"), [(0.5, True), (1.0, True), (-0.5, True), (1.2, False), (-1.0, False)])
def test_the_two_step_block_is_stable_for_k_in_its_interval(k: float, stable: bool):
    stack = FlowStack(lambda: LinearMultistep(MLP(3, 4), k=k), N=60)
    found = zero_stability(propagation_matrices(stack, torch.randn(2, 3)).matrices)
    assert found.stable is stable  # -1 < k <= 1
    assert (float(found.product_norm[-1]) < 10) == stable
    rho = root_condition([1, k - 1, -k])
    assert rho.stable is stable
    assert float(found.radius[0]) == pytest.approx(rho.radius, abs=1e-6)


def test_two_step_blocks_with_different_k_keep_one_value_and_forget_the_other():
    values = iter([-0.1, 0.3, -0.6, 0.5])
    stack = FlowStack(lambda: LinearMultistep(MLP(3, 4), k=next(values)), N=4)
    found = zero_stability(propagation_matrices(stack, torch.randn(2, 3)).matrices)
    assert found.stable is True
    assert "0.6" in found.cause


def test_momentum_and_streams():
    found = zero_stability(
        propagation_matrices(FlowStack(lambda: Momentum(MLP(3, 4), 0.9)), torch.randn(2, 3)).matrices
    )
    assert found.stable is True
    torch.manual_seed(0)
    stack = FlowStack(lambda: ManifoldHyperConnections(MLP(3, 4), 3, parametrisation="generator"), N=3)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.3 * torch.randn_like(p))
    propagation = propagation_matrices(stack, torch.randn(2, 3))
    assert propagation.spread > 0
    assert zero_stability(propagation.matrices).stable is True
    free = FlowStack(lambda: HyperConnections(MLP(3, 4), 3, dynamic=False), T=3.0, N=3)
    with torch.no_grad():
        free.blocks[1].flow.coefficients.a_r.mul_(1.5)
    found = zero_stability(propagation_matrices(free, torch.randn(2, 3)).matrices)
    assert found.stable is False
    assert "step 1" in found.cause
    with pytest.raises(ValueError, match="Residual"):
        propagation_matrices(FlowStack(lambda: Residual(MLP(3, 4))), torch.randn(2, 3))


def test_matrices_that_are_stable_alone_and_not_together_are_not_called_stable():
    a = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=DOUBLE)
    found = zero_stability(torch.stack([a, a.T] * 10))
    assert found.radius.max() == 0
    assert found.product_norm[-1] > 1e5
    assert found.stable is None
    with pytest.raises(ValueError, match="N, r, r"):
        zero_stability(torch.eye(2))


def test_a_defective_eigenvalue_on_the_unit_circle_is_unstable_and_a_semisimple_one_is_not():
    assert zero_stability(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])).stable is False
    assert zero_stability(torch.eye(3)[None]).stable is True
