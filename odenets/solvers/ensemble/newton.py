"""Newton's iteration for the stages of a diagonally implicit method, as scalar expressions of one update.

A trial step is `begin`, then for one stage after the other its equations and first guess, and `update` again and again
while any trajectory is active, then the rest of the step from the stages that were found. With sensitivities every
stage's derivative follows its last update, by the implicit function theorem with the Jacobian at the stage itself, as
in `implicit.gradient`. Equations, first guesses,
norms and the rules by which the iteration stops or gives up are those of `implicit.runge_kutta` and `implicit.newton`;
Jacobian and factors are formed at every trial step and serve all its stages.

Lanes: b0.. what the stage at work adds its increment to, stage_t its time, u0.. its iterate (the stage itself once it is
found), e0.. 1 / (atol + rtol |y|), m0_0.., q0_1.. the factors; of kind time: active, failed (1 or 0), round, previous,
eta as in the eager iteration, updates (of the trajectory so far). Derivatives along the direction j: c0_j.. of b, d0_j..
of the stage found, l{stage}_0_j.. of the stages before, of which l0 belongs to f.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

from ..implicit.newton import Newton
from ..implicit.runge_kutta import ImplicitRungeKutta, StageGuesses
from ..tableau import ButcherTableau
from .derivative import tangents
from .scalars import Scalar, apply, both, cast, const, either, lane, maximum, negated, shared, weighted, where
from .stages import PivotedLU, State, TrialStep, mean_square, moved, slopes, state
from .trace import ScalarFunction

Outputs = dict[str, Scalar]


def iterates(method: object) -> bool:
    """Whether a method's stages are solved one after the other by Newton's iteration."""
    if not isinstance(method, ImplicitRungeKutta) or type(method.nonlinear) is not Newton:
        return False
    return len(method.blocks) > 1 and method.fsal and method.adaptive


def differentiates(method: object) -> bool:
    """Whether the sensitivities of a program are the gradients that are asked for."""
    if not isinstance(method, ImplicitRungeKutta):
        return True
    return method.nonlinear.phantom is None and not method.nonlinear.twice_differentiable


@dataclass(frozen=True)
class NewtonStages:
    """The parts of a trial step before its end.

    Args:
        method: one of which `iterates` is true.
        field: of the system.
        size: numbers in a state.
        seeds: as in `Program`.
    """

    method: ImplicitRungeKutta
    field: ScalarFunction
    size: int
    seeds: tuple[str, ...] = ()

    @property
    def tableau(self) -> ButcherTableau:
        return self.method.extended

    @property
    def gamma(self) -> float:
        return self.tableau.a[-1][-1]

    @cached_property
    def guesses(self) -> list[list[float]]:
        return StageGuesses(self.method).weights

    def fragments(self, h: Scalar, scales: tuple[State, State]) -> dict[str, Outputs]:
        """By name, in the order in which they are first run; h (time) is the step's size, scales the lanes rtol, atol."""
        found = {"begin": self._begin(h, scales), "stage1": self._stage(1), "update": self._update()}
        if self.seeds:
            found["differentiate"] = self._differentiate()
        return found | {f"stage{i}": self._stage(i) for i in range(2, self.tableau.stages)}

    @property
    def order(self) -> list[str]:
        """Names of the fragments as they run; "update" is repeated while any trajectory is active."""
        names = ["begin"]
        for i in range(1, self.tableau.stages):
            names += [f"stage{i}", "update", *["differentiate"] * bool(self.seeds)]
        return names

    def trial(self, h: Scalar, y: State, f: State) -> TrialStep:
        """The step, once its stages are found."""
        stages = [f, *(self._found(i) for i in range(1, self.tableau.stages - 1)), state("u", self.size)]
        size, failed = cast(h, "real"), apply("gt", lane("failed", "time"), 0.5)
        assert self.tableau.b_error is not None
        error = moved([const(0.0)] * self.size, size, self.tableau.b_error, stages)
        return TrialStep(moved(y, size, self.tableau.b, stages), error, stages, failed)

    def trial_sensitivities(self, h: Scalar) -> Outputs:
        """z1{i}_{j} and the last stage's derivative, likewise."""
        outputs: Outputs = {}
        for j in range(len(self.seeds)):
            stages = [self._along(f"l{s}_", j) for s in range(self.tableau.stages - 1)] + [self._along("d", j)]
            z1 = moved(self._along("z", j), cast(h, "real"), self.tableau.b, stages)
            outputs |= {f"z1_{i}_{j}": x for i, x in enumerate(z1)}
            outputs |= {f"l{self.tableau.stages - 1}_{i}_{j}": x for i, x in enumerate(stages[-1])}
        return outputs

    def slope_sensitivities(self, t: Scalar, y: State) -> Outputs:
        """df/d(parameter j) at the start, as l0."""
        outputs: Outputs = {}
        for j, seed in enumerate(self.seeds):
            along = ScalarFunction(tangents(self.field.outputs, {seed: 1.0}))(cast(t, "real"), y)
            outputs |= {f"l0_{i}_{j}": x for i, x in enumerate(along)}
        return outputs

    def _along(self, name: str, j: int) -> State:
        return [lane(f"{name}{i}_{j}") for i in range(self.size)]

    def _found(self, i: int) -> State:
        return state(f"k{i}_", self.size)

    def _begin(self, h: Scalar, scales: tuple[State, State]) -> Outputs:
        y, n = state("y", self.size), range(self.size)
        jacobian, _ = slopes(self.field, lane("t", "time"), y)
        shift = cast(h, "real") * self.gamma
        factors = PivotedLU([[float(i == j) - shift * jacobian[i][j] for j in n] for i in n])
        outputs = {"h": h, "failed": const(0.0, "time"), **factors.outputs()}
        return outputs | {f"e{i}": 1.0 / (apply("abs", x) * r + a) for i, x, r, a in zip(n, y, *scales)}

    def _stage(self, i: int) -> Outputs:
        """Takes over the stage before and sets up the i-th one."""
        h, before = lane("h", "time"), state("u", self.size)
        known = [state("f", self.size), *(self._found(j) for j in range(1, i - 1)), *[before] * (i > 1)]
        base = moved(state("y", self.size), cast(h, "real"), self.tableau.a[i][:i], known)
        outputs = {f"k{i - 1}_{j}": x for j, x in enumerate(before)} if i > 1 else {}
        for j in range(self.size):
            guess = weighted(self.guesses[i], [k[j] for k in known])
            outputs |= {f"b{j}": base[j], f"u{j}": const(0.0) if guess is None else guess}
        for j in range(len(self.seeds)):
            of_stages = [self._along(f"l{s}_", j) for s in range(i - (i > 1))] + [self._along("d", j)] * (i > 1)
            along = moved(self._along("z", j), cast(h, "real"), self.tableau.a[i][:i], of_stages)
            outputs |= {f"c{k}_{j}": x for k, x in enumerate(along)}
            outputs |= {f"l{i - 1}_{k}_{j}": x for k, x in enumerate(of_stages[-1]) if i > 1}
        going = both(apply("ne", h, 0.0), apply("lt", lane("failed", "time"), 0.5))
        eta = const(1.0, "time")
        if i > 1:  # what is expected of the first update (HW II, section IV.8)
            eta = cast(apply("pow", cast(maximum(lane("eta", "time"), 1e-16), "real"), 0.8), "time")
        return outputs | {
            "stage_t": cast(lane("t", "time") + h * self.tableau.c[i], "real"), "active": cast(going, "time"), "eta": eta,
            "round": const(0.0, "time"), "previous": const(1.0, "time"),
        }  # fmt: skip

    def _differentiate(self) -> Outputs:
        """(I - h gamma J) dk = J d(base) + df/d(parameter), J at the stage that was found."""
        n, t = range(self.size), lane("stage_t")
        reach = cast(lane("h", "time"), "real") * self.gamma
        at = [b + k * reach for b, k in zip(state("b", self.size), state("u", self.size))]
        jacobian, _ = slopes(self.field, t, at)
        solver = PivotedLU([[float(i == j) - reach * jacobian[i][j] for j in n] for i in n])
        outputs: Outputs = {}
        for j, seed in enumerate(self.seeds):
            along: dict[str, Scalar | float] = {f"y{i}": lane(f"c{i}_{j}") for i in n}
            along |= {} if seed[0] == "y" else {seed: 1.0}
            found = solver.solve(ScalarFunction(tangents(self.field.outputs, along))(t, at))
            outputs |= {f"d{i}_{j}": x for i, x in enumerate(found)}
        return outputs

    def _update(self) -> Outputs:
        n, limit = self.size, self.method.nonlinear.max_iterations
        base, u, scale = (state(name, n) for name in "bue")
        round_, previous, eta = (lane(name, "time") for name in ("round", "previous", "eta"))
        kappa, active = shared("kappa", "time"), apply("gt", lane("active", "time"), 0.5)
        reach = cast(lane("h", "time"), "real") * self.gamma
        value = self.field(lane("stage_t"), [b + k * reach for b, k in zip(base, u)])
        delta = PivotedLU.loaded(n).solve([f - k for f, k in zip(value, u)])
        moves = [d * reach for d in delta]
        size = cast(apply("sqrt", mean_square([m * e for m, e in zip(moves, scale)])), "time")

        later = apply("gt", round_, 0.5)
        rate = size / previous
        left_over = rate / (1.0 - rate)
        converging = apply("lt", rate, 1.0)
        to_come = _whole_power(rate, limit - 1.0 - round_, limit - 1)
        hopeless = either(negated(converging), apply("gt", to_come * left_over * size, kappa))
        largest = functools.reduce(
            maximum, [maximum(apply("abs", b), apply("abs", b + m)) for b, m in zip(base, moves)]
        )
        change = functools.reduce(maximum, [apply("abs", m) for m in moves])
        rounding = apply("le", cast(change, "time"), cast(largest, "time") * (32.0 * shared("precision", "time")))
        hopeless = both(both(later, hopeless), both(negated(rounding), apply("gt", size, 0.0)))
        bad = either(negated(apply("lt", size, float("inf"))), hopeless)
        eta = where(later, where(converging, maximum(left_over, 0.0), 0.0), eta)
        good = both(negated(bad), apply("le", eta * size, kappa))
        lost = both(active, either(bad, both(negated(good), apply("ge", round_, limit - 1.0))))
        moving = both(active, negated(bad))
        outputs = {f"u{i}": where(moving, k + d, k) for i, (k, d) in enumerate(zip(u, delta))}
        return outputs | {
            "active": cast(both(active, negated(either(good, lost))), "time"),
            "failed": maximum(lane("failed", "time"), cast(lost, "time")),
            "eta": where(active, eta, lane("eta", "time")), "round": round_ + 1.0, "previous": size,
            "updates": lane("updates", "time") + lane("active", "time"),
        }  # fmt: skip


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
