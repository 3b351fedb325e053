"""Text as bytes: the Python standard library's own sources, or a file or folder of the user's.

The standard library is on every machine that can run this, needs no network and no licence of its own (PSF), and is
the same on every machine with the same Python. No tokeniser: a byte is a symbol.
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from odenets.errors import UserError

# Installed packages, tests, and files that are tables or prose rather than code.
NOT_SOURCES = (
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    *("encodings", "pydoc_data"),
)


@dataclass(frozen=True)
class ByteCorpus:
    """Bytes to train on and to validate on (uint8, [n] and [m]), and where they come from."""

    train: Tensor
    val: Tensor
    source: str
    files: int

    def to(self, device: torch.device) -> "ByteCorpus":
        """The same bytes on another device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


@dataclass(frozen=True)
class Bytes:
    """A byte corpus: files in the order of their paths, the last ones held out.

    Args:
        path: a file, or a folder whose files are read with those in folders below (hidden ones left out); None takes
            the standard library's .py files without its tests and character tables.
        held_out: fraction of the bytes kept for validation, 0 < held_out < 1: whole files from the end, as many as come
            nearest, or the tail of a single file.
        max_bytes: stop reading after so many; null reads all.

    Raises:
        UserError: held_out or max_bytes out of range; (on load) a path that is missing, unreadable or without bytes.
    """

    path: str | None = None
    held_out: float = 0.1
    max_bytes: int | None = 4_000_000

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"data.held_out: expected a fraction between 0 and 1, got {self.held_out}")
        if self.max_bytes is not None and self.max_bytes < 2:
            raise UserError(f"data.max_bytes: expected at least 2 or null, got {self.max_bytes}")

    def load(self) -> ByteCorpus:
        """Read and split; nothing is downloaded."""
        source = Path(sysconfig.get_path("stdlib")) if self.path is None else Path(self.path).expanduser()
        parts = list(self._contents(source))
        sizes = [len(part) for part in parts]
        if sum(sizes) < 2:
            raise UserError(f"data.path={source}: expected text, found {sum(sizes)} bytes in {len(parts)} files")
        whole = torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy())
        cut = _cut(sizes, self.held_out)
        return ByteCorpus(whole[:cut], whole[cut:], str(source), len(parts))

    def _contents(self, source: Path) -> Iterator[bytes]:
        left = self.max_bytes
        for path in self._files(source):
            try:
                with open(path, "rb") as file:
                    data = file.read(-1 if left is None else left)
            except OSError as error:
                raise UserError(f"data.path={source}: cannot read {path}: {error.strerror}") from error
            if data:
                yield data
            if left is not None:
                left -= len(data)
                if left == 0:
                    return

    def _files(self, source: Path) -> list[Path]:
        if source.is_file():
            return [source]
        if not source.is_dir():
            raise UserError(f"data.path={source}: no such file or folder; give a text file or a folder of them")
        inside = {path.relative_to(source): path for path in source.rglob("*.py" if self.path is None else "*")}
        return [inside[name] for name in sorted(inside, key=lambda p: p.as_posix()) if self._wanted(name, inside[name])]

    def _wanted(self, name: Path, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in name.parts)
        left_out = self.path is None and any(part in NOT_SOURCES for part in name.parts)
        return not hidden and not left_out and path.is_file()


def _cut(sizes: list[int], held_out: float) -> int:
    """Where validation begins: the start of a file that is nearest to 1 - held_out of the bytes, and not the first."""
    total = sum(sizes)
    wanted = min(max(round((1 - held_out) * total), 1), total - 1)
    starts = np.cumsum(sizes)[:-1]
    return int(starts[np.abs(starts - wanted).argmin()]) if len(starts) else wanted


def windows(data: Tensor, starts: Tensor, length: int) -> Tensor:
    """data[s : s + length] for every s in starts [B]; int64 [B, length] from uint8 [n]."""
    return data[starts[:, None] + torch.arange(length, device=data.device)].long()
