"""Dialogues: read, kept as records, split by whole dialogues, asked turn by turn; graph convolution, KBRD and UniCRS on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrs import sources, store
from lmrs.errors import DataError
from lmrs.records import COLUMNS, SLOT, Dialogues, check_values
from lmrs.split import by_user, leave_one_out
from lmrs.testing import SourceTests

FIRST = {
    "conversation_id": "7", "initiator_id": 1, "respondent_id": 2, "split": "train",
    "movie_mentions": [{"movie_id": "11", "title": "Heat  (1995)"}, {"movie_id": "12", "title": "Ronin &amp; Co"}],
    "initiator_answers": [{"movie_id": "11", "liked": 1}, {"movie_id": "12", "liked": 0}],
    "messages": [
        {"message_id": 0, "sender_id": 1, "time_offset": 0, "text": "Hi,  I&#39;m after @11"},
        {"message_id": 1, "sender_id": 1, "time_offset": 3, "text": "<mask> or @99"},
        {"message_id": 2, "sender_id": 2, "time_offset": 5, "text": f"Try {SLOT}@12, not @11"},
        {"message_id": 3, "sender_id": 1, "time_offset": 9, "text": "Thanks"},
    ],
}  # fmt: skip
SECOND = FIRST | {"conversation_id": "8", "messages": [{"message_id": 4, "sender_id": 2, "time_offset": 0, "text": "@12?"}]}
SILENT = FIRST | {"conversation_id": "9", "messages": [{"message_id": 5, "sender_id": 2, "time_offset": 0, "text": "Hello"}]}


def folder(tmp_path: Path, rows: list[dict]) -> Path:
    path = tmp_path / "talks"
    path.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), path / "dialogues.parquet")
    pq.write_table(
        pa.table(
            {
                "movie_id": ["12", "13"],
                "dbpedia_uri": [None, "<http://dbpedia.org/resource/Casino_(1995_film)>"],
                "entity_id": pa.array([4, 5], pa.int32()),
            }
        ),
        path / "movie_entities.parquet",
    )
    uris = [f"<http://dbpedia.org/resource/{name}>" for name in ("Robert_De_Niro", "New_York")]
    pq.write_table(pa.table({"entity_id": [6, 7], "dbpedia_uri": uris}), path / "entities.parquet")
    triples = {"head": [4, 5, 5, 6], "relation": [1, 1, 2, 3], "tail": [6, 6, 5, 7]}
    pq.write_table(pa.table({k: pa.array(v, pa.int32()) for k, v in triples.items()}), path / "kg_triples.parquet")
    return path


def test_redial_is_read(tmp_path):
    data = sources.load(folder(tmp_path, [FIRST, SECOND, SILENT]), cache=tmp_path / "cache")
    assert data.records["dialogues"].to_pylist() == [
        {"dialogue": 0, "turn": 0, "role": "seeker", "text": f"Hi, I'm after {SLOT} <mask> or @99", "items": [0], "event": 0},
        {"dialogue": 0, "turn": 1, "role": "recommender", "text": f"Try {SLOT}, not {SLOT}", "items": [1, 0], "event": 1},
        {"dialogue": 0, "turn": 2, "role": "seeker", "text": "Thanks", "items": [], "event": 3},
        {"dialogue": 1, "turn": 0, "role": "recommender", "text": f"{SLOT}?", "items": [1], "event": 3},
    ]
    assert data.vocab.items.to_pylist() == ["11", "12", "13"]
    assert data.titles([0, 1, 2]) == ["Heat (1995)", "Ronin & Co", "Casino (1995 film)"]
    assert data.item.tolist() == [0, 1, 0, 1]
    assert [data.types[code] for code in data.type] == [
        "seeker, liked",
        "recommender, disliked",
        "recommender, liked",
        "recommender, disliked",
    ]
    assert data.edges.to_pylist() == [  # without the edge to itself and the one that touches no film
        {"head": "entity 4", "relation": "relation 1", "tail": "Robert De Niro", "head_item": 1, "tail_item": None},
        {"head": "entity 5", "relation": "relation 1", "tail": "Robert De Niro", "head_item": 2, "tail_item": None},
    ]
    assert "1 dialogues name no film" in " ".join(data.about["notes"])


def test_json_lines_of_the_authors_say_the_same(tmp_path):
    wanted = sources.load(folder(tmp_path, [FIRST]), cache=tmp_path / "cache")
    path = tmp_path / "lines"
    path.mkdir()
    line = {
        "conversationId": 7, "initiatorWorkerId": 1, "respondentWorkerId": 2,
        "movieMentions": {"11": "Heat  (1995)", "12": "Ronin &amp; Co"},
        "initiatorQuestions": {"11": {"liked": 1}, "12": {"liked": 0}},
        "messages": [{"senderWorkerId": m["sender_id"], "text": m["text"]} for m in FIRST["messages"]],
    }  # fmt: skip
    (path / "train_data.jsonl").write_text(json.dumps(line) + "\n\n")
    found = sources.load(path, cache=tmp_path / "cache")
    assert found.records["dialogues"].to_pylist() == wanted.records["dialogues"].to_pylist()
    assert found.type.tolist() == wanted.type.tolist()
    assert found.users.to_pylist() == [{"user_id": "7", "split": "train"}]
    (path / "test_data.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"test_data.jsonl:1"):
        sources.load(path, cache=tmp_path / "cache")
    lenient = sources.load(path, cache=tmp_path / "cache", lenient=True)
    assert lenient.about["quarantined"] == 1


def test_the_store_keeps_dialogues(tmp_path):
    data = sources.synthetic_dialogues(dialogues=6)
    back = store.open(store.write(data, tmp_path / "s"))
    assert back.records["dialogues"].equals(data.records["dialogues"])
    assert back.fingerprint == data.fingerprint


GOOD = sources.synthetic_dialogues(dialogues=4).records["dialogues"].to_pylist()


@pytest.mark.parametrize(
    ("row", "change", "match"),
    [
        (0, {"role": "bot"}, "the roles seeker and recommender, got 'bot'"),
        (0, {"text": "nothing"}, "as many slots in a text as items"),
        (1, {"turn": 2}, "the turns 0, 1, 2"),
        (1, {"event": 0}, "go on where the turn before ended"),
        (1, {"items": [99]}, r"dialogues.items from 0 to 59"),
        (1, {"text": None}, "a text in every row"),
    ],
)
def test_wrong_dialogues_are_refused(row, change, match):
    if change.get("text"):
        row = next(at for at, each in enumerate(GOOD) if each["items"])
    rows = [*GOOD[:row], GOOD[row] | change, *GOOD[row + 1 :]]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(COLUMNS["dialogues"].items())))
    with pytest.raises(DataError, match=match):
        check_values({"dialogues": table}, users=4, items=60, events=50)


class TestSyntheticDialogues(SourceTests):
    def load(self):
        return sources.load("synthetic-dialogues:dialogues=30,films=24,genres=4")


def test_the_synthetic_law_is_the_stated_one():
    data = sources.synthetic_dialogues(dialogues=4000, films=24, genres=4, rounds=1, sharpness=2.0, told=0.0)
    genre = data.vocab.attributes["genre"].values
    first, second = data.item.reshape(-1, 2).T  # the seeker's film, the recommender's
    share = (genre[first] == genre[second]).mean()
    mass = 5 * np.exp(2.0)  # five films of the genre are left, eighteen others
    assert abs(share - mass / (mass + 18)) < 0.03
    assert (first != second).all()
    ceiling = sources.talk_ceiling(sources.talk_of(data), of_genre=np.array([1]), named=np.array([1]), k=5)
    assert ceiling[0] == pytest.approx(mass / (mass + 18))
    assert sources.talk_ceiling(sources.talk_of(data), of_genre=np.array([1]), named=np.array([1]), k=23)[0] == pytest.approx(1)
    with pytest.raises(DataError, match=r"from sources\.synthetic_dialogues"):
        sources.talk_of(sources.synthetic(users=5))


def test_turns_of_whole_held_out_dialogues_are_unseen():
    data = sources.synthetic_dialogues(dialogues=40)
    split = by_user(data)
    said = Dialogues.of(data.records["dialogues"])
    known = said.within(data.offsets[:-1], split.train.stop)
    held = np.isin(said.dialogue, [*split.test.user, *split.valid.user])
    assert not (known & held).any()
    assert known[~held & (said.stop > said.event)].all()
    assert (split.test.unseen == data.offsets[split.test.user]).all()
    assert (split.test.take(np.array([1])).unseen == split.test.unseen[1:2]).all()
    assert leave_one_out(data).test.unseen is None
