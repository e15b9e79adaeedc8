"""Sequence-to-sequence recommenders that spell items: prompts of codes, exact and searched scores, new items, what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs import indexing, models, objectives, systems, tasks, views
from lmrs.batch import from_rows
from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, ContractError
from lmrs.fit import Execution, Fitted, fit
from lmrs.judge import judge
from lmrs.language import Backbone
from lmrs.models.code_prompts import CodePrompts
from lmrs.models.generative import GenerativeNetwork
from lmrs.models.reserved import Reserve
from lmrs.recommender import Recommender
from lmrs.split import leave_one_out
from lmrs.system import Budget, System
from lmrs.testing import tiny
from lmrs.testing.models import built
from lmrs.texts import TextEncoder
from lmrs.visibility import Causal, Full
from lmrs.vocab import Vocab

READER = TextEncoder(Backbone("tiny-encoder"))
SIZES = models.Scratch(dim=16, layers=1, heads=2, head_dim=8, inner=32)
PLAIN = models.Generative(indexing.Random(2, 4), fresh=SIZES, beams=None, max_len=9)
WORDS = ("{user} had {list history}. Next:", "After {list history} comes", "What would {user} like?")
SPEAKING = models.Generative(
    indexing.NumberText(), Backbone("tiny-seq2seq"), SIZES, WORDS, whole_words=True, beams=None, max_len=9
)


def network(about: models.Generative) -> GenerativeNetwork:
    made = built(about, tiny.split().train)
    assert isinstance(made, GenerativeNetwork)
    return made


# -- prompts -------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_its_words_its_user_and_its_items() -> None:
    made = network(SPEAKING)
    tokens = Backbone("tiny-seq2seq").tokenizer()
    batch = tiny.batch(tiny.split().train, lengths=(3, 1))
    item, user = batch.channels["item"].tolist(), batch.rows["user"].tolist()
    told = [tokens.decode(made.index.code(number)) for number in range(made.n_items)]
    shown = made.show(batch, batch.last)
    assert shown[0] == f"user_{user[0]} had {told[item[0]]}; {told[item[1]]}; {told[item[2]]}. Next:</s>"
    nobody = replace(batch, rows={**batch.rows, "user": torch.tensor([-1, 10**6])})
    assert made.show(nobody, nobody.last)[1] == f"After {told[item[3]]} comes</s>", "a user nobody knows is not named"
    drawn = replace(batch, rows={**batch.rows, "wording": torch.tensor([1, 2])})
    assert made.show(drawn, drawn.last) == [
        f"After {told[item[0]]}; {told[item[1]]}; {told[item[2]]} comes</s>", f"What would user_{user[1]} like?</s>"
    ]  # fmt: skip
    with pytest.raises(ContractError, match="wordings 0 to 2, got 1 to 7"):
        made.written(replace(batch, rows={**batch.rows, "wording": torch.tensor([1, 7])}), batch.last)


def test_the_pieces_of_an_item_are_one_word() -> None:
    made = network(SPEAKING)
    batch = tiny.batch(tiny.split().train, lengths=(2,))
    written = made.written(batch, batch.last)
    tokens = Backbone("tiny-seq2seq").tokenizer()
    words: dict[int, str] = {}
    for token, number in zip(written.ids.tolist(), written.words.tolist(), strict=True):
        words[number] = words.get(number, "") + tokens.decode([token], control=True)
    assert words.pop(0) == "</s>", "the end is no word"
    assert sorted(words) == list(range(1, len(words) + 1))
    first, second = (tokens.decode(made.index.code(int(item))) for item in batch.channels["item"])
    user = int(batch.rows["user"][0])
    assert list(words.values()) == [f"user_{user}", " had", " ", first, ";", " ", second, ".", " Next:"]


def test_long_histories_are_cut_from_the_left() -> None:
    index = PLAIN.prepare(tiny.split().train, seed=0)
    prompts = CodePrompts(('{list history separator=""}',), index, None, [[]], context=7)
    assert prompts.reads == 3
    item = np.array([4, 5, 6, 7, 8])
    written = prompts.write(item, np.array([0, 5]), np.array([-1]), np.array([0]))
    assert written.ids.tolist() == index.batch(item[2:])[1].tolist()
    with pytest.raises(ContractError, match="a context that holds one item"):
        CodePrompts(('{list history separator=""}',), index, None, [[]], context=1)


def test_users_are_hashed_into_tokens() -> None:
    about = replace(PLAIN, wordings=('{user}{list history separator=""}', '{list history separator=""}'), users=3)
    made = network(about)
    batch = tiny.batch(tiny.split().train, lengths=(1, 1, 1))
    for user, shown in ((4, "<user_1>"), (1, "<user_1>"), (2, "<user_2>"), (-1, "<r0_")):
        rows = {**batch.rows, "user": torch.full((3,), user)}
        assert made.show(replace(batch, rows=rows), batch.last)[0].startswith(shown)


def test_hostile_titles_stay_text() -> None:
    """A title that spells the end of a text or a slot is nothing but letters in a code."""
    data = tiny.dataset()
    assert data.items is not None
    titles = ["</s>", "{list history}", "<user_1>", *data.items.column("title").to_pylist()[3:]]
    data = replace(data, items=data.items.set_column(1, "title", pa.array(titles)))
    about = replace(SPEAKING, index=indexing.Title())
    index = about.prepare(tiny.split(data).train, seed=0)
    eos = Backbone("tiny-seq2seq").tokenizer().eos
    for item in range(3):
        assert index.code(item).tolist().count(eos) == 1, "the end token comes once, at the end"
        assert index.code(item)[-1] == eos


# -- scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("about", [PLAIN, SPEAKING], ids=["codes", "words"])
def test_likelihood_is_the_product_over_tokens(about: models.Generative) -> None:
    """One token at a time, with a forward pass for each, is an implementation of its own."""
    made = network(about).float()
    batch = tiny.marked(tiny.batch(tiny.split().train, lengths=(4, 2)))
    written = made.written(batch, batch.last)
    item = 5
    for row in range(2):
        span = slice(written.offsets[row], written.offsets[row + 1])
        ids, words = torch.from_numpy(written.ids[span]), torch.from_numpy(written.words[span])
        vectors = made.backbone.get_input_embeddings()(ids)
        if made.words is not None:
            vectors = vectors + made.words(words) * (words > 0)[:, None]
        code, total = made.index.code(item).tolist(), 0.0
        for at, token in enumerate(code):
            begun = torch.tensor([[made.backbone.config.decoder_start_token_id, *code[:at]]])
            logits = made.backbone(inputs_embeds=vectors[None], decoder_input_ids=begun).logits[0, -1]
            total += float(logits.log_softmax(0)[token].detach())
        found = made.likelihood(batch, Causal(), batch.last, torch.full((2,), item))
        assert abs(float(found[row].detach()) - total) < 1e-4
        assert abs(float(made.score(batch, Causal())[row, item]) - total) < 1e-4


def test_a_search_finds_items_with_their_exact_scores_and_nothing_else() -> None:
    exact = network(PLAIN).float()
    searched = network(replace(PLAIN, beams=5)).float()
    batch = tiny.marked(tiny.batch(tiny.split().train))
    whole, some = exact.score(batch, Causal()), searched.score(batch, Causal())
    found = some > some.min(1, keepdim=True).values + 0.5
    assert (found.sum(1) == 5).all(), "as many items as beams"
    assert torch.allclose(some[found], whole[found], atol=1e-4)
    assert (some[~found].view(len(some), -1).diff(dim=1) == 0).all(), "what is not found ties below"
    wide = network(replace(PLAIN, beams=10**6)).float().score(batch, Causal())
    assert torch.allclose(wide, whole, atol=1e-4), "with beams enough the search is exact"


def test_new_items_share_what_is_reserved_on_their_path() -> None:
    """Four paths: with both kinds of items, of old ones, of one new, of two new: the equation, and scores that agree."""
    codes = [(0, 9), (0, 10), (0, 11), (1, 9), (2, 9), (3, 9), (3, 10)]
    index = indexing.Index(
        "by hand", "", np.arange(8) * 2, np.array(codes, np.int32).ravel(), tuple("abcdefghijkl"), 0, "",
        indexing.Collisions(7, 4, 5, 3), 4,
    )  # fmt: skip
    made = Reserve.of(index, np.array([5, 0, 0, 2, 0, 0, 0]), 0.2)
    assert made.own.tolist() == [True, False, False, True, False, False, False]
    assert np.allclose(np.exp(made.more), [0.8, 0.1, 0.1, 1, 1, 0.5, 0.5])

    about = replace(PLAIN, index=indexing.Quantised(1, 3), encoder=READER, reserve=0.3)
    plain, reserved = (network(each).float() for each in (replace(about, reserve=0.0), about))
    batch = tiny.marked(tiny.batch(tiny.split().train, lengths=(4, 2)))
    whole, told = plain.score(batch, Causal()), reserved.score(batch, Causal())
    every = torch.arange(plain.n_items).expand(2, -1)
    assert torch.allclose(reserved.score_among(batch, Causal(), every), told, atol=1e-4)
    index, counts = plain.index, tiny.split().train.counts()
    assert (counts == 0).sum() >= 2
    beside = {index.code(item)[0] for item in np.flatnonzero(counts == 0).tolist()}
    for item in np.flatnonzero(counts > 0).tolist():
        less = np.log(0.7) if index.code(item)[0] in beside else 0.0
        assert torch.allclose(told[:, item], whole[:, item] + less, atol=1e-4)
    assert not torch.allclose(told[:, counts == 0], whole[:, counts == 0], atol=1e-2)


def test_another_wording_can_be_asked_after_training() -> None:
    made = network(SPEAKING).float()
    batch = tiny.marked(tiny.batch(tiny.split().train, lengths=(4, 2)))
    before = made.score(batch, Causal())
    made.about = replace(made.about, asking=1)
    assert not torch.allclose(made.score(batch, Causal()), before)


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"fresh": None}, "a backbone, or fresh sizes"),
        ({"backbone": Backbone("tiny-causal")}, "family seq2seq for Generative, got tiny-causal, of family causal"),
        ({"index": indexing.Quantised()}, "an encoder of item texts for Quantised"),
        ({"wordings": ("{user} {list history}",)}, "for users nobody knows"),
        ({"wordings": ("{list history}", "{title}")}, r"\{user\} and \{list history"),
        ({"wordings": ("{list history}", "[soft a 2]")}, r"\{user\} and \{list history"),
        ({"asking": 3}, "asking: the number of a wording"),
        ({"beams": 0}, "beams of at least 1"),
        ({"reserve": 1.0}, r"reserve in \[0, 1\)"),
    ],
)
def test_wrong_descriptions_are_refused(changed: dict, told: str) -> None:
    with pytest.raises(ContractError, match=told):
        replace(PLAIN, **changed)


def test_what_it_cannot_do_is_said() -> None:
    made, train = network(PLAIN), tiny.split().train
    batch = tiny.batch(train)
    with pytest.raises(ContractError, match="needed a network with states, got Generative"):
        made(batch, Causal())
    with pytest.raises(ContractError, match=r"Causal\(\) visibility"):
        made.likelihood(batch, Full(), batch.last, batch.last)
    with pytest.raises(ContractError, match=r"an index of the items in vocab\.prepared"):
        PLAIN.build(tiny.vocab(train))
    index = PLAIN.prepare(tiny.split(tiny.dataset(items=12)).train, seed=0)
    with pytest.raises(CheckpointError, match="an index of these items"):
        PLAIN.build(replace(tiny.vocab(train), prepared=index))
    with pytest.raises(ContractError, match="a tokeniser"):
        replace(PLAIN, index=indexing.NumberText()).prepare(train, seed=0)
    with pytest.raises(ContractError, match=r"an index among .*did you mean sequential"):
        systems.p5(index="sequentiel")
    with pytest.raises(ContractError, match="prompt 'seen' or 'unseen'"):
        systems.p5(prompt="new")


# -- several tasks at once -----------------------------------------------------------------------------------------------


def test_tasks_and_wordings_are_drawn_by_their_shares() -> None:
    made = objectives.Instructed((("a", 3.0, (0, 4)), ("b", 1.0, (2,))))
    assert made.weights == {"a": 0.75, "b": 0.25}
    lengths = torch.full((4000,), 2)
    batch = from_rows({"item": torch.arange(8000) % 5}, lengths)
    prepared = made.corrupt(batch, tiny.vocab(tiny.split().train), torch.Generator().manual_seed(0))
    shares = torch.bincount(prepared.rows["wording"], minlength=5) / 4000
    assert torch.allclose(shares, torch.tensor([0.375, 0, 0.25, 0, 0.375]), atol=0.03)
    counts = made.counts(prepared)
    assert counts["b"] == int((prepared.rows["wording"] == 2).sum())
    assert sum(counts.values()) == 4000


def test_each_task_is_charged_its_own_rows_in_its_own_words() -> None:
    made, train = network(SPEAKING), tiny.split().train
    objective = objectives.Instructed((("next", 1.0, (0, 1)), ("direct", 1.0, (2,))))
    batch = tiny.batch(train, lengths=(5, 2, 8, 3, 8, 6))
    prepared = objective.corrupt(batch, tiny.vocab(train), torch.Generator().manual_seed(3))
    charged = objective.charge(made, None, prepared, tiny.vocab(train), None)
    cost = -made.likelihood(prepared, Causal(), prepared.last, prepared.channels["target"][prepared.last])
    direct = prepared.rows["wording"] == 2
    assert 0 < int(direct.sum()) < 6
    assert torch.allclose(charged["direct"], cost[direct].sum())
    assert torch.allclose(charged["next"], cost[~direct].sum())


@pytest.mark.parametrize(
    "wrong",
    [(), (("a", 0.0, (0,)),), (("a", 1.0, ()),), (("a", 1.0, (0,)), ("a", 1.0, (1,))), (("a", 1.0, (0,)), ("b", 1.0, (0,)))],
)
def test_wrong_tasks_are_refused(wrong: tuple) -> None:
    with pytest.raises(ContractError, match="tasks with distinct names"):
        objectives.Instructed(wrong)


# -- the systems ---------------------------------------------------------------------------------------------------------

KINDS = ("red war movie", "good news article", "blue garden chair", "tiny jazz record", "hot pepper sauce", "wool winter hat")
ITEMS, COLD = 60, 6
SMALL = {
    "dim": 32,
    "layers": 1,
    "heads": 2,
    "max_len": 6,
    "batch_size": 64,
    "beams": None,
    "patience": None,
    "lr": 1e-2,
    "dropout": 0.0,
}


def clustered(users: int = 240, length: int = 7, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Users stay with one of six kinds of item; a text says the kind. The last tenth of the items occur only as last events."""
    rng = np.random.default_rng(seed)
    kind = np.arange(ITEMS) % 6
    warm = np.arange(ITEMS - COLD)
    item = np.zeros((users, length), np.int32)
    for user in range(users):
        own = warm[kind[warm] == user % 6]
        item[user] = np.where(rng.random(length) < 0.9, rng.choice(own, length), rng.choice(warm, length))
    cold = np.flatnonzero(rng.random(users) < 0.3)
    item[cold, -1] = ITEMS - COLD + cold % 6
    ids = [f"i{n}" for n in range(ITEMS)]
    titles = [f"{KINDS[kind[n]]} {n}" for n in range(ITEMS)]
    vocab = Vocab(pa.array(ids, pa.large_string()), pa.array([f"u{n}" for n in range(users)], pa.large_string()))
    data = Dataset(
        "clustered", vocab, item.reshape(-1), np.arange(users + 1) * length,
        time=np.arange(users * length) * tiny.DAY, items=pa.table({"item_id": ids, "title": titles}),
    )  # fmt: skip
    return data, cold


