"""What users of language systems do wrong, on the command line: one clear line each, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from lmrs.cli import run
from lmrs.language import tiny

TINY = {"encoder": "tiny-encoder", "causal": "tiny-causal", "seq2seq": "tiny-seq2seq"}
TITLES = ("Toy Story", "Heat", "Alien", "Brazil", "Dune", "Ran", "Jaws", "Rocky", "Fargo", "")
NEWS = "synthetic-news:readers=10,articles=20,impressions=3,history=4,fresh=4,shown=3,topics=3,likes=1"
WITH = {  # what each kind of system is fitted on
    "log": ["--data", "DATA", "--queries", "2"],
    "events": ["--data", "DATA", "--queries", "2", "--column", "type=event"],
    "news": ["--data", NEWS, "--split", "time", "--valid-from", "0.6", "--test-from", "0.8"],
    "talks": ["--data", "synthetic-dialogues:dialogues=20,films=12,genres=3", "--split", "user"],
    "reviews": ["--data", "reviews:DATA/reviews.csv", "--split", "review", "--valid-from", "0.6", "--test-from", "0.8"],
    "posts": ["--data", "DATA/posts.csv", "--split", "time", "--valid-from", "0.6", "--test-from", "0.8"],
}
# system -> (family it needs, or "any" where every backbone reads texts; data; the smallest options)
SYSTEMS: dict[str, tuple[str, str, str]] = {
    "unisrec": ("any", "log", "dim=8 layers=1 heads=2 max_len=4 experts=2 pretrain_epochs=1 epochs=1"),
    "tiger": ("any", "log", "dim=8 layers=1 heads=2 head_dim=4 inner=8 levels=2 codes=3 steps=5 users=3 epochs=1 beams=None"),
    "zero-shot": ("causal", "log", "max_len=3"),
    "language": ("causal", "log", "max_len=3"),
    "lmrec": ("causal", "log", "max_len=3"),
    "tallrec": ("causal", "log", "max_len=3 epochs=1 rank=2 measure=NDCG@10/3neg"),
    "p5": ("seq2seq", "log", "fresh=False max_len=3 epochs=1 beams=None"),
    "plm-nr": ("any", "news", "layers=2 tuned=1 text_heads=2 text_width=2 query=4 dim=8 heads=2 max_len=3 epochs=1"),
    "prec": ("any", "news", "dim=8 layers=1 max_len=3 hidden=4 epochs=1 pretrain_epochs=1"),
    "prompt4nr": ("encoder", "news", "max_len=2 unclicked=2 epochs=1"),
    "ptm4tag": ("any", "posts", "epochs=1"),
    "pepler": ("causal", "reviews", "epochs=1"),
    "unicrs": ("encoder", "talks", "dim=8 bases=2 task=2 epochs=1 pretrain_epochs=1"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own folder: a log, titles of which one is missing, reviews, posts."""
    folder, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    events, reviews = ["user,item,timestamp,rating,event"], ["user,item,rating,feature,explanation"]
    for user in range(12):
        for place, item in enumerate(rng.permutation(10)[:6]):
            events.append(f"u{user},i{item},{1000 * user + place},{1 + item % 5},{'purchase' if item % 3 else 'click'}")
            reviews.append(f"u{user},i{item},{1 + item % 5},plot,the plot is {'good' if item % 2 else 'bad'}")
    posts = [f"{n},brew {n},in the kitchen,<brew><tag{n % 2}>,2020-01-{n + 1:02d}" for n in range(20)]
    files = {
        "interactions.csv": events,
        "items.csv": ["item,title,genres", *(f"i{n},{title},drama" for n, title in enumerate(TITLES))],
        "reviews.csv": reviews,
        "posts.csv": ["post_id,title,body,tags,created", *posts],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders: FAMILY is whole, KIND-FAMILY is spoilt."""
    root = tmp_path_factory.mktemp("models")
    for family in TINY:
        whole = root / family
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the transformers package, about its own files
            tiny.build(family, words=True).save_pretrained(whole)
            tiny.tokenizer(family).save_pretrained(whole)
        for kind in SPOILT:
            shutil.copytree(whole, root / f"{kind}-{family}")
        weights = root / f"truncated-{family}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        (root / f"no-tokenizer-{family}" / "tokenizer.json").unlink()
        (root / f"pickle-{family}" / "model.safetensors").rename(root / f"pickle-{family}" / "pytorch_model.bin")
        (root / f"damaged-{family}" / "config.json").write_text("{")
        (root / f"broken-tokenizer-{family}" / "tokenizer.json").write_text("{}")
        for kind, change in (("other-size", {"vocab_size": 7}), ("vision", VISION)):
            told = json.loads((whole / "config.json").read_text())
            (root / f"{kind}-{family}" / "config.json").write_text(json.dumps({**told, **change}))
    (root / "empty").mkdir()
    return root


VISION = {"model_type": "vit", "architectures": ["ViTModel"], "is_encoder_decoder": False}
SPOILT = {
    "truncated": "it is truncated: copy it again",
    "no-tokenizer": "got no fast tokenizer; put it there with",
    "pickle": "pytorch_model.bin, a pickle, which could run any code",
    "damaged": "needed JSON in ",
    "broken-tokenizer": "copy it again",
    "other-size": "copy ",
    "vision": "got ",
}


def fitted(system: str, folder: Path, out: Path, *more: str, backbone: str = "") -> int:
    family, kind, small = SYSTEMS[system]
    backbone = backbone or TINY["encoder" if family == "any" else family]
    where = [each.replace("DATA", str(folder)) for each in WITH[kind]]
    pairs = [each for each in small.split() if each.split("=")[0] not in {each.split("=")[0] for each in more}]
    sets = [f"--set={each}" for each in (*pairs, f"backbone={backbone}", *more)]
    return run(["fit", system, *where, "--out", str(out), "--quiet", *sets])


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said."""
    out, told = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert told.count("\n") == 1
    assert told.startswith("lmrs: needed ")
    assert ", got " in told
    for word in ("Traceback", "fault of lmrs", "Error:"):
        assert word not in told
    return told


# -- backbones -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_backbone_that_is_not_there(
    system: str, data: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused when the system is made: no run folder is left."""
    for name, said in (
        ("tiny-casual", "did you mean tiny-causal"),
        ("./nowhere", "a model folder, or org/model of the Hugging Face hub, got './nowhere'; choose one of"),
        ("nobody/such-model", "got no copy on this machine; run lmrs models get nobody/such-model"),
        (str(folders / "empty"), "got an empty folder; give the folder that save_pretrained wrote"),
        (str(data), "got interactions.csv, items.csv, posts.csv, reviews.csv; give the folder"),
        (str(data / "items.csv"), "got a file"),
    ):
        assert said in refused(fitted(system, data, tmp_path / "run", backbone=name), capsys)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_model_folder_that_is_spoilt(
    system: str, data: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = SYSTEMS[system][0].replace("any", "encoder")
    for kind, said in SPOILT.items():
        path = folders / f"{kind}-{family}"
        told = refused(fitted(system, data, tmp_path / "run", backbone=str(path)), capsys)
        assert said in told, kind
        assert str(path) in told or kind == "vision"


@pytest.mark.parametrize("system", [name for name, (family, _, _) in SYSTEMS.items() if family != "any"])
def test_a_backbone_of_another_family_is_refused_with_those_that_can(
    system: str, data: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = SYSTEMS[system][0]
    able = {family, *(("causal",) if system == "unicrs" else ())}
    for other in TINY.keys() - able:
        for name in (TINY[other], str(folders / other)):
            told = refused(fitted(system, data, tmp_path / "run", backbone=name), capsys)
            assert other in told
            assert TINY[family] in told.partition("; choose ")[2]
            assert not (tmp_path / "run").exists()


def test_after_a_refusal_the_same_folder_takes_the_right_command(
    data: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a run that is there already is not harmed by a wrong command."""
    out = tmp_path / "run"
    assert "broken-tokenizer" in refused(fitted("unisrec", data, out, backbone=str(folders / "broken-tokenizer-encoder")), capsys)
    assert fitted("unisrec", data, out) == 0
    before = {file: file.read_bytes() for file in (out / "model").iterdir()}
    capsys.readouterr()
    for name in ("minilm", str(folders / "truncated-encoder"), "tiny-causal"):
        refused(fitted("unisrec", data, out, backbone=name), capsys)
    assert {file: file.read_bytes() for file in (out / "model").iterdir()} == before
    assert run(["recommend", str(out), "--history", "i1"]) == 0


def test_a_backbone_that_has_gone_since_the_fit(
    data: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for system, family in (("zero-shot", "causal"), ("unisrec", "encoder")):
        here, out = tmp_path / family, tmp_path / system
        shutil.copytree(folders / family, here)
        assert fitted(system, data, out, backbone=str(here)) == 0
        shutil.rmtree(here)
        capsys.readouterr()
        assert str(here) in refused(run(["recommend", str(out), "--history", "i1"]), capsys)
        shutil.copytree(folders / f"truncated-{family}", here)
        assert "truncated" in refused(run(["recommend", str(out), "--history", "i1"]), capsys)


def test_the_hub_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a proxy nor a host answers."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    told = refused(run(["models", "get", "nobody/such-model", "--quiet", "--cache", str(tmp_path)]), capsys)
    assert "the Hugging Face model nobody/such-model" in told


# -- templates -----------------------------------------------------------------------------------------------------------


TEMPLATES = {
    "Like {list histroy}": "got histroy",
    "Like {titel} {list history}": "got titel",
    "Like {list history.gendres}": "an item column or attribute 'gendres', got none; did you mean genres?",
    "[sfot a 2] {list history}": "got [sfot a 2]; did you mean soft?",
    '{list history seperator=","}': "did you mean separator",
    "Like {list history} {": "got '{' at character 21",
    "Like nothing {}": "got ",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("system", ["zero-shot", "language", "lmrec", "tallrec"])
def test_a_template_with_an_unknown_slot(
    system: str, template: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"{{candidate}} {template}" if system == "tallrec" else template
    told = refused(fitted(system, data, tmp_path / "run", f"prompt={asked}"), capsys)
    assert TEMPLATES[template].replace("21", "33" if system == "tallrec" else "21") in told


@pytest.mark.parametrize(
    ("system", "option", "said"),
    [
        ("language", "prompt=Films", "needed {list history} in the template, got 'Films'"),
        ("zero-shot", "prompt=9", "a prompt '0' to '5', or a template with {list history}, got '9'"),
        ("tallrec", "prompt={list history}", "needed {candidate} in the template"),
        ("zero-shot", "prompt={list history} [mask]", "a template without [mask]"),
        ("prompt4nr", "templates=hybrid-acton", "did you mean hybrid-action"),
        ("prompt4nr", "templates=", "templates such as hybrid-action"),
    ],
)
def test_a_template_that_cannot_ask(
    system: str, option: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(fitted(system, data, tmp_path / "run", option), capsys)


# -- histories and titles ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with titles of 25 words: eight of them are more than the tiny models take."""
    folder = tmp_path_factory.mktemp("wordy")
    events = [f"u{user},i{(user + place) % 14},{100 * user + place}" for user in range(8) for place in range(12)]
    titles = [f"i{n}," + "love and war " * 8 + str(n) for n in range(14)]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *events]) + "\n")
    (folder / "items.csv").write_text("\n".join(["item,title", *titles]) + "\n")
    return folder


@pytest.mark.parametrize("system", ["zero-shot", "language", "lmrec", "tallrec"])
def test_a_history_longer_than_the_context_is_cut_from_the_left_and_reported(
    system: str, wordy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fitted(system, wordy, out, "max_len=8") == 0
    assert "prompts were longer than the model's context: they lost their oldest items" in capsys.readouterr().out
    facts = json.loads((out / "evaluation" / "report.json").read_text())["facts"]
    assert 0 < facts["prompts_cut"] <= facts["prompts"]
    assert facts["entries_cut"] >= facts["prompts_cut"]
    history = ",".join(f"i{n}" for n in range(10))
    assert run(["recommend", str(out), "--history", history, "-k", "2"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "2 older items are not read (max_len 8)" in told
    assert "they lost their oldest items" in told
    assert run(["prompt", "show", str(out), "--history", history]) == 0
    shown = capsys.readouterr().out
    assert "list entries to fit the context" in shown
    assert "war 9»" in shown
    assert "war 2»" not in shown
    assert run(["recommend", str(out), "--history", "i1", "-k", "2"]) == 0
    assert "longer than" not in capsys.readouterr().err


def test_a_title_longer_than_the_context_is_named(wordy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    shutil.copytree(wordy, folder)
    with open(folder / "items.csv", "a") as file:
        file.write("epic," + "very long " * 400 + "\n")
    told = refused(fitted("zero-shot", folder, tmp_path / "run"), capsys)
    assert "needed titles of fewer than 512 tokens, the context of tiny-causal, got 'very long" in told
    assert "shorten it in the catalogue" in told


@pytest.mark.parametrize("system", ["zero-shot", "language", "lmrec", "tallrec", "unisrec", "tiger"])
def test_a_missing_title_is_reported(system: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fitted(system, data, tmp_path / "run", *(["texts=title"] if system in ("unisrec", "tiger") else [])) == 0
    reads = "no text: 'unknown item' is read" if system in ("unisrec", "tiger") else "no title: the model reads the id"
    assert f"1 item has {reads} instead" in capsys.readouterr().out
    assert run(["recommend", str(tmp_path / "run"), "--history", "i9"]) == 0
    assert f"1 item has {reads} instead" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("system", ["unisrec", "tiger", "zero-shot", "lmrec"])
def test_no_title_at_all(system: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A system of text vectors has nothing to read; a prompt names the ids, and says so."""
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(data / "interactions.csv", folder)
    code = fitted(system, folder, tmp_path / "run")
    if system in ("unisrec", "tiger"):
        assert "needed item texts (a title, a description, attributes), got 10 items without text" in refused(code, capsys)
    else:
        assert code == 0
        assert "10 items have no title: the model reads the id instead" in capsys.readouterr().out


def test_text_that_matches_no_item_is_reported_and_never_guessed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert fitted("zero-shot", data, tmp_path / "run") == 0
    capsys.readouterr()
    assert run(["recommend", out, "--history", "Toy Story; Toy Storry; Heat 2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unknown"] == ["Toy Storry", "Heat 2"]
    assert told["history"][0] == "i0"
    assert "needed a history with an item that the run knows" in refused(
        run(["prompt", "show", out, "--history", "Toy Storry"]), capsys
    )


# -- the wrong data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("plm-nr", "needed impressions"),
        ("prec", "needed impressions"),
        ("prompt4nr", "needed impressions"),
        ("ptm4tag", "needed documents"),
        ("unicrs", "needed data with dialogues"),
        ("pepler", "needed a dataset with reviews"),
    ],
)
def test_a_system_on_data_that_lacks_what_it_reads(
    system: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, _, small = SYSTEMS[system]
    sets = [f"--set={each}" for each in (*small.split(), f"backbone={TINY[family.replace('any', 'encoder')]}")]
    assert said in refused(run(["fit", system, "--data", str(data), "--out", str(tmp_path / "run"), "--quiet", *sets]), capsys)


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("kbrd", "needed data with dialogues"),
        ("peter", "needed a dataset with reviews"),
        ("ppr", "needed user attributes"),
        ("prl", "needed events of the type 'buy', got "),
        ("plm-rec", "'gendres', got none; did you mean genres"),
    ],
)
def test_the_systems_without_a_backbone_too(
    system: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"prl": ["--set=purchase=buy"], "plm-rec": ["--set=attributes=gendres"]}.get(system, [])
    code = run(["fit", system, "--data", str(data), "--out", str(tmp_path / "run"), "--quiet", *sets])
    assert said in refused(code, capsys)
