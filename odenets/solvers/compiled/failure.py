"""Why a compiled solve with one clock ended early, in the words of the eager one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import Status
from ..gradients.base import SolveProblem


def failure_of_one_clock(
    problem: SolveProblem, status: Status, t: float, y: Tensor, trials: int, size: float | None = None, cause: str = ""
) -> str:
    """One line, from the time and the state where it ended; with the size of the step to come and why its equations were
    not solved, where that is known."""
    where = f"at t = {t:.6g}"
    if status is Status.MAX_STEPS:
        return (
            f"max_num_steps exceeded ({trials}>={problem.solver.max_steps}) {where}: allow more steps, "  # type: ignore[union-attr]
            "loosen the tolerances, or use a method for stiff problems."
        )
    if status is Status.NON_FINITE:
        if not bool(torch.isfinite(y).all()):
            return f"non-finite values in state `y` {where}: the solve was given or produced them."
        with torch.no_grad():
            slope = problem.flat.evaluate(torch.tensor(t, dtype=y.real.dtype, device=y.device), y)
        if not bool(torch.isfinite(slope).all()):
            return f"the vector field is NaN or infinite {where}."
        down = "" if size is None else f" down to h = {size:.3g}"
        return (
            f"the vector field is NaN or infinite just after t = {t:.6g} (or atol is 0 where the state is 0): every step"
            f"{down} was rejected for it."
        )
    if cause:
        return f"no step from t = {t:.6g} down to h = {size:.3g} could be computed: {cause}."
    if status is not Status.STEP_TOO_SMALL or (size is not None and not math.isfinite(size)):
        return f"{status.meaning} {where}."
    return (
        f"underflow in dt{'' if size is None else f' {size:.3g}'} {where}: the error stays above the tolerance at the "
        "smallest step that the time's precision resolves; the solution may blow up there, or the tolerance be below "
        "round-off."
    )
