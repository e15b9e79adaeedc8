"""PRL: rewards and returns of events, what is aimed at, the fusion of three vectors, and what aiming higher does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from lmrs import losses, models, objectives, views
from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, ContractError, DataError
from lmrs.fit import Execution, fit
from lmrs.models.reward_prompt import Returns, RewardPromptNetwork
from lmrs.recommender import Recommender
from lmrs.split import Split, Train, leave_one_out
from lmrs.systems import prl
from lmrs.testing import tiny
from lmrs.views import Rewarded, Rows
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

TYPES = ("click", "purchase")


def shop(item: list[int], kind: list[int], offsets: list[int], *, n_items: int = 6) -> Dataset:
    """Events with types: 0 a click, 1 a purchase."""
    vocab = Vocab(
        pa.array([f"i{at}" for at in range(n_items)], pa.large_string()),
        pa.array([f"u{at}" for at in range(len(offsets) - 1)], pa.large_string()),
    )
    return Dataset("shop", vocab, np.array(item, np.int32), np.array(offsets), type=np.array(kind, np.int32), types=TYPES)


SHOP = shop([0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 1, 0, 1, 1, 0, 0, 1, 0], [0, 4, 6, 9])
TRAIN = Train(SHOP, SHOP.offsets[1:])


# -- the view ------------------------------------------------------------------------------------------------------------


def test_rewards_and_what_is_still_to_come() -> None:
    rows = Rows(SHOP, np.array([1, 0, 2]), np.array([4, 1, 6]), np.array([6, 4, 8]))
    batch = Rewarded().collate(rows)
    assert batch.rows["example"].tolist() == [1, 0, 2]
    assert batch.channels["item"].tolist() == [1, 2, 3, 4, 5, 0, 1]
    assert torch.allclose(batch.channels["reward"], torch.tensor([1, 0.2, 1, 1, 0.2, 0.2, 1]))
    assert torch.allclose(batch.channels["return"], torch.tensor([2.2, 1.2, 1, 1.2, 0.2, 1.2, 1]))


def test_ratings_stand_in_for_types() -> None:
    data = replace(SHOP, type=None, types=(), rating=np.array([5, 3, 4, 1, 1, 1, 1, 1, 1], np.float32))
    rows = Rows(data, np.array([0]), np.array([0]), np.array([4]))
    found = Rewarded(rating=4.0, low=0.0, high=2.0).collate(rows).channels["reward"]
    assert found.tolist() == [2, 0, 2, 0]


def test_data_without_rewards_is_refused_and_histories_are_not() -> None:
    bare = replace(SHOP, type=None, types=())
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="type 'purchase', got shop, whose types are not known; set rating=4"):
        Rewarded().rows(Train(bare, TRAIN.stop), ahead=1, rng=rng)
    with pytest.raises(DataError, match="did you mean purchase"):
        Rewarded(purchase="purchases").rows(TRAIN, ahead=1, rng=rng)
    with pytest.raises(DataError, match="ratings to make rewards of"):
        Rewarded(rating=4.0).rows(TRAIN, ahead=1, rng=rng)
    with pytest.raises(ContractError, match="low <= high"):
        Rewarded(low=2.0)
    asked = Rewarded().collate(Rows(bare, np.array([0]), np.array([0]), np.array([3])))
    assert not {"reward", "return"} & set(asked.channels)


# -- what is aimed at ----------------------------------------------------------------------------------------------------


def test_mean_returns_by_step(tmp_path) -> None:
    """Rows of at most three inputs and a target: [0 1 2 3], [4 5], [0 1 2]; returns from the second event on."""
    found = Returns.of(Rewarded(views.ItemSequence(max_len=4)), TRAIN)
    first, second, third = np.mean([2.2, 0.2, 1.2]), np.mean([1.2, 0.2]), 1.0
    assert np.allclose(found.means, [first, second, third, third])
    found.save(tmp_path)
    assert Returns.load(tmp_path) == found
    assert Returns.load(tmp_path).fingerprint == found.fingerprint
    (tmp_path / "returns.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"returns\.json"):
        Returns.load(tmp_path)


def made(*, fusion: str = "attention", train: Train = TRAIN) -> RewardPromptNetwork:
    view = Rewarded(views.ItemSequence(max_len=4))
    model = models.RewardPrompt(models.Transformer(dim=4, layers=1, heads=1, max_len=4, dropout=0), view, fusion=fusion)
    vocab = replace(tiny.vocab(train), prepared=model.prepare(train, seed=0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = model.build(vocab).double()
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def read(train: Train = TRAIN) -> Batch:
    view = Rewarded(views.ItemSequence(max_len=4))
    rows = view.rows(train, ahead=0, rng=np.random.default_rng(0))
    return view.collate(rows)


def test_attention_among_three_is_that_of_its_equation() -> None:
    network, batch = made(), read()
    place = 2
    state = network.encoder(batch, Causal())[place]
    three = torch.stack([state, network.steps.weight[2], batch.channels["return"][place] * network.reward])
    weight, bias = network.fuse.mix.weight, network.fuse.mix.bias
    query, key, value = three @ weight[:4].T + bias[:4], three @ weight[4:8].T + bias[4:8], three @ weight[8:].T + bias[8:]
    out = three + torch.softmax(query @ key.T / 2.0, dim=1) @ value
    wanted = torch.relu(sum(network.fuse.share[j] * out[j] for j in range(3)) + network.fuse.bias)
    assert torch.allclose(network(batch, Causal())[place], wanted)
    assert torch.allclose(network(batch, Causal(), at=torch.tensor([place]))[0], wanted)


def test_mean_and_perceptron() -> None:
    batch = read()
    for fusion, rule in (
        ("mean", lambda n, x: x.mean(0)),
        ("mlp", lambda n, x: n.fuse.second(F.relu(n.fuse.first(x.reshape(-1))))),
    ):
        network = made(fusion=fusion)
        three = torch.stack(
            [network.encoder(batch, Causal())[1], network.steps.weight[1], batch.channels["return"][1] * network.reward]
        )
        assert torch.allclose(network(batch, Causal())[1], rule(network, three))


def test_a_question_aims_at_a_multiple_of_the_mean() -> None:
    network, batch = made(), read()
    vocab = tiny.vocab(TRAIN)
    asked = objectives.RewardedNext().ask(batch, vocab)
    for aim in (0.0, 1.5):
        network.aim = aim
        wished = aim * network.means[batch.channels["position"]]
        told = batch.with_channels(**{"return": wished})
        assert torch.allclose(network(asked, Causal()), network(told, Causal()))
    network.aim = 2.0
    assert not torch.allclose(network.score(asked, Causal()), 0 * network.score(asked, Causal()))


@pytest.mark.parametrize("wrong", [{"fusion": "attentoin"}, {"aim": -1}, {"dropout": 1.0}])
def test_bad_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        models.RewardPrompt(**wrong)
    with pytest.raises(ContractError, match="an encoder among sasrec, gru, caser"):
        prl(encoder="lstm")
    with pytest.raises(ContractError, match="at most 4 positions"):
        models.RewardPrompt(models.Transformer(max_len=4), Rewarded())


# -- the objective -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [losses.FullSoftmax(), losses.FullSoftmax(smoothing=0.1)])
def test_each_event_costs_what_it_paid(loss) -> None:
    network, vocab = made(), tiny.vocab(TRAIN)
    prepared = objectives.RewardedNext(loss).corrupt(read(), vocab, torch.Generator())
    assert prepared.channels["target"].tolist() == [1, 2, 3, 1, 2, 5]
    assert torch.allclose(prepared.channels["reward"], torch.tensor([1, 0.2, 1, 1, 0.2, 0.2]))
    assert torch.allclose(prepared.channels["return"], torch.tensor([2.2, 1.2, 1, 1.2, 0.2, 0.2]))
    scores = network.output().scores(network.read(network(prepared, Causal())))
    each = F.cross_entropy(scores, prepared.channels["target"], reduction="none", label_smoothing=loss.smoothing)
    weighed = objectives.RewardedNext(loss).charge(network, None, prepared, vocab, None)["next"]
    assert torch.allclose(weighed, (prepared.channels["reward"] * each).sum())
    plain = objectives.RewardedNext(loss, weigh=False).charge(network, None, prepared, vocab, None)["next"]
    assert torch.allclose(plain, each.sum())
    assert objectives.RewardedNext().counts(prepared) == {"next": 6}


# -- the system ----------------------------------------------------------------------------------------------------------


def mixed(seed: int = 0, users: int = 240) -> Split:
    """Histories of clicks on items 0 to 2, each followed, with chance one half, by a purchase of item 3 to 5 of the same kind."""
    rng = np.random.default_rng(seed)
    item, kind, offsets = [], [], [0]
    for _ in range(users):
        for _ in range(5):
            bought = rng.random() < 0.5
            item.append(int(rng.integers(0, 3)) + 3 * bought)
            kind.append(int(bought))
        offsets.append(len(item))
    return leave_one_out(shop(item, kind, offsets))


def test_aiming_higher_shifts_answers_to_purchases() -> None:
    made = prl(dim=16, max_len=5, epochs=25, every=25, batch_size=64, lr=1e-2, dropout=0.0, patience=None, weigh=False)
    split = mixed()
    fitted = fit(made, split, seed=0, execution=Execution(device="cpu"))
    assert isinstance(fitted.scorer, RewardPromptNetwork)
    view = made.task.view
    rows = Rows(split.dataset, split.test.user, split.test.start, split.test.stop)
    asked = fitted.objective.ask(view.collate(view.asked(rows, asks=0)), fitted.vocab)
    share = {}
    for aim in (0.2, 3.0):
        fitted.scorer.aim = aim
        with torch.no_grad():
            share[aim] = float(fitted.scorer.score(asked, Causal()).softmax(1)[:, 3:].sum(1).mean())
    assert share[0.2] < 0.4 < 0.6 < share[3.0]


def test_what_is_aimed_at_is_saved(tmp_path) -> None:
    made = prl(dim=8, max_len=5, epochs=1, batch_size=64)
    fitted = fit(made, mixed(users=20), seed=0, execution=Execution(device="cpu"))
    before = Recommender.of(fitted)
    after = Recommender.load(before.save(tmp_path / "model"))
    assert after.vocab.prepared == before.vocab.prepared
    assert after.recommend(["i0", "i4"], k=3).ids == before.recommend(["i0", "i4"], k=3).ids
