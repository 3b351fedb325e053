"""What a comparison says on the terminal while it runs."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console

from odenets.compare.plan import Plan, PlannedRun, failure_file
from odenets.report.curves import label
from odenets.report.table import format_value


def tell(plan: Plan, run: PlannedRun) -> None:
    """One line about a run that has ended: its place, its quality or its cause, its seconds."""
    place = plan.place(run)
    number = plan.runs.index(run) + 1
    name = plan.configurations[run.configuration]["name"]
    head = f"[{number:>{len(str(len(plan.runs)))}}/{len(plan.runs)}] {name}, seed {run.seed}"
    if failure_file(place).is_file():
        line = f"{head}  failed: {json.loads(failure_file(place).read_text())['cause']}"
    else:
        result = json.loads(place.result.read_text())
        key, value = next(iter(result["measures"].items()))
        line = f"{head:<58}  {label(key)} {format_value(key, value)}  {result['seconds']:.0f} s"
    Console(soft_wrap=True).print(line, highlight=False, markup=False)


def announce(plan: Plan, missing: Sequence[PlannedRun]) -> None:
    """What will be run, what is left out because it is the same, and what is made equal."""
    say = Console(soft_wrap=True)
    count, rows = len(plan.runs), len(plan.configurations)
    done = f", {count - len(missing)} of them done" if len(missing) < count else ""
    say.print(f"{plan.title}: {count} runs of {rows} configurations{done}; {plan.terms['text']}", highlight=False)
    for one in plan.configurations:
        for other in one["equal"]:
            text = " ".join(f"{key}={value}" for key, value in other.items())
            say.print(f"  {text}: the same as {one['name']}, not run again", highlight=False, style="dim")
    say.print(f"  in {plan.folder}", highlight=False, markup=False)


def busy(what: str) -> AbstractContextManager[object]:
    """Say what takes time now; a spinner on a terminal."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()
