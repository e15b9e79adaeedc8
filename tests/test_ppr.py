"""PPR: profiles as numbers, prompts before the events, the contrast of changed copies, cold users with and without events."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from lmrs import models, objectives, tuning, views
from lmrs.batch import Batch, from_rows
from lmrs.cli import run
from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, ContractError, DataError, UserError
from lmrs.evaluate import match
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.losses import Output
from lmrs.measures import HR
from lmrs.models.profiles import MOST, Profiles
from lmrs.negatives import Drawn
from lmrs.objectives.opened import started
from lmrs.recommender import Recommender
from lmrs.split import Queries, Split, Train
from lmrs.system import Stage, System
from lmrs.systems import ppr
from lmrs.testing import ObjectiveTests, tiny
from lmrs.views import Rows
from lmrs.visibility import Causal, Full
from lmrs.vocab import Vocab

V = tiny.dataset().n_items
USERS = tiny.dataset().n_users
SMALL = models.Transformer(dim=8, layers=2, heads=2, max_len=9)


def vocab_of(train: Train, names: tuple[str, ...] = ()) -> Vocab:
    return replace(tiny.vocab(train), prepared=Profiles.of(train, names))


# -- profiles ------------------------------------------------------------------------------------------------------------


def test_values_are_those_of_training_users() -> None:
    split = tiny.profiled()
    found = Profiles.of(split.train)
    assert found.values == (("age", ("25", "35", "50")), ("gender", ("F", "M")))
    assert found.sizes == (("age", 3), ("gender", 2))
    nobody_is_50 = replace(split.train, stop=np.where(np.arange(USERS) % 3 == 2, split.train.start, split.train.stop))
    assert dict(Profiles.of(nobody_is_50).values)["age"] == ("25", "35")
    assert Profiles.of(split.train, ("gender",)).names == ("gender",)


def test_unknown_values_are_minus_one() -> None:
    known = Profiles((("age", ("25", "35")), ("gender", ("F", "M"))))
    found = known.numbers({"gender": ("M", None, "X"), "zip": ("1", "2", "3")}, 3)
    assert found.tolist() == [[-1, 1], [-1, -1], [-1, -1]]


def test_columns_that_name_a_person_are_no_profile() -> None:
    data = tiny.dataset(users=MOST + 2, longest=3)
    data = replace(data, users=pa.table({"user_id": data.vocab.users, "zip": [f"{at:05}" for at in range(MOST + 2)]}))
    with pytest.raises(ContractError, match=rf"attributes of at most {MOST} values, got none \(columns: zip\)"):
        Profiles.of(tiny.split(data).train)
    with pytest.raises(ContractError, match=r"no user table.*personal=false"):
        Profiles.of(tiny.split().train)
    with pytest.raises(ContractError, match=r"values: gendre.*did you mean gender"):
        Profiles.of(tiny.profiled().train, ("gendre",))


def test_typed_profiles_are_checked() -> None:
    known = Profiles((("age", ("25", "35")), ("gender", ("F", "M"))))
    assert known.check({"age": 25}) == {"age": "25"}
    with pytest.raises(UserError, match="attributes among age, gender, got 'gendre'; did you mean gender"):
        known.check({"gendre": "F"})
    with pytest.raises(UserError, match="a value of age that was met in training, got '26'"):
        known.check({"age": "26"})


def test_profiles_are_saved_and_read(tmp_path) -> None:
    known = Profiles.of(tiny.profiled().train)
    known.save(tmp_path)
    assert Profiles.load(tmp_path) == known
    assert Profiles.load(tmp_path).fingerprint == known.fingerprint != Profiles.of(tiny.profiled().train, ("age",)).fingerprint
    (tmp_path / "profiles.json").write_text("[[1")
    with pytest.raises(CheckpointError, match=r"profiles\.json"):
        Profiles.load(tmp_path)


# -- the view ------------------------------------------------------------------------------------------------------------


def test_each_row_has_the_texts_of_its_user() -> None:
    data = tiny.with_users(tiny.dataset())
    user = np.array([4, 7, 1, -1, 5])
    batch = views.Profiled().collate(Rows(data, user, np.zeros(5, np.int64), np.array([1, 3, 2, 5, 0])))
    assert list(batch.texts) == ["age", "gender"]
    said = dict(zip(batch.rows["user"].tolist(), zip(batch.texts["age"], batch.texts["gender"], strict=True), strict=True))
    assert said == {4: ("35", "F"), 7: ("35", None), 1: (None, None), -1: (None, None), 5: ("50", "M")}


def test_a_profile_makes_a_question() -> None:
    data = tiny.with_users(tiny.dataset())
    user, nothing = np.array([4, 1, 7, 1]), np.zeros(4, np.int64)
    rows = Rows(data, user, nothing, np.array([0, 0, 0, 2]))
    assert views.Profiled().known(rows).tolist() == [True, False, True, True]
    assert views.Profiled().known(replace(rows, dataset=tiny.dataset())).tolist() == [False, False, False, True]


def test_only_users_with_so_many_events_are_read() -> None:
    train = tiny.profiled().train
    for least, most in ((1, 4), (5, None), (3, 3)):
        found = views.Profiled(least=least, most=most).rows(train, ahead=0, rng=np.random.default_rng(0)).user
        wide = (train.lengths >= max(2, least)) & (train.lengths <= (most or 99))
        assert np.array_equal(np.unique(found), np.flatnonzero(wide))
    with pytest.raises(DataError, match="users with at least 50 training events, got none"):
        views.Profiled(least=50).rows(train, ahead=0, rng=np.random.default_rng(0))
    with pytest.raises(ContractError, match="least <= most"):
        views.Profiled(least=3, most=2)


# -- the model -----------------------------------------------------------------------------------------------------------


def opened_batch(train: Train, vocab: Vocab, lengths: tuple[int, ...] = (5, 2, 7, 1)) -> Batch:
    batch = tiny.batch(train, lengths=lengths, view=views.Profiled(views.ItemSequence(max_len=8)))  # type: ignore[arg-type]
    return objectives.Opened().ask(batch, vocab)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("visible", [Causal(), Full()])
def test_prompts_stand_before_the_events(length: int, visible) -> None:
    """Against the body run on a table in which each prompt is an item of its own."""
    train = tiny.profiled().train
    vocab = vocab_of(train)
    body = replace(SMALL, max_len=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.ProfilePrompt(body, length=length).build(vocab).double()
    batch = opened_batch(train, vocab)
    states = network(batch, visible)
    assert states.shape == (batch.n_positions, 8)
    for row in range(batch.n_rows):
        begin, end = int(batch.offsets[row]), int(batch.offsets[row + 1])
        events = batch.channels["item"][begin + 1 : end]
        given = {name: batch.rows["profile"][row : row + 1, at] for at, name in enumerate(network.names)}
        prompts = network.prompt(1, given)[0]
        plain = models.Transformer.build(body, vocab).double()
        plain.load_state_dict({n: t for n, t in network.state_dict().items() if not n.startswith("prompt.")})
        plain.items = torch.nn.Embedding.from_pretrained(torch.cat([network.items.weight.detach(), prompts.detach()]))
        symbols = torch.cat([vocab.n_symbols + torch.arange(length), events])
        alone = Batch({"item": symbols, "position": torch.arange(len(symbols))}, torch.tensor([0, len(symbols)]))
        assert torch.allclose(states[begin:end], plain(alone, visible)[length - 1 :], atol=1e-10)
        chosen = network(batch, visible, at=torch.tensor([begin, end - 1]))
        assert torch.allclose(chosen, states[[begin, end - 1]], atol=1e-10)


def test_a_profile_changes_the_answer_of_its_row_alone() -> None:
    train = tiny.profiled().train
    vocab = vocab_of(train)
    network = models.ProfilePrompt(SMALL).build(vocab)
    batch = opened_batch(train, vocab)
    before = network.score(batch, Causal())
    other = batch.rows["profile"].clone()
    other[2, 0] = (other[2, 0] + 1) % 3
    after = network.score(replace(batch, rows={**batch.rows, "profile": other}), Causal())
    assert (before != after).any(1).tolist() == [False, False, True, False]


def test_the_body_without_a_start_is_the_transformer() -> None:
    train = tiny.profiled().train
    torch.manual_seed(0)
    network = models.ProfilePrompt(SMALL).build(vocab_of(train))
    torch.manual_seed(0)
    plain = SMALL.build(tiny.vocab(train))
    batch = tiny.batch(train)
    assert torch.equal(network(batch, Causal()), plain(batch, Causal()))


def test_groups_and_bounds() -> None:
    part = models.ProfilePrompt(SMALL, length=3)
    assert part.max_len == 7
    assert [part.group(name) for name in ("prompt.first.weight", "items.weight")] == ["prompt", "model"]
    with pytest.raises(ContractError, match="length of at least 1"):
        models.ProfilePrompt(SMALL, length=0)
    with pytest.raises(ContractError, match="at most 9 prompts"):
        models.ProfilePrompt(SMALL, length=10)


# -- the objective -------------------------------------------------------------------------------------------------------


class TestOpenedOfPersonalPrompts(ObjectiveTests):
    part = objectives.Opened(hide=0.5, contrast=0.3)
    model = models.ProfilePrompt(replace(SMALL, max_len=12), length=2)
    runs = 1

    @pytest.fixture(autouse=True)
    def _data(self, monkeypatch) -> None:
        plain, known = tiny.split, tiny.profiled()
        monkeypatch.setattr(tiny, "split", lambda data=None: known if data is None else plain(data))
        vocab = tiny.vocab
        monkeypatch.setattr(tiny, "vocab", lambda train: replace(vocab(train), prepared=Profiles.of(train)))

    def batch(self, train: Train) -> Batch:
        view = views.Profiled(views.ItemSequence(max_len=8))
        return tiny.batch(train, lengths=(5, 2, 8, 3, 8, 6, 2, 7, 4, 2), view=view)  # type: ignore[arg-type]


def test_every_event_is_predicted_from_those_before_it() -> None:
    items = torch.tensor([4, 5, 6, 7, 8])
    batch = from_rows({"item": items}, torch.tensor([2, 3]))
    vocab = tiny.vocab(tiny.split().train)
    prepared = objectives.Opened(contrast=0).corrupt(batch, vocab, torch.Generator())
    assert prepared.channels["target"].tolist() == [6, 7, 8, 4, 5]
    assert prepared.channels["item"].tolist() == [V, 6, 7, V, 4]
    assert prepared.channels["start"].tolist() == [True, False, False, True, False]
    assert prepared.channels["position"].tolist() == [0, 1, 2, 0, 1]


def test_rows_without_events_can_be_asked() -> None:
    vocab = tiny.vocab(tiny.split().train)
    for lengths in ([2, 0, 0], [0]):
        batch = from_rows({"item": torch.arange(sum(lengths))}, torch.tensor(lengths))
        asked = objectives.Opened().ask(batch, vocab)
        assert asked.channels["asked"].nonzero()[:, 0].tolist() == (asked.offsets[1:] - 1).tolist()
        assert started(batch, vocab).lengths.tolist() == [n + 1 for n in lengths]


def test_the_contrast_is_that_of_its_equation() -> None:
    split = tiny.profiled()
    vocab = vocab_of(split.train)
    signal = objectives.Opened(temperature=0.3, hide=0.5, drop=0.5)
    network = models.ProfilePrompt(replace(SMALL, max_len=12), length=2).build(vocab).double()
    batch = tiny.batch(split.train, lengths=(5, 2, 7, 3), view=views.Profiled(views.ItemSequence(max_len=8)))  # type: ignore[arg-type]
    prepared = signal.corrupt(batch, vocab, torch.Generator().manual_seed(1))
    a, b = [], []
    for row in range(4):
        one = prepared.take(torch.tensor([row]))
        hidden = replace(one, rows={**one.rows, "profile": one.rows["less"]})
        a.append(network(hidden, Causal())[-1])
        at = int((prepared.extra["copy.place"] == row).nonzero())
        begin, end = prepared.extra["copy.offsets"][at : at + 2].tolist()
        cells = {name: prepared.extra[f"copy.{name}"][begin:end] for name in ("item", "start", "position")}
        kept = [item for item in cells["item"].tolist() if item != V]
        full = [item for item in one.channels["item"].tolist() if item != V]
        assert cells["item"][0] == V
        assert set(kept) <= set(full)
        rows = {"profile": one.rows["profile"]}
        b.append(network(Batch(cells, torch.tensor([0, end - begin]), rows), Causal())[-1])
    cosine = F.cosine_similarity(torch.stack(a)[:, None], torch.stack(b)[None], dim=2) / 0.3
    wanted = -cosine.log_softmax(1).diagonal().sum()
    assert torch.allclose(signal.charge(network, None, prepared, vocab, None)["alike"], wanted)
    less, profile = prepared.rows["less"], prepared.rows["profile"]
    assert ((less == profile) | (less == -1)).all()
    assert (less != profile).any()
    assert len(prepared.extra["copy.item"]) < prepared.n_positions


@pytest.mark.parametrize("wrong", [{"contrast": -1}, {"temperature": 0}, {"hide": 2}, {"drop": -0.1}])
def test_bad_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        objectives.Opened(**wrong)


# -- the system ----------------------------------------------------------------------------------------------------------

TINY = {"few": 4, "dim": 8, "layers": 1, "heads": 1, "max_len": 9, "hidden": 8, "loss": "softmax"}


def short(system: System) -> System:
    """Two epochs a stage."""
    stages = tuple(
        replace(stage, budget=replace(stage.budget, epochs=2, batch_size=8))
        for stage in system.stages
        if isinstance(stage, Stage)
    )
    return replace(system, stages=stages)


def test_light_leaves_the_recommender_as_it_was() -> None:
    made = short(ppr(**TINY))
    assert made.stages[1].tuning == tuning.Part(("prompt.*",))
    fitted = fit(made, tiny.profiled(), seed=0, execution=Execution(device="cpu"))
    prompt = sum(p.numel() for n, p in fitted.scorer.named_parameters() if n.startswith("prompt."))
    assert fitted.moved[1]["parameters_tuned"] == prompt
    assert fitted.moved[1]["parameters_frozen"] == fitted.parameters - prompt  # compared bit for bit by taxonomy.check


def test_the_pairwise_loss_is_that_of_its_equation() -> None:
    loss = ppr().stages[0].objective.loss  # type: ignore[union-attr]
    states, output = torch.randn(5, 3, dtype=torch.float64), Output(torch.randn(9, 3, dtype=torch.float64), None)
    target, other = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([[5], [6], [7], [8], [0]])
    scores = output.scores(states)
    wanted = -F.logsigmoid(scores.gather(1, target[:, None]) - scores.gather(1, other)).sum()
    assert torch.allclose(loss.charge(states, output, target, Drawn(other, None, 1, 9)), wanted)


def test_wrong_words_are_told_the_right_ones() -> None:
    with pytest.raises(ContractError, match="did you mean light"):
        ppr(variant="ligth")
    with pytest.raises(ContractError, match="did you mean pairwise"):
        ppr(loss="pairwis")


def cold_users(seed: int = 0, warm: int = 120, cold: int = 120) -> Split:
    """Users of three kinds, written in their profile, who choose among four items of their kind at random.

    Those asked have no event: HR@4 is at most 1 by the kind, 1/3 without.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, warm + cold)
    lengths = np.where(np.arange(warm + cold) < warm, 14, 5)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = (np.repeat(kind, lengths) * 4 + rng.integers(0, 4, offsets[-1])).astype(np.int32)
    vocab = Vocab(
        pa.array([f"i{at}" for at in range(12)], pa.large_string()),
        pa.array([f"u{at}" for at in range(warm + cold)], pa.large_string()),
    )
    users = pa.table({"user_id": vocab.users, "kind": ["abc"[each] for each in kind], "noise": rng.integers(0, 5, warm + cold)})
    data = Dataset("kinds", vocab, item, offsets, users=users)
    stop = offsets[1:].copy()
    asked = np.arange(warm + cold) >= warm + cold // 2
    stop[asked] = offsets[:-1][asked]  # the second half of the cold: nothing is known
    who = np.flatnonzero(asked)
    valid, test = who[::2], who[1::2]
    parts = [Queries(data, some, offsets[some], offsets[some] + 1) for some in (valid, test)]
    return Split(data, Train(data, stop), parts[0], parts[1], {"split": "kinds"})


