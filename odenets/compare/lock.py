"""One process at a time works on a comparison."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from odenets.errors import UserError


class Lock:
    """Inside the `with` block this process holds `folder`; UserError if another one does. A killed process lets go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"compare.dir={self.folder}: cannot write here: {os.strerror(error.errno or 0)}; choose another one"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{self.folder}: another process is at work on this comparison; wait for it or end it"
            ) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
