"""The stages of a collocation method, all at once by Newton's iteration, as scalar expressions.

A trial step is `begin`, `update` again and again while any trajectory is active, then the rest of the step from the
stages that were found. As in `implicit.newton` the systems are taken apart by the eigenvalues of A: one of the state's
size for the real one, one of complex numbers for each conjugate pair. The first guess continues the last step's
polynomial; Jacobian and factors are formed at every trial step.

Lanes besides those of `newton`: u{i}_0.. iterates of the stages, o{i}_0.. the last step's stages and last_h its size, 0
before the first; m_0_0.., q_0_1.. the factors of the first mode, m1_0_0.., q1_0_1.. those of the second (r and i at the
end of the name for the parts of complex ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..implicit.newton import Modes
from ..implicit.runge_kutta import ImplicitRungeKutta, StageGuesses
from .complex_scalars import Complex, ComplexLU
from .newton import decided, filtering_mode, first_round, inverse_scales
from .scalars import Scalar, apply, cast, const, lane, weighted, where
from .stages import Outputs, PivotedLU, State, TrialStep, moved, slopes, state
from .trace import ScalarFunction


@dataclass(frozen=True)
class CollocationStages:
    """The parts of a trial step before its end.

    Args:
        method: one of which `newton.iterates` is true, with its stages in one block.
        field: of the system.
        size: numbers in a state.
    """

    method: ImplicitRungeKutta
    field: ScalarFunction
    size: int

    @cached_property
    def modes(self) -> Modes:
        return Modes(self.method.block_matrix)

    @property
    def count(self) -> int:
        """Stages that are solved for."""
        return len(self.method.block_matrix)

    @property
    def evaluations(self) -> int:
        """Of the field, per update."""
        return self.count

    @property
    def order(self) -> list[str]:
        """Names of the fragments as they run; "update" is repeated while any trajectory is active."""
        return ["begin", "update"]

    def fragments(self, h: Scalar, scales: tuple[State, State]) -> dict[str, Outputs]:
        """By name; h (time) is the step's size, scales the lanes rtol, atol."""
        return {"begin": self._begin(h, scales), "update": self._update()}

    def start(self, t: Scalar, y: State) -> Outputs:
        """Lanes at a trajectory's start."""
        outputs = {"updates": const(0.0, "time"), "last_h": const(0.0, "time")}
        return outputs | {f"o{i}_{j}": const(0.0) for i in range(self.count) for j in range(self.size)}

    def advance(self, took: Scalar) -> Outputs:
        """Lanes after a step, where it was taken."""
        outputs = {"last_h": where(took, lane("h", "time"), lane("last_h", "time"))}
        pairs = [(i, j) for i in range(self.count) for j in range(self.size)]
        return outputs | {f"o{i}_{j}": where(took, lane(f"u{i}_{j}"), lane(f"o{i}_{j}")) for i, j in pairs}

    def trial(self, h: Scalar, y: State, f: State) -> TrialStep:
        """The step, once its stages are found."""
        method, size = self.method, cast(h, "real")
        stages = [f, *self._stages("u")]
        assert method.extended.b_error is not None
        error = moved([const(0.0)] * self.size, size, method.extended.b_error, stages)
        mode = filtering_mode(method)
        if mode is not None:
            error = self._lus()[mode].solve(error)
        y1 = moved(y, size, method.extended.b, stages)
        return TrialStep(y1, error, stages, apply("gt", lane("failed", "time"), 0.5))

    def _stages(self, name: str) -> list[State]:
        return [state(f"{name}{i}_", self.size) for i in range(self.count)]

    def _begin(self, h: Scalar, scales: tuple[State, State]) -> Outputs:
        y, f, n = state("y", self.size), state("f", self.size), range(self.size)
        jacobian, _ = slopes(self.field, lane("t", "time"), y)
        outputs = {"h": h, "failed": const(0.0, "time"), **inverse_scales(y, scales)}
        outputs |= first_round(apply("ne", h, 0.0), const(1.0, "time"))
        for mode, value in enumerate(self.modes.values):
            shift = [cast(h, "real") * part for part in (complex(value).real, complex(value).imag)]
            real = [[float(i == j) - shift[0] * jacobian[i][j] for j in n] for i in n]
            if isinstance(value, complex):
                matrix = [[Complex(real[i][j], -shift[1] * jacobian[i][j]) for j in n] for i in n]
                outputs |= ComplexLU(matrix).outputs(_tag(mode))
            else:
                outputs |= PivotedLU(real).outputs(_tag(mode))
        for i, guess in enumerate(self._guesses(h, f)):
            outputs |= {f"u{i}_{j}": x for j, x in enumerate(guess)}
        return outputs

    def _guesses(self, h: Scalar, f: State) -> list[State]:
        """The last step's polynomial, continued; f before there is one (HW II, section IV.8)."""
        last_h, old = lane("last_h", "time"), self._stages("o")
        known, coefficients = apply("ne", last_h, 0.0), StageGuesses(self.method).lagrange
        ratio = cast(h / where(known, last_h, 1.0), "real")
        found = []
        for node in self.method.c[1:]:
            theta, weights = 1.0 + ratio * node, []
            for row in coefficients:  # by Horner's rule
                weight: Scalar = const(0.0)
                for coefficient in reversed(row.tolist()):
                    weight = weight * theta + coefficient
                weights.append(weight)
            guess = [sum((w * k[j] for w, k in zip(weights, old)), const(0.0)) for j in range(self.size)]
            found.append([where(known, g, x) for g, x in zip(guess, f)])
        return found

    def _lus(self) -> list[PivotedLU]:
        kinds = [ComplexLU if isinstance(value, complex) else PivotedLU for value in self.modes.values]
        return [kind.loaded(self.size, _tag(mode)) for mode, kind in enumerate(kinds)]

    def _update(self) -> Outputs:
        y, stages, h = state("y", self.size), self._stages("u"), lane("h", "time")
        states = [moved(y, cast(h, "real"), row, stages) for row in self.method.block_matrix.tolist()]
        times = [cast(lane("t", "time") + h * node, "real") for node in self.method.c[1:]]
        residual = [[f - x for f, x in zip(self.field(t, s), k)] for t, s, k in zip(times, states, stages)]
        delta = self._correction(residual)
        zero = [const(0.0)] * self.size
        moves = [moved(zero, cast(h, "real"), row, delta) for row in self.method.block_matrix.tolist()]
        moving, outputs = decided(moves, y, self.method.nonlinear.max_iterations)
        for i, (k, d) in enumerate(zip(stages, delta)):
            outputs |= {f"u{i}_{j}": where(moving, x + dx, x) for j, (x, dx) in enumerate(zip(k, d))}
        return outputs

    def _correction(self, residual: list[State]) -> list[State]:
        """(I - h A (x) J)^{-1} residual, mode by mode."""
        total = [[const(0.0)] * self.size for _ in residual]
        for lu, into, back in zip(self._lus(), self.modes.into, self.modes.back.T):
            real = _combined(into.real, residual)
            if isinstance(lu, ComplexLU):
                imaginary = _combined(into.imag, residual)
                found = lu.solve([Complex(a, b) for a, b in zip(real, imaginary)])
                parts = [[x.re * float(w.real) - x.im * float(w.imag) for x in found] for w in back]
            else:
                parts = [[x * float(w.real) for x in lu.solve(real)] for w in back]
            total = [[a + b for a, b in zip(row, part)] for row, part in zip(total, parts)]
        return total


def _combined(weights: np.ndarray, states: list[State]) -> State:
    found = [weighted(weights.tolist(), [x[j] for x in states]) for j in range(len(states[0]))]
    return [const(0.0) if x is None else x for x in found]


def _tag(mode: int) -> str:
    return str(mode) if mode else ""
