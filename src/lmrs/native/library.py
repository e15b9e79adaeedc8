"""The kernels made by this machine's own compiler, once, and loaded."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

from lmrs.cache import cache_folder
from lmrs.errors import StorageError
from lmrs.files import write_atomic
from lmrs.hardware import processor
from lmrs.native.kernel import Kernel

_NAMES = ("catalogue_scores.c", "rounded_scores.c", "attention.c", "last_states.c", "attention.h", "catalogue.h", "registers.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
_FLAGS = (("-march=native",), ("-mcpu=native",), ())  # the first that a compiler takes


@cache
def load() -> Kernel | str:
    """The kernel, compiled if need be (a few seconds, once for a machine), or why there is none, in a few words."""
    compiler = compiler_found()
    if compiler is None:
        return "no C compiler"
    try:
        path = _built(compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, StorageError) as error:
        return f"{Path(compiler).name} did not make it ({type(error).__name__})"
    number, long, real, place = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    library.lmrs_shape.argtypes = (place,)
    library.lmrs_rows.argtypes = (place, place, number, place, place, long, number, place, place, place, place, place)
    library.lmrs_line.argtypes = (place, place, place, long, number, place, place)
    library.lmrs_rank.argtypes = (
        place, number, place, place, long, number, place, place, place, number, place, place, place, place, place,
    )  # fmt: skip
    library.lmrs_items.argtypes = (place, number, place, place, long, long, number, place, place, place)
    for plain, rounded in ((library.lmrs_rows, library.lmrs_rows_rounded), (library.lmrs_items, library.lmrs_items_rounded)):
        rounded.argtypes, rounded.restype = plain.argtypes, None
    library.lmrs_rounds.restype = number
    for function in (library.lmrs_shape, library.lmrs_rows, library.lmrs_items, library.lmrs_line, library.lmrs_rank):
        function.restype = None
    library.lmrs_last_work.argtypes, library.lmrs_last_work.restype = (long, number, number, number), long
    library.lmrs_last.argtypes, library.lmrs_last.restype = (
        place, number, number, number, number, number, number, number, place, place, real, place, place, number, number, place,
        place, place, long, long, long, place, place,
    ), number  # fmt: skip
    library.lmrs_attend.argtypes, library.lmrs_attend.restype = (
        place, long, place, long, number, number, number, place, long, long, place, place, place, place,
    ), number  # fmt: skip
    library.lmrs_attend_back.argtypes = (
        place, long, place, long, number, number, number, place, long, long, place, place, place, place, place, place, place,
    )  # fmt: skip
    library.lmrs_attend_back.restype = None
    shape = torch.zeros(3, dtype=torch.int32)
    library.lmrs_shape(shape.data_ptr())
    lanes, rows, panel = shape.tolist()
    return Kernel(path, library, lanes, rows, panel, bool(library.lmrs_rounds()))


def compiler_found() -> str | None:
    named = os.environ.get("CC")
    return next((found for name in ((named,) if named else ("cc", "gcc", "clang")) if (found := shutil.which(name))), None)


def _built(compiler: str) -> Path:
    """The library in the cache, by the hash of all that it depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=True).stdout
    told = "\n".join((compiler, platform.platform(), processor())).encode()
    name = sha256(b"".join(source.read_bytes() for source in SOURCES) + version + told).hexdigest()[:32]
    folder = cache_folder() / "native"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"lmrs-{name}.so"
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "made.so"
        for flags in _FLAGS:
            units = [str(source) for source in SOURCES if source.suffix == ".c"]
            command = [compiler, "-O3", *flags, "-shared", "-fPIC", *units, "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, timeout=120, check=False)
            if done.returncode == 0:
                return write_atomic(path, made.read_bytes())
    raise OSError(done.stderr.decode(errors="replace")[-500:])
