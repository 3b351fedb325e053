"""Solvers of odenets beside torchdiffeq, torchode, diffrax and scipy: one run, the error before the time.

    python benchmarks/solvers.py [--diffrax PYTHON] [--only vdp,lorenz,mlp,robertson] [--batches 1,256,65536]
        [--minutes M] [--out FOLDER] [--quick]

Four systems, batches of 1, 256 and 65536, forward and with the gradient, at one tolerance in the tables and at four in
the figures of time over achieved error. `--diffrax` names the interpreter of an environment that has diffrax; it runs
in a process of its own on the same threads, and solves when it is its turn. Writes solvers.md, solvers.json and
solvers-SYSTEM.png into FOLDER (docs/results) after every contender: a run that is stopped keeps what it has. What is
not measured when the time is over says so. `--quick` is a smoke run: few trajectories, one round, no file without --out.

Operations per step, and the short comparison of eager solvers that `make bench` runs: `operations.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import describe_run
from work_precision import contenders, diffrax_process
from work_precision.contenders import Task
from work_precision.figure import draw
from work_precision.report import report, table
from work_precision.rounds import MANY, Rounds, Row, Solves
from work_precision.systems import System, systems

PACKAGES = ("torch", "torchdiffeq", "torchode", "scipy", "numpy")
TABLE, TARGET = 1e-5, 1e-6
SWEEP = {1e-3: 6.0, 1e-7: 3.0, 1e-9: 0.6}  # further tolerances, for who takes less than these seconds at the table's
BATCHES = (256, 1, 65536)
OUT = Path(__file__).parents[1] / "docs" / "results"


@dataclasses.dataclass
class Session:
    """A run: where its results go, and when it ends."""

    systems: list[System]
    diffrax: diffrax_process.Diffrax | None
    out: Path | None
    rounds: Rounds
    sweep: dict[float, float]
    about: dict[str, Any]
    rows: list[Row] = dataclasses.field(default_factory=list)
    known: dict[tuple[bool, bool], list[Solves]] = dataclasses.field(default_factory=dict)
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def contenders(self, system: System, backward: bool) -> list[Solves]:
        """The same objects for every batch, so that what they compiled stays."""
        key = (system.stiff, backward)
        if key not in self.known:
            kind = contenders.backward if backward else contenders.forward
            theirs = diffrax_process.contenders(self.diffrax, *key) if self.diffrax else []
            self.known[key] = [*kind(system.stiff), *theirs]
        return self.known[key]

    def save(self, current: Sequence[Row] = ()) -> None:
        if self.out is None:
            return
        rows = [*self.rows, *current]
        if self.diffrax:
            self.about["versions"] |= self.diffrax.versions
        text = report(self.about, self.systems, rows, TABLE, TARGET)
        (self.out / "solvers.md").write_text(text)
        data = {
            **self.about, "tolerance": TABLE, "target": TARGET,
            "allowed": {s.name: [s.allowed, s.allowed_gradient] for s in self.systems},
            "rows": [dataclasses.asdict(row) for row in rows],
        }  # fmt: skip
        (self.out / "solvers.json").write_text(json.dumps(data, indent=1) + "\n")

    def measure(self, task: Task, chosen: Sequence[Solves], most: int | None = None) -> list[Row]:
        found = self.rounds.measure(task, chosen, most)
        self.rows += found
        return found

    def forward(self, system: System, batch: int) -> None:
        """The table's tolerance, then the others for those that are fast enough."""
        chosen = self.contenders(system, backward=False)
        rows = self.measure(Task(system, batch, TABLE), chosen)
        self.show(rows, f"{system.title}, {batch} x")
        taken = {row.name: min(row.cpu) for row in rows if row.cpu}
        for tolerance, limit in self.sweep.items():
            fast = [c for c in chosen if taken.get(c.name, limit) < limit]
            self.measure(Task(system, batch, tolerance), fast, most=3)
        if self.out:
            draw(self.out / f"solvers-{system.name}.png", system, self.rows)

    def backward(self, system: System, batch: int) -> None:
        task = Task(system, batch, TABLE, backward=True)
        rows = self.measure(task, self.contenders(system, backward=True))
        self.show(rows, f"{system.title}, {batch} x, forward and backward")

    def show(self, rows: Sequence[Row], title: str) -> None:
        print(f"\n{title}, after {time.monotonic() - self.begun:.0f} s\n\n{table(rows)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffrax", help="interpreter of an environment with diffrax")
    parser.add_argument("--only", default="", help="systems, with commas between")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="numbers of trajectories")
    parser.add_argument("--minutes", type=float, default=25.0, help="nothing is started after so long")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = systems(16) if options.quick else systems()
    names = [system.name for system in chosen]
    wanted = options.only.split(",") if options.only else names
    if set(wanted) - set(names):
        parser.error(f"--only takes {', '.join(names)}, got {options.only}")
    batches = (16, 1) if options.quick else [int(batch) for batch in options.batches.split(",")]
    out = options.out or (None if options.quick else OUT)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    diffrax = diffrax_process.Diffrax(options.diffrax) if options.diffrax else None
    rounds = Rounds(1 if options.quick else 9, time.monotonic() + 60 * options.minutes, lambda rows: None)
    sweep = {TARGET: 1.0} if options.quick else SWEEP
    about = describe_run(PACKAGES)
    about["command"] = "python benchmarks/solvers.py" + (" --diffrax PYTHON" if diffrax else "")
    about["command"] += " --quick" if options.quick else ""
    for name in ("only", "batches", "minutes"):
        if getattr(options, name) != parser.get_default(name):
            about["command"] += f" --{name} {getattr(options, name)}"
    session = Session([s for s in chosen if s.name in wanted], diffrax, out, rounds, sweep, about)
    rounds.save = session.save
    with tempfile.TemporaryDirectory() as cache:  # so that compiling is timed, not found
        os.environ |= {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
        for many in (False, True):  # the large batches last
            for system in session.systems:
                for batch in batches:
                    if (batch > MANY) == many:
                        session.forward(system, batch)
                        session.backward(system, batch)
    if diffrax:
        diffrax.close()
    session.save()
    # without an error: not asked again, for having been wrong with fewer trajectories
    wrong = [row for row in session.rows if row.note.startswith("wrong") and row.error is not None]
    for row in wrong:
        errors = " ".join(f"{x:.1e}" for x in (row.error, row.gradient_error) if x is not None)
        print(f"wrong: {row.system}, {row.batch} x, {row.tolerance:g}, {row.name}: {errors}")
    return 1 if any(row.name.startswith("odenets") and row.tolerance == TABLE for row in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
