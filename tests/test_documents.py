"""Documents and their tags: what a view reads, towers against their equation, and what each part of a post is good for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmrs import models, objectives, systems, tasks, views
from lmrs.batch import Batch
from lmrs.errors import ContractError, DataError, UserError
from lmrs.fit import Execution, Fitted, fit
from lmrs.judge import judge
from lmrs.language import Backbone
from lmrs.measures import Recall
from lmrs.models import text_towers
from lmrs.recommender import Recommender
from lmrs.split import Queries, Split
from lmrs.testing import tiny
from lmrs.testing.models import built
from lmrs.texts import TextEncoder
from lmrs.views import Rows
from lmrs.visibility import Causal

READER = TextEncoder(Backbone("tiny-encoder"), normalise=False)
SMALL = models.TextTowers(READER, hidden=6)


def asked(split: Split, *numbers: int) -> Rows:
    """Documents without a tag, as a query knows them."""
    user = np.array(numbers)
    return Rows(split.dataset, user, split.train.start[user], split.train.start[user])


def batch(*numbers: int, parts: tuple[str, ...] = views.Documents().parts) -> Batch:
    view = views.Documents(parts)
    return view.collate(asked(tiny.posts(), *numbers))


# -- the view ------------------------------------------------------------------------------------------------------------


def test_a_document_is_its_texts_and_its_tags() -> None:
    split = tiny.posts()
    view = views.Documents()
    rows = view.rows(split.train, ahead=1, rng=np.random.default_rng(0))
    assert rows.user.tolist() == np.flatnonzero(split.train.lengths >= 1).tolist()
    read = view.collate(rows)
    users = split.dataset.users
    for row, user in enumerate(read.rows["user"].tolist()):
        here = slice(int(read.offsets[row]), int(read.offsets[row + 1]))
        assert read.channels["item"][here].tolist() == split.dataset.history(user).tolist()
        for part in ("title", "text", "code"):
            told = users.column(part)[user].as_py()
            assert read.texts[part][row] == (told if told and told.strip() else None)
    assert batch(2).texts["text"] == (None,)


def test_a_question_is_a_document_without_tags() -> None:
    split = tiny.posts()
    assert ((split.test.stop - split.test.start) == 0).all()
    rows = asked(split, 35, 1, 36)
    view = views.Documents(("text",))
    assert view.known(rows).tolist() == [True, False, True]
    read = view.collate(rows)
    assert read.n_rows == 3
    assert read.n_positions == 0
    assert [split.dataset.users.column("text")[at].as_py() for at in (35, 1, 36)] == list(read.texts["text"])
    assert len(view.rows(split.train, ahead=0, rng=np.random.default_rng(0))) == (split.train.lengths > 0).sum() - 2


def test_data_without_documents_is_refused() -> None:
    with pytest.raises(DataError, match="needed documents with title or text or code in the user table, got no texts"):
        views.Documents().known(asked(tiny.split(), 3))
    with pytest.raises(DataError, match=r"got columns user_id, title, text, code; did you mean title\?"):
        views.Documents(("titel",)).known(asked(tiny.posts(), 3))
    assert views.Documents(("title", "abstract")).read(asked(tiny.posts(), 3))["abstract"] == [None]
    with pytest.raises(ContractError, match="different parts"):
        views.Documents(("title", "title"))


# -- the towers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("towers", ["own", "shared", "joined"])
@torch.no_grad()
def test_scores_are_the_equation(towers: str) -> None:
    network = built(replace(SMALL, towers=towers), tiny.posts().train)
    read = batch(3, 1, 7, 2, 8)
    scores = network.score(read, Causal())
    for row in range(5):
        texts = [read.texts[part][row] for part in ("title", "text", "code")]
        if towers == "joined":
            texts = ["\n".join(text for text in texts if text)]
        vectors = []
        for at, text in enumerate(texts):
            encoder = network.encoders[at if towers == "own" else 0]
            vectors.append(encoder(encoder.read([text]))[0] if text else torch.zeros(encoder.dim, dtype=torch.float64))
        hidden = torch.tanh(network.dense.weight @ torch.cat(vectors) + network.dense.bias)
        wanted = network.tags.weight @ hidden + network.tags.bias
        assert torch.allclose(scores[row], wanted, rtol=0, atol=1e-9)


def test_own_towers_learn_apart_and_a_shared_one_for_all() -> None:
    sizes = {}
    for towers in ("own", "shared", "joined"):
        network = built(replace(SMALL, towers=towers), tiny.posts().train)
        sizes[towers] = len(network.encoders), network.dense.in_features // network.encoders[0].dim
    assert sizes == {"own": (3, 3), "shared": (1, 3), "joined": (1, 1)}
    network = built(SMALL, tiny.posts().train)
    network.score(batch(1), Causal()).sum().backward()  # has a title alone, perhaps a code
    moved = [any(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters()) for encoder in network.encoders]
    assert moved[0]
    assert not moved[1], "a tower learns from a part that is not there"


def test_a_frozen_encoder_reads_each_text_once(monkeypatch) -> None:
    text_towers._memory.cache_clear()
    network = SMALL.build(tiny.vocab(tiny.posts().train))
    seen: list[str] = []
    for encoder in network.encoders:
        encoder.requires_grad_(False)
        read = encoder.read
        monkeypatch.setattr(encoder, "read", lambda texts, read=read: seen.extend(texts) or read(texts))
    with torch.no_grad():
        first = network.score(batch(3, 4, 5), Causal())
        assert len(seen) == len(set(seen))
        count = len(seen)
        again = network.score(batch(3, 4, 5), Causal())
        assert len(seen) == count
        assert torch.equal(first, again)
        other = SMALL.build(tiny.vocab(tiny.posts().train))
        other.encoders.requires_grad_(False)
        other.encoders[0].backbone.embeddings.word_embeddings.weight.mul_(2)
        other.load_state_dict(
            {name: value for name, value in network.state_dict().items() if "encoders" not in name}, strict=False
        )
        assert not torch.allclose(other.score(batch(3, 4, 5), Causal()), first), "vectors of other weights"
        network.encoders[0].requires_grad_(True)
        network.score(batch(3), Causal())
    assert len(seen) == count + 1, "a tower that learns must read again"


@torch.no_grad()
def test_a_document_without_any_text_is_no_error() -> None:
    network = built(replace(SMALL, parts=("text",)), tiny.posts().train)
    wanted = network.tags(torch.tanh(network.dense.bias))
    assert torch.allclose(network.score(batch(1, 2, parts=("text",)), Causal()), wanted.expand(2, -1))


def test_impossible_towers_are_refused() -> None:
    with pytest.raises(ContractError, match="did you mean shared"):
        replace(SMALL, towers="share")
    with pytest.raises(ContractError, match="at least one part"):
        replace(SMALL, parts=())
    with pytest.raises(ContractError, match="dropout"):
        replace(SMALL, dropout=1.0)
    with pytest.raises(ContractError, match="needed rows with the texts title, text, code, got none under text, code"):
        SMALL.build(tiny.vocab(tiny.posts().train)).score(batch(3, parts=("title",)), Causal())


# -- the charge ----------------------------------------------------------------------------------------------------------


def test_the_charge_is_a_yes_or_no_for_every_tag() -> None:
    split = tiny.posts()
    view, objective = views.Documents(), objectives.Tags()
    read = view.collate(view.rows(split.train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(6)))
    prepared = objective.corrupt(read, split.dataset.vocab, torch.Generator())
    assert prepared.n_positions == 0, "the tags are still to be seen"
    assert objective.counts(prepared) == {"tags": 6 * 10}
    network = built(SMALL, split.train)
    found = objective.charge(network, None, prepared, split.dataset.vocab, None)["tags"]
    with torch.no_grad():
        p = torch.sigmoid(network.score(read, Causal()))
        wanted = 0.0
        for row, user in enumerate(read.rows["user"].tolist()):
            tags = set(split.dataset.history(user).tolist())
            wanted -= sum(float((p[row, tag] if tag in tags else 1 - p[row, tag]).log()) for tag in range(10))
    assert abs(float(found.detach()) - wanted) < 1e-9
    pieces = [
        objective.charge(network, None, prepared.take(each), split.dataset.vocab, None) for each in torch.arange(6).split(4)
    ]
    assert torch.allclose(sum(piece["tags"] for piece in pieces), found)


def test_other_models_are_refused() -> None:
    made = systems.ptm4tag(backbone="tiny-encoder")
    with pytest.raises(ContractError, match=r"needed models\.TextTowers for Tags"):
        fit(replace(made, model=models.Transformer()), tiny.posts(), seed=0, execution=Execution(device="cpu"))


# -- learning ------------------------------------------------------------------------------------------------------------


def learned(**options) -> Fitted:
    small = {
        "backbone": "tiny-encoder",
        "lr": 5e-3,
        "epochs": 16,
        "batch_size": 8,
        "measure": "TagRecall@2",
        "dropout": 0.0,
        "towers": "shared",
    }
    return fit(systems.ptm4tag(**{**small, **options}), tiny.posts(documents=160), seed=0, execution=Execution(device="cpu"))


@pytest.fixture(scope="module")
def both() -> Fitted:
    return learned()


def found(fitted: Fitted, tags: range, k: int) -> float:
    """Recall@k of some of the tags, for documents that have one."""
    queries = fitted.split.test
    judged = judge(fitted.scorer, fitted.objective, fitted.system.task, queries, fitted.vocab, k=k, seed=0)
    hits = [set(judged.items[at].tolist()) & set(truth) for at in range(len(queries)) if (truth := _of(queries, at, tags))]
    return float(np.mean([len(each) for each in hits]))


def _of(queries: Queries, at: int, tags: range) -> list[int]:
    return [tag for tag in queries.truth(at).tolist() if tag in tags]


def test_each_part_tells_its_tags_and_what_is_left_out_is_not_known(both) -> None:
    """A word of the title stands for a tag of the first four, a word of the text for one of the next four."""
    title = learned(parts=("title",))
    for fitted, tags, known in (
        (both, range(4), True),
        (both, range(4, 8), True),
        (title, range(4), True),
        (title, range(4, 8), False),
    ):
        value = found(fitted, tags, k=3)
        assert (value > 0.85) if known else (value < 0.6), (fitted.system.model.parts, tags, value)
    task: tasks.Ranking = both.system.task
    judged = judge(both.scorer, both.objective, task, both.split.test, both.vocab, k=3, seed=0)
    assert 0.85 < Recall(3)(judged.ranks).mean() <= 1
    assert 9 not in judged.items, "nobody has tag 9"


def test_tags_are_recommended_for_a_new_document(both, tmp_path) -> None:
    recommender = Recommender.load(Recommender.of(both).save(tmp_path / "model"))
    queries, users = both.split.test, both.split.dataset.users
    judged = judge(both.scorer, both.objective, both.system.task, queries, both.vocab, k=3, seed=0)
    for at in (0, 5, 9):
        cells = {part: users.column(part)[int(queries.user[at])].as_py() for part in ("title", "text", "code")}
        new = {part: text for part, text in cells.items() if text}
        answer = recommender.recommend([], profile=new, k=3)
        assert answer.ids == tuple(both.vocab.item_ids(judged.items[at])), "another answer than for the same post in the data"
    assert not answer.fallback
    other = {"title": "pour 8"}
    assert [each.ids for each in recommender.recommend_batch([[], []], profiles=[other, new], k=3)][1] == answer.ids
    assert recommender.recommend([answer.ids[0]], profile=new, k=1).ids == answer.ids[1:2], "it has that tag already"
    with pytest.raises(UserError, match=r"needed parts of a document among title, text, code, got titel; did you mean title"):
        recommender.recommend([], profile={"titel": "x"})
    with pytest.raises(UserError, match="needed a text in title or text or code, got none"):
        recommender.recommend([], profile={"title": " "})
    with pytest.raises(DataError, match="of a new document its texts as the profile"):
        recommender.recommend(["t1"])