@cache
def trained(system: System) -> Fitted:
    return fit(system, leave_one_out(clustered()[0]), seed=1, execution=Execution(device="cpu"))


def beaten(fitted: Fitted, queries: np.ndarray) -> float:
    """Share of the other items that the truth of some test queries beats: 1 is the top, chance is .5."""
    split = fitted.split
    judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test.take(queries), fitted.vocab, k=10, seed=0)
    return float(1 - (np.asarray(judged.ranks.rank, np.float64) - 1).mean() / (ITEMS - 1))


def tiger() -> System:
    # A reader that knows nothing still tells texts apart by their words.
    return systems.tiger(
        backbone="tiny-encoder", index="rq-kmeans", levels=1, codes=6, users=0, head_dim=16, inner=64, epochs=5, every=5, **SMALL
    )


def test_items_that_nobody_had_in_training_are_found_by_their_codes() -> None:
    """A tenth of the catalogue is new. Its texts put it beside items of its kind; an id that was never trained says nothing."""
    _, cold = clustered()
    by_text = trained(tiger())
    assert by_text.vocab.counts is not None
    assert (by_text.vocab.counts[-COLD:] == 0).all()
    by_id = trained(systems.sasrec(dim=16, max_len=6, epochs=12, batch_size=64))
    assert beaten(by_text, cold) > 0.75
    assert beaten(by_id, cold) < 0.6
    network = by_text.scorer
    assert isinstance(network, GenerativeNetwork)
    kept, network.reserve = network.reserve, None
    without = beaten(by_text, cold)
    network.reserve = kept
    assert without < 0.7, "what tells items of one path apart is not known of a new one"


