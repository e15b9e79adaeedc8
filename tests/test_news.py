"""News: what impressions teach, how they are judged, and a language model inside against the slow way to say the same."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from impressed import news, with_candidates, with_log
from torch import Tensor

from lmrs import models, objectives, systems, tasks, views
from lmrs.batch import Batch
from lmrs.cli import run
from lmrs.compare import compare
from lmrs.errors import ContractError, DataError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, Fitted, fit
from lmrs.language import Backbone
from lmrs.language import tiny as tiny_models
from lmrs.measures import AUC, MINDMRR, NDCG
from lmrs.models.network import Scorer
from lmrs.recommender import Recommender
from lmrs.sources import news_ceiling, synthetic_news
from lmrs.split import Split, by_time, leave_one_out
from lmrs.testing import tiny
from lmrs.testing.models import built
from lmrs.texts import Attention, Cached, Frozen, Joint, TextEncoder, encoded
from lmrs.visibility import Causal, Full

TEXT = TextEncoder(Backbone("tiny-encoder"), Attention(2, 3, 5), normalise=False, layers=1)
CPU = Execution(device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))


# -- the view ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10))
def test_a_training_row_is_a_click_with_unclicked_items_of_its_own_impression(unclicked: int, seed: int) -> None:
    split = news()
    view = views.Impressions(max_len=3, unclicked=unclicked)
    rows = view.rows(split.train, ahead=0, rng=np.random.default_rng(seed))
    log = rows.log
    wanted = np.flatnonzero(log.known(split.train.stop) & (log.clicks() > 0) & (np.diff(log.history_offsets) > 0))
    assert sorted(rows.which.tolist()) == wanted.tolist()  # one click each in this log
    batch = view.collate(rows)
    for row in range(batch.n_rows):
        history, shown, clicked = log.row(int(batch.rows["impression"][row]))
        read = batch.channels["item"][int(batch.offsets[row]) : int(batch.offsets[row + 1])]
        assert read.tolist() == history[-3:].tolist()
        found = batch.rows["candidates"][row].tolist()
        assert batch.rows["clicked"][row].tolist() == [True] + [False] * unclicked
        assert found[0] == shown[clicked][0]
        others = [item for item in found[1:] if item >= 0]
        assert len(others) == len(set(others)) == min(unclicked, 3)
        assert set(others) <= set(shown[~clicked].tolist())


def test_unclicked_items_are_drawn_anew_and_evenly() -> None:
    split = news()
    view = views.Impressions(unclicked=1)
    drawn = np.stack([view.rows(split.train, ahead=0, rng=np.random.default_rng(seed)).drawn[:, 1] for seed in range(600)])
    log = view.rows(split.train, ahead=0, rng=np.random.default_rng(0)).log
    for place in np.unique(drawn):
        assert not log.clicked[place]
    for row in range(drawn.shape[1]):
        counts = np.unique(drawn[:, row], return_counts=True)[1]
        assert len(counts) == 3
        assert (np.abs(counts - 200) < 60).all()  # five deviations


def test_an_impression_with_two_clicks_gives_two_rows_and_pads() -> None:
    split = news()
    clicked = split.dataset.records["impressions"].column("clicked").to_pylist()
    at = int(views.Impressions().rows(split.train, ahead=0, rng=np.random.default_rng(0)).which[3])
    clicked[at] = [True, False, True, False]
    train = replace(split.train, dataset=with_log(split.dataset, clicked=clicked))
    view = views.Impressions(unclicked=4)
    rows = view.rows(train, ahead=0, rng=np.random.default_rng(0))
    own = rows.take(np.flatnonzero(rows.which == at))
    shown = rows.log.row(at)[1]
    assert own.candidates()[:, 0].tolist() == [shown[0], shown[2]]
    for row in own.candidates():
        assert sorted(row[1:3].tolist()) == sorted([shown[1], shown[3]])
        assert row[3:].tolist() == [-1, -1]
    assert own.show(0).count("*") == 2


def test_data_without_impressions_is_refused_and_so_are_parts_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"needed impressions .* got tiny, which has plain interactions; use a folder in MIND's"):
        views.Impressions().rows(tiny.split().train, ahead=0, rng=np.random.default_rng(0))
    split = news()
    nothing = replace(split.train, stop=split.train.start)
    with pytest.raises(DataError, match=r"none among the 56 of synthetic-news; use --split time"):
        views.Impressions().rows(nothing, ahead=0, rng=np.random.default_rng(0))
    with pytest.raises(ContractError, match=r"needed \['candidates', 'clicked'\] for objective Shown .*ItemSequence"):
        systems.plm_nr().stages[0].__class__("s", views.ItemSequence(), objectives.Shown())
    for options in ({"max_len": 0}, {"unclicked": 0}):
        with pytest.raises(ContractError, match="at least"):
            views.Impressions(**options)


# -- the task ------------------------------------------------------------------------------------------------------------


class Knowing(Scorer):
    """Scores an item by its number, plus what it was told."""

    def __init__(self, vocab, sign: float = 1.0) -> None:
        super().__init__()
        self.n_items, self.sign = vocab.n_items, sign

    def score(self, batch: Batch, visible) -> Tensor:
        return self.sign * torch.arange(self.n_items).float().expand(batch.n_rows, -1)


def test_every_impression_of_the_part_is_judged_by_hand() -> None:
    split = news()
    task = tasks.Clicks(views.Impressions(max_len=3))
    rows = task.rows(split.sealed_test)
    log, asked = rows.log, split.sealed_test
    part = {user: (begin, end) for user, begin, end in zip(asked.user, asked.stop, asked.target, strict=True)}
    wanted = []
    for at in range(len(log)):
        begin, end = part.get(log.user[at], (0, 0))
        if begin <= log.start[at] < log.stop[at] <= end:
            wanted.append(at)
    assert rows.which.tolist() == wanted
    assert not set(wanted) & set(task.view.rows(split.train, ahead=0, rng=np.random.default_rng(0)).which.tolist())
    vocab = tiny.vocab(split.train)
    found = task.judge(Knowing(vocab), None, rows, vocab, measures=[AUC(), MINDMRR(), NDCG(5)], seed=0)
    for at, impression in enumerate(wanted):
        _, shown, clicked = log.row(impression)
        place = 1 + int((shown > shown[clicked]).sum())
        assert found.values["AUC"][at] == pytest.approx(1 - (place - 1) / 3)
        assert found.values["MINDMRR"][at] == pytest.approx(1 / place)
        assert found.values["NDCG@5"][at] == pytest.approx(1 / np.log2(place + 1))
    assert found.columns["impression"].to_pylist() == [log.keys[i].as_py() for i in wanted]
    assert found.targets.tolist() == [1] * len(wanted)
    counts = split.train.counts()
    asked = np.concatenate([log.row(i)[1] for i in wanted])
    assert found.facts["shown_without_training_events"] == pytest.approx((counts[asked] == 0).mean())


def test_impressions_without_history_get_popularity_and_are_counted() -> None:
    split = news()
    blank = split.dataset.records["impressions"].column("history").to_pylist()
    data = with_log(split.dataset, history=[[] for _ in blank])
    task = tasks.Clicks(views.Impressions(max_len=3))
    rows = task.rows(replace(split.sealed_test, dataset=data))
    vocab = tiny.vocab(split.train)
    one, two = (task.judge(Knowing(vocab, sign), None, rows, vocab, measures=[AUC()], seed=0) for sign in (1.0, -1.0))
    assert one.facts["without_history"] == len(rows)
    assert np.array_equal(one.values["AUC"], two.values["AUC"])  # the scorer was not asked


def test_other_measures_are_refused() -> None:
    with pytest.raises(UserError, match="needed a measure of the ranks in an impression, got RMSE; choose among AUC, MINDMRR"):
        tasks.Clicks().measure("RMSE")
    with pytest.raises(UserError, match="NDCG@10/99neg"):
        tasks.Clicks().measure("NDCG@10/99neg")


# -- what is charged -----------------------------------------------------------------------------------------------------


def test_charges_are_the_stated_ones() -> None:
    train = tiny.split().train
    network = built(models.Transformer(dim=8, layers=1, heads=2, max_len=9), train)
    batch = with_candidates(tiny.batch(train, lengths=(5, 3, 2)), 11)
    batch.rows["clicked"][1] = torch.tensor([True, False, True, False])
    for by_item in (False, True):
        part = objectives.Shown(by_item=by_item)
        with torch.no_grad():
            found = float(part.charge(network, None, batch, tiny.vocab(train), None)["shown"])
            states, table = network(batch, Full())[batch.last], network.output().table.detach()
        total = 0.0
        for row in range(3):
            s = [float(states[row] @ table[item]) for item in batch.rows["candidates"][row].tolist()[:3]]
            c = batch.rows["clicked"][row].tolist()
            if by_item:
                total += sum(-np.log(1 / (1 + np.exp(-a if b else a))) for a, b in zip(s, c))
            else:
                rest = sum(np.exp(a) for a, b in zip(s, c) if not b)
                total += sum(-np.log(np.exp(a) / (np.exp(a) + rest)) for a, b in zip(s, c) if b)
        assert found == pytest.approx(total, rel=1e-9)
        assert part.counts(batch) == {"shown": 9 if by_item else 4}


def test_an_ensemble_learns_as_its_members_alone() -> None:
    """Charge and gradients are those of two models side by side; its score is the mean of their probabilities."""
    alone = [
        models.Prompted(Backbone("tiny-encoder"), template, read="words", max_len=3)
        for template in ("{list history} {candidate limit=5} [mask]", "[soft p 2] {candidate limit=5} [mask] {list history}")
    ]
    train = tiny.split().train
    both = built(models.Ensemble(tuple(alone), 3), train)
    batch = with_candidates(tiny.batch(train, lengths=(3, 2)), 11)
    part, vocab = objectives.Shown(by_item=True, visible=Causal()), tiny.vocab(train)
    part.charge(both, None, batch, vocab, None)["shown"].backward()
    items = torch.arange(4).expand(2, -1)
    mean = torch.zeros(2, 4, dtype=torch.float64)
    for at, about in enumerate(alone):
        single = built(about, train)
        single.load_state_dict(both.members[at].state_dict())
        part.charge(single, None, batch, vocab, None)["shown"].backward()
        for (name, one), (_, two) in zip(both.members[at].named_parameters(), single.named_parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, rtol=1e-9, atol=1e-12), name
        mean += single.verdicts(batch, Causal(), batch.last, items).sigmoid().detach() / 2
    with torch.no_grad():
        assert torch.allclose(both.score_among(tiny.marked(batch), Causal(), items).double(), mean, atol=1e-6)
    with pytest.raises(ContractError, match="as members, got none"):
        models.Ensemble((), 3)


# -- a language model inside -----------------------------------------------------------------------------------------------


def naive(network: models.Network, batch: Batch) -> Tensor:
    """The charge of Shown(), every occurrence of every text encoded on its own, the reader written out."""
    tower, user = network.items, network.user
    total = torch.zeros((), dtype=torch.float64)

    def news_vector(item: int) -> Tensor:
        return network.narrow(tower.encoder(tower.read, torch.tensor([item])))[0]

    for row in range(batch.n_rows):
        read = batch.channels["item"][int(batch.offsets[row]) : int(batch.offsets[row + 1])]
        x = torch.stack([news_vector(i) for i in read.tolist()])
        query, key, value = user.mix(x).view(len(x), 3, user.heads, -1).permute(1, 2, 0, 3)
        weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(2)
        x = (weights @ value).transpose(0, 1).reshape(len(x), -1)
        reader = user.look(x).softmax(0) @ x
        shown = batch.rows["candidates"][row]
        scores = torch.stack([reader @ news_vector(i) for i in shown[shown >= 0].tolist()])
        total = total - scores.log_softmax(0)[batch.rows["clicked"][row][shown >= 0]].sum()
    return total


def test_each_text_once_has_the_gradients_of_the_naive_loop() -> None:
    split = news()
    view = views.Impressions(max_len=3, unclicked=2)
    about = models.News(TEXT, dim=8, heads=2, query=5, max_len=3)
    network = built(about, split.train)
    batch = view.collate(view.rows(split.train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(8)))
    items = torch.cat([batch.channels["item"], batch.rows["candidates"].ravel()])
    assert len(items.unique()) < len(items), "nothing occurs twice: this shows nothing"
    encoded_texts = []
    tower = network.items.encoder
    plain = tower.forward
    tower.forward = lambda read, which=None, rng=None: encoded_texts.append(len(which)) or plain(read, which, rng)
    found = objectives.Shown().charge(network, None, batch, tiny.vocab(split.train), None)["shown"]
    assert encoded_texts == [len(items.clamp_min(0).unique())]
    names = [name for name, _ in network.named_parameters()]
    one = torch.autograd.grad(found, list(network.parameters()), allow_unused=True)
    slow = naive(network, batch)
    assert float(found.detach()) == pytest.approx(float(slow.detach()), rel=1e-9)
    two = torch.autograd.grad(slow, list(network.parameters()), allow_unused=True)
    for name, first, second in zip(names, one, two, strict=True):
        assert (first is None) == (second is None), name
        assert first is None or torch.allclose(first, second, rtol=1e-5, atol=1e-9), name


def test_the_pool_is_attention_over_real_tokens_alone() -> None:
    pool = Attention(2, 3, 5).build(4).double()
    states = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    found = pool(states, real)
    assert found.shape == (2, 6)
    assert torch.allclose(found[1], pool(states[1:, :4], None)[0])
    bare = Attention(heads=0, query=5).build(4).double()
    weights = bare.look(states[0]).softmax(0)
    assert torch.allclose(bare(states[:1], None)[0], weights @ states[0])
    with pytest.raises(ContractError, match="needed pooling without weights for texts that are encoded once"):
        encoded(TEXT, ["a"])
    with pytest.raises(ContractError, match="at least 3 layers that can be cut, got tiny-encoder, which has 2"):
        replace(TEXT, layers=3).build()


def test_a_shortened_model_is_its_first_layers() -> None:
    made = replace(TEXT, pooling="mean", layers=1).build()
    whole = replace(TEXT, pooling="mean", layers=None).build()
    read = whole.read(["a good movie"])
    with torch.no_grad():
        states = whole.backbone(input_ids=torch.from_numpy(read.ids)[None], output_hidden_states=True).hidden_states[1]
        assert torch.allclose(made(read)[0], states[0].mean(0), atol=1e-6)
    assert not any("layer.1." in name for name, _ in made.named_parameters())


def small(**options) -> dict:
    return {
        "backbone": "tiny-encoder", "layers": 2, "text_heads": 2, "text_width": 3, "query": 5, "dim": 8, "heads": 2, "max_len": 4,
        "epochs": 1, "batch_size": 16, "lr": 1e-2, **options,
    }  # fmt: skip


def backbone_moved(fitted: Fitted) -> set[str]:
    """The names of the language model's tensors that differ from those of the file."""
    before = TextEncoder(Backbone("tiny-encoder")).build().backbone.state_dict()
    after = fitted.scorer.items.encoder.backbone.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_only_the_last_layers_learn_bit_for_bit() -> None:
    split = news()
    fitted = fit(systems.plm_nr(**small(tuned=1)), split, execution=CPU)
    moved = backbone_moved(fitted)
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved), moved
    whole = fit(systems.plm_nr(**small(tuned=None)), split, execution=CPU)
    assert any(name.startswith("encoder.layer.0.") for name in backbone_moved(whole))
    assert {type(systems.plm_nr(**small(policy=name)).model.policy) for name in ("joint", "cached")} == {Joint, Cached}
    frozen = fit(systems.plm_nr(**small(policy="frozen", pooling="mean")), split, execution=CPU)
    assert isinstance(frozen.system.model.policy, Frozen)
    assert not any("backbone" in name for name, _ in frozen.scorer.named_parameters())
    with pytest.raises(UserError, match="needed policy joint, cached or frozen, got 'join'; did you mean joint"):
        systems.plm_nr(policy="join")
    with pytest.raises(ContractError, match="needed tuned layers from 1 to 2, got tuned=3"):
        systems.plm_nr(**small(tuned=3))


