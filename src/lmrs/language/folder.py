"""A model folder as the transformers package writes it: config.json, *.safetensors, tokenizer.json; checked before it is read."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmrs.errors import CheckpointError, ContractError, UserError
from lmrs.files import sha256_file
from lmrs.language.family import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_HEADER = 100 << 20  # bytes: the longest header that the format allows


def weights(folder: Path) -> list[Path]:
    """The weight files of a model folder, whole ones: sizes are checked against their headers.

    Raises CheckpointError if the folder is none of a model, has weights in a pickle format, lacks its tokenizer, or if a file is
    truncated or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(needed=f"a model folder at {folder}", came="a file" if folder.exists() else "nothing there")
    there = sorted(path.name for path in folder.iterdir())
    if "config.json" not in there:
        raise CheckpointError(
            needed=f"a model folder with config.json at {folder}",
            came=", ".join(there[:6]) + (", ..." if len(there) > 6 else "") or "an empty folder",
            remedy="give the folder that save_pretrained wrote",
        )
    read_json(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if lacking := [name for name in names if "/" in name or name not in there]:
            raise CheckpointError(needed=f"{lacking[0]} in {folder}", came="an index that names it alone", remedy="copy it again")
    else:
        names = [name for name in there if name == "model.safetensors"]
    if not names:
        pickles = [name for name in there if name.endswith(PICKLES)]
        raise CheckpointError(
            needed=f"model.safetensors in {folder}",
            came=f"{pickles[0]}, a pickle, which could run any code when read" if pickles else "no weights",
            remedy="save the model with safetensors (save_pretrained of a recent transformers does)",
        )
    if "tokenizer.json" not in there:
        raise CheckpointError(
            needed=f"tokenizer.json in {folder}", came="no fast tokenizer", remedy="put it there with tokenizer.save_pretrained"
        )
    read_json(folder / "tokenizer.json")
    files = [folder / name for name in names]
    for file in files:
        header(file)
    return files


def header(file: Path) -> dict[str, Any]:
    """The entries of a safetensors file: name -> dtype, shape, data_offsets.

    Raises CheckpointError unless the file has exactly the bytes that its header tells of.
    """
    size = file.stat().st_size
    with open(file, "rb") as opened:
        begin = opened.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
        text = opened.read(length) if 0 < length <= min(size, _HEADER) else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        end = 8 + length + max((each["data_offsets"][1] for each in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(needed=f"a safetensors file at {file}", came="a damaged header", remedy="copy it again") from error
    if end != size:
        raise CheckpointError(needed=f"{end:,} bytes in {file}", came=f"{size:,}", remedy="it is truncated: copy it again")
    return entries


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(needed=f"JSON in {file}", came=type(error).__name__, remedy="copy it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(needed=f"a JSON object in {file}", came=type(found).__name__, remedy="copy it again")
    return found


def parameters(files: list[Path]) -> int:
    """How many real numbers the weight files hold; tied weights are stored, and counted, once."""
    total = 0
    for file in files:
        for each in header(file).values():
            if not str(each["dtype"]).startswith(("F", "BF")):
                continue  # positions and other tables of whole numbers
            count = 1
            for length in each["shape"]:
                count *= length
            total += count
    return total


def fingerprint(folder: Path) -> str:
    """SHA-256 over configuration, tokenizer and weights; files that did not change are read once a process."""
    files = [*weights(folder), folder / "config.json", folder / "tokenizer.json"]
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _fingerprint(stamps)


@cache
def _fingerprint(stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        digest.update(f"{Path(name).name}:{sha256_file(Path(name))}\n".encode())
    return digest.hexdigest()


def licence(folder: Path) -> str:
    """What the model card says (`license:` at the top of README.md), or "not stated"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:5000] if card.is_file() else ""
    found = re.search(r"^license:\s*([\w.+-]+)", text, re.MULTILINE)
    return found[1] if found else "not stated"


def config(folder: Path) -> PretrainedConfig:
    """The configuration. Raises CheckpointError if this version of transformers cannot read it."""
    from transformers import AutoConfig

    with quiet(), reading(folder):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of the folder."""
    from transformers import AutoTokenizer

    with quiet(), reading(folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load(folder: Path, *, precision: str, words: bool, fresh: int | None) -> PreTrainedModel:
    """The model of a checked folder, in eval mode, with weights of its own.

    words: with the head that scores words. fresh: seed of the head's weights if the folder has none; None refuses then.
    Raises CheckpointError if weights are missing, ContractError if only those of the head are.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    weights(folder)
    told = config(folder)
    heads = {"encoder": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    kind = heads[family_of(told)] if words else AutoModel
    with quiet(), reading(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(fresh or 0)
        model, report = kind.from_pretrained(
            folder,
            config=told,
            dtype=DTYPES[precision],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
    missing = set(report["missing_keys"])
    if pooler := {name for name in missing if name.split(".")[0] == "pooler"}:
        model.pooler = None  # a head that this checkpoint was saved without, and that nobody reads
        missing -= pooler
    inner = {name for name in missing if name.startswith(f"{model.base_model_prefix}.")} if words else missing
    if inner or report["mismatched_keys"]:
        first = sorted([*inner, *(str(each[0]) for each in report["mismatched_keys"])])
        raise CheckpointError(
            needed=f"all weights of a {type(model).__name__} in {folder}",
            came=f"none that fit {first[0]}" + (f" and {len(first) - 1} more" if len(first) > 1 else ""),
            remedy="copy the model again",
        )
    if missing and fresh is None:
        raise ContractError(
            needed=f"a backbone that was saved with its word head ({sorted(missing)[0]}, ...)",
            came=folder.name,
            remedy="choose another, or ask for a new head with fresh=SEED and train it",
        )
    return model.eval()


def cast(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """The model with weights of this precision, changed in place; its buffers (angles of positions) stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[precision])
    return model


@contextmanager
def reading(folder: Path, what: str = "model") -> Iterator[None]:
    """What the transformers package says of a folder that it cannot read, in one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # transformers, tokenizers, safetensors and the checks of configurations raise their own kinds
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            needed=f"a {what} that transformers can read at {folder}",
            came=f"a file without {why}" if isinstance(error, KeyError) else why,
            remedy="copy it again, or choose another",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and notices of the transformers package meanwhile; what was set before is put back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