def learned(split: Split, **options: object) -> float:
    """HR@4 of users without events."""
    training = {"few": 5, "dim": 16, "pretrain_epochs": 6, "epochs": 20, "batch_size": 32, "lr": 1e-2, "patience": None}
    made = ppr(**{**TINY, **training, **options})  # type: ignore[arg-type]
    fitted = fit(made, split, seed=0, execution=Execution(device="cpu"))
    judged = judge(fitted.scorer, fitted.objective, replace(made.task, exclude_seen=False), split.test, fitted.vocab, k=4, seed=0)
    return float(HR(4)(judged.ranks).mean())


def test_profiles_answer_for_users_without_events() -> None:
    split = cold_users()
    assert learned(split) > 0.8
    assert learned(split, personal=False) < 0.6


def learner() -> tuple[Recommender, Split]:
    split = cold_users(warm=60, cold=60)
    made = ppr(**{**TINY, "few": 5, "pretrain_epochs": 2, "epochs": 4, "lr": 1e-2})  # type: ignore[arg-type]
    return Recommender.of(fit(made, split, seed=0, execution=Execution(device="cpu"))), split


def test_profiles_are_asked_for_alone_and_in_batches(tmp_path) -> None:
    before, _ = learner()
    after = Recommender.load(before.save(tmp_path / "model"))
    assert "u5" not in (tmp_path / "model" / "profiles.json").read_text()  # values are kept, users are not
    known = [{"kind": "a"}, {"kind": "c", "noise": 2}, {}, {"kind": "a"}]
    histories: list[list[str]] = [[], ["i3"], [], ["i3"]]
    found = after.recommend_batch(histories, k=3, profiles=known)
    for history, profile, one in zip(histories, known, found, strict=True):
        assert after.recommend(history, k=3, profile=profile).ids == one.ids
        assert before.recommend(history, k=3, profile=profile).ids == one.ids
    assert [each.fallback for each in found] == ["", "", "training popularity", ""]
    assert found[1].scores != found[3].scores
    assert after.recommend(["i3"], k=3).fallback == ""
    with pytest.raises(UserError, match="did you mean kind"):
        after.recommend([], profile={"kinds": "a"})
    with pytest.raises(UserError, match="2 profiles, one for each history"):
        after.recommend_batch([[], []], profiles=[{}])


