"""A causal language model over bytes, around a flow."""

import math

import torch
from torch import Tensor, nn

from odenets.models.flow_stack import FlowStack
from odenets.models.neural_ode import NeuralODE
from odenets.solvers import FixedStep

BYTES = 256


class LanguageModel(nn.Module):
    """Byte embedding, RMSNorm, a causal flow on the sequence, RMSNorm, logits of the next byte.

    The flow never moves information from a position to an earlier one: its branches are causal, and its steps do not
    depend on the input (an adaptive solver's step size does: it would leak later bytes into earlier ones).

    Initial weights: embedding N(0, 0.02^2), normed to unit mean square before the flow, so that branches of unit
    variance neither drown it nor vanish beside it. An untied head starts at zero: the first loss is log 256 exactly.
    The branches scale their own outputs by the depth (see `RotaryAttention`). Nothing here touches the flow's weights:
    a block keeps the initial values its paper gives.

    Args:
        flow: `FlowStack` or any causal module [B, L, dim] -> the same shape.
        dim: width of the state.
        context: bytes the model looks at; `generate` keeps the last `context` bytes.
        tied: the head's weights are the embedding's.

    Raises:
        ValueError: a `NeuralODE` whose steps depend on the input; (on call) tokens that are not int64 [B, L], or a flow
            that changes the shape.
    """

    def __init__(self, flow: nn.Module, dim: int = 128, context: int = 128, tied: bool = False):
        super().__init__()
        if dim < 1 or context < 1:
            raise ValueError(f"LanguageModel expects dim >= 1 and context >= 1, got dim={dim}, context={context}")
        if isinstance(flow, NeuralODE) and not isinstance(flow.solver, FixedStep):
            raise ValueError(
                f"LanguageModel expects steps that do not depend on the input, got {type(flow.solver).__name__}: its "
                "step size would carry later bytes to earlier ones; take fixed steps, such as solver=rk4"
            )
        self.dim = dim
        self.context = context
        self.embedding = nn.Embedding(BYTES, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.embedding_norm = nn.RMSNorm(dim)
        self.flow = flow
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, BYTES, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, L] int64 in 0 .. 255. Returns logits [B, L, 256] of the byte after each position."""
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise ValueError(
                f"LanguageModel expects int64 tokens [B, L], got {tokens.dtype} {list(tokens.shape)}; "
                "use torch.tensor(list(data))[None]"
            )
        x = self.embedding_norm(self.embedding(tokens))
        y = self.flow(x, context={"ids": tokens}) if isinstance(self.flow, FlowStack) else self.flow(x)
        if y.shape != x.shape:
            raise ValueError(
                f"LanguageModel expects a flow that keeps the shape, got {list(x.shape)} -> {list(y.shape)}; "
                "a NeuralODE here needs output='end'"
            )
        return self.head(self.norm(y))

    @torch.no_grad()
    def generate(
        self, prompt: bytes, n: int = 200, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> bytes:
        """The prompt and n more bytes, each drawn from softmax(logits / temperature); temperature 0 takes the largest.

        Args:
            prompt: at least one byte.
            n: how many bytes to add.
            temperature: >= 0.
            generator: of random numbers, on the CPU; None takes torch's own.

        Raises:
            ValueError: an empty prompt, n < 0, or temperature < 0.
        """
        if not prompt or n < 0 or not 0 <= temperature < math.inf:
            raise ValueError(
                "generate expects a prompt of at least one byte, n >= 0 and temperature >= 0, got "
                f"{len(prompt)} bytes, n={n}, temperature={temperature}"
            )
        training = self.training
        self.eval()
        text = torch.tensor(list(prompt), device=self.embedding.weight.device)
        for _ in range(n):
            logits = self(text[None, -self.context :])[0, -1].float().cpu()
            if temperature == 0:
                chosen = logits.argmax()[None]
            else:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            text = torch.cat([text, chosen.to(text.device)])
        self.train(training)
        return bytes(text.tolist())


def bits_per_byte(nats: float) -> float:
    """A cross-entropy in nats per byte, in bits per byte."""
    return nats / math.log(2)
