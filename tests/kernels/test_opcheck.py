"""The custom operators as torch.library wants them: schema, fake tensors, autograd, tracing."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.operators import OPERATORS, outputs, with_gradients

pytestmark = [
    pytest.mark.slow,  # every operator traced and interpreted several times
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # padding of the tiles
]


class Recorded(TorchDispatchMode):
    """The project's operators that are called, with copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "odenets":
            copies = pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), (args, kwargs or {}))
            self.calls[func.name()] = func, *copies
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_well_formed(name: str):
    operator = OPERATORS[name]
    inputs = operator.make((3,), *operator.sizes[0])
    probes = [torch.ones_like(x) for x in outputs(operator, inputs, "reference")]
    with Recorded() as recorded:
        with_gradients(operator, inputs, "triton", probes)
    assert any("backward" in call for call in recorded.calls) or name in ("stage_sum", "finish")
    for call, (func, args, kwargs) in recorded.calls.items():
        if "backward" not in call:
            pytree.tree_map_only(Tensor, lambda x: x.requires_grad_(), args)
        torch.library.opcheck(func, args, kwargs)
