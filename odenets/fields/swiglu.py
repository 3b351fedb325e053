"""The gated MLP of transformers as a vector field."""

from torch import Tensor, nn

from odenets.fields.time import TimeModulation, append_time, as_time, check_time_dependence


class SwiGLU(nn.Module):
    """`dx/dt = W_3 (silu(W_1 c) * W_2 c)` with c = RMSNorm(x), on the last dimension (Shazeer 2020, arXiv:2002.05202).

    Initial weights: `gate` and `up` N(0, 1/dim); `out` N(0, 1/(hidden residuals)), which keeps the sum of `residuals`
    branches at most of unit variance whatever the depth. No biases.

    Args:
        dim: size of the last dimension of x.
        hidden: width between; None takes 8/3 dim rounded up to a multiple of 8: the parameters of a plain MLP of 4 dim.
        norm: RMSNorm on the input; False for a block that norms it itself.
        residuals: number of branches whose outputs add up in the model, 2 per transformer layer.
        time: "none"; "concat": t is one more input feature; "modulate": the normed input is scaled and shifted by a
            function of t that starts as the identity.

    Raises:
        ValueError: hidden or residuals < 1, an unknown `time`, or (on call) x.shape[-1] != dim.
    """

    def __init__(self, dim: int, hidden: int | None = None, norm: bool = True, residuals: int = 1, time: str = "none"):
        super().__init__()
        if hidden is None:
            hidden = -(-8 * dim // 24) * 8
        if dim < 1 or hidden < 1 or residuals < 1:
            raise ValueError(
                f"SwiGLU expects dim, hidden, residuals >= 1, got dim={dim}, hidden={hidden}, residuals={residuals}"
            )
        self.dim = dim
        self.time = check_time_dependence(time)
        self.norm = nn.RMSNorm(dim) if norm else nn.Identity()
        self.modulation = TimeModulation(dim) if time == "modulate" else None
        inputs = dim + (1 if time == "concat" else 0)
        self.gate = nn.Linear(inputs, hidden, bias=False)
        self.up = nn.Linear(inputs, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.gate.weight, std=dim**-0.5)
        nn.init.normal_(self.up.weight, std=dim**-0.5)
        nn.init.normal_(self.out.weight, std=(hidden * residuals) ** -0.5)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., dim]; t a float, [] or [B] with x [B, ..., dim]. Returns dx/dt [..., dim]."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"SwiGLU expects x [..., {self.dim}], got {list(x.shape)}; set dim={x.shape[-1]}")
        t = as_time(t, x)
        c = self.norm(x)
        c = c if self.modulation is None else self.modulation(t, c)
        c = append_time(t, c) if self.time == "concat" else c
        return self.out(nn.functional.silu(self.gate(c)) * self.up(c))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, time={self.time!r}"