def test_a_search_recommends_items_of_the_catalogue_alone() -> None:
    fitted = trained(tiger())
    network = fitted.scorer
    assert isinstance(network, GenerativeNetwork)
    trie = network.index.trie
    rng = np.random.default_rng(0)
    for item in rng.choice(ITEMS, 10, replace=False).tolist():
        assert trie.walk(network.index.code(item)) == item
    network.about = replace(network.about, beams=16)
    found = Recommender.of(fitted).recommend([f"i{n}" for n in (2, 8, 14, 20)], k=12)
    assert len(set(found.ids)) == 12
    assert set(found.ids) <= {f"i{n}" for n in range(ITEMS)}
    assert sum(int(each[1:]) % 6 == 2 for each in found.ids[:4]) >= 3, "the kind of the history comes first"
    network.about = replace(network.about, beams=None)


def test_p5_learns_what_comes_next_and_whom_to_recommend_what() -> None:
    system = systems.p5(index="collaborative", branches=6, cluster=12, epochs=10, every=10, whole_words=False, **SMALL)
    fitted = trained(system)
    warm = np.setdiff1d(np.arange(240), clustered()[1])
    seen = beaten(fitted, warm)
    assert 0.7 < seen < 0.97, "the kind is known (.9 of the time), the item within it is not"
    assert set(fitted.log[-1]["loss"]) == {"sequential", "direct"}
    objective = fitted.objective
    assert isinstance(objective, objectives.Families)
    network = fitted.scorer
    assert isinstance(network, GenerativeNetwork)
    other = systems.p5(index="collaborative", branches=6, cluster=12, whole_words=False, prompt="unseen", **SMALL).model
    assert isinstance(other, models.Answering)
    assert other.questions[other.asking] not in objective.questions
    network.about = other
    unseen = beaten(fitted, warm)
    network.about = fitted.system.model  # type: ignore[assignment]
    assert unseen > 0.65, "wordings that training never showed are understood"