def test_stale_vectors_teach_less_but_rank_with_the_present_weights() -> None:
    """Cached(k) encodes a text anew after k steps; ranking never uses the kept ones."""
    split = news()
    about = models.News(TEXT, policy=Cached(5), dim=8, heads=2, query=5, max_len=3)
    network = built(about, split.train)
    view = views.Impressions(max_len=3, unclicked=2)
    batch = view.collate(view.rows(split.train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(6)))
    vocab = tiny.vocab(split.train)
    weight = network.items.encoder.backbone.encoder.layer[0].output.dense.weight
    for fresh in (True, False, False, False, False, False, True):
        weight.grad = None
        objectives.Shown().charge(network, None, batch, vocab, None)["shown"].backward()
        assert (weight.grad is not None and bool(weight.grad.any())) == fresh
    with torch.no_grad():
        asked = tiny.marked(batch)
        before = network.score_among(asked, Full(), batch.rows["candidates"])
        weight[:8] *= -3  # a norm behind it would take away what is added to all rows alike
        now = network.score_among(asked, Full(), batch.rows["candidates"])
        assert not torch.allclose(now, before, atol=1e-3)
        joint = built(replace(about, policy=Joint()), split.train)
        joint.load_state_dict({k: v for k, v in network.state_dict().items() if k in joint.state_dict()})
        assert torch.allclose(now, joint.score_among(asked, Full(), batch.rows["candidates"]), atol=1e-12)
        assert torch.allclose(now, network.score(asked, Full()).gather(1, batch.rows["candidates"].clamp_min(0)), atol=1e-12)


