"""Measures over a run: one row per epoch in metrics.csv, and in TensorBoard's format where it is installed."""

import csv
import io
from pathlib import Path
from typing import Any

from odenets.train.checkpoint import write_atomically


class MetricsLog:
    """Rows in memory and on disk. After a resume it drops the rows that the checkpoint does not know."""

    def __init__(self, path: Path, keep_until_step: int | None = None, tensorboard: Path | None = None) -> None:
        self.path = path
        self.rows = [] if keep_until_step is None else read_rows(path, keep_until_step)
        self._write()
        self._board = _board(tensorboard, keep_until_step) if tensorboard is not None else None

    def append(self, row: dict[str, float]) -> None:
        """Add one row and write it; rows may have different keys."""
        self.rows.append(row)
        self._write()
        if self._board is not None:
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    self._board.add_scalar(key, value, int(row["step"]))

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._board.close()

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _digits(value) for key, value in row.items()} for row in self.rows)
        write_atomically(self.path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def read_rows(path: Path, until_step: int | None = None) -> list[dict[str, float]]:
    """The rows of a metrics.csv, up to and with `until_step`; numbers as floats, empty cells left out."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{key: _number(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [row for row in rows if until_step is None or row["step"] <= until_step]


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _number(cell: str) -> float:
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)


def _board(folder: Path, keep_until_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is optional: metrics.csv holds the same numbers
        return None
    return SummaryWriter(str(folder), purge_step=None if keep_until_step is None else keep_until_step + 1)