# -- files ---------------------------------------------------------------------------------------------------------------


def test_the_index_is_saved_beside_the_weights_and_checked(tmp_path: Path) -> None:
    recommender = Recommender.of(trained(tiger()))
    folder = recommender.save(tmp_path / "model")
    assert {"index.arrow", "index.json"} <= {file.name for file in folder.iterdir()}
    history = ["i2", "i8", "i14"]
    assert Recommender.load(folder).recommend(history, k=5).ids == recommender.recommend(history, k=5).ids
    whole = (folder / "index.json").read_bytes()
    (folder / "index.json").write_bytes(whole.replace(b"<a_", b"<b_", 1))
    with pytest.raises(CheckpointError, match=r"index.json.*checksum"):
        Recommender.load(folder)
    (folder / "index.json").unlink()
    with pytest.raises(CheckpointError, match=r"index.json, got no such file"):
        Recommender.load(folder)


def test_an_index_belongs_to_the_identity_of_a_run(tmp_path: Path) -> None:
    """A checkpoint goes on with the index it began with: the fit that finds another one refuses it."""
    train = tiny.split().train
    one, two, again = (PLAIN.prepare(train, seed=seed) for seed in (0, 1, 0))
    assert one.fingerprint == again.fingerprint != two.fingerprint
    system = replace(tiger(), model=PLAIN, stages=(replace(tiger().stages[0], budget=Budget(epochs=1)),))
    system = replace(system, task=tasks.Ranking(views.ItemSequence(max_len=6)))
    fit(system, tiny.split(), out=tmp_path / "run", execution=Execution(device="cpu"))
    other = replace(system, model=replace(PLAIN, index=indexing.Random(3, 4)))
    with pytest.raises(CheckpointError, match="prepared"):
        fit(other, tiny.split(), out=tmp_path / "run", resume=True, execution=Execution(device="cpu"))