# -- systems -------------------------------------------------------------------------------------------------------------


WORDS = {"sport": "good", "weather": "terrible", "finance": "news"}
ENDS = ("watch", "bought", "rating", "candidate", "history", "the", "user")


def log() -> Split:
    """News of three topics, each with a word of its own that the tiny models have one token for."""
    made = synthetic_news(readers=150, articles=120, impressions=6, history=8, fresh=40, topics=3, likes=1, sharpness=4.0)
    topics = made.items.column("category").to_pylist()
    titles = pa.array([f"{WORDS[topic]} {ENDS[at % 7]}" for at, (topic,) in enumerate(topics)], pa.large_string())
    items = made.items.set_column(made.items.column_names.index("title"), "title", titles)
    return by_time(replace(made, items=items), valid_from=0.75, test_from=0.85)


PREC = {"backbone": "tiny-encoder", "texts": ("title",), "dim": 16, "layers": 1, "max_len": 8, "hidden": 16, "lr": 5e-3}


@pytest.mark.parametrize(
    "system",
    [
        systems.prec(**PREC, pretrain_lr=5e-3, pretrain_epochs=5, epochs=4),
        systems.plm_nr(**small(policy="frozen", pooling="mean", dim=16, max_len=8, epochs=4)),
    ],
    ids=["prec", "plm-nr"],
)
def test_clicks_are_learned_up_to_the_ceiling_and_for_news_never_clicked(system) -> None:
    split = log()
    asked = tasks.Clicks().rows(split.sealed_test)
    bound = float(news_ceiling(split.dataset)["AUC"][asked.which].mean())
    vocab = tiny.vocab(split.train)
    popular = models.Popularity().build(vocab)
    popular.estimate(split.train)
    fitted = fit(system, split, execution=CPU)
    found = evaluate(fitted, split)
    assert found.facts["shown_without_training_events"] > 0.1  # more than a tenth of the catalogue was never clicked
    assert 0.7 < found.measures["AUC"] < bound + 0.04
    assert new_among(fitted, split) > 0.65, "news that no training event knows are ranked by chance"
    base = system.task.judge(popular, None, asked, vocab, measures=[AUC()], seed=0)
    assert float(np.mean(base.values["AUC"])) < 0.6


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a masked model that answers yes where a title is of the topic of those before it: what a real one has from
    its pre-training. It has read titles of the three topics, nobody's clicks."""
    torch.manual_seed(0)
    tokens, model = tiny_models.tokenizer("encoder"), tiny_models.build("encoder", words=True)
    rng = np.random.default_rng(0)
    answers = torch.tensor([tokens.encode(f" {word}", add_special_tokens=False)[0] for word in ("no", "yes")])

    def title(topic: int) -> str:
        return f"{list(WORDS.values())[topic]} {rng.choice(ENDS)}"

    def question(topic: int, fits: bool) -> str:
        read = "; ".join(title(topic) for _ in range(rng.integers(1, 4)))
        asked = title(topic if fits else (topic + rng.integers(1, 3)) % 3)
        return f"[CLS]User: {read}[SEP] News: {asked}[SEP] Does the user click the news?[MASK][SEP]"

    step = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    for _ in range(1000):
        fits = rng.random(64) < 0.5
        texts = [question(int(rng.integers(3)), bool(each)) for each in fits]
        read = tokens(texts, add_special_tokens=False, padding=True, return_tensors="pt", return_token_type_ids=False)
        masked = torch.nonzero(read["input_ids"] == tokens.mask_token_id, as_tuple=True)
        logits = model.cls(model.bert(**read)[0][masked])[:, answers]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(fits).long())
        step.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step.step()
        if loss.item() < 0.02:
            break
    else:
        pytest.fail(f"the masked model did not learn to read: loss {loss.item()}")
    folder = tmp_path_factory.mktemp("reader")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the transformers package, about its own files
        model.save_pretrained(folder)
        tokens.save_pretrained(folder)
    return str(folder)


