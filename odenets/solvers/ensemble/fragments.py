"""The parts of a solve as scalar expressions over a trajectory's lanes, which a backend arranges into a loop.

Lanes (kind): t, size, limit, status, accepted, rejected (time); y0.., f0.. state and derivative; p0.. parameters;
memory, earlier: logarithms of the last error ratios; side0.. the events' signs. A trial step leaves h, t1, took (time),
y1_0.., f1_0.., the stages k1_0.., and the events' values g0.. at its end; `advance` takes it over. With sensitivities
z{i}_{j} is dy_i / d(parameter j), and z1_, and l{stage}_{i}_{j} likewise belong to the trial. Before a trial step come
the fragments of `before` in the order of `order`, if the method solves equations by iteration (see `newton`).

The control of steps is that of `masked.Stepper`, number for number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..controller import PIDController
from ..errors import Status
from ..implicit.rosenbrock import RosenbrockTableau
from ..implicit.runge_kutta import ImplicitRungeKutta
from ..masked import RUNNING
from ..tableau import ButcherTableau
from .collocation import CollocationStages
from .derivative import tangents
from .diagonal import DiagonalStages
from .scalars import (
    Scalar,
    apply,
    both,
    cast,
    const,
    either,
    lane,
    maximum,
    minimum,
    negated,
    ordered,
    shared,
    weighted,
    where,
)
from .stages import Outputs, State, TrialStep, finite, mean_square, slopes, state, trial
from .trace import ScalarFunction

ScalarMethod = ButcherTableau | RosenbrockTableau | ImplicitRungeKutta
SMALLEST = 1e-10  # as in `PIDController`


@dataclass
class Program:
    """Everything that code is generated from.

    Args:
        method: the method's tableau.
        field, events: scalar functions.
        controller: of the step sizes.
        size: numbers in a state.
        parameters: per-trajectory parameters p0, p1, ...
        commons: shared parameters s0, s1, ...
        seeds: for every direction of differentiation, the name of what it changes: "y1", "p0", "s2".
        dense: whether states within a step are wanted (times between start and end, or events).
    """

    method: ScalarMethod
    field: ScalarFunction
    events: list[ScalarFunction]
    controller: PIDController
    size: int
    parameters: int
    commons: int
    seeds: tuple[str, ...]
    dense: bool

    @cached_property
    def key(self) -> str:
        """Text that is the same for programs with the same code."""
        functions = "\n".join(function.key for function in (self.field, *self.events))
        rest = (self.method, self.controller, self.size, self.parameters, self.commons, self.seeds, self.dense)
        return f"{functions}\n{rest}"

    @cached_property
    def evaluations(self) -> int:
        """Calls of the field per trial step, besides those of an iteration's updates."""
        if isinstance(self.method, ImplicitRungeKutta):
            return 0
        return self.method.stages - 1 + (not self.method.fsal)

    @cached_property
    def newton(self) -> DiagonalStages | CollocationStages | None:
        """The iteration for the stages of an implicit Runge-Kutta method."""
        if not isinstance(self.method, ImplicitRungeKutta):
            return None
        if len(self.method.blocks) == 1:
            return CollocationStages(self.method, self.field, self.size)
        return DiagonalStages(self.method, self.field, self.size, self.seeds)

    @cached_property
    def before(self) -> dict[str, Outputs]:
        """The fragments that run before `step`, by name."""
        return {} if self.newton is None else self.newton.fragments(self._size.h, self._scales())

    @property
    def order(self) -> list[str]:
        """The names of `before` as they run; "update" is repeated while any trajectory is active."""
        return [] if self.newton is None else self.newton.order

    @cached_property
    def operations(self) -> int:
        """On scalars, of a trial step's code."""
        return sum(len(ordered(outputs.values())) for outputs in (self.step, *self.before.values()))

    @cached_property
    def stored(self) -> list[int]:
        """Stages that the dense output needs, besides the first, which is f."""
        return [i for i in range(1, len(self.method.dense)) if np.any(self.method.dense[i])] if self.dense else []

    def state(self, name: str) -> State:
        return state(name, self.size)

    def sensitivity(self, name: str) -> list[State]:
        """Per direction, the lanes of a state's derivative."""
        return [[lane(f"{name}{i}_{j}") for i in range(self.size)] for j in range(len(self.seeds))]

    @cached_property
    def start(self) -> Outputs:
        """The lanes of a trajectory at its start, from t, limit, y and its parameters."""
        t, y = lane("t", "time"), self.state("y")
        f = self.field(cast(t, "real"), y)
        outputs: Outputs = {f"f{i}": x for i, x in enumerate(f)}
        given = shared("first_step", "time")
        outputs["size"] = where(apply("gt", given, 0.0), given, self._first_size(t, y, f))
        outputs |= {"status": const(float(RUNNING), "time"), "memory": const(0.0)}
        outputs |= {"accepted": const(0.0, "time"), "rejected": const(0.0, "time")}
        if self.controller.d:
            outputs["earlier"] = const(0.0)
        if self.newton is not None:
            outputs |= self.newton.start(t, y)
        for e, event in enumerate(self.events):
            outputs[f"side{e}"] = self._first_side(event, t, y, f)
        for j, seed in enumerate(self.seeds):
            outputs |= {f"z{i}_{j}": const(float(seed == f"y{i}")) for i in range(self.size)}
        return outputs

    def _scales(self) -> tuple[State, State]:
        return tuple([shared(f"{name}{i}") for i in range(self.size)] for name in ("rtol", "atol"))  # type: ignore[return-value]

    def _first_size(self, t: Scalar, y: State, f: State) -> Scalar:
        """As in `initial_step`."""
        scale = [a + apply("abs", x) * r for x, r, a in zip(y, *self._scales())]
        direction = shared("direction", "time")

        def norm(values: State) -> Scalar:
            return cast(apply("sqrt", mean_square([v / s for v, s in zip(values, scale)])), "time")

        d0, d1 = norm(y), norm(f)
        tame = both(both(apply("ge", d0, 1e-5), apply("ge", d1, 1e-5)), apply("lt", d1, math.inf))
        h0 = minimum(where(tame, 0.01 * d0 / d1, 1e-6), apply("abs", lane("limit", "time") - t))
        h = h0 * direction
        f1 = self.field(cast(t + h, "real"), [x + k * cast(h, "real") for x, k in zip(y, f)])
        d2 = norm([b - a for a, b in zip(f, f1)]) / h0
        largest = maximum(d1, d2)
        flat = negated(either(apply("gt", d1, 1e-15), apply("gt", d2, 1e-15)))
        order = self.method.control_order
        h1 = where(flat, maximum(h0 * 1e-3, 1e-6), apply("pow", 0.01 / largest, 1.0 / order))
        h1 = where(both(apply("lt", largest, math.inf), apply("gt", h1, 0.0)), h1, h0)
        return minimum(100.0 * h0, h1)

    def _first_side(self, event: ScalarFunction, t: Scalar, y: State, f: State) -> Scalar:
        """The sign of an event's value; on its surface, of the way that the solution leaves it."""
        (value,) = event(cast(t, "real"), y)
        gradient, slope = slopes(event_as_field(event, self.size), t, y)
        rate = weighted([1.0] * (self.size + 1), [slope[0], *(g * k for g, k in zip(gradient[0], f))])
        assert rate is not None
        return where(apply("eq", value, 0.0), sign(rate) * cast(shared("direction", "time"), "real"), sign(value))

    @cached_property
    def _size(self) -> _StepSize:
        t, limit, size, status = (lane(name, "time") for name in ("t", "limit", "size", "status"))
        direction, smallest = shared("direction", "time"), shared("min_step", "time")
        running = apply("lt", status, 0.0)
        left = (limit - t) * direction
        wanted = minimum(maximum(size, smallest), shared("max_step", "time"))
        arrives = apply("ge", wanted, left * (1 - 1e-14))
        taken = where(running, where(arrives, left, wanted), 0.0)
        return _StepSize(running, wanted, arrives, taken, taken * direction)

    @cached_property
    def step(self) -> Outputs:
        """A trial step: lanes that it leaves, and the control's for the next one."""
        t, limit, size, status = (lane(name, "time") for name in ("t", "limit", "size", "status"))
        smallest = shared("min_step", "time")
        running, wanted, arrives, taken, h = self._size
        y = self.state("y")
        if isinstance(self.method, ImplicitRungeKutta):
            assert self.newton is not None
            done = self.newton.trial(h, y, self.state("f"))
        else:
            f = self.field(cast(t, "real"), y) if self.seeds else self.state("f")
            done = trial(self.method, self.field, t, h, y, f)
        scale = [maximum(apply("abs", a), apply("abs", b)) * r + s for a, b, r, s in zip(y, done.y1, *self._scales())]
        square = mean_square([e / s for e, s in zip(done.error, scale)])
        square = where(done.failed, math.inf, square) if done.failed.op != "const" else square
        is_finite, small = apply("lt", square, math.inf), apply("le", square, 1.0)
        forced = both(is_finite, both(apply("gt", smallest, 0.0), apply("le", taken, smallest)))
        accept = both(running, either(small, forced))
        refused = both(running, negated(accept))
        arrived = both(accept, arrives)
        factor, memory = self._factor(square, small, is_finite)
        proposed = taken * cast(factor, "time")
        proposed = where(arrived, maximum(proposed, wanted), proposed)
        end = where(arrives, limit, t + h)
        accepted = lane("accepted", "time") + cast(accept, "time")
        rejected = lane("rejected", "time") + cast(refused, "time")
        eps = shared("epsilon", "time")
        stuck = apply("le", proposed, maximum(apply("abs", t), apply("abs", limit)) * eps)
        stuck = both(refused, either(stuck, both(apply("gt", smallest, 0.0), apply("le", size, smallest))))
        tired = both(running, apply("ge", accepted + rejected, shared("max_steps", "time")))
        cause = where(is_finite, const(float(Status.STEP_TOO_SMALL), "time"), float(Status.NON_FINITE))
        if done.failed.op != "const":
            cause = where(both(done.failed, finite(done.stages[0])), float(Status.NONLINEAR), cause)
        code = where(stuck, cause, where(tired, float(Status.MAX_STEPS), status))
        outputs: Outputs = {
            "h": h, "t1": where(accept, end, t), "took": cast(accept, "time"), "accepted": accepted, "rejected": rejected,
            "size": where(running, proposed, size), "status": where(arrived, float(Status.SUCCESS), code),
            "memory": where(accept, memory, lane("memory")),
        }  # fmt: skip
        if self.controller.d:
            outputs["earlier"] = where(accept, lane("memory"), lane("earlier"))
        if not self.method.fsal:
            done.stages.append(self.field(cast(end, "real"), done.y1))
        outputs |= self._named(done)
        if self.seeds:
            newton = self.newton
            outputs |= newton.trial_sensitivities(h) if isinstance(newton, DiagonalStages) else self._tangents(done)
        for e, event in enumerate(self.events):
            (outputs[f"g{e}"],) = event(cast(end, "real"), done.y1)
        return outputs

    @cached_property
    def call(self) -> Scalar:
        """1 (time) where a step needs to be looked at: past the time "due" (a lane) of the next output, with a crossing
        or NaN in an event, or where it ended the solve.
        """
        took = apply("gt", self.step["took"], 0.5)
        late = (lane("due", "time") - self.step["t1"]) * shared("direction", "time")
        wanted = apply("le", late, 0.0)
        for e in range(len(self.events)):
            side, value = lane(f"side{e}"), self.step[f"g{e}"]
            wanted = either(wanted, negated(apply("gt", side * sign(value), 0.0)))
        ended = both(apply("lt", lane("status", "time"), 0.0), apply("ge", self.step["status"], 0.0))
        return cast(either(both(took, wanted), ended), "time")

    def _factor(self, square: Scalar, small: Scalar, is_finite: Scalar) -> tuple[Scalar, Scalar]:
        """The controller's factor, and what it remembers of this step, with logarithms of the ratios' squares."""
        c, order = self.controller, self.method.control_order
        memory = apply("log", maximum(square, SMALLEST**2))
        exponent = memory * (-0.5 * (c.p + c.i + c.d) / order)
        if c.p or c.d:
            filtered = exponent + lane("memory") * (0.5 * (c.p + 2 * c.d) / order)
            if c.d:
                filtered = filtered - lane("earlier") * (0.5 * c.d / order)
            exponent = where(small, filtered, memory * (-0.5 / order))
        factor = c.safety * apply("exp", exponent)
        if not c.shrink_accepted:
            factor = where(small, maximum(factor, 1.0), factor)
        factor = minimum(maximum(factor, c.factor_min), c.factor_max)
        return where(is_finite, factor, c.factor_min), memory

    def _named(self, done: TrialStep) -> Outputs:
        outputs = {f"y1_{i}": x for i, x in enumerate(done.y1)}
        outputs |= {f"f1_{i}": x for i, x in enumerate(done.stages[-1])}
        for s in self.stored:
            outputs |= {f"k{s}_{i}": x for i, x in enumerate(done.stages[s])}
        if self.seeds and self.dense:
            outputs |= {f"k0_{i}": x for i, x in enumerate(done.stages[0])}
        return outputs

    def _tangents(self, done: TrialStep) -> Outputs:
        """Derivatives of the step at constant size: exact for the discrete solution."""
        kept = [0, *self.stored] if self.dense else []
        flat = [*done.y1, *(x for s in kept for x in done.stages[s])]
        names = [f"z1_{i}" for i in range(self.size)]
        names += [f"l{s}_{i}" for s in kept for i in range(self.size)]
        outputs: Outputs = {}
        for j, seed in enumerate(self.seeds):
            along: dict[str, Scalar | float] = {f"y{i}": lane(f"z{i}_{j}") for i in range(self.size)}
            along |= {} if seed[0] == "y" else {seed: 1.0}
            outputs |= {f"{name}_{j}": x for name, x in zip(names, tangents(flat, along))}
        return outputs

    @cached_property
    def inside(self) -> Outputs:
        """States "at0".. (and their derivatives "zat0_0"..) within the trial step at the fraction theta (time)."""
        weights = self._dense_weights()
        outputs: Outputs = {}
        stage = {s: self._stage(s) for s in weights}
        for i, x in enumerate(self.state("y")):
            for s, weight in weights.items():
                x = x + stage[s][i] * weight
            outputs[f"at{i}"] = x
        for j in range(len(self.seeds)):
            for i in range(self.size):
                z = lane(f"z{i}_{j}")
                for s, weight in weights.items():
                    z = z + lane(f"l{s}_{i}_{j}") * weight
                outputs[f"zat{i}_{j}"] = z
        return outputs

    def _stage(self, s: int) -> State:
        return [lane(f"k{s}_{i}" if s or self.seeds else f"f{i}") for i in range(self.size)]

    def _dense_weights(self) -> dict[int, Scalar]:
        theta, h = lane("theta", "time"), lane("h", "time")
        weights = {}
        for s, row in enumerate(self.method.dense):
            if np.any(row):
                value: Scalar = const(0.0, "time")
                for coefficient in reversed(row):
                    value = value * theta + float(coefficient)
                weights[s] = cast(value * theta * h, "real")
        return weights

    @cached_property
    def crossing(self) -> Outputs:
        """The events' values "at_g0".. within the trial step at the fraction theta."""
        y = list(self.inside.values())[: self.size]
        t = cast(lane("t", "time") + lane("theta", "time") * lane("h", "time"), "real")
        return {f"at_g{e}": event(t, y)[0] for e, event in enumerate(self.events)}

    @cached_property
    def advance(self) -> Outputs:
        """The lanes after a step that was accepted."""
        took = apply("gt", lane("took", "time"), 0.5)
        outputs: Outputs = {"t": lane("t1", "time")}
        for i in range(self.size):
            outputs[f"y{i}"] = where(took, lane(f"y1_{i}"), lane(f"y{i}"))
            outputs[f"f{i}"] = where(took, lane(f"f1_{i}"), lane(f"f{i}"))
            for j in range(len(self.seeds)):
                outputs[f"z{i}_{j}"] = where(took, lane(f"z1_{i}_{j}"), lane(f"z{i}_{j}"))
        return outputs if self.newton is None else outputs | self.newton.advance(took)


class _StepSize(NamedTuple):
    """Whether a trajectory is running, the size wanted, whether that takes it to its end, the size taken, and signed."""

    running: Scalar
    wanted: Scalar
    arrives: Scalar
    taken: Scalar
    h: Scalar


def sign(x: Scalar) -> Scalar:
    return where(apply("gt", x, 0.0), const(1.0), where(apply("lt", x, 0.0), const(-1.0), x))


def event_as_field(event: ScalarFunction, size: int) -> ScalarFunction:
    """The event's value as the first of `size` numbers, so that it can be differentiated like a field."""
    return ScalarFunction([event.outputs[0], *[const(0.0)] * (size - 1)])
