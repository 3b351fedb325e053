"""A program as C++: trajectories in SIMD lanes, a block of lanes per thread, a finished lane takes the next trajectory.

The fragments that every lane runs together are written in vector types (`vectors.h`); what differs from lane to lane
(outputs that were passed, events, the end) is the same straight-line code in plain numbers, for one lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from .fragments import Program
from .printer import Code, printed
from .problem import SETTINGS
from .scalars import Scalar

GROUPS = 4  # vectors of trajectories that a thread walks in turn
# Two vectors' steps are written out side by side, so that one does not wait for the other's results: a fifth to a third
# less time. Not for long programs, which the compiler takes a minute for as it is, nor for iterations, which would wait for
# more trajectories.
MOST_TWINNED = 3000

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip
_FUNCTIONS = {"max": "larger", "min": "smaller", "abs": "fabs_", "where": "sel", "not": "invert"}
_TYPES = {"real": "real", "time": "double", "bool": "bool"}
_VECTOR_TYPES = {"real": "Real", "time": "Time", "bool": "Mask"}
_SUFFIXES = ("", "_twin")
_VECTORS = Path(__file__).with_name("vectors.h")

_PRELUDE = """\
typedef {real} real;
typedef Kinds<real>::Real Real;
typedef Kinds<real>::Time Time;
typedef Kinds<real>::Mask Mask;
static const int N = sizeof(Real) / sizeof(real), B = {copies} * N, W = {groups} * N;
static const int D = {size}, P = {parameters}, E = {events}, S = {seeds};
static const int EVENT = 5, TOO_MANY_EVENTS = 6, NON_FINITE = 3;

struct Task {{
  int64_t batch, times, stride, threads, capacity;
  const double *ts, *settings;
  const real *y0, *each, *common;
  real *ys, *last, *zs;
  double *end, *status, *accepted, *rejected, *updates;
  const int64_t *rules;  // per event: direction, crossings that end the solve, limit
  double *event_ts;
  real *event_ys;
  int64_t *event_counts;
}};