def test_a_masked_model_that_can_read_ranks_news_never_clicked(reader: str) -> None:
    """Prompt4NR tunes the reader on clicks and keeps what it can; the one that cannot read ranks new news by chance."""
    split = log()
    among = {}
    for backbone in (reader, "tiny-encoder"):
        system = systems.prompt4nr(
            backbone=backbone, head="trained", templates=("discrete-action",), max_len=3, lr=3e-4, epochs=1, batch_size=32,
            unclicked=1,
        )  # fmt: skip
        among[backbone] = new_among(fit(system, split, execution=CPU), split)
    assert among[reader] > 0.65
    assert 0.4 < among["tiny-encoder"] < 0.6


def new_among(fitted: Fitted, split: Split) -> float:
    """AUC among the shown news without training events."""
    rows = fitted.system.task.rows(split.sealed_test)
    counts = split.train.counts()
    data = split.dataset
    shown, clicked = [], []
    for at in range(len(rows.log)):
        _, items, flags = rows.log.row(at)
        new = counts[items] == 0
        shown.append(items[new].tolist())
        clicked.append(flags[new].tolist())
    keep = [at for at in rows.which if any(clicked[at]) and not all(clicked[at])]
    only = with_log(data, shown=shown, clicked=clicked)
    chosen = replace(fitted.system.task.rows(replace(split.sealed_test, dataset=only)), which=np.array(keep))
    assert len(keep) > 20
    found = fitted.system.task.judge(fitted.scorer, fitted.objective, chosen, fitted.vocab, measures=[AUC()], seed=0)
    return float(np.mean(found.values["AUC"]))


