"""Weights as safetensors: read anywhere, no code inside."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from odenets.errors import UserError
from odenets.train.checkpoint import check_same_model, write_atomically


def save(path: Path, module: nn.Module) -> None:
    """Write the module's state; tensors that share memory are written out separately."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    write_atomically(path, lambda temporary: temporary.write_bytes(to_bytes(state)))


def load(path: Path, module: nn.Module) -> None:
    """Read weights written by `save`; UserError for a damaged file or another model."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: expected whole safetensors weights, got a damaged file ({error})") from error
    check_same_model(path, state, module)
    module.load_state_dict(state)
