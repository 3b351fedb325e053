"""Keep the accepted states, run one step at a time again.

Memory N D + s (D + a), one more forward solve. With adaptive steps the search for the step size and the rejected
trials are left out of the gradient and out of the memory: Zhuang et al., "Adaptive checkpoint adjoint method for
gradient estimation in neural ODE" (ICML 2020, arXiv:2006.02493); fixed steps: Gholami, Keutzer, Biros, "ANODE"
(IJCAI 2019, arXiv:1902.10298).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .recomputed import Recomputed, Sweep
from .record import State
from .replay import Pull, Replay


@dataclass(frozen=True)
class Checkpoint(Recomputed):
    """Exact; the state at every step is kept, the graph of one step at a time."""

    name: ClassVar[str] = "checkpoint"

    def sweep(self) -> Sweep:
        return EveryState(Replay.pull_back)


class EveryState(Sweep):
    """Keeps the state before every step; `pull` takes a gradient back through one."""

    def __init__(self, pull: Pull) -> None:
        self.pull = pull
        self.states: list[State] = []

    def keep(self, n: int, state: State) -> None:
        self.states.append(state)

    def run(self, replay: Replay, grads: State) -> State:
        for n in reversed(range(len(self.states))):
            grads = self.pull(replay, n, self.states[n], grads)
        return grads
