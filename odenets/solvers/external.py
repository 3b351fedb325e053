"""Other libraries' solvers behind the integrator interface: scipy and torchdiffeq."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import InputError, Status
from .field import FlatField
from .integrator import Integrator, Step


class _WholeInterval(Integrator):
    """Solves to the last requested time in one call; there are no steps to look at."""

    def __init__(self, field: FlatField, t0: Tensor, y0: Tensor, direction: float) -> None:
        super().__init__(t0, y0, direction)
        self.field = field

    def aim(self, ts: Tensor | None, end: float | None = None) -> None:
        raise InputError("this solver does not show its steps: no events and no dense output.")

    def step(self) -> Step | None:
        raise InputError("this solver does not show its steps: no events and no dense output.")

    def jump(self, y: Tensor) -> None:
        self.y = y

    def _arrive(self, ts: Tensor, ys: Tensor) -> Tensor:
        if len(ys) == len(ts):
            self.t, self.now, self.y = ts[-1], float(ts[-1].detach()), ys[-1]
        return ys


class ScipyIntegrator(_WholeInterval):
    """`scipy.integrate.solve_ivp` on a flat numpy state."""

    def __init__(
        self,
        field: FlatField,
        t0: Tensor,
        y0: Tensor,
        direction: float,
        *,
        method: str,
        rtol: float,
        atol: float,
        min_step: float = 0.0,
        max_step: float = float("inf"),
    ) -> None:
        super().__init__(field, t0, y0, direction)
        self.options: dict[str, Any] = {"method": method, "rtol": rtol, "atol": atol, "max_step": max_step}
        if min_step:
            self.options["min_step"] = min_step

    def outputs(self, ts: Tensor, times: list[float] | None = None) -> Tensor:
        from scipy.integrate import solve_ivp  # slow to import, and few need it

        y0 = self.y.detach()
        real_dtype = y0.abs().dtype

        def function(t, y):
            time = torch.as_tensor(t, dtype=real_dtype, device=y0.device)
            state = torch.as_tensor(y).to(y0.device, y0.dtype).reshape(y0.shape)
            with torch.no_grad():
                return self.field(time, state).cpu().numpy().reshape(-1)

        wanted = ts.detach().cpu().double().numpy()
        result = solve_ivp(
            function, (self.now, wanted[-1]), y0.cpu().numpy().reshape(-1), t_eval=wanted, **self.options
        )  # fmt: skip
        if result.status < 0:
            bad = not bool(torch.isfinite(torch.as_tensor(result.y)).all())
            status = Status.NON_FINITE if bad else Status.STEP_TOO_SMALL
            self.fail(status, f"scipy's {self.options['method']}: {result.message}")
        self.accepted += 1
        ys = torch.as_tensor(result.y).T.to(y0.device, y0.dtype).reshape(-1, *y0.shape)
        return self._arrive(ts, ys)


class TorchdiffeqIntegrator(_WholeInterval):
    """`torchdiffeq.odeint` on the flat state."""

    def __init__(
        self, field: FlatField, t0: Tensor, y0: Tensor, direction: float, *, method: str, rtol: float, atol: float,
        options: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        super().__init__(field, t0, y0, direction)
        self.arguments = {"method": method, "rtol": rtol, "atol": atol, "options": options}

    def outputs(self, ts: Tensor, times: list[float] | None = None) -> Tensor:
        import torchdiffeq

        all_times = torch.cat([self.t.reshape(1).to(ts.dtype), ts])
        try:
            ys = torchdiffeq.odeint(self.field, self.y, all_times, **self.arguments)[1:]
        except AssertionError as error:
            if bool(torch.isfinite(self.field(self.t.to(self.y.abs().dtype), self.y)).all()):
                self.fail(Status.STEP_TOO_SMALL, f"torchdiffeq: {error}")
            else:
                self.fail(Status.NON_FINITE, f"torchdiffeq: {error} (the vector field is NaN or infinite)")
            return self.y.new_empty((0, *self.y.shape))
        return self._arrive(ts, ys)

    def outputs_by_adjoint(self, ts: Tensor, params: tuple[Tensor, ...]) -> Tensor:
        """The same through torchdiffeq's own adjoint."""
        import torchdiffeq

        times = torch.cat([self.t.reshape(1).to(ts.dtype), ts])
        ys = torchdiffeq.odeint_adjoint(self.field, self.y, times, adjoint_params=params, **self.arguments)[1:]
        return self._arrive(ts, ys)