struct alignas(BYTES) Lanes {{
{fields}
}};
"""

_WORKER = """\
// One thread's share; all that solve the same task share the queue, the number of the next trajectory.
extern "C" void solve(const Task *given, int64_t *queue) {{
  const Task task = *given;
{commons}
  Lanes L = Lanes();
  int64_t id[W], next[W];
  real side[W][E + 1];
  (void)side;
{fragments}
  const int64_t share = (task.batch + task.threads - 1) / task.threads;
  const int lanes = share >= W ? W : int((share + B - 1) / B) * B;
  int busy = 0;

{outputs}
  auto refill = [&](int l) {{
    const int64_t i = __atomic_fetch_add(queue, 1, __ATOMIC_RELAXED);
    id[l] = -1;
    if (i >= task.batch) return;
    id[l] = i;
    const double *ts = task.ts + i * task.stride;
    L.t[l] = ts[0];
    L.limit[l] = ts[task.times - 1];
    L.due[l] = ts[1];
    next[l] = 1;
{loads}
    start(l);
    for (int e = 0; e < E; ++e) task.event_counts[e * task.batch + i] = 0;
{first}
    ++busy;
  }};
  auto finish = [&](int l) {{
    const int64_t i = id[l];
    task.end[i] = L.t[l];
    task.status[i] = L.status[l];
    task.accepted[i] = L.accepted[l];
    task.rejected[i] = L.rejected[l];
{updates}
{last}
    --busy;
    refill(l);
  }};

  for (int l = 0; l < lanes; ++l) refill(l);
  for (int l = lanes; l < W; ++l) id[l] = -1;
  auto positive = [&](const double *x) {{
    bool found = false;
    for (int l = 0; l < B; l += N) found |= any(Of<Time>::load(x + l) > Of<Time>::all(0));
    return found;
  }};
  while (busy) {{
    for (int g = 0; g < lanes; g += B) {{
{before}
      step(g);
      const bool called = positive(L.call + g);
      if (called) {{
        for (int l = g; l < g + B; ++l) {{
          if (!(L.call[l] > 0 && L.took[l] > 0)) continue;
{event_code}
          const double *ts = task.ts + id[l] * task.stride;
          while (next[l] < task.times && (ts[next[l]] - L.t1[l]) * direction_ <= 0) {{
{output_code}
            ++next[l];
          }}
          L.due[l] = ts[next[l] < task.times ? next[l] : task.times - 1];
        }}
      }}
      for (int l = g; l < g + B; l += N) advance(l);
      if (called)
        for (int l = g; l < g + B; ++l)
          if (L.call[l] > 0 && L.status[l] >= 0) finish(l);
    }}
  }}
}}
"""

# One lane's events after an accepted step: crossings in the step by bisection on its dense output, the first that ends
# the solve cuts the step there, those before it are recorded.
_EVENTS = """\
      double root[E + 1], first = 2;
      for (int e = 0; e < E; ++e) {{
        const real before = SIDE(e), after = VALUE(e);
        const int64_t wanted = task.rules[3 * e];
        if (after != after) L.status[l] = NON_FINITE;
        const bool crossed = (before < 0 && after >= 0 && wanted >= 0) || (before > 0 && after <= 0 && wanted <= 0);
        root[e] = 2;
        if (crossed) {{
          double low = 0, high = 1;
          for (int i = 0; i < 60 && high - low > 0x1p-53; ++i) {{
            L.theta[l] = 0.5 * (low + high);
            crossing(l);
            (AT(e) * before > 0 ? low : high) = L.theta[l];
          }}
          root[e] = high;
          const int64_t ends = task.rules[3 * e + 1];
          if (ends > 0 && task.event_counts[e * task.batch + id[l]] + 1 >= ends && high < first) first = high;
        }}
      }}
      for (int e = 0; e < E; ++e) {{
        if (root[e] > 1 || root[e] > first) continue;
        const int64_t k = task.event_counts[e * task.batch + id[l]]++;
        if (first > 1 && k + 1 > task.rules[3 * e + 2]) L.status[l] = TOO_MANY_EVENTS;
        if (k < task.capacity) {{
          const int64_t at = (e * task.capacity + k) * task.batch + id[l];
          L.theta[l] = root[e];
          inside(l);
          task.event_ts[at] = L.t[l] + root[e] * L.h[l];
{event_states}
        }}
      }}
      if (first <= 1) {{
        L.theta[l] = first;
        inside(l);
        L.t1[l] = L.t[l] + first * L.h[l];
        L.status[l] = EVENT;
{cut}
      }}
{sides}
"""


def source(program: Program, real: str) -> str:
    """The program in C++ for states of type "double" or "float"; its entry point is `solve`."""
    n, directions = program.size, len(program.seeds)
    parts = {"start": program.start, **program.before, "step": program.step | {"call": program.call}}
    walked = {*parts} - {"start"} | {"advance"}
    parts["advance"] = program.advance
    if program.dense:
        parts["inside"] = program.inside
    if program.events:
        parts["crossing"] = program.crossing
    vector = {name: name in walked for name in parts}
    codes = {name: [_code(outputs, vector[name])] for name, outputs in parts.items()}
    if len(codes["step"][0].lines) <= MOST_TWINNED and not program.order:
        codes["step"].append(_code(parts["step"], True, "w", _SUFFIXES[1]))
    fields = {"t": "time", "limit": "time", "h": "time", "t1": "time", "theta": "time", "took": "time"}
    fields |= {f"p{i}": "real" for i in range(program.parameters)}
    for code, *_ in codes.values():
        fields |= code.lanes | {name: kind for name, kind, _ in code.results}
    types = {"real": "real", "time": "double"}
    prelude = _VECTORS.read_text() + _PRELUDE.format(
        real=real, groups=GROUPS, copies=len(codes["step"]), size=n,
        parameters=program.parameters, events=len(program.events), seeds=directions,
        fields="\n".join(f"  {types[kind]} {name}[W];" for name, kind in fields.items()),
    )  # fmt: skip
    names = [f"s{i}" for i in range(program.commons)]
    names += [f"{name}{i}" for name in ("rtol", "atol") for i in range(n)]
    commons = [f"  const double {name}_ = task.settings[{i}];" for i, name in enumerate(SETTINGS)]
    commons += [f"  const real {name}_ = task.common[{i}];" for i, name in enumerate(names)]

    def each(template: str, count: int = n) -> str:
        return "\n".join(template.format(i=i) for i in range(count))

    def with_sensitivities(state: str, derivative: str) -> str:
        lines = [state.format(i=i) for i in range(n)]
        lines += [derivative.format(i=i, j=j) for i in range(n) for j in range(directions)]
        return "\n".join(lines)

    first = "    task.ys[i * D + {i}] = L.y{i}[l];", "    task.zs[(i * D + {i}) * S + {j}] = L.z{i}_{j}[l];"
    write = "    task.ys[at * D + {i}] = L.at{i}[l];", "    task.zs[(at * D + {i}) * S + {j}] = L.zat{i}_{j}[l];"
    at_end = (
        "    L.at{i}[l] = L.y1_{i}[l];".replace("L.at{i}[l] =", "task.ys[(next[l] * task.batch + id[l]) * D + {i}] ="),
        "    task.zs[((next[l] * task.batch + id[l]) * D + {i}) * S + {j}] = L.z1_{i}_{j}[l];",
    )
    within, outputs = "", ""
    if program.dense:
        outputs = "  auto output = [&](int l, int64_t k) {\n    const int64_t at = k * task.batch + id[l];\n"
        outputs += with_sensitivities(*write) + "\n  };"
        within = """\
        if (ts[next[l]] != L.t1[l]) {
          L.theta[l] = (ts[next[l]] - L.t[l]) / L.h[l];
          inside(l);
          output(l, next[l]);
        } else"""
    events = ""
    if program.events:
        count = len(program.events)
        events = _EVENTS.format(
            event_states=each("          task.event_ys[at * D + {i}] = L.at{i}[l];"),
            cut=with_sensitivities("        L.y1_{i}[l] = L.at{i}[l];", "        L.z1_{i}_{j}[l] = L.zat{i}_{j}[l];"),
            sides=each("      L.side{i}[l] = L.g{i}[l] > 0 ? real(1) : L.g{i}[l] < 0 ? real(-1) : real(0);", count),
        )
        for macro, name in (("SIDE", "side"), ("VALUE", "g"), ("AT", "at_g")):
            pick = "real(0)"
            for e in reversed(range(count)):
                pick = f"(e == {e} ? L.{name}{e}[l] : {pick})"
            events = events.replace(f"{macro}(e)", pick)
    worker = _WORKER.format(
        commons="\n".join(commons),
        fragments="\n".join(_function(name, code, vector[name]) for name, code in codes.items()),
        outputs=outputs,
        before="\n".join(
            f"      while (positive(L.active + g)) {name}(g);" if name == "update" else f"      {name}(g);"
            for name in program.order
        ),
        updates="    task.updates[i] = L.updates[l];" if program.order else "",
        loads=each("    L.y{i}[l] = task.y0[i * D + {i}];")
        + "\n"
        + each("    L.p{i}[l] = task.each[i * P + {i}];", program.parameters),
        first=with_sensitivities(*first),
        last=each("    task.last[i * D + {i}] = L.y{i}[l];"),
        event_code=events,
        output_code=within + "{\n" + with_sensitivities(*at_end) + "\n        }",
    )
    return prelude + worker


def _code(outputs: Mapping[str, Scalar], vector: bool, prefix: str = "v", suffix: str = "") -> Code:
    """The outputs in C++, for a vector of trajectories or for one."""

    def literal(x: Scalar) -> str:
        value = float(x.value)  # type: ignore[arg-type]
        if x.kind == "bool":
            return f"(Mask{{}} {'==' if x.value else '!='} Mask{{}})" if vector else str(bool(x.value)).lower()
        kind = "double" if x.kind == "time" else "real"
        text = f"{kind}({value!r})"
        if not math.isfinite(value):
            text = (
                f'{kind}(__builtin_nan(""))'
                if math.isnan(value)
                else f"{kind}({'-' if value < 0 else ''}__builtin_inf())"
            )
        return f"Of<{'Time' if x.kind == 'time' else 'Real'}>::all({text})" if vector else text

    def expression(x: Scalar, args: list[str]) -> str:
        if x.op in _OPERATORS:
            return f"{args[0]} {_OPERATORS[x.op]} {args[1]}"
        if x.op == "cast":
            if vector:
                return f"{'widened' if x.kind == 'time' else 'narrowed'}({args[0]})"
            return f"({'double' if x.kind == 'time' else 'real'}){args[0]}"
        if x.op == "neg":
            return f"-{args[0]}"
        return f"{_FUNCTIONS.get(x.op, x.op + '_')}({', '.join(args)})"

    return printed(outputs, literal, expression, prefix, suffix)


def _function(name: str, copies: list[Code], vector: bool) -> str:
    """The fragment for the lanes that start at l; of a vector of them, several copies side by side."""
    types = _VECTOR_TYPES if vector else _TYPES
    code = copies[0]
    lines = [f"  auto {name} = [&](int l) {{"]
    for x, kind in code.shared.items():
        lines.append(f"    const {types[kind]} {x} = {f'Of<{types[kind]}>::all({x}_)' if vector else f'{x}_'};")
    for x, kind in code.lanes.items():
        for copy, suffix in enumerate(_SUFFIXES[: len(copies)]):
            value = f"Of<{types[kind]}>::load(L.{x} + l + {copy} * N)" if vector else f"L.{x}[l]"
            lines.append(f"    const {types[kind]} {x}{suffix} = {value};")
    for same in zip(*(copy.lines for copy in copies)):
        lines += [f"    const {types[kind]} {variable} = {formula};" for variable, kind, formula in same]
    for copy, one in enumerate(copies):
        for x, kind, variable in one.results:
            store = f"Of<{types[kind]}>::store(L.{x} + l + {copy} * N, {variable});"
            lines.append("    " + (store if vector else f"L.{x}[l] = {variable};"))
    return "\n".join([*lines, "  };"])
