"""One trial step as scalar expressions: explicit Runge-Kutta methods and Rosenbrock methods.

The same formulas as in `step` and `implicit.rosenbrock`, whose tableaus they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from ..implicit.rosenbrock import RosenbrockTableau
from ..tableau import ButcherTableau
from .derivative import tangents
from .scalars import Scalar, apply, both, cast, const, either, lane, weighted, where
from .trace import ScalarFunction

State = list[Scalar]
Outputs = dict[str, Scalar]


class TrialStep(NamedTuple):
    """y1, its error estimate, the stages of the dense output, and whether the step could not be computed."""

    y1: State
    error: State
    stages: list[State]
    failed: Scalar


def trial(
    method: ButcherTableau | RosenbrockTableau, field: ScalarFunction, t: Scalar, h: Scalar, y: State, f: State
) -> TrialStep:
    """One step of size h (kind time) from y at t (time), with f = field(t, y)."""
    if isinstance(method, RosenbrockTableau):
        return _rosenbrock(method, field, t, h, y, f)
    return _explicit(method, field, t, h, y, f)


def moved(y: State, h: Scalar, weights: Sequence[float], stages: list[State]) -> State:
    """y + h sum_j w_j k_j."""
    increments = [weighted(weights, [k[i] for k in stages]) for i in range(len(y))]
    return [x if increment is None else x + increment * h for x, increment in zip(y, increments)]


def _explicit(tableau: ButcherTableau, field: ScalarFunction, t: Scalar, h: Scalar, y: State, f: State) -> TrialStep:
    stages, y1, size = [f], y, cast(h, "real")
    for row, c in zip(tableau.a[1:], tableau.c[1:]):
        y1 = moved(y, size, row, stages)
        stages.append(field(cast(t + h * c, "real"), y1))
    if not tableau.fsal:
        y1 = moved(y, size, tableau.b, stages)
    assert tableau.b_error is not None
    error = moved([const(0.0)] * len(y), size, tableau.b_error, stages)
    return TrialStep(y1, error, stages, const(0.0, "bool"))


def _rosenbrock(
    tableau: RosenbrockTableau, field: ScalarFunction, t: Scalar, h: Scalar, y: State, f: State
) -> TrialStep:
    size, n = cast(h, "real"), len(y)
    jacobian, slope = slopes(field, t, y)
    shift = size * tableau.gamma
    solver = PivotedLU([[float(i == j) - shift * jacobian[i][j] for j in range(n)] for i in range(n)])
    stages: list[State] = []
    for i in range(tableau.stages):
        value = field(cast(t + h * tableau.c[i], "real"), moved(y, size, tableau.a[i], stages)) if i else f
        rhs = [v + s * (size * tableau.time[i]) for v, s in zip(value, slope)]
        coupled = [weighted(tableau.coupling[i], [k[j] for k in stages]) for j in range(n)]
        rhs = [v if c is None else v + c for v, c in zip(rhs, coupled)]
        stages.append(solver.solve([v * tableau.gamma for v in rhs]))
    y1 = moved(y, size, tableau.b, stages)
    error = moved([const(0.0)] * n, size, tableau.b_error, stages)
    return TrialStep(y1, error, [f, *stages], solver.singular)


def slopes(field: ScalarFunction, t: Scalar, y: State) -> tuple[list[State], State]:
    """df/dy [n][n] and df/dt [n] at t (time), y."""
    n = len(y)

    def along(name: str) -> State:
        return ScalarFunction(tangents(field.outputs, {name: 1.0}))(cast(t, "real"), y)

    columns = [along(f"y{j}") for j in range(n)]
    return [[columns[j][i] for j in range(n)] for i in range(n)], along("t")


class PivotedLU:
    """Gaussian elimination in straight-line code: rows change places by selection, so that lanes stay together.

    Attributes:
        singular: whether a pivot is zero.
    """

    def __init__(self, matrix: list[list[Any]]) -> None:
        n = len(matrix)
        a = [list(row) for row in matrix]
        self.swaps: list[tuple[int, int, Scalar]] = []
        self.singular = const(0.0, "bool")
        for k in range(n):
            for i in range(k + 1, n):
                larger = apply("gt", self.magnitude(a[i][k]), self.magnitude(a[k][k]))
                self.swaps.append((k, i, larger))
                # multipliers to the left of the column change places with their rows
                for j in range(n):
                    a[k][j], a[i][j] = self.chosen(larger, a[i][j], a[k][j]), self.chosen(larger, a[k][j], a[i][j])
            self.singular = either(self.singular, apply("eq", self.magnitude(a[k][k]), 0.0))
            a[k][k] = self.inverse(a[k][k])  # the diagonal holds the pivots' inverses
            for i in range(k + 1, n):
                a[i][k] = a[i][k] * a[k][k]
                for j in range(k + 1, n):
                    a[i][j] = a[i][j] - a[i][k] * a[k][j]
        self.a = a

    # What depends on the kind of the entries

    @staticmethod
    def magnitude(x: Any) -> Scalar:
        return apply("abs", x)

    @staticmethod
    def inverse(x: Any) -> Any:
        return 1.0 / x

    @staticmethod
    def chosen(condition: Scalar, x: Any, y: Any) -> Any:
        return where(condition, x, y)

    @staticmethod
    def named(prefix: str, x: Any) -> Outputs:
        return {prefix: x}

    @staticmethod
    def entry(prefix: str) -> Any:
        return lane(prefix)

    def outputs(self, tag: str = "") -> Outputs:
        """The factors as lanes, for `loaded`."""
        found: Outputs = {}
        for i, row in enumerate(self.a):
            for j, x in enumerate(row):
                found |= self.named(f"m{tag}_{i}_{j}", x)
        return found | {f"q{tag}_{k}_{i}": cast(larger, "real") for k, i, larger in self.swaps}

    @classmethod
    def loaded(cls, n: int, tag: str = "") -> Self:
        """The factors that an earlier fragment left in the lanes; a singular matrix has infinite ones."""
        found = cls([])
        found.a = [[cls.entry(f"m{tag}_{i}_{j}") for j in range(n)] for i in range(n)]
        pairs = [(k, i) for k in range(n) for i in range(k + 1, n)]
        found.swaps = [(k, i, apply("gt", lane(f"q{tag}_{k}_{i}"), 0.5)) for k, i in pairs]
        return found

    def solve(self, b: list[Any]) -> list[Any]:
        n, x = len(b), list(b)
        for k, i, larger in self.swaps:
            x[k], x[i] = self.chosen(larger, x[i], x[k]), self.chosen(larger, x[k], x[i])
        for i in range(n):
            for j in range(i):
                x[i] = x[i] - self.a[i][j] * x[j]
        for i in reversed(range(n)):
            for j in range(i + 1, n):
                x[i] = x[i] - self.a[i][j] * x[j]
            x[i] = x[i] * self.a[i][i]
        return x


def mean_square(values: State) -> Scalar:
    total = weighted([1.0] * len(values), [v * v for v in values])
    assert total is not None
    return total * (1.0 / len(values))


def finite(values: Sequence[Scalar]) -> Scalar:
    """Whether all are finite."""
    fine = const(1.0, "bool")
    for x in values:
        fine = both(fine, apply("lt", apply("abs", x), float("inf")))
    return fine


def state(name: str, size: int) -> State:
    return [lane(f"{name}{i}") for i in range(size)]
