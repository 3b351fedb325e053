"""The inner branches of a block, and the normalisation of their inputs."""

from collections.abc import Callable

from torch import Tensor, nn

Branch = nn.Module | Callable[[], nn.Module]


class Prenormed(nn.Module):
    """The vector field `branch(t, norm(x))`.

    Args:
        branch: a vector field `f(t, x)`.
        norm: a module such as `nn.RMSNorm`, or None for the branch alone.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.branch = branch
        self.norm = norm

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x of any shape the branch takes; t a float, [] or [B]. Returns x's shape."""
        return self.branch(t, x if self.norm is None else self.norm(x))


def make_branches(count: int, branches: tuple[Branch | None, ...], norm: Branch | None = None) -> list[Prenormed]:
    """`count` prenormed branches from modules or factories; those left out (None) are built by the first's factory.

    Args:
        count: number of branches wanted.
        branches: at least one, the first not None.
        norm: None, a factory called once per branch, or, for one branch only, a module.

    Raises:
        ValueError: a branch or norm is left out or shared and there is no factory to build it.
    """
    first = branches[0]
    made = []
    for i in range(count):
        given = branches[i] if i < len(branches) else None
        if given is None:
            given = first
            if isinstance(given, nn.Module):
                raise ValueError(
                    f"this block needs {count} branches, got {i} and no factory; give the others, or a factory such as "
                    "`lambda: MLP(8)`, from which all are built"
                )
        if given is None or not callable(given):
            raise ValueError(f"a branch must be a module or a factory of modules, got {type(given).__name__}")
        if isinstance(norm, nn.Module) and count > 1:
            raise ValueError(
                f"this block normalises the inputs of {count} branches: give norm as a factory such as "
                "`lambda: nn.RMSNorm(8)`, or put the norms into the branches with Prenormed"
            )
        made.append(Prenormed(_build(given), None if norm is None else _build(norm)))
    return made


def _build(module: Branch) -> nn.Module:
    return module if isinstance(module, nn.Module) else module()
