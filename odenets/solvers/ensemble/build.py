"""C++ source to a loaded library, kept on disk by the hash of what made it.

The folder is `odenets/ensemble` in the user's cache (`XDG_CACHE_HOME`, else ~/.cache). A library is written beside its
name and moved there in one step, so that processes that compile the same at once do not meet; the oldest beyond
`MOST_KEPT` are removed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..errors import InputError

FLAGS = (
    "-std=c++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared",
    "-Wno-ignored-attributes",
)  # fmt: skip
MOST_KEPT = 256


def folder() -> Path:
    """Where libraries are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(root) / "odenets" / "ensemble"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return _temporary_folder()


@functools.cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="odenets-ensemble-"))


def compiler() -> str:
    """Path of the C++ compiler: $CXX, g++, c++ or clang++. Raises InputError if there is none."""
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise InputError(
        "ensemble=True compiles C++ on the CPU and found no compiler ($CXX, g++, c++, clang++): install one, or use "
        "per_sample=True."
    )


@functools.cache
def _identity(path: str) -> str:
    """What decides about the code besides its source: compiler and processor."""
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
        )
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{version}\n{platform.machine()}\n{flags}"


@functools.lru_cache(maxsize=128)
def load(source: str) -> ctypes.CDLL:
    """The library made of the source, from memory, disk or the compiler (seconds).

    Raises:
        InputError: without a compiler, or with its message where it fails.
    """
    path = compiler()
    name = hashlib.sha256("\n".join((source, _identity(path), *FLAGS)).encode()).hexdigest()[:32]
    library = folder() / f"{name}.so"
    if library.exists():
        os.utime(library)
    else:
        _compile(path, source, library)
        drop_oldest(library.parent, "*.so", MOST_KEPT)
    return ctypes.CDLL(str(library))


def _compile(path: str, source: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        text, built = Path(scratch) / "program.cpp", Path(scratch) / "program.so"
        text.write_text(source)
        done = subprocess.run([path, *FLAGS, str(text), "-o", str(built)], capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise InputError(f"{path} could not compile the ensemble's program: {first}; use per_sample=True.")
        os.replace(built, library)


def drop_oldest(path: Path, pattern: str, keep: int) -> None:
    """Remove all but the newest files of a folder."""

    def age(library: Path) -> float:
        try:
            return library.stat().st_mtime
        except OSError:  # another process removed it
            return 0.0

    for library in sorted(path.glob(pattern), key=age)[:-keep]:
        library.unlink(missing_ok=True)
