"""Checkpoints that are whole or absent.

A checkpoint is a folder `<name>` such as `step-00000120` with three files:

    tensors.safetensors   the tensors; those that share memory are stored once
    state.json            everything else, JSON
    manifest.json         format version, size and SHA-256 of the other two

It is written under a name that does not count (`.saving-<name>`), made durable file by file, and gets its own name in one
rename. A process that is killed at any moment, or a disk that refuses any single write, therefore leaves the checkpoints
that were there and at most rubbish that `recover` removes. Reading trusts nothing: sizes and hashes are checked before a
byte is used.

One process at a time may `save` or `recover` in a folder (the owner of the run's lock); anybody may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmrs.errors import CheckpointError
from lmrs.files import fsync_folder, sha256_file, storage

FORMAT = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"[a-z][a-z0-9]*-(\d+)")
_SAVING, _REPLACED, _DROPPED = ".saving-", ".replaced-", ".dropped-"
_PIECE = 1 << 20  # bytes a write: small enough that what is hashed is still in the cache when it is written

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def step_name(step: int) -> str:
    """The name of the checkpoint of a step: `step-00000120`."""
    return f"step-{step:08d}"


def save(folder: Path | str, name: str, tensors: dict[str, Tensor], state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes the checkpoint `folder/name` and returns its path; a checkpoint of that name is replaced.

    name: a word and a number, such as `step_name(120)`; the number orders the checkpoints of a folder.
    tensors: dense, any device; names that share the same memory (tied weights) share it again after `load`.
    state: JSON values only (finite numbers, text keys, lists and not tuples); ValueError or TypeError otherwise.
    keep: checkpoints to leave (>= 1), this one included; older ones are deleted once this one is durable.
    Raises StorageError naming the path and the bytes if the disk refuses; the checkpoints that were there then still stand.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a checkpoint's name is a word and a number such as {step_name(120)}, not {name!r}")
    if keep < 1:
        raise ValueError(f"keep={keep}: the checkpoint that is being saved has to stay")
    distinct, tied = _distinct(tensors)
    state_text = _json({"state": state, "tied": tied})
    if json.loads(state_text)["state"] != state:
        raise TypeError("the state must survive JSON: text keys, and lists where it has tuples")

    folder = Path(folder)
    with storage(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True)
        recover(folder)
    path, saving = folder / name, folder / f"{_SAVING}{name}"
    try:
        with storage(saving):
            os.mkdir(saving)
        files = {
            TENSORS: _write(saving / TENSORS, _safetensors(distinct)),
            STATE: _write(saving / STATE, [state_text]),
        }
        _write(saving / MANIFEST, [_json({"format": FORMAT, "files": files})])
        with storage(saving):
            fsync_folder(saving)
    except BaseException:
        shutil.rmtree(saving, ignore_errors=True)
        raise
    with storage(path):
        if path.exists():  # put back by `recover` if the next rename never happens
            os.rename(path, folder / f"{_REPLACED}{name}")
        os.rename(saving, path)
        fsync_folder(folder)
    with storage(folder):
        recover(folder)
        older = [other for other in steps(folder) if _number(other) < _number(path)]
        for other in older[: max(0, len(older) - (keep - 1))]:
            _drop(other)
    return path


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, state) of a checkpoint, bit for bit as they were saved.

    Raises CheckpointError, naming the file and what is wrong with it, unless every byte is as it was written.
    """
    from safetensors.torch import load_file

    path = Path(path)
    verify(path)
    about = json.loads((path / STATE).read_bytes())
    tensors = load_file(path / TENSORS)
    for name, owner in about["tied"].items():
        tensors[name] = tensors[owner]
    return tensors, about["state"]


