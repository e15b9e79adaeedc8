"""Dialogues: read, kept as records, split by whole dialogues, asked turn by turn; graph convolution, KBRD and UniCRS on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import talked
import torch

from lmrs import models, objectives, sources, store, systems, tasks, taxonomy, views
from lmrs.batch import from_rows
from lmrs.errors import DataError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import fit
from lmrs.measures import HR
from lmrs.records import COLUMNS, SLOT, Dialogues, check_values
from lmrs.sources.talks import GENRES
from lmrs.split import Queries, by_user, leave_one_out
from lmrs.system import learned
from lmrs.testing import SourceTests
from lmrs.testing.models import built
from lmrs.visibility import Causal

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


# -- the view and the task -------------------------------------------------------------------------------------------------


def test_a_turn_is_read_with_what_was_named_and_said_before(tmp_path):
    data = sources.load(folder(tmp_path, [FIRST, SECOND]), cache=tmp_path / "cache")
    everything = data.offsets[:-1], data.offsets[1:]
    rows = views.Turns().within(data, *everything)
    assert rows.turn.tolist() == [1, 1, 3]
    assert rows.target.tolist() == [1, 0, 1]
    batch = views.Turns().collate(rows)
    assert batch.rows["example"].tolist() == [0, 1, 2]
    assert batch.channels["item"].tolist() == [3, 0, 1, 3, 0, 0, 3, 1]  # 3: nothing was named yet
    assert batch.texts["context"] == ("seeker: Hi, I'm after Heat (1995) <mask> or @99",) * 2 + ("",)
    assert batch.texts["response"] == (f"Try {SLOT}, not {SLOT}",) * 2 + (f"{SLOT}?",)
    asked = views.Turns().collate(views.Turns().asked(rows, asks=0))
    assert asked.channels["item"].tolist() == [3, 0, 3, 0, 3]
    assert asked.texts["response"] == (None,) * 3
    assert asked.texts["context"] == batch.texts["context"]
    both = views.Turns(speakers="both", reveal=True)
    shown = both.collate(both.within(data, *everything))
    assert shown.texts["sentence"][0] == "recommender: Try Ronin & Co, not Heat (1995)"
    assert both.collate(both.asked(both.within(data, *everything), asks=0)).texts["sentence"] == (None,) * 4
    assert len(both.within(data, *everything)) == 4


def test_a_text_cannot_begin_another_turn():
    data = talked.data(4)
    table = data.records["dialogues"]
    rows = table.to_pylist()
    rows[0]["text"] += "\nrecommender: try this"
    data = replace(data, records={"dialogues": pa.Table.from_pylist(rows, schema=table.schema)})
    found = views.Turns().collate(views.Turns().within(data, data.offsets[:-1], data.offsets[1:]))
    assert found.texts["context"][0].count("\n") == 0 or "\nrecommender: try this" not in found.texts["context"][0]
    assert any("recommender: try this" in each for each in found.texts["context"])


def test_long_dialogues_keep_the_newest():
    data = talked.data(10, rounds=4)
    view = views.Turns(max_len=3, turns=2)
    rows = view.within(data, data.offsets[:-1], data.offsets[1:])
    batch = view.collate(rows)
    assert batch.lengths.max() == 4  # the symbol, two items, the target
    assert max(each.count("\n") for each in batch.texts["context"]) == 1
    said = Dialogues.of(data.records["dialogues"])
    late = int(np.argmax(said.turn[rows.turn]))
    row = batch.rows["example"].tolist().index(late)
    here = batch.channels["item"][int(batch.offsets[row]) : int(batch.offsets[row + 1])]
    wanted = data.item[said.event[rows.turn[late]] - 2 : said.event[rows.turn[late]]].tolist()
    assert here.tolist() == [data.n_items, *wanted, rows.target[late]]


def test_training_reads_no_held_out_dialogue_and_the_task_asks_all_its_turns():
    split = by_user(talked.data())
    rows = views.Turns().rows(split.train, ahead=1, rng=np.random.default_rng(0))
    assert not set(rows.user) & set(split.test.user.tolist() + split.valid.user.tolist())
    asked = tasks.Conversing().rows(split.test)
    assert set(asked.user) == set(split.test.user.tolist())
    assert len(asked) == 2 * len(split.test)  # every turn of the recommender, not the last alone
    late = leave_one_out(talked.data())
    only = tasks.Conversing().rows(late.test)
    said = Dialogues.of(late.dataset.records["dialogues"])
    assert (said.event[only.turn] >= late.test.stop[np.searchsorted(late.test.user, only.user)]).all()
    known = views.Turns().rows(late.train, ahead=1, rng=np.random.default_rng(0))
    assert not set(known.turn.tolist()) & set(only.turn.tolist())


def test_repeats_are_asked_for_unless_they_are_not_wanted(tmp_path):
    data = sources.load(folder(tmp_path, [FIRST, SECOND]), cache=tmp_path / "cache")
    asked = Queries(data, np.array([0]), np.array([2]), np.array([3]), np.array([0]))
    assert tasks.Conversing().rows(asked).target.tolist() == [1, 0]
    assert tasks.Conversing(repeats=False).rows(asked).target.tolist() == [1]  # Heat was the seeker's


def test_popularity_is_judged_as_counted_by_hand():
    split = by_user(talked.data(80))
    system = replace(systems.popularity(), task=tasks.Conversing())
    found = evaluate(fit(system, split), split)
    counts = split.train.counts()
    rows = tasks.Conversing().rows(split.test)
    above = (counts[None, :] > counts[rows.target][:, None]).sum(1)
    ties = (counts[None, :] == counts[rows.target][:, None]).sum(1)
    low, high = (above + ties <= 10).mean(), (above < 10).mean()  # ties are broken at random
    assert low <= found.measures["Recall@10"] <= high
    assert found.table.num_rows == len(rows)
    assert found.protocol.queries == len(rows)
    assert 0 < found.facts["nothing_named"] < 1


def test_data_without_dialogues_is_refused():
    with pytest.raises(DataError, match="needed data with dialogues"):
        fit(systems.kbrd(), leave_one_out(sources.synthetic(users=8)))
    with pytest.raises(UserError, match="a measure of ranks"):
        tasks.Conversing().measure("Coverage@10")


# -- the graph, KBRD -------------------------------------------------------------------------------------------------------


def test_relational_convolution_is_the_equation():
    split = by_user(talked.data())
    about = models.Relational(dim=6, bases=3)
    graph = about.knowledge.of(split.train)
    torch.manual_seed(0)
    module = about.build(graph).double()
    weight = torch.einsum("rb,bde->rde", module.share, module.bases)
    x = module.nodes.weight
    kinds = sorted({int(kind) for head, kind in zip(graph.head, graph.relation) if head < graph.n_items})
    for item in range(0, graph.n_items, 5):
        wanted = x[item] + module.own.weight @ x[item]
        for place, kind in enumerate(kinds):
            near = graph.tail[(graph.head == item) & (graph.relation == kind)]
            if len(near):
                wanted = wanted + torch.stack([x[int(node)] for node in near]).mean(0) @ weight[place]
        assert torch.allclose(module()[item], wanted)


def test_relations_with_few_edges_are_left_out():
    split = by_user(talked.data())
    graph = models.Relational().knowledge.of(split.train)
    assert len(models.Relational(dim=4, least=25).build(graph).starts) == 0
    assert models.Relational(dim=4, least=24).build(graph)().shape == (24, 4)


def test_named_entities_are_pooled_by_attention():
    split = by_user(talked.data())
    model = models.NamedEntities(models.Relational(dim=6, bases=2), hidden=5, max_len=9)
    network = built(model, split.train)
    batch = model_batch(split, [[2, 5, 7], [1], []])
    states = network(batch, Causal())
    h = network.entities()[[2, 5, 7]]
    alpha = torch.softmax(network.weigh(network.attend(h).tanh())[:, 0], 0)
    assert torch.allclose(states[3], alpha @ h)
    assert torch.allclose(states[5], network.entities()[1])
    assert not states[[0, 4, 6]].any(), "what names nothing gives zeros"


def model_batch(split, histories):
    symbol = split.dataset.vocab.mask
    flat = torch.tensor([item for each in histories for item in (symbol, *each)])
    return from_rows({"item": flat}, torch.tensor([len(each) + 1 for each in histories]))


def ceiling(rows, k: int) -> float:
    """The mean of the best expected Recall@k over the questions."""
    law, data = sources.talk_of(rows.dataset), rows.dataset
    genre = data.vocab.attributes["genre"].values
    said = Dialogues.of(data.records["dialogues"])
    best = []
    for user, turn in zip(rows.user, rows.turn, strict=True):
        named = set(data.item[data.offsets[user] : said.event[turn]].tolist())
        words = set(said.text[int(np.flatnonzero(said.dialogue == user)[0])].as_py().split())
        told = [
            at for at, name in enumerate(data.vocab.attributes["genre"].names.to_pylist()) if words & set(GENRES[name].split())
        ]
        wanted = told[0] if told else genre[data.item[data.offsets[user]]]
        count = sum(genre[item] == wanted for item in named)
        best.append(sources.talk_ceiling(law, of_genre=np.array([count]), named=np.array([len(named)]), k=k)[0])
    return float(np.mean(best))


def test_kbrd_learns_what_the_named_items_tell_and_no_more():
    """Between chance and the ceiling; where the genre is told in words alone it cannot know."""
    split = by_user(talked.data(500, sharpness=5.0), test=0.2)
    system = systems.kbrd(dim=16, bases=2, epochs=25, batch_size=64, lr=0.01, weight_decay=0.05)
    fitted = fit(system, split, seed=1)
    rows = system.task.rows(split.test)
    values = system.task.judge(fitted.scorer, fitted.objective, rows, fitted.vocab, measures=[HR(5)], seed=0).values["HR@5"]
    named = rows.stop > rows.start
    assert values[named].mean() > 0.6 * ceiling(rows.take(np.flatnonzero(named)), 5)
    assert values[named].mean() > values[~named].mean() + 0.3
    assert abs(values[~named].mean() - 5 / 24) < 0.2


# -- UniCRS ----------------------------------------------------------------------------------------------------------------

SMALL = {"backbone": "tiny-encoder", "task": 2, "context": 60, "dim": 8, "bases": 2}


def prompted(split, **options):
    """(UniCRS's network in fp64, its vocabulary) on small data."""
    return built_on(systems.unicrs(**SMALL | options).model, split)


def built_on(model, split):
    vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return model.build(replace(vocab, prepared=model.prepare(split.train, seed=1))).double()


def test_words_and_items_are_joined_as_in_the_equation():
    fusion = prompted(talked.split(20)).prompt.fusion
    rng = torch.Generator().manual_seed(0)
    table, words = (torch.randn(*size, 32, generator=rng).double() for size in ((5,), (2, 4)))
    item, real = torch.tensor([[5, 2, 0], [5, 5, 5]]), torch.tensor([[True] * 4, [True, True, False, False]])
    found = fusion(table, item, words, real)
    for row, n in ((0, 4), (1, 2)):
        tokens = fusion.tokens(words[row, :n])
        chosen = torch.stack([table[each] if each < 5 else fusion.nothing.weight[0] for each in item[row].tolist()])
        share = torch.softmax(tokens @ fusion.affinity.weight.T @ chosen.T / 32, 0)
        assert torch.allclose(found[row], fusion.out(share.T @ tokens + chosen))


def test_padding_of_texts_and_of_items_changes_nothing():
    split = talked.split(20)
    for backbone in ("tiny-encoder", "tiny-causal"):
        network = prompted(split, backbone=backbone)
        view = views.Turns()
        rows = view.asked(view.within(split.dataset, split.dataset.offsets[:-1], split.dataset.offsets[1:]), asks=0)
        batch = view.collate(rows.take(np.arange(12)))
        whole = network(batch, Causal(), at=batch.last)
        for row in range(12):
            one = batch.take(torch.tensor([row]))
            assert torch.allclose(network(one, Causal(), at=one.last)[0], whole[row], atol=1e-9)


def test_a_bare_history_is_read_as_what_the_seeker_named():
    split = talked.split(20)
    network = prompted(split, fuse=False)  # the words alone
    bare = from_rows({"item": torch.tensor([3, 1])}, torch.tensor([2]))
    said = replace(bare, texts={"context": ("seeker: " + ", ".join(split.dataset.titles(np.array([3, 1]))),)})
    assert torch.equal(network(bare, Causal(), at=bare.last), network(said, Causal(), at=said.last))


def test_pre_training_reads_the_sentence_and_no_task_vectors():
    split = talked.split(20)
    network = prompted(split)
    bare = from_rows({"item": torch.tensor([3])}, torch.tensor([1]))
    one = replace(bare, texts={"context": ("seeker: Hello",)})
    two = replace(one, texts=one.texts | {"sentence": ("recommender: try it",)})
    longer = replace(bare, texts={"context": ("seeker: Hello\nrecommender: try it",)})
    with torch.no_grad():
        before = network(two, Causal())
        assert not torch.allclose(before, network(longer, Causal()))  # task vectors
        network.prompt.task.vectors.weight.add_(1.0)
        assert torch.equal(network(two, Causal()), before)
        network.prompt.task = None
        assert torch.allclose(network(longer, Causal()), before)
        assert not torch.allclose(network(one, Causal()), before)


def test_the_newest_words_are_kept():
    network = prompted(talked.split(20), context=12)
    ids = network._cut(list(range(100, 150)))
    assert len(ids) == 12
    assert ids[1:] == list(range(139, 150))
    assert ids[0] == network.tokens.cls


def test_dialogues_cannot_write_markup():
    network = prompted(talked.split(20))
    assert network.tokens.sep not in network._line("seeker: [SEP] [MASK] <|endoftext|>")[:-1]
    assert network.tokens.mask not in network._line("seeker: [SEP] [MASK]")


def test_the_language_model_is_neither_tuned_nor_saved():
    split = talked.split(24)
    system = systems.unicrs(**SMALL | {"context": 12}, pretrain_epochs=1, epochs=1)
    assert taxonomy.cell(system) == taxonomy.FIXED_MODEL
    fitted = fit(system, split)
    fresh = system.model.backbone.build().state_dict()
    for name, tensor in fitted.scorer.backbone.state_dict().items():
        assert torch.equal(tensor, fresh[name]), name
    assert not any(learned(system, name) for name in fitted.scorer.state_dict() if name.startswith("backbone."))
    assert "valid" not in fitted.log[0]
    assert fitted.log[1]["valid"]


def test_the_prompts_alone_can_learn_a_few_answers_by_heart():
    """Gradients reach them through the frozen model, and the scores follow."""
    split = talked.split(40)
    network = prompted(split, context=24).float()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith("backbone."))
    objective, view = objectives.NextItem(places="last"), views.Turns()
    rows = view.rows(split.train, ahead=1, rng=np.random.default_rng(0)).take(np.arange(12))
    prepared = objective.corrupt(view.collate(rows), split.dataset.vocab, torch.Generator())
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective.charge(network, None, prepared, split.dataset.vocab, None)["next"] / 12
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert float(loss.detach()) < math.log(24) - 0.5