def test_reports_are_of_impressions_and_compare(tmp_path: Path) -> None:
    split = news()
    runs = []
    for name, seed in (("one", 0), ("two", 1)):
        system = systems.prec(**{**PREC, "max_len": 4}, epochs=1, pretrain_epochs=1, pretrain=name == "one")
        fitted = fit(system, split, seed=seed, execution=CPU)
        found = evaluate(fitted, split)
        assert found.protocol.candidates == "the items that were shown"
        assert set(found.measures) == {"AUC", "MINDMRR", "NDCG@5", "NDCG@10"}
        assert found.answers.column("impression").to_pylist() == [str(at + 1) for at in fitted.system.task.rows(split.test).which]
        found.save(tmp_path / name)
        runs.append(tmp_path / name)
    assert compare(runs, measure="AUC", resamples=50).measure == "AUC"


def test_a_saved_system_recommends_the_whole_catalogue(tmp_path: Path) -> None:
    split = news()
    before = Recommender.of(fit(systems.plm_nr(**small(tuned=1)), split, execution=CPU))
    after = Recommender.load(before.save(tmp_path / "model"))
    found = after.recommend(["N1", "N2", "nobody"], k=30)
    assert found.unknown == ("nobody",)
    assert len(found) == 24  # all but the two that were read
    assert found.ids == before.recommend(["N1", "N2"], k=30).ids