def verify(path: Path | str) -> None:
    """Checks the manifest, the sizes and the hashes of a checkpoint; raises CheckpointError at the first that is wrong."""
    path = Path(path)
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text)
        if not isinstance(manifest, dict) or text != _json(manifest):  # one spelling only, so that every changed byte shows
            raise ValueError
        version, files = manifest["format"], manifest["files"]
        expected = [(name, files[name]["size"], files[name]["sha256"]) for name in (TENSORS, STATE)]
    except OSError as error:
        raise _bad(path / MANIFEST, "a checkpoint's manifest", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad(path / MANIFEST, "a checkpoint's manifest", "a damaged one") from error
    if version != FORMAT:
        raise _bad(path / MANIFEST, f"a checkpoint of format {FORMAT}", f"format {version!r}")
    for name, size, sha256 in expected:
        file = path / name
        try:
            came = file.stat().st_size
            if came != size:
                raise _bad(file, f"{size} bytes", f"{came} bytes")
            if sha256_file(file) != sha256:
                raise _bad(file, "the bytes that were written", f"{size} bytes of which some have changed (SHA-256 differs)")
        except OSError as error:
            raise _bad(file, f"{size} bytes", error.strerror or str(error)) from error


def steps(folder: Path | str) -> list[Path]:
    """The checkpoints of a folder by rising number, whole or not; [] if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()), key=_number)


def latest(folder: Path | str, *, report: Callable[[str], object], strict: bool = False) -> Path | None:
    """The newest whole checkpoint of a folder, or None if it holds no checkpoint at all.

    report: is told, in one line each, about newer ones that had to be passed over. strict: raise for those instead.
    Raises CheckpointError if there are checkpoints but none is whole: to start over has to be somebody's decision.
    """
    found = steps(folder)
    for at, path in enumerate(reversed(found)):
        try:
            verify(path)
        except CheckpointError as error:
            if strict or at == len(found) - 1:
                raise
            report(f"{path.name} is damaged ({error}): going back to the one before")
        else:
            return path
    return None


def recover(folder: Path | str) -> None:
    """Puts a folder in order after a killed save: undoes a half-made replacement, removes what never became a checkpoint.

    For the one process that may write there. Raises OSError.
    """
    folder = Path(folder)
    for rubbish in sorted(folder.glob(".*-*")):
        if rubbish.name.startswith(_REPLACED):
            path = folder / rubbish.name.removeprefix(_REPLACED)
            if not path.exists():
                os.rename(rubbish, path)
                fsync_folder(folder)
                continue
        if rubbish.name.startswith((_SAVING, _REPLACED, _DROPPED)):
            shutil.rmtree(rubbish)


def _drop(path: Path) -> None:
    """Deletes a checkpoint; from the first moment on no part of it counts as one."""
    dropped = path.with_name(f"{_DROPPED}{path.name}")
    os.rename(path, dropped)
    shutil.rmtree(dropped)


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found
    return int(found.group(1))


def _bad(file: Path, needed: str, came: str) -> CheckpointError:
    return CheckpointError(needed=f"{needed} in {file}", came=came, remedy="use another checkpoint or train again")


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, indent=1).encode() + b"\n"


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes and fsyncs a new file; returns its size and SHA-256."""
    buffers = [memoryview(piece).cast("B") for piece in pieces]
    size, digest = sum(len(buffer) for buffer in buffers), hashlib.sha256()
    with storage(path, size=size):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for buffer in buffers:
                for begin in range(0, len(buffer), _PIECE):
                    part = buffer[begin : begin + _PIECE]
                    digest.update(part)
                    while part:
                        part = part[os.write(handle, part) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    return {"size": size, "sha256": digest.hexdigest()}


def _safetensors(tensors: dict[str, Tensor]) -> list[bytes | memoryview]:
    """The safetensors file of the tensors, in pieces that do not copy CPU tensors.

    Layout: little-endian uint64 n, n bytes of JSON header padded with spaces to a multiple of 8, the data back to back.
    Wide types come first, so every tensor is aligned. (The library's own writer wants all bytes twice in memory.)
    """
    header: dict[str, Any] = {}
    data: list[bytes | memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: (-pair[1].element_size(), pair[0])):
        if tensor.dtype not in _CODES:
            raise TypeError(f"tensor {name!r}: {tensor.dtype} has no place in a checkpoint")
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        begin, end = end, end + values.size
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        data.append(values.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *data]


def _distinct(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors without repeats of the same memory, {name left out: name that has its values})."""
    owners: dict[tuple, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel():
            owner = owners.setdefault(place, name)
            if owner != name:
                tied[name] = owner
    return {name: tensor for name, tensor in tensors.items() if name not in tied}, tied
