"""The folder of a saved recommender: safetensors, JSON and Arrow, written whole or not at all, checked before it is used."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from lmrs import __version__, describe
from lmrs.columns import places
from lmrs.errors import CheckpointError, StorageError
from lmrs.files import fsync_folder, sha256_file, storage, write_atomic
from lmrs.folder import FORMAT, ITEMS, MANIFEST, MODEL, READ, TENSORS, USERS, VOCAB, bad, read_table, read_vocab, told_of, verify
from lmrs.models import Control, Model
from lmrs.models.network import ControlScorer, Scorer
from lmrs.models.undrawn import Undrawn
from lmrs.system import System, learned
from lmrs.vocab import Vocab


@dataclass(frozen=True, eq=False)
class Saved:
    """What a folder holds. items: the catalogue, in vocab order. told: what `write` was told, JSON values by name.

    changed: files of the system's code that are not as they were when it was saved.
    """

    system: System
    vocab: Vocab
    scorer: Scorer
    items: pa.Table
    told: dict[str, Any]
    changed: tuple[str, ...]


def write(folder: Path, *, system: System, vocab: Vocab, scorer: Scorer, items: pa.Table | None, told: Mapping[str, Any]) -> None:
    """Writes the folder; a recommender that was there is replaced.

    told: JSON values to keep beside it. Raises StorageError if the disk refuses, or if the folder holds something else.
    """
    from safetensors.torch import save as safetensors_bytes

    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(needed=f"a new folder at {folder}", came="something that is no recommender", remedy="choose another")
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = folder.parent / f".saving-{folder.name}-{os.getpid()}-{secrets.token_hex(4)}"
        work.mkdir()
    try:
        kept = {name: value for name, value in scorer.state_dict().items() if learned(system, name)}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in kept.items()}
        write_atomic(work / TENSORS, safetensors_bytes(tensors))
        _write_table(work / VOCAB, _vocab_table(vocab))
        _write_table(work / ITEMS, items if items is not None else pa.table({"item_id": vocab.items}))
        columns = {name: places(work / name, READ) for name in (VOCAB, ITEMS)}
        write_atomic(work / MODEL, _json(_about(system, vocab, told) | {"columns": columns}))
        if isinstance(system.model, Model) and system.model.knows_users:
            _write_table(work / USERS, pa.table({"user_id": vocab.users.cast(pa.large_string())}))
        if vocab.prepared is not None:
            vocab.prepared.save(work)
        names = sorted(file.name for file in work.iterdir())
        write_atomic(work / MANIFEST, _json({"format": FORMAT, "files": {name: told_of(work / name) for name in names}}))
        with storage(folder):
            old = work.with_name(work.name.replace(".saving-", ".replaced-"))
            if folder.exists():
                os.rename(folder, old)
            os.rename(work, folder)
            fsync_folder(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _about(system: System, vocab: Vocab, told: Mapping[str, Any]) -> dict[str, Any]:
    described = describe.to_json(system)
    return {
        "lmrs": __version__,
        **told,
        "system": described,
        "code": {str(file): sha256_file(file) for file in describe.files(described)},
        "vocab": {"fingerprint": vocab.fingerprint, "items": vocab.n_items, "users": len(vocab.users)},
        "origin": system.model.origin if isinstance(system.model, Model) else "",
    }


def read(folder: Path, *, device: str = "cpu") -> Saved:
    """What `write` wrote; nothing is used before its bytes are checked.

    Raises CheckpointError, naming the file, if one is missing, cut, changed or does not belong to the others.
    """
    from safetensors.torch import load_file

    verify(folder)
    try:
        about = json.loads((folder / MODEL).read_bytes())
        system = describe.system_from_json(about["system"], forbidden=folder)
        users = pa.nulls(about["vocab"]["users"], pa.large_string())
        if isinstance(system.model, Model) and system.model.knows_users:
            users = read_table(folder / USERS).column("user_id").combine_chunks()
            if len(users) != about["vocab"]["users"]:
                raise bad(folder / USERS, f"the ids of {about['vocab']['users']:,} users", f"{len(users):,}")
        vocab, items = read_vocab(folder, about)
        prepared = system.model.restore(folder) if isinstance(system.model, Model) else None
        vocab = replace(vocab, users=users, catalogue=items, prepared=prepared)
        if isinstance(system.model, Model) and system.model.origin != about["origin"]:
            raise CheckpointError(
                needed="the pre-trained model that the recommender was fitted on", came="other weights under its name",
                remedy="put the old ones back, or fit again",
            )  # fmt: skip
        scorer = rebuilt(system, vocab, load_file(folder / TENSORS), folder / TENSORS).to(torch.device(device))
        changed = [file for file, digest in about["code"].items() if sha256_file(file) != digest]
        return Saved(system, vocab, scorer, items, about, tuple(changed))
    except (KeyError, TypeError, ValueError, AttributeError, OSError, pa.ArrowException) as error:
        raise bad(folder / MODEL, "a recommender of this version of lmrs", f"{type(error).__name__} {error}") from error


def rebuilt(system: System, vocab: Vocab, tensors: dict[str, torch.Tensor], file: Path) -> Scorer:
    """The built scorer with these tensors, which came from `file`. Raises CheckpointError unless they are all that it learns."""
    # All tensors of a model that starts from no others' weights were compared by name below: none is left as it is built.
    anew = isinstance(system.model, Model) and not system.model.origin
    with torch.random.fork_rng(devices=[]), Undrawn() if anew else nullcontext():
        torch.manual_seed(0)
        scorer = system.model.build(vocab)
    if isinstance(system.model, Control):
        assert isinstance(scorer, ControlScorer)
        scorer.assign(tensors)
        return scorer
    own = {name: value for name, value in scorer.state_dict().items() if learned(system, name)}
    for name in sorted(own.keys() | tensors.keys()):
        needed, came = (list(each[name].shape) if name in each else "none" for each in (own, tensors))
        if needed != came:
            raise bad(file, f"the tensor {name!r} of shape {needed}", f"{came}")
    scorer.load_state_dict(tensors, strict=False)  # the names were compared; what is missing was given by `build`
    return scorer


def _vocab_table(vocab: Vocab) -> pa.Table:
    """Item ids, training counts and attributes, one row an item; an attribute's dictionary keeps the numbers of its values."""
    columns: dict[str, Any] = {"item_id": vocab.items.cast(pa.large_string())}
    if vocab.counts is not None:
        columns["count"] = pa.array(vocab.counts, pa.int64())
    for name, attribute in vocab.attributes.items():
        values = pa.DictionaryArray.from_arrays(pa.array(attribute.values, pa.int32()), attribute.names.cast(pa.large_string()))
        columns[f"attribute:{name}"] = pa.LargeListArray.from_arrays(pa.array(attribute.offsets, pa.int64()), values)
    return pa.table(columns)


def _write_table(file: Path, table: pa.Table) -> None:
    def content(sink: Any) -> None:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())

    write_atomic(file, content)


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, indent=1).encode() + b"\n"