def test_templates_are_those_of_the_paper() -> None:
    names = tuple(systems.prompt4nr.__globals__["TEMPLATES"])
    assert len(names) == 12
    for name in names:
        kind = name.partition("-")[0]
        model = systems.prompt4nr(backbone="tiny-encoder", templates=(name,)).model
        assert model.soft == (kind != "discrete")
        assert model.template.count("[soft") == {"discrete": 0, "continuous": 3, "hybrid": 2}[kind]
        assert model.template.count("[mask]") == 1
    ensemble = systems.prompt4nr(backbone="tiny-encoder", templates=("discrete-action", "hybrid-utility")).model
    assert [each.words.yes for each in ensemble.members] == [("yes",), ("good",)]
    with pytest.raises(UserError, match="got 'hybrid-actoin'; did you mean hybrid-action"):
        systems.prompt4nr(templates=("hybrid-actoin",))


def test_an_ensemble_is_trained_and_ranks(tmp_path: Path) -> None:
    split = news()
    options = {"backbone": "tiny-encoder", "max_len": 1, "unclicked": 1, "epochs": 1, "lr": 1e-3}
    fitted = fit(systems.prompt4nr(templates=("discrete-action", "discrete-utility"), **options), split, execution=CPU)
    assert fitted.moved[0]["tensors_moved"] == fitted.moved[0]["tensors_tuned"]
    found = Recommender.load(Recommender.of(fitted).save(tmp_path / "m")).recommend(["N1"], k=3)
    assert all(0 < score < 1 for score in found.scores)


