"""The flow inside a model, what it is given, and the model with another flow inside."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from odenets.models import FlowStack, NeuralODE


class FlowInput(NamedTuple):
    """A flow and one input of it: x [B, ...], and the further inputs by name or None."""

    flow: FlowStack | NeuralODE
    x: Tensor
    context: Mapping[str, Tensor] | None

    def first(self, samples: int) -> "FlowInput":
        """The same with the first samples of the batch alone."""
        context = None if self.context is None else {name: value[:samples] for name, value in self.context.items()}
        return FlowInput(self.flow, self.x[:samples], context)


@torch.no_grad()
def flow_input(model: nn.Module, *batch: Any) -> FlowInput:
    """What the flow in a model (a classifier, a language model, a training task) gets when `model(*batch)` is called.

    Raises:
        ValueError: no flow in the model, or one that the call does not reach.
    """
    flow = next((m for m in model.modules() if isinstance(m, (FlowStack, NeuralODE))), None)
    if flow is None:
        raise ValueError(f"{type(model).__name__} holds no FlowStack and no NeuralODE: there is no flow to look at")
    caught: list[FlowInput] = []

    def catch(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        context = kwargs.get("context", args[1] if isinstance(flow, FlowStack) and len(args) > 1 else None)
        caught.append(FlowInput(flow, (args[0] if args else kwargs["x"]).detach(), context))

    handle = flow.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model(*batch)
    finally:
        handle.remove()
    if not caught:
        raise ValueError(f"calling {type(model).__name__} did not call its {type(flow).__name__}")
    return caught[0]


@contextlib.contextmanager
def substituted(model: nn.Module, flow: nn.Module, other: nn.Module) -> Iterator[nn.Module]:
    """Inside, the model has `other` wherever it had `flow`; yields the model, or `other` if the flow is the model."""
    places = [(parent, name) for parent in model.modules() for name, m in parent._modules.items() if m is flow]
    try:
        for parent, name in places:
            parent._modules[name] = other
        yield other if model is flow else model
    finally:
        for parent, name in places:
            parent._modules[name] = flow
