"""What Newton's iterations for the stages of implicit methods have in common, as scalar expressions of one update.

The norms and the rules by which the iteration stops or gives up are those of `implicit.newton`. A program repeats the
update while any trajectory is active; `diagonal` and `collocation` say what it updates.

Lanes: e0.. 1 / (atol + rtol |y|); of kind time: active, failed (1 or 0), round, previous, eta as in the eager iteration,
updates (of the trajectory so far).
"""

from __future__ import annotations

import functools

from ..implicit.newton import Modes, Newton
from ..implicit.runge_kutta import ImplicitRungeKutta
from .scalars import Scalar, apply, both, cast, const, either, lane, maximum, negated, shared, where
from .stages import Outputs, State, mean_square, state


def iterates(method: object) -> bool:
    """Whether a method's stages are solved by Newton's iteration, in a form that a program takes."""
    if not isinstance(method, ImplicitRungeKutta) or type(method.nonlinear) is not Newton:
        return False
    if not (method.fsal and method.adaptive):
        return False
    return len(method.blocks) > 1 or not method.error_filter or filtering_mode(method) is not None


def differentiates(method: object) -> bool:
    """Whether a program has the gradients that are asked for, as sensitivities."""
    if not isinstance(method, ImplicitRungeKutta):
        return True
    exact = method.nonlinear.phantom is None and not method.nonlinear.twice_differentiable
    return exact and len(method.blocks) > 1


def filtering_mode(method: ImplicitRungeKutta) -> int | None:
    """The eigenvalue of A, by its place in `Modes`, whose matrix filters the error estimate; None if it is not one."""
    found = [i for i, x in enumerate(Modes(method.block_matrix).values) if abs(x - method.error_filter) < 1e-12]
    return found[0] if found else None


def inverse_scales(y: State, scales: tuple[State, State]) -> Outputs:
    """The lanes e0.., by which updates are measured."""
    return {f"e{i}": 1.0 / (apply("abs", x) * r + a) for i, (x, r, a) in enumerate(zip(y, *scales))}


def first_round(going: Scalar, eta: Scalar) -> Outputs:
    """The lanes before an iteration of the trajectories that are going (bool)."""
    return {"active": cast(going, "time"), "eta": eta, "round": const(0.0, "time"), "previous": const(1.0, "time")}


def decided(moves: list[State], base: State, limit: int) -> tuple[Scalar, Outputs]:
    """Where the iterate is to be updated (bool), and the lanes after that.

    Args:
        moves: by which the update changes the state of every stage.
        base: the state that the stages' increments are added to.
        limit: updates at most.
    """
    round_, previous, eta = (lane(name, "time") for name in ("round", "previous", "eta"))
    kappa, active = shared("kappa", "time"), apply("gt", lane("active", "time"), 0.5)
    scale = state("e", len(base))
    sizes = [apply("sqrt", mean_square([m * e for m, e in zip(move, scale)])) for move in moves]
    size = cast(_largest(sizes), "time")
    rate = size / previous
    left_over = rate / (1.0 - rate)
    converging = apply("lt", rate, 1.0)
    to_come = _whole_power(rate, limit - 1.0 - round_, limit - 1)
    hopeless = either(negated(converging), apply("gt", to_come * left_over * size, kappa))
    change = _largest([apply("abs", m) for move in moves for m in move])
    states = _largest([maximum(apply("abs", b), apply("abs", b + m)) for b, m in zip(base, moves[-1])])
    rounding = apply("le", cast(change, "time"), cast(states, "time") * (32.0 * shared("precision", "time")))
    later = apply("gt", round_, 0.5)
    hopeless = both(both(later, hopeless), both(negated(rounding), apply("gt", size, 0.0)))
    bad = either(negated(apply("lt", size, float("inf"))), hopeless)
    eta = where(later, where(converging, maximum(left_over, 0.0), 0.0), eta)
    good = both(negated(bad), apply("le", eta * size, kappa))
    lost = both(active, either(bad, both(negated(good), apply("ge", round_, limit - 1.0))))
    return both(active, negated(bad)), {
        "active": cast(both(active, negated(either(good, lost))), "time"),
        "failed": maximum(lane("failed", "time"), cast(lost, "time")),
        "eta": where(active, eta, lane("eta", "time")), "round": round_ + 1.0, "previous": size,
        "updates": lane("updates", "time") + lane("active", "time"),
    }  # fmt: skip


def _largest(values: State) -> Scalar:
    return functools.reduce(maximum, values)


def _whole_power(x: Scalar, exponent: Scalar, most: int) -> Scalar:
    """x to a whole number of at most `most` (both of kind time), by squaring."""
    powers, result = [x], const(1.0, "time")
    while 2 ** len(powers) <= most:
        powers.append(powers[-1] * powers[-1])
    for bit in reversed(range(len(powers))):
        has = apply("ge", exponent, 2.0**bit)
        result = where(has, result * powers[bit], result)
        exponent = where(has, exponent - 2.0**bit, exponent)
    return result