def test_systems_that_read_none_refuse_profiles() -> None:
    made = short(ppr(**{**TINY, "variant": "frozen"}))  # type: ignore[arg-type]
    recommender = Recommender.of(fit(made, tiny.profiled(), seed=0, execution=Execution(device="cpu")))
    with pytest.raises(UserError, match="a system that reads profiles"):
        recommender.recommend(["i1"], profile={"age": "25"})


def test_profiles_go_with_other_data() -> None:
    """Users are new there and values in another order: the same people get the same answers."""
    recommender, split = learner()
    data, test = split.dataset, split.test
    turned = np.arange(data.n_users)[::-1]
    other = replace(
        data,
        name="other",
        users=data.users.take(pa.array(turned)),
        vocab=replace(data.vocab, users=data.vocab.users.take(pa.array(turned))),
        item=np.concatenate([data.history(user) for user in turned]),
        offsets=np.concatenate([[0], np.cumsum(data.lengths[turned])]),
    )
    user = data.n_users - 1 - test.user
    asked = Queries(other, user, other.offsets[user], other.offsets[user] + 1)
    matched, _, _ = match(asked, recommender)
    ranks = []
    for queries in (test, matched):
        judged = judge(
            recommender.scorer, recommender.objective, recommender.system.task, queries, recommender.vocab, k=1, seed=0
        )  # fmt: skip
        ranks.append(judged.ranks.rank)
    assert np.array_equal(*ranks)
    assert judged.fallback == 0


def test_the_command_line_takes_a_profile(tmp_path, capsys) -> None:
    recommender, _ = learner()
    ask = ["recommend", str(recommender.save(tmp_path / "model")), "-k", "3", "--json"]
    assert run([*ask, "--profile", "kind = a; noise=2"]) == 0
    wanted = recommender.recommend([], k=3, profile={"kind": "a", "noise": 2})
    assert [each["id"] for each in json.loads(capsys.readouterr().out)["items"]] == list(wanted.ids)
    for wrong, said in (
        (["--profile", "kind"], "write NAME=VALUE"),
        (["--profile", "kind=q"], "met in training"),
        ([], "a history"),
    ):
        assert run([*ask, *wrong]) == 1
        assert said in capsys.readouterr().err
