"""A program as a Triton kernel: a block of trajectories per program instance, all in registers.

The fragments are the same as in C++; a block walks until its last trajectory has arrived.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .fragments import Program
from .lowering import lowered
from .printer import printed
from .problem import SETTINGS
from .scalars import Scalar

POINTERS = (
    "ts", "settings", "y0", "each", "common", "ys", "last", "zs", "end", "status", "accepted", "rejected", "updates",
    "rules", "event_ts", "event_ys", "event_counts",
)  # fmt: skip

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip

_KERNEL = """\
import triton
import triton.language as tl


@triton.jit
def ensemble_kernel(
    {pointers},
    batch, times, stride, capacity, BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = i < batch
    row = i * stride
    theta = tl.full([BLOCK], 0.0, tl.float64)
{shared}
    t = tl.load(ts_ptr + row, mask=valid, other=0.0)
    limit = tl.load(ts_ptr + row + times - 1, mask=valid, other=1.0)
{loads}
{start}
    status = tl.where(valid, status, 0.0)
    k = tl.full([BLOCK], 1, tl.int64)
{first}
{counts}
    while tl.max((status < 0).to(tl.int32), 0) > 0:
{before}
{step}
        moved = took > 0.5
{events}
        time = tl.load(ts_ptr + row + k, mask=moved & (k < times), other=0.0)
        due = moved & (k < times) & ((time - t1) * direction <= 0)
        while tl.max(due.to(tl.int32), 0) > 0:
{outputs}
            k = k + due.to(tl.int64)
            time = tl.load(ts_ptr + row + k, mask=moved & (k < times), other=0.0)
            due = moved & (k < times) & ((time - t1) * direction <= 0)
{advance}
    tl.store(end_ptr + i, t, mask=valid)
    tl.store(status_ptr + i, status, mask=valid)
    tl.store(accepted_ptr + i, accepted, mask=valid)
    tl.store(rejected_ptr + i, rejected, mask=valid)
{last}
"""

# Event e of a step: its crossing, by bisection on the step's dense output
_LOCATE = """\
status = tl.where(moved & (g{e} != g{e}), {non_finite}, status)
wanted = tl.load(rules_ptr + {rule})
ends = tl.load(rules_ptr + {rule} + 1)
up = (side{e} < 0) & (g{e} >= 0) & (wanted >= 0)
down = (side{e} > 0) & (g{e} <= 0) & (wanted <= 0)
crossed{e} = moved & (up | down)
low = tl.full([BLOCK], 0.0, tl.float64)
root{e} = tl.full([BLOCK], 1.0, tl.float64)
if tl.max(crossed{e}.to(tl.int32), 0) > 0:
    for _ in range(0, 54):
        theta = 0.5 * (low + root{e})
{crossing}
        before = at_g{e} * side{e} > 0
        low = tl.where(before, theta, low)
        root{e} = tl.where(before, root{e}, theta)
last{e} = crossed{e} & (ends > 0) & (count{e} + 1 >= ends)
first = tl.minimum(first, tl.where(last{e}, root{e}, 2.0))
side{e} = tl.where(moved, tl.where(g{e} > 0, 1.0, tl.where(g{e} < 0, -1.0, 0.0)).to(side{e}.dtype), side{e})
"""

_RECORD = """\
hit = crossed{e} & (root{e} <= first)
if tl.max(hit.to(tl.int32), 0) > 0:
    theta = root{e}
{inside}
    room = hit & (count{e} < capacity)
    place = ({e} * capacity + count{e}) * batch + i
    tl.store(event_ts_ptr + place, t + theta * h, mask=room)
{store}
    count{e} = count{e} + hit.to(tl.int64)
    full = hit & (first > 1) & (count{e} > tl.load(rules_ptr + {rule} + 2))
    status = tl.where(full, {too_many}, status)
"""

_CUT = """\
cut = first <= 1
if tl.max(cut.to(tl.int32), 0) > 0:
    theta = tl.where(cut, first, 0.0)
{inside}
    t1 = tl.where(cut, t + theta * h, t1)
    status = tl.where(cut, {event}, status)
{states}
"""


def source(program: Program, real: str) -> str:
    """The program as the source of a module with `ensemble_kernel`, for states of type "float64" or "float32"."""
    n, directions = program.size, len(program.seeds)
    writer = _Writer(f"tl.{real}")
    state = [f"y{i}" for i in range(n)]
    names = [f"s{i}" for i in range(program.commons)]
    names += [f"{name}{i}" for name in ("rtol", "atol") for i in range(n)]
    shared = [f"{name} = tl.load(settings_ptr + {i})" for i, name in enumerate(SETTINGS)]
    shared += [f"{name} = tl.load(common_ptr + {i})" for i, name in enumerate(names)]
    loads = [f"{name} = tl.load(y0_ptr + i * {n} + {j}, mask=valid, other=0.0)" for j, name in enumerate(state)]
    count = program.parameters
    loads += [f"p{j} = tl.load(each_ptr + i * {count} + {j}, mask=valid, other=0.0)" for j in range(count)]

    def stores(place: str, mask: str, value: str, derivative: str) -> list[str]:
        lines = [f"tl.store(ys_ptr + ({place}) * {n} + {i}, {value.format(i=i)}, mask={mask})" for i in range(n)]
        for i in range(n):
            for j in range(directions):
                at = f"(({place}) * {n} + {i}) * {directions} + {j}"
                lines.append(f"tl.store(zs_ptr + {at}, {derivative.format(i=i, j=j)}, mask={mask})")
        return lines

    outputs: list[str] = []
    value, derivative = "y1_{i}", "z1_{i}_{j}"
    if program.dense:
        outputs = ["exact = time == t1", "theta = tl.where(due & (h != 0), (time - t) / tl.where(h == 0, 1.0, h), 0.0)"]
        outputs += writer.lines(program.inside)
        value, derivative = "tl.where(exact, y1_{i}, at{i})", "tl.where(exact, z1_{i}_{j}, zat{i}_{j})"
    outputs += stores("k * batch + i", "due", value, derivative)
    ends = [f"tl.store(last_ptr + i * {n} + {i}, y{i}, mask=valid)" for i in range(n)]
    if program.order:
        ends.append("tl.store(updates_ptr + i, updates, mask=valid)")
    ends += [f"tl.store(event_counts_ptr + {e} * batch + i, count{e}, mask=valid)" for e in range(len(program.events))]
    return _KERNEL.format(
        pointers=", ".join(f"{name}_ptr" for name in POINTERS),
        shared=_indented(shared, 4),
        loads=_indented(loads, 4),
        start=_indented(writer.lines(program.start), 4),
        first=_indented(stores("i", "valid", "y{i}", "z{i}_{j}"), 4),
        counts=_indented([f"count{e} = tl.full([BLOCK], 0, tl.int64)" for e in range(len(program.events))], 4),
        before=_indented(_before(program, writer), 8),
        step=_indented(writer.lines(program.step), 8),
        events=_indented(_events(program, writer), 8),
        outputs=_indented(outputs, 12),
        advance=_indented(writer.lines(program.advance), 8),
        last=_indented(ends, 4),
    )


def _before(program: Program, writer: _Writer) -> list[str]:
    """What runs before the step, with a loop in place of every repeated fragment."""
    lines: list[str] = []
    for name in program.order:
        code = writer.lines(program.before[name])
        if name == "update":
            lines += ["while tl.max((active > 0).to(tl.int32), 0) > 0:", *(f"    {line}" for line in code)]
        else:
            lines += code
    return lines


def _events(program: Program, writer: _Writer) -> list[str]:
    if not program.events:
        return []
    inside = _indented(writer.lines(program.inside), 4)
    crossing = _indented(writer.lines(program.crossing), 8)
    code = "first = tl.full([BLOCK], 2.0, tl.float64)\n"
    codes = {"non_finite": "3.0", "too_many": "6.0", "event": "5.0"}
    for e in range(len(program.events)):
        code += _LOCATE.format(e=e, rule=3 * e, crossing=crossing, **codes)
    for e in range(len(program.events)):
        lines = [
            f"tl.store(event_ys_ptr + place * {program.size} + {i}, at{i}, mask=room)" for i in range(program.size)
        ]
        code += _RECORD.format(e=e, rule=3 * e, inside=inside, store=_indented(lines, 4), **codes)
    states = _indented([f"y1_{i} = tl.where(cut, at{i}, y1_{i})" for i in range(program.size)], 4)
    return (code + _CUT.format(inside=inside, states=states, **codes)).splitlines()


def _indented(lines: list[str], spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in lines)


class _Writer:
    """Fragments as lines of Triton; `real` is the states' type."""

    def __init__(self, real: str) -> None:
        self.types = {"real": real, "time": "tl.float64", "bool": "tl.int1"}
        self.written = 0

    def lines(self, outputs: Mapping[str, Scalar]) -> list[str]:
        self.written += 1  # names of its own: what a loop assigns must have had the same type before it
        prefix = f"v{self.written}_"
        code = printed(lowered(outputs), self._literal, self._expression, prefix)
        lines = [f"{variable} = {formula}" for variable, _, formula in code.lines]
        # a result may be a lane that another result is about to replace
        lines += [f"{prefix}r{j} = {value}" for j, (_, _, value) in enumerate(code.results)]
        return [*lines, *(f"{name} = {prefix}r{j}" for j, (name, _, _) in enumerate(code.results))]

    def _literal(self, x: Scalar) -> str:
        value = float(x.value)  # type: ignore[arg-type]
        if x.kind == "bool":
            text = "1" if x.value else "0"
        else:
            text = repr(value) if math.isfinite(value) else f'float("{value}")'
        return f"tl.full([BLOCK], {text}, {self.types[x.kind]})"

    def _expression(self, x: Scalar, args: list[str]) -> str:
        if x.op in _OPERATORS:
            return f"{args[0]} {_OPERATORS[x.op]} {args[1]}"
        if x.op in ("max", "min"):  # NaN in either operand stays
            a, b = args
            return f"tl.where(({a} {'>' if x.op == 'max' else '<'} {b}) | ({a} != {a}), {a}, {b})"
        if x.op == "cast":
            return f"({args[0]}).to({self.types[x.kind]})"
        if x.op in ("neg", "not"):
            return f"{'-' if x.op == 'neg' else '~'}{args[0]}"
        return f"tl.{x.op}({', '.join(args)})"
