"""What a trained run costs: evaluations, time and memory of a training step, error of its gradient.

Measured on the final weights with the run's own batch size, precision, solver and gradient method, one run after the
other in one process, so that the figures of a comparison can be set against each other.
"""

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odenets.compare.memory import peak_bytes
from odenets.compare.plan import Plan
from odenets.errors import UserError, one_line
from odenets.models import FlowStack, NeuralODE
from odenets.models.gradients import resolve_stack_gradient
from odenets.solvers import resolve_gradient
from odenets.train.build import load_run
from odenets.train.checkpoint import random_state, set_random_state
from odenets.train.diagnosis import diagnose_run
from odenets.train.loop import Parts, epoch_order
from odenets.train.runfolder import RunFolder
from odenets.train.task import Task

FILE = "costs.json"


def measure_runs(plan: Plan, allow: Sequence[str] = ()) -> None:
    """Write costs.json into every finished run that has none; `allow` as in `load_run`."""
    for run in plan.runs:
        place = plan.place(run)
        if plan.finished(run) and not (place.path / FILE).is_file():
            try:
                found = costs(place, allow)
            except Exception as error:  # too little memory, a solve that fails: its row stands without these figures
                found = {"notes": [f"not measured: {_named(error)}"]}
            place.write_json(place.path / FILE, found)


def diagnose_rows(plan: Plan, allow: Sequence[str] = ()) -> None:
    """Write diagnostics.json into the first finished run of every configuration."""
    for number in range(len(plan.configurations)):
        finished = [run for run in plan.runs if run.configuration == number and plan.finished(run)]
        for run in finished[:1]:
            place = plan.place(run)
            path = place.path / "diagnostics.json"
            if not path.is_file():
                try:
                    content = diagnose_run(place.path, allow=allow).to_dict()
                except Exception as error:  # no flow in the model, or a diagnostic that it was too much for
                    content = {"results": {}, "skipped": {"all": _named(error)}}
                place.write_json(path, content)


def costs(place: RunFolder, allow: Sequence[str] = ()) -> dict[str, Any]:
    """The costs of a finished run; a figure that cannot be had is missing and `notes` says why."""
    _, task, parts = load_run(place.path, allow)
    batch = task.select(epoch_order(parts, 0)[0])
    forward, backward = step_times(parts, batch)
    found: dict[str, Any] = {
        "forward_seconds": forward,
        "backward_seconds": backward,
        "peak_bytes": peak_bytes(lambda: _step(parts, batch), parts.fabric.device),
        "nfe": evaluations(task, batch),
        "notes": [],
    }
    try:
        found["gradient_error"] = gradient_error(parts, batch)
    except Exception as error:  # some backends know neither float64 nor autograd: the other figures stand
        found["notes"].append(f"no gradient error: {_named(error)}")
    portrait = task.portrait()
    if portrait is not None:
        place.write_json(place.path / "portrait.json", portrait)
    return found


def _named(error: Exception) -> str:
    return one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"


def step_times(parts: Parts, batch: tuple[Tensor, ...], repeats: int = 9, budget: float = 5.0) -> tuple[float, float]:
    """Medians of the seconds that forward (with its loss) and backward take, after two steps to warm up: of `repeats`
    steps, or of at least three where more would take longer than `budget` seconds."""
    wait = torch.cuda.synchronize if parts.fabric.device.type == "cuda" else lambda: None
    forward, backward = [], []
    for _ in range(repeats + 2):
        parts.optimizer.zero_grad(set_to_none=True)
        wait()
        start = time.perf_counter()
        loss = parts.module(*batch, progress=1.0)
        wait()
        middle = time.perf_counter()
        parts.fabric.backward(loss)
        wait()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
        if len(forward) >= 5 and sum(forward) + sum(backward) > budget:
            break
    return statistics.median(forward[2:]), statistics.median(backward[2:])


def _step(parts: Parts, batch: tuple[Tensor, ...]) -> None:
    parts.fabric.backward(parts.module(*batch, progress=1.0))
    parts.optimizer.zero_grad(set_to_none=True)  # gradients are the step's own memory: none are held before it


@torch.no_grad()
def evaluations(task: Task, batch: tuple[Tensor, ...]) -> int:
    """NFE of one forward pass: calls of vector fields and branches; of whole blocks where there are neither."""
    for names in (("odenets.fields",), ("odenets.blocks",)):
        count = _calls(task, batch, names)
        if count:
            return count
    stats = [m.last_stats for m in task.modules() if isinstance(m, NeuralODE) and m.last_stats is not None]
    return sum(s.nfe for s in stats)


def _calls(task: Task, batch: tuple[Tensor, ...], packages: tuple[str, ...]) -> int:
    count = 0

    def add(*_: object) -> None:
        nonlocal count
        count += 1

    hooks = [module.register_forward_pre_hook(add) for module in _outermost(task, packages)]
    try:
        task(*batch, progress=1.0)
    finally:
        for hook in hooks:
            hook.remove()
    return count


def _outermost(module: nn.Module, packages: tuple[str, ...]) -> list[nn.Module]:
    """Modules of the packages that lie in no other such module."""
    found = []
    for child in module.children():
        inside = any(type(child).__module__.startswith(package) for package in packages)
        found += [child] if inside else _outermost(child, packages)
    return found


def gradient_error(parts: Parts, batch: tuple[Tensor, ...]) -> float:
    """|g - g64| / |g64|: the gradient as the run computes it, in its precision and by its gradient method, against
    autograd through the same steps in float64."""
    exact = _in_double(parts.task)
    wide = tuple(x.double() if x.is_floating_point() else x for x in batch)
    state = random_state()
    exact(*wide, progress=1.0).backward()
    reference = _gradient(exact)
    set_random_state(state)
    parts.optimizer.zero_grad(set_to_none=True)
    parts.fabric.backward(parts.module(*batch, progress=1.0))
    own = _gradient(parts.task).double()
    parts.optimizer.zero_grad(set_to_none=True)
    return float((own - reference).norm() / reference.norm())


def _in_double(task: Task) -> Task:
    task.zero_grad(set_to_none=True)
    twin = copy.deepcopy(task).double()
    for module in twin.modules():
        if isinstance(module, NeuralODE):
            module.gradient = resolve_gradient("autograd")
        elif isinstance(module, FlowStack):
            module.gradient = resolve_stack_gradient("autograd")
    return twin


def _gradient(task: Task) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in task.parameters()])
