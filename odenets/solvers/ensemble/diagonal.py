"""The stages of a diagonally implicit method, one after the other by Newton's iteration, as scalar expressions.

A trial step is `begin`, then for one stage after the other its equations and first guess, and `update` again and again
while any trajectory is active, then the rest of the step from the stages that were found. With sensitivities every
stage's derivative follows its last update, by the implicit function theorem with the Jacobian at the stage itself, as
in `implicit.gradient`. The equations and first guesses are those of `implicit.runge_kutta`; Jacobian and factors are
formed at every trial step and serve all its stages.

Lanes besides those of `newton`: b0.. what the stage at work adds its increment to, stage_t its time, u0.. its iterate
(the stage itself once it is found), m_0_0.., q_0_1.. the factors. Derivatives along the direction j: c0_j.. of b, d0_j..
of the stage found, l{stage}_0_j.. of the stages before, of which l0 belongs to f.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..implicit.runge_kutta import ImplicitRungeKutta, StageGuesses
from ..tableau import ButcherTableau
from .derivative import tangents
from .newton import decided, first_round, inverse_scales
from .scalars import Scalar, apply, both, cast, const, lane, maximum, weighted, where
from .stages import Outputs, PivotedLU, State, TrialStep, moved, slopes, state
from .trace import ScalarFunction


@dataclass(frozen=True)
class DiagonalStages:
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

    evaluations = 1  # of the field, per update

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

    def start(self, t: Scalar, y: State) -> Outputs:
        """Lanes at a trajectory's start."""
        outputs: Outputs = {"updates": const(0.0, "time")}
        for j, seed in enumerate(self.seeds):
            along = ScalarFunction(tangents(self.field.outputs, {seed: 1.0}))(cast(t, "real"), y)
            outputs |= {f"l0_{i}_{j}": x for i, x in enumerate(along)}
        return outputs

    def advance(self, took: Scalar) -> Outputs:
        """Lanes after a step, where it was taken."""
        outputs: Outputs = {}
        for j in range(len(self.seeds)):
            pairs = zip(self._along("d", j), self._along("l0_", j))
            outputs |= {f"l0_{i}_{j}": where(took, last, first) for i, (last, first) in enumerate(pairs)}
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
        return {"h": h, "failed": const(0.0, "time"), **factors.outputs(), **inverse_scales(y, scales)}

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
            eta = cast(maximum(lane("eta", "time"), 1e-16), "real")
            eta = cast(apply("exp", apply("log", eta) * 0.8), "time")
        outputs["stage_t"] = cast(lane("t", "time") + h * self.tableau.c[i], "real")
        return outputs | first_round(going, eta)

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
        base, u = (state(name, self.size) for name in "bu")
        reach = cast(lane("h", "time"), "real") * self.gamma
        value = self.field(lane("stage_t"), [b + k * reach for b, k in zip(base, u)])
        delta = PivotedLU.loaded(self.size).solve([f - k for f, k in zip(value, u)])
        moving, outputs = decided([[d * reach for d in delta]], base, self.method.nonlinear.max_iterations)
        return outputs | {f"u{i}": where(moving, k + d, k) for i, (k, d) in enumerate(zip(u, delta))}
