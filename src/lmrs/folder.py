"""What lies in the folder of a saved recommender, read and checked without torch; `saved.py` writes it and reads the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrs.errors import CheckpointError
from lmrs.files import crc32_file, sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

    from lmrs.vocab import Vocab

FORMAT = 2
TENSORS, MODEL, VOCAB, ITEMS, MANIFEST = "tensors.safetensors", "model.json", "vocab.arrow", "items.arrow", "manifest.json"
USERS = "users.arrow"  # ids of the users, in the folders of models that learned something of each: others hold none
FILES = (TENSORS, MODEL, VOCAB, ITEMS)
READ = ("item_id", "count", "title")  # columns whose places model.json has, to be read without Arrow


_SUMS = {"SHA-256": sha256_file, "CRC-32": crc32_file}


def told_of(file: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"size": file.stat().st_size} | {name: made(file) for name, made in _SUMS.items()}


def verify(folder: Path, *, by: str = "SHA-256") -> None:
    """Sizes and sums of all files, as the manifest has them. by: SHA-256 or CRC-32, which takes about half the time.

    Raises CheckpointError, naming the file, if one is missing, cut or changed.
    """
    if not folder.is_dir():
        raise CheckpointError(needed=f"a saved recommender at {folder}", came="no such folder", remedy="check the path")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if (version := manifest["format"]) != FORMAT:
            raise bad(folder / MANIFEST, f"a recommender of format {FORMAT}", f"format {version!r}")
        names = dict.fromkeys((*FILES, *manifest["files"]))
        expected = [(name, manifest["files"][name]["size"], manifest["files"][name][by]) for name in names]
    except FileNotFoundError as error:
        raise CheckpointError(
            needed=f"a saved recommender at {folder}",
            came="a folder without manifest.json",
            remedy="finish the fit (lmrs fit ... --resume)",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad(folder / MANIFEST, "a manifest", "a damaged one") from error
    for name, size, written in expected:
        file = folder / name
        if not file.is_file():
            raise bad(file, f"{size} bytes", "no such file")
        if file.stat().st_size != size:
            raise bad(file, f"{size} bytes", f"{file.stat().st_size} bytes")
        if _SUMS[by](file) != written:
            raise bad(file, "the bytes that were written", "others (the checksum differs)")


def read_vocab(folder: Path, about: dict[str, Any]) -> tuple[Vocab, pa.Table]:
    """The vocabulary, without users, and the catalogue in its order, of a verified folder. about: what model.json holds.

    Raises CheckpointError if they do not belong to the model or to each other.
    """
    from lmrs.vocab import large

    vocab = _read_vocab(folder / VOCAB)
    if vocab.fingerprint != about["vocab"]["fingerprint"]:
        raise bad(folder / VOCAB, "the vocabulary that the model was trained with", "another one")
    items = read_table(folder / ITEMS)
    if not large(items.column("item_id").combine_chunks()).equals(large(vocab.items)):
        raise bad(folder / ITEMS, "the catalogue of the model's vocabulary", "another one")
    return vocab, items


def _read_vocab(file: Path) -> Vocab:
    from lmrs.vocab import Attributes, Vocab

    table = read_table(file)
    attributes = {}
    for name in table.column_names:
        if name.startswith("attribute:"):
            lists = table.column(name).combine_chunks()
            attributes[name.removeprefix("attribute:")] = Attributes(
                lists.values.dictionary, lists.offsets.to_numpy(), lists.values.indices.to_numpy()
            )
    counts = table.column("count").to_numpy() if "count" in table.column_names else None
    return Vocab(items=table.column("item_id").combine_chunks(), attributes=attributes, counts=counts)


def read_table(file: Path) -> pa.Table:
    """The Arrow table of a file. Raises CheckpointError if it is none."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(file)) as source:
            return pa.ipc.open_file(source).read_all().combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise bad(file, "an Arrow table", str(error).splitlines()[0]) from error


def bad(file: Path, needed: str, came: str) -> CheckpointError:
    """For a file of the folder that is not as it must be."""
    return CheckpointError(needed=f"{needed} in {file}", came=came, remedy="save or fit the recommender again")
