"""UniSRec's parts against their equations, and what they are for: items that nobody had in training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from lmrs import models, objectives, systems, tuning
from lmrs.batch import from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, UserError
from lmrs.fit import Execution, Fitted, fit
from lmrs.judge import judge
from lmrs.language import Backbone
from lmrs.models.adaptor import AdaptorModule
from lmrs.recommender import Recommender
from lmrs.split import leave_one_out
from lmrs.system import Stage, System
from lmrs.testing import tiny
from lmrs.testing.models import built
from lmrs.texts import TextEncoder, encoded, without_words
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

READER = TextEncoder(Backbone("tiny-encoder"))
SMALL = models.TextItems(READER, adaptor=models.Adaptor(3), dim=8, max_len=9)


# -- the adaptor ---------------------------------------------------------------------------------------------------------


def adaptor(experts: int = 3, p: float = 0.0) -> AdaptorModule:
    torch.manual_seed(0)
    module = models.Adaptor(experts, p).build(5, 4).double()
    with torch.no_grad():
        for each in module.parameters():
            each.normal_()
    return module.requires_grad_(False)


def test_the_adaptor_is_the_gated_sum_of_whitenings() -> None:
    with torch.random.fork_rng(devices=[]):
        module, x = adaptor(), torch.randn(6, 5, dtype=torch.float64)
    for n in range(6):
        weights = np.exp([float(x[n] @ module.gate.weight[k]) for k in range(3)])
        wanted = sum(weights[k] / weights.sum() * (x[n] - module.shift[k]) @ module.weight[k] for k in range(3))
        assert torch.allclose(module(x)[n], wanted, rtol=0, atol=1e-12)


def test_the_noise_of_the_gate_has_the_stated_deviation() -> None:
    """Logits of one expert against another, read back from the shares of many draws."""
    with torch.random.fork_rng(devices=[]):
        module = adaptor(2)
    x = torch.full((20_000, 5), 0.3, dtype=torch.float64)
    shares = module.shares(x, torch.Generator().manual_seed(1))
    gap = (shares[:, 0] / shares[:, 1]).log()
    deviation = torch.nn.functional.softplus(module.noise(x[:1]))[0] + 0.01
    assert abs(float(gap.std()) / float(deviation.square().sum().sqrt()) - 1) < 0.03
    assert abs(float(gap.mean()) - float(module.gate(x[:1])[0] @ torch.tensor([1.0, -1.0]).double())) < 0.05
    assert torch.equal(module.shares(x, None)[0], module.gate(x[:1])[0].softmax(0))


def test_at_first_all_experts_share_alike_and_dropout_differs_between_them() -> None:
    module = models.Adaptor(4, dropout=0.5).build(5, 2)
    assert torch.equal(module.shares(torch.randn(3, 5, generator=torch.Generator()), None), torch.full((3, 4), 0.25))
    with torch.no_grad():
        module.weight.copy_(torch.eye(5, 2).expand(4, 5, 2))  # every expert shows the first two inputs
        many = module(torch.ones(4000, 5), torch.Generator().manual_seed(0))
    values = sorted({round(float(value), 3) for value in many[:, 0]})
    assert len(values) > 8, "the experts lose different inputs, so their sum takes many values"
    assert abs(float(many.mean()) - 1) < 0.05


def test_one_expert_has_no_gate() -> None:
    assert [name for name, _ in models.Adaptor(1).build(5, 2).named_parameters()] == ["shift", "weight"]
    with pytest.raises(ContractError, match="at least one expert, got experts=0"):
        models.Adaptor(0)


# -- the network ---------------------------------------------------------------------------------------------------------


def test_scores_are_cosines_over_the_temperature() -> None:
    train = tiny.split().train
    network = built(replace(SMALL, ids=True, temperature=0.2), train)
    batch = tiny.marked(tiny.batch(train))
    found = network.score(batch, Causal()).detach()
    states = network(batch, Causal())[batch.last].detach()
    items = (network.adaptor(network.texts) + network.ids.weight).detach()
    for row in range(batch.n_rows):
        for item in range(items.shape[0]):
            cosine = float(states[row] @ items[item] / states[row].norm() / items[item].norm())
            assert abs(float(found[row, item]) - cosine / 0.2) < 1e-9
    chosen = torch.tensor([4, 0, 4])
    assert torch.allclose(network.vectors(chosen), network.output().table[chosen], rtol=0, atol=1e-12)


def test_text_vectors_are_those_of_the_catalogue_and_are_not_saved() -> None:
    train = tiny.split().train
    network = SMALL.build(tiny.vocab(train))
    texts = [
        f"Title {at}. " + ". ".join([", ".join(tiny.GENRES[at % 5])] * 2) if tiny.GENRES[at % 5] else f"Title {at}"
        for at in range(13)
    ]
    assert np.array_equal(network.texts.numpy(), encoded(READER, texts))
    assert "13 of 13 items" in str(network.coverage)
    assert not [name for name in network.state_dict() if "texts" in name or "dropped" in name]


def test_the_kept_table_follows_the_weights() -> None:
    """Ranking keeps the adapted table; any change of a weight, by whatever way, must make it anew."""
    train = tiny.split().train
    network = built(SMALL, train)

    def fresh() -> Tensor:
        return network.output().table.detach()

    ways = [
        lambda: network.adaptor.weight.data.add_(0.1),
        lambda: network.adaptor.load_state_dict({k: v * 1.1 for k, v in network.adaptor.state_dict().items()}),
        lambda: torch.optim.AdamW(network.adaptor.parameters(), fused=True).step(),
        lambda: network.float(),
    ]
    for way in ways:
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        with torch.no_grad():
            before = network.output().table
            assert network.output().table.equal(before)
        way()
        wanted = fresh()
        with torch.no_grad():
            assert torch.allclose(network.output().table, wanted, rtol=0, atol=1e-6)
        assert before.dtype != wanted.dtype or not torch.allclose(before, wanted, rtol=0, atol=1e-6)


def test_dropped_words_are_read_where_the_batch_says_so() -> None:
    train = tiny.split().train
    model = replace(SMALL, word_drop=0.6)
    network, batch = built(model, train), tiny.batch(train)
    whole = network(batch, Causal())
    nowhere = network(batch.with_channels(dropped=torch.zeros(batch.n_positions, dtype=torch.bool)), Causal())
    assert torch.equal(whole, nowhere)
    there = torch.zeros(batch.n_positions, dtype=torch.bool)
    there[batch.last[0]] = True
    some = network(batch.with_channels(dropped=there), Causal())
    changed = (some != whole).any(1).nonzero()[:, 0].tolist()
    assert changed == [int(batch.last[0])]


def test_word_drop_is_a_function_of_the_text_and_leaves_a_word() -> None:
    texts = ["one", "", *(" ".join(f"w{n}" for n in range(20)) + f" {t}" for t in range(200))]
    fewer = without_words(texts, 0.15)
    assert fewer == without_words(texts[::-1], 0.15)[::-1]
    assert fewer[:2] == ["one", ""]
    assert abs(1 - sum(len(text.split()) for text in fewer[2:]) / (21 * 200) - 0.15) < 0.02
    for text, shorter in zip(texts, without_words(texts, 0.99), strict=True):
        left = shorter.split()
        assert [word for word in text.split() if word in left] == left
        assert bool(left) == bool(text)


def test_data_without_texts_are_refused_and_so_is_looking_ahead() -> None:
    with pytest.raises(DataError, match=r"needed item texts \(a title, a description, attributes\), got 2 items"):
        SMALL.build(Vocab(pa.array(["a", "b"], pa.large_string())))
    made = systems.unisrec()
    both_sides = replace(made.stages[0], objective=objectives.Cloze())
    with pytest.raises(ContractError, match="a model that can be run under Full"):
        replace(made, stages=(both_sides,))
    with pytest.raises(ContractError, match="temperature above 0"):
        replace(SMALL, temperature=0)
    with pytest.raises(ContractError, match="word_drop"):
        replace(SMALL, word_drop=1.0)


# -- the contrastive signal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicates", ["zero_logit", "exclude"])
def test_the_contrast_is_the_equation(duplicates: str) -> None:
    rng = np.random.default_rng(0)
    s, v, following = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array([7, 2, 7, 5])
    t = 0.3
    made = objectives.Contrastive(temperature=t, duplicates=duplicates)
    wanted = 0.0
    for r in range(4):
        cosine = [s[r] @ v[q] / np.linalg.norm(s[r]) / np.linalg.norm(v[q]) for q in range(4)]
        below = 0.0
        for q in range(4):
            if q != r and following[q] == following[r]:
                below += {"zero_logit": 1.0, "exclude": 0.0}[duplicates]
            else:
                below += math.exp(cosine[q] / t)
        wanted -= math.log(math.exp(cosine[r] / t) / below)
    items = torch.from_numpy(following)
    found = made.loss(torch.from_numpy(s), torch.from_numpy(v), torch.arange(4), items[:, None] == items)
    assert abs(float(found) - wanted) < 1e-12


def test_charges_are_the_states_at_the_ends_against_next_items_and_copies() -> None:
    train = tiny.split().train
    network, vocab = built(SMALL, train), tiny.vocab(train)
    made = objectives.Contrastive(words=0.4, item_drop=0.5)
    batch = tiny.batch(train, lengths=(5, 2, 8, 3, 8, 6, 2))
    prepared = made.corrupt(batch, vocab, torch.Generator().manual_seed(2))
    found = made.charge(network, None, prepared, vocab, None)
    copies = made.changed(prepared, torch.Generator().manual_seed(2))
    order = torch.argsort(copies.rows["place"])
    last = [batch.channels["item"][int(stop) - 1] for stop in batch.offsets[1:]]
    following = torch.stack(last)
    states = network(prepared, Causal())[prepared.last]
    same = following[:, None] == following
    for name, others in (
        ("item", network.output().table[following]),
        ("sequence", network(copies, Causal())[copies.last][order]),
    ):
        assert torch.allclose(found[name], made.loss(states, others, torch.arange(7), same), rtol=1e-12)
    assert not torch.allclose(found["item"], found["sequence"])


def test_copies_lose_items_or_words_and_never_everything() -> None:
    lengths = torch.tensor([20] * 400)
    item = torch.arange(8000) % 50
    seen = from_rows({"item": item}, lengths)
    seen = replace(seen, rows={**seen.rows, "place": torch.arange(400)})
    made = objectives.Contrastive(words=0.25, item_drop=0.2)
    copies = made.changed(seen, torch.Generator().manual_seed(0))
    words = torch.zeros(400, dtype=torch.bool)
    for row in range(400):
        span = slice(int(copies.offsets[row]), int(copies.offsets[row + 1]))
        place = int(copies.rows["place"][row])
        dropped = copies.channels["dropped"][span]
        assert dropped.all() or not dropped.any()
        words[place] = bool(dropped[0])
        left, whole = copies.channels["item"][span].tolist(), item[place * 20 : place * 20 + 20].tolist()
        assert left == whole if words[place] else [each for each in whole if each in left] == left
    assert abs(float(words.float().mean()) - 0.25) < 0.07
    lost = 1 - (copies.n_positions - 20 * int(words.sum())) / (20 * int((~words).sum()))
    assert abs(lost - 0.2) < 0.02
    all_gone = replace(made, words=0.0, item_drop=1.0).changed(seen, torch.Generator())
    assert all_gone.channels["item"].tolist() == item[19::20].tolist()


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0}, {"weight": -1}, {"item_drop": 1.5}, {"words": -0.1}, {"duplicates": "keep"}]
)
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        objectives.Contrastive(**wrong)


# -- the system ----------------------------------------------------------------------------------------------------------


def test_what_each_stage_tunes() -> None:
    inductive, transductive = systems.unisrec(), systems.unisrec(ids=True)
    assert inductive.stages[1].tuning == tuning.Part(("adaptor.*",))
    assert transductive.stages[1].tuning == tuning.Part(("adaptor.*", "ids.*"))
    names = [
        f"network.{name}"
        for name, _ in models.TextItems(READER, ids=True, dim=8, max_len=9)
        .build(tiny.vocab(tiny.split().train))
        .named_parameters()
    ]
    first = [name for name in names if transductive.stages[0].tuning.chooses(name)]
    assert set(names) - set(first) == {"network.ids.weight"}, "ids are zero, and stay so, until the second stage"
    assert len(systems.unisrec(pretrain=False).stages) == 1
    assert [systems.unisrec(tuning=each).stages[-1].tuning for each in ("whole", "none")] == [
        tuning.Everything(),
        tuning.Nothing(),
    ]
    with pytest.raises(UserError, match="needed tuning=part, whole, none, got 'hole'; did you mean whole"):
        systems.unisrec(tuning="hole")
    with pytest.raises(UserError, match="a pre-trained model for tuning=none, got pretrain=false"):
        systems.unisrec(tuning="none", pretrain=False)


KINDS = ("red war movie", "good news article", "blue garden chair", "tiny jazz record", "hot pepper sauce", "wool winter hat")
ITEMS, COLD = 60, 6


def clustered(users: int = 300, length: int = 7, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Users stay with one of six kinds of item; a text says the kind. The last tenth of the items occur only as last events.

    Returns the data and the places of users whose last event is such an item.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(ITEMS) % 6
    warm = np.arange(ITEMS - COLD)
    item = np.zeros((users, length), np.int32)
    for user in range(users):
        own = warm[kind[warm] == user % 6]
        item[user] = np.where(rng.random(length) < 0.9, rng.choice(own, length), rng.choice(warm, length))
    cold = np.flatnonzero(rng.random(users) < 0.3)
    item[cold, -1] = ITEMS - COLD + cold % 6
    assert (kind[item[cold, -1]] == cold % 6).all()
    ids = [f"i{n}" for n in range(ITEMS)]
    titles = [f"{KINDS[kind[n]]} {n}" for n in range(ITEMS)]
    vocab = Vocab(pa.array(ids, pa.large_string()), pa.array([f"u{n}" for n in range(users)], pa.large_string()))
    data = Dataset(
        "clustered", vocab, item.reshape(-1), np.arange(users + 1) * length,
        time=np.arange(users * length) * tiny.DAY, items=pa.table({"item_id": ids, "title": titles}),
    )  # fmt: skip
    return data, cold


def trained(system: System) -> tuple[Fitted, np.ndarray]:
    """(fitted, share of the other items that each cold truth beats: 1 is the top, chance is .5)."""
    data, cold = clustered()
    split = leave_one_out(data)
    system = replace(
        system,
        stages=tuple(replace(s, budget=replace(s.budget, patience=None)) for s in system.stages if isinstance(s, Stage)),
    )
    fitted = fit(system, split, seed=1, execution=Execution(device="cpu"))
    judged = judge(fitted.scorer, fitted.objective, system.task, split.test.take(cold), fitted.vocab, k=10, seed=0)
    ranks = np.asarray(judged.ranks.rank, np.float64).reshape(-1)
    return fitted, 1 - (ranks - 1) / (ITEMS - 1)


def test_items_that_nobody_had_in_training_are_ranked_by_their_texts() -> None:
    """A tenth of the catalogue is new. By its text the kind is known; an id that was never trained says nothing."""
    small = {"backbone": "tiny-encoder", "dim": 16, "max_len": 7, "dropout": 0.1, "batch_size": 64}
    fitted, by_text = trained(systems.unisrec(**small, pretrain_epochs=4, pretrain_batch_size=256, epochs=8))
    counts = fitted.vocab.counts
    assert (counts[-COLD:] == 0).all()
    assert (counts[:-COLD] > 0).all()
    assert len(by_text) > 60
    _, by_id = trained(systems.sasrec(dim=16, max_len=7, epochs=12, batch_size=64))
    assert by_text.mean() > 0.75
    assert by_id.mean() < 0.6
    answer = Recommender.of(fitted).recommend([f"i{n}" for n in (2, 8, 14, 20)], k=15)
    assert "i56" in answer.ids, "a new item of the kind of the history is recommended"
