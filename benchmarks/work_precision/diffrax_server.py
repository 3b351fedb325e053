"""The same systems by diffrax under jit: reads a request a line, answers a line. Run by `diffrax_process`.

    {"prepare": FILE.npz, "key", "system", "clock", "gradient", "end", "rtol", "atol"}
        ->  {"compile", "wall", "cpu", "succeeded", "versions"}, and FILE.npz.out.npz with what was found
    {"run": KEY}  ->  {"wall", "cpu"}

FILE.npz has y0 and the field's parameters. `clock` is "one" step size, or one "each" (vmap); `gradient` none,
"checkpoint" (RecursiveCheckpointAdjoint, the default) or "backsolve". Tolerances are inputs of the program: it is
compiled once for a system, a clock, a shape and a gradient.
"""

from __future__ import annotations

import functools
import json
import sys
import time

import diffrax  # type: ignore[import-not-found]
import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]
import numpy as np

jax.config.update("jax_enable_x64", True)
MAX_STEPS = 2**14  # at most 65536 trajectories of 8 numbers: checkpoints stay within a few gigabytes


def vdp(t, y, p):
    x, v = y[..., 0], y[..., 1]
    return jnp.stack([v, p["mu"] * (1 - x * x) * v - x], axis=-1)


def lorenz(t, y, p):
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    return jnp.stack([p["sigma"] * (b - a), a * (p["rho"] - c) - b, a * b - p["beta"] * c], axis=-1)


def mlp(t, y, p):
    hidden = jnp.tanh(y @ p["net.0.weight"].T + p["net.0.bias"])
    return hidden @ p["net.2.weight"].T + p["net.2.bias"]


def robertson(t, y, p):
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    first, second, third = p["slow"] * a, p["back"] * b * c, p["fast"] * b * b
    return jnp.stack([second - first, first - second - third, third], axis=-1)


FIELDS = {"vdp": vdp, "lorenz": lorenz, "mlp": mlp, "robertson": robertson}
METHODS = {"robertson": diffrax.Kvaerno5}
ADJOINTS = {"checkpoint": diffrax.RecursiveCheckpointAdjoint, "backsolve": diffrax.BacksolveAdjoint}


@functools.cache
def program(system: str, clock: str, gradient: str):
    """The function (y0, parameters, end, rtol, atol) -> [state, whether all succeeded, gradients], to be compiled."""

    def solve(y0, p, end, rtol, atol):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(FIELDS[system]), METHODS.get(system, diffrax.Dopri5)(), 0.0, end, None, y0, args=p,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), max_steps=MAX_STEPS, throw=False,
            adjoint=ADJOINTS[gradient or "checkpoint"](),
        )  # fmt: skip
        return solution.ys[-1], solution.result == diffrax.RESULTS.successful

    if clock == "each":
        solve = jax.vmap(solve, in_axes=(0, None, None, None, None))

    def loss(arguments, *rest):
        y, fine = solve(*arguments, *rest)
        return jnp.mean(jnp.sum(y * y, axis=-1)), (y, fine.all())

    def both(y0, p, end, rtol, atol):
        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)((y0, p), end, rtol, atol)
        return found, gradients

    return jax.jit(both if gradient else lambda y0, p, *rest: (loss((y0, p), *rest)[1], None))


def prepare(cache: dict, request: dict):
    data = dict(np.load(request["prepare"]))
    y0, names = jnp.array(data.pop("y0")), list(data)
    values = (y0, {name: jnp.array(data[name]) for name in names}, *(request[key] for key in ("end", "rtol", "atol")))
    key = (*(request[key] for key in ("system", "clock", "gradient")), y0.shape)
    began = time.perf_counter()
    if key not in cache:
        cache[key] = program(*key[:3]).lower(*values).compile()
    compiling = time.perf_counter() - began
    run = lambda: jax.block_until_ready(cache[key](*values))  # noqa: E731
    wall, cpu = time.perf_counter(), time.process_time()
    (y, fine), gradients = run()
    first = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    out = {"y": y} if gradients is None else {"y": y, "y0": gradients[0], **gradients[1]}
    np.savez(request["prepare"] + ".out.npz", **out)
    versions = {"diffrax": diffrax.__version__, "jax": jax.__version__}
    return run, {"compile": compiling, **first, "succeeded": bool(fine), "versions": versions}


def main() -> None:
    cache: dict = {}
    prepared: dict = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                prepared[request["key"]], answer = prepare(cache, request)
            else:
                run = prepared[request["run"]]
                wall, cpu, calls = time.perf_counter(), time.process_time(), 0
                while calls == 0 or time.perf_counter() - wall < 0.02:  # a turn, as in contenders.py
                    run()
                    calls += 1
                answer = {"wall": (time.perf_counter() - wall) / calls, "cpu": (time.process_time() - cpu) / calls}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