def test_leave_one_out_gives_impressions_too() -> None:
    """Where every impression has one click, the last of each reader is the test."""
    split = leave_one_out(news().dataset)
    rows = tasks.Clicks().rows(split.sealed_test)
    assert sorted(rows.user.tolist()) == list(range(14))
    assert (rows.log.stop[rows.which] == split.sealed_test.target).all()


# -- the command line ------------------------------------------------------------------------------------------------------


def mind(folder: Path) -> Path:
    """The tiny log as MIND writes it."""
    folder.mkdir()
    data = news().dataset
    log, ids = tasks.Clicks().rows(news().sealed_test).log, data.vocab.items.to_pylist()
    lines = []
    for at in range(len(log)):
        history, shown, clicked = log.row(at)
        when = datetime.fromtimestamp(log.time[at] / 1e6, tz=UTC).strftime("%m/%d/%Y %I:%M:%S %p")
        flags = " ".join(f"{ids[item]}-{int(flag)}" for item, flag in zip(shown, clicked, strict=True))
        lines.append("\t".join([str(at), f"U{log.user[at]}", when, " ".join(ids[item] for item in history), flags]))
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    titles = data.titles(np.arange(data.n_items))
    rows = ["\t".join([id_, "news", "plain", title, "", "", "[]", "[]"]) for id_, title in zip(ids, titles, strict=True)]
    (folder / "news.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_a_folder_of_mind_from_fit_to_recommend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, one, two = str(mind(tmp_path / "mind")), str(tmp_path / "one"), str(tmp_path / "two")
    dates = ["--split", "time", "--valid-from", "2023-11-18", "--test-from", "2023-11-19"]
    sets = {
        one: ["plm-nr", *(f"{name}={value}" for name, value in small(tuned=1).items())],
        two: [
            "prec",
            *(f"{name}={value}" for name, value in {**PREC, "texts": "title", "epochs": 1, "pretrain_epochs": 1}.items()),
        ],
    }
    for out, (system, *pairs) in sets.items():
        options = [each for pair in pairs for each in ("--set", pair)]
        assert run(["fit", system, "--data", data, *dates, "--out", out, "--quiet", *options]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run(["evaluate", one, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["measures"]) == {"AUC", "MINDMRR", "NDCG@5", "NDCG@10"}
    assert found["protocol"]["candidates"] == "the items that were shown"
    assert run(["compare", one, two, "--measure", "AUC", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measure"] == "AUC"
    assert run(["recommend", one, "--history", "N1,N2", "-k", "3"]) == 0
    assert run(["fit", "plm-nr", "--data", data, "--out", str(tmp_path / "three"), "--set", "measure=RMSE"]) == 1
