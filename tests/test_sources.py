"""Every kind of source: what is read, in which order, with which catalogue; the named ones; the ceiling of synthetic data."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrs import sources, split, store
from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.sources import Chain, movielens
from lmrs.testing.sources import SourceTests

ATOMIC = {
    ".inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "7\t01\t3\t881250949\n7\t2\t1\t881250948\n8\t01\t5\t891717742\n",
    ".item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '2\tHeat "x\t1995\tAction Crime\n01\tToy Story\t1995\t\n',
    ".user": "user_id:token\tage:token\n8\t30\n7\t24\n",
    ".kg": "head_id:token\trelation_id:token\ttail_id:token\nm.1\tfilm.actor\tm.9\nm.9\tactor.film\tm.2\n",
    ".link": "item_id:token\tentity_id:token\n01\tm.1\n2\tm.2\n",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder(parent: Path, **files: str) -> Path:
    parent = parent / "shop"
    parent.mkdir()
    for name, content in files.items():
        (parent / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return parent


def histories(data: Dataset) -> dict[str, list[str]]:
    return {user: data.vocab.item_ids(data.history(at)) for at, user in enumerate(data.vocab.users.to_pylist())}


def test_a_folder_of_tables(tmp_path: Path, cache: Path) -> None:
    where = folder(
        tmp_path,
        interactions__csv="uid,sku,when,note\nb,x,2020-01-02,\na,y,2020-01-01,\nb,z,2020-01-01,\nb,q,2020-01-02,\n",
        items__tsv="item_id\tname\tyear\tgenres\tbrand\nx\tHeat\t1995\tA|B\tAcme\nnew\tNew (1999)\t1999\t\t\nz\tZed\t\tB\tBolt\n",
        users__csv="user,age\na,3\nb,4\n",
        edges__csv="source,target\nx,z\nx,other\n",
        readme__txt="hello world\n",
    )
    data = sources.load(where, columns={"item": "sku", "time": "when"})
    assert histories(data) == {"b": ["z", "x", "q"], "a": ["y"]}
    assert data.vocab.items.to_pylist() == ["x", "y", "z", "q", "new"]  # first seen first, then the rest of the catalogue
    assert data.titles(np.arange(5)) == ["Heat (1995)", "y", "Zed", "q", "New (1999)"]
    assert [data.vocab.attributes["genres"].of(i) for i in range(5)] == [["A", "B"], [], ["B"], [], []]
    assert data.vocab.attributes["brand"].of(0) == ["Acme"]
    assert data.users.to_pylist() == [{"user_id": "b", "age": "4"}, {"user_id": "a", "age": "3"}]
    assert data.edges.to_pylist() == [
        {"head": "x", "relation": "related", "tail": "z", "head_item": 0, "tail_item": 2},
        {"head": "x", "relation": "related", "tail": "other", "head_item": 0, "tail_item": None},
    ]
    assert data.about["guessed"] == ["user"]
    assert data.about["not_read"] == ["readme.txt"]
    assert "2 of 4 items of the events are not in items.tsv" in data.about["notes"]
    assert data.name == "shop"


def test_the_second_load_reads_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path, interactions__csv="user,item\na,x\n")
    first = sources.load(where)
    with monkeypatch.context() as patch:
        patch.setattr(store, "building", lambda path: pytest.fail("prepared again"))
        assert sources.load(where).fingerprint == first.fingerprint
    (where / "interactions.csv").write_text("user,item\na,y\n")
    assert sources.load(where).vocab.items.to_pylist() == ["y"]
    assert sources.load(where, columns={"user": "item", "item": "user"}).vocab.items.to_pylist() == ["a"]


def test_sequences_without_times(tmp_path: Path, cache: Path) -> None:
    where = tmp_path / "beauty"
    where.mkdir()
    lists = pa.array([[3, 1, 3], [], [2]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"user_idx": [1, 2, 3], "user_id": ["U", "E", "W"], "items": lists}), where / "sequences.parquet")
    pq.write_table(
        pa.table(
            {
                "item_idx": [1, 2, 3, 4],
                "item_id": ["B1", "B2", "B3", "B4"],
                "attribute_ids": [[5], [6, 5], None, [7]],
                "text_id": list("abcd"),
            }
        ),
        where / "items.parquet",
    )
    data = sources.load(where)
    assert histories(data) == {"U": ["B3", "B1", "B3"], "E": [], "W": ["B2"]}
    assert data.vocab.items.to_pylist() == ["B3", "B1", "B2", "B4"]
    assert data.time is None
    assert [data.vocab.attributes["attributes"].of(i) for i in range(4)] == [[], ["5"], ["6", "5"], ["7"]]
    assert (data.about["order"], data.about["order_known"], data.about["duplicates"]) == ("list order", True, 0)
    pq.write_table(pa.table({"item_idx": [1, 2], "item_id": ["B1", "B2"]}), where / "items.parquet")
    with pytest.raises(DataError, match=r"every listed item in items\.parquet, got '3', which it lacks"):
        sources.load(where)


def test_invoices(tmp_path: Path, cache: Path) -> None:
    rows = pa.table(
        {
            "invoice": ["1", "1", "2", "2", "3"],
            "item_id": ["85123A", "POST", "85123A", "71053", "71053"],
            "title": [None, "POSTAGE", "HEART", "LANTERN", "lantern"],
            "quantity": [6, 1, -6, 2, 2],
            "timestamp": pa.array([10**12] * 5, pa.timestamp("ms")),
            "user_id": [17850, 17850, 17850, 17850, None],
        }
    )
    pq.write_table(rows, tmp_path / "transactions.parquet")
    data = sources.load(tmp_path / "transactions.parquet")
    assert histories(data) == {"17850": ["85123A", "71053"]}
    assert data.titles(np.arange(2)) == ["HEART", "LANTERN"]
    assert data.about["filtered"] == {
        "no customer": 1,
        "quantity is not positive (returns)": 1,
        "service code (no stock number)": 1,
    }
    assert data.about["rows"] == data.n_events + 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"log": {"user_id": ["a"], "candidates": [["x"]], "clicked": [[1]]}},
            r"got news impressions: log\.parquet \(user_id",
        ),
        (
            {"dialogues": {"conversation_id": ["a"], "messages": [["hi"]]}},
            "needed columns conversation_id, initiator_id, .* in dialogues.parquet, got no initiator_id, respondent_id",
        ),
        ({}, "got no table at all"),
        (
            {"one": {"uid": [1], "iid": [2]}, "two": {"uid": [1], "iid": [2]}},
            r"one table of interactions .* got one\.parquet, two\.parquet; give one",
        ),
    ],
)
def test_folders_that_hold_something_else(tmp_path: Path, cache: Path, files: dict, message: str) -> None:
    for name, columns in files.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=message):
        sources.load(tmp_path)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("item\nx\nx\n", r"items\.csv:3, got column 'item': id given twice in 'x'"),
        ("item\nx\n\n,y\n", "2 columns where 1 are named"),
        ("thing,title\nx,X\n", r"a column with the item id in items\.csv, got columns thing, title; call it item_id"),
    ],
)
def test_item_tables_are_checked(tmp_path: Path, cache: Path, items: str, message: str) -> None:
    where = folder(tmp_path, interactions__csv="user,item\na,x\n", items__csv=items)
    with pytest.raises(DataError, match=message):
        sources.load(where)


def test_a_lenient_catalogue_keeps_the_first_of_two_rows(tmp_path: Path, cache: Path) -> None:
    where = folder(tmp_path, interactions__csv="user,item\na,x\n", items__csv="item,title\nx,One\n,Nobody\nx,Two\ny\n")
    data = sources.load(where, lenient=True, quarantine=tmp_path / "aside.csv")
    assert data.titles(np.array([0])) == ["One"]
    assert (data.about["quarantined"], data.about["quarantined_beside"]) == (0, {"items.csv": 3})
    lines = [line.split(",")[:4] for line in (tmp_path / "aside.csv").read_text().splitlines()[1:]]
    assert sorted(lines) == [
        ["items.csv", "3", "item", "missing"],
        ["items.csv", "4", "item", "id given twice"],
        ["items.csv", "5", "", "1 columns where 2 are named"],
    ]


def test_atomic_files(tmp_path: Path, cache: Path) -> None:
    for suffix, content in ATOMIC.items():
        (tmp_path / f"tiny{suffix}").write_text(content)
    data = sources.load(tmp_path, name="tiny")
    check_tiny(data)
    assert data.vocab.attributes["class"].of(1) == ["Action", "Crime"]
    assert sources.load(tmp_path / "tiny.inter", columns={"rating": "rating"}).fingerprint == data.fingerprint


def check_tiny(data: Dataset) -> None:
    assert histories(data) == {"7": ["2", "01"], "8": ["01"]}
    assert data.time.tolist() == [881250948 * 10**6, 881250949 * 10**6, 891717742 * 10**6]
    assert data.rating.tolist() == [1, 3, 5]
    assert data.titles(np.arange(2)) == ["Toy Story (1995)", 'Heat "x (1995)']
    assert data.users.column("age").to_pylist() == ["24", "30"]
    assert data.edges.column("head_item").to_pylist() == [0, None]
    assert data.edges.column("tail_item").to_pylist() == [None, 1]


def test_original_movielens_files(tmp_path: Path, cache: Path) -> None:
    hundred, million = tmp_path / "100k", tmp_path / "1m"
    hundred.mkdir()
    million.mkdir()
    (hundred / "u.data").write_text("196\t242\t3\t881250949\n196\t9\t4\t881250000\n")
    flags = "|".join("1" if n in (3, 4) else "0" for n in range(19))
    (hundred / "u.item").write_bytes(f"242|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}\n".encode("latin-1"))
    (hundred / "u.user").write_text("196|49|M|writer|55105\n")
    data = sources.load(hundred)
    assert histories(data) == {"196": ["9", "242"]}
    assert data.titles(np.array([0])) == ["Misérables, Les (1995)"]
    assert data.vocab.attributes["genres"].of(0) == ["Animation", "Children's"]
    assert data.users.to_pylist()[0]["occupation"] == "writer"
    (million / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (million / "movies.dat").write_bytes("661::James: a \xe9 (1996)::Animation|Children's\n".encode("latin-1"))
    data = sources.load(million)
    assert histories(data) == {"1": ["1193", "661"]}
    assert data.titles(np.array([1])) == ["James: a é (1996)"]
    assert data.vocab.attributes["genres"].of(1) == ["Animation", "Children's"]
    (million / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3\n")
    with pytest.raises(DataError, match=r"ratings\.dat:2, got 3 columns where 4 are named in '1::661::3'"):
        sources.load(million)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for suffix, content in ATOMIC.items():
            archive.writestr(movielens.MEMBER + suffix, content)
        archive.writestr("../../evil.txt", "x")
    monkeypatch.setattr(movielens, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def pip(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Path], subprocess.CompletedProcess]) -> list[list[str]]:
    """Puts a stand-in for `pip download`, which is given the folder to fill; returns the commands it got."""
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        asked.append(command)
        return answer(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_movielens_comes_from_the_wheel_once(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(target: Path) -> subprocess.CompletedProcess:
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess([], 0, "", "")

    asked = pip(monkeypatch, download)
    data = sources.load("movielens-100k")
    check_tiny(data)
    assert data.name == "movielens-100k"
    assert data.vocab.attributes["genres"].of(1) == ["Action", "Crime"]
    assert sources.load("ml-100k").fingerprint == data.fingerprint
    assert len(asked) == 1
    assert asked[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert asked[0][-1] == "recbole==1.2.1"
    assert not list(cache.parent.rglob("evil.txt"))


def test_a_downloaded_wheel_by_path(cache: Path, wheel: Path) -> None:
    check_tiny(sources.load(wheel))
    assert not list(cache.parent.rglob("evil.txt"))


def test_another_wheel_is_refused(cache: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.txt", "x")
    with pytest.raises(DataError, match=r"recbole-1\.2\.1.* with SHA-256 .*u\.data"):
        sources.load(wheel)


def test_a_member_that_unpacks_too_large_is_refused(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "LARGEST", 20)
    with pytest.raises(DataError, match=r"at most 20 bytes in recbole/.*\.inter, got"):
        sources.load(wheel)


def test_offline_says_how_to_bring_a_copy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying\nERROR: Could not find a version that satisfies the requirement recbole==1.2.1\nhint: see above\n"
    pip(monkeypatch, lambda target: subprocess.CompletedProcess([], 1, "", said))
    message = r"from a package index, got ERROR: Could not find a version.*; connect to a package index, or give .*u\.data"
    with pytest.raises(DataError, match=message):
        sources.load("movielens-100k")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMRS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert sources.cache_folder() == tmp_path / "home" / ".cache" / "lmrs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert sources.cache_folder() == tmp_path / "xdg" / "lmrs"
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "own"))
    assert sources.cache_folder() == tmp_path / "own"
    assert sources.cache_folder(tmp_path / "given") == tmp_path / "given"


def test_a_store_by_path(tmp_path: Path) -> None:
    made = sources.synthetic(users=3, items=4, length=3)
    assert sources.load(store.write(made, tmp_path / "s")).fingerprint == made.fingerprint


def test_synthetic_by_name() -> None:
    data = sources.load("synthetic:users=7,items=6,length=4,spread=2,order=2,seed=3,repeats=false")
    assert (data.n_users, data.n_items) == (7, 6)
    assert sources.chain_of(data) == Chain(items=6, order=2, seed=3, repeats=False)
    assert all(len(set(history)) == len(history) for history in histories(data).values())
    with pytest.raises(DataError, match="got 'user'; did you mean users"):
        sources.load("synthetic:user=3")
    with pytest.raises(DataError, match="a value for users, got 'x'"):
        sources.load("synthetic:users=x")
    with pytest.raises(DataError, match="items >= 2"):
        sources.load("synthetic:items=1")
    with pytest.raises(DataError, match="only these have a known ceiling"):
        sources.chain_of(data.__class__(name="other", vocab=data.vocab, item=data.item, offsets=data.offsets))


@pytest.mark.parametrize("chain", [{"order": 1}, {"order": 2, "items": 12}, {"repeats": False, "items": 40}])
def test_the_chain_draws_from_its_own_table(chain: dict) -> None:
    data = sources.synthetic(users=4000, **{"items": 20, "length": 12} | chain)
    queries = split.leave_one_out(data).test
    law = sources.next_law(sources.chain_of(data), queries)
    assert law.sum(axis=1) == pytest.approx(1)
    truth = data.item[queries.stop]
    expected, counted = law.sum(axis=0), np.bincount(truth, minlength=data.n_items)
    assert np.abs(counted - expected).max() < 5 * np.sqrt((law * (1 - law)).sum(axis=0).max())  # five standard deviations
    surprise = -np.log(law[np.arange(len(queries)), truth]).mean()
    entropy = -(law * np.log(np.maximum(law, 1e-300))).sum(axis=1).mean()
    assert surprise == pytest.approx(entropy, abs=0.1)


def test_the_ceiling_by_hand() -> None:
    data = sources.synthetic(users=3, items=5, length=4, seed=1)
    queries, chain = split.leave_one_out(data).test, sources.chain_of(data)
    table = sources.transitions(chain)
    open_, closed = (sources.synthetic_ceiling(chain, queries, k=2, exclude_seen=seen) for seen in (False, True))
    for at in range(3):
        history = [int(text[1:]) for text in data.vocab.item_ids(queries.history(at))]
        row = table[history[-1]]
        first, second = sorted(row, reverse=True)[:2]
        assert open_["HR@2"][at] == pytest.approx(first + second)
        assert open_["NDCG@2"][at] == pytest.approx(first + second / np.log2(3))
        fresh = sorted((p for item, p in enumerate(row) if item not in history), reverse=True)[:2]
        assert closed["HR@2"][at] == pytest.approx(sum(fresh))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ranking_by_the_true_law_reaches_the_ceiling_and_not_more(exclude_seen: bool) -> None:
    data = sources.synthetic(users=4000, items=30, length=8)
    queries, chain = split.leave_one_out(data).test, sources.chain_of(data)
    scores = sources.next_law(chain, queries)
    if exclude_seen:
        for at in range(len(queries)):
            scores[at, queries.history(at)] = -1
    truth = data.item[queries.stop]
    own = scores[np.arange(len(queries)), truth]
    rank = (scores > own[:, None]).sum(axis=1)
    hit = (rank < 5) & (own >= 0)
    ceiling = sources.synthetic_ceiling(chain, queries, k=5, exclude_seen=exclude_seen)
    assert hit.mean() == pytest.approx(ceiling["HR@5"].mean(), abs=0.025)
    assert (hit / np.log2(rank + 2)).mean() == pytest.approx(ceiling["NDCG@5"].mean(), abs=0.025)


class TestSynthetic(SourceTests):
    load: ClassVar = staticmethod(lambda: sources.load("synthetic:users=20,items=9,length=6,spread=3"))


class TestFolder(SourceTests):
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path, cache: Path) -> None:
        rows = "".join(f"u{n % 7},i{n * n % 5},{1_500_000_000 + n % 4},{n % 5}\n" for n in range(60))
        where = folder(
            tmp_path, interactions__csv="user,item,time,rating\n" + rows, items__csv="item,title,tags\ni9,Nine,a|b\ni0,Zero,\n"
        )
        type(self).load = staticmethod(lambda: sources.load(where))
