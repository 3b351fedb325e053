"""What every diagnostic returns: a dataclass of tensors and numbers that can be written as JSON."""

import dataclasses
import math
from typing import Any

from torch import Tensor


class Result:
    """Base of the dataclasses that the diagnostics return; their tensors are detached and on the CPU."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: complex numbers as [re, im], numbers that are not finite as "inf", "-inf", "nan"."""
        assert dataclasses.is_dataclass(self)
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def plain(value: Any) -> Any:
    """`value` as JSON knows it."""
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def host(value: Tensor) -> Tensor:
    """The tensor detached, on the CPU."""
    return value.detach().cpu()
