"""Explanations: reviews as rows, what is counted of them, PETER and PEPLER, and how they are judged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reviewed
import torch

from lmrs import describe, models, objectives, system, tasks, tuning, views
from lmrs.batch import Batch
from lmrs.cli import run as cli
from lmrs.errors import CheckpointError, ContractError, DataError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, Fitted, fit
from lmrs.folder import USERS
from lmrs.language import Backbone
from lmrs.models.pepler import DISCRETE
from lmrs.models.peter import BEGIN, END, SPECIAL, UNKNOWN, PeterNetwork
from lmrs.models.said import Said
from lmrs.recommender import Recommender
from lmrs.split import Split, by_review
from lmrs.systems.pepler import pepler
from lmrs.systems.peter import peter
from lmrs.systems.plm_rec import plm_rec
from lmrs.systems.sasrec import sasrec
from lmrs.testing import tiny
from lmrs.testing.values import check_repr
from lmrs.visibility import Causal

CPU = Execution(device="cpu")
SMALL = models.Peter(words=50, dim=16, layers=2, dropout=0.0)
TINY = models.Pepler(Backbone("tiny-causal"))


built = reviewed.network


def asked(count: int = 7) -> Batch:
    """Questions of the test part, with what was said."""
    view = views.Reviews()
    return view.collate(view.held_out(reviewed.split().test).take(np.arange(count)))


# -- the view ------------------------------------------------------------------------------------------------------------


def test_rows_are_the_reviews_of_training_events_and_nothing_else() -> None:
    split = reviewed.split()
    rows = views.Reviews().rows(split.train, ahead=0, rng=np.random.default_rng(0))
    assert rows.event.tolist() == split.train.events()[1].tolist()
    batch = views.Reviews().collate(rows)
    assert batch.lengths.tolist() == [1] * len(rows)
    for at in range(len(rows)):
        assert int(batch.channels["item"][at]) == split.dataset.item[rows.event[at]]
        assert float(batch.rows["rating"][at]) == split.dataset.rating[rows.event[at]]
        feature, opinion = reviewed.FEATURES[int(rows.item[at]) % 3], reviewed.OPINIONS[int(rows.user[at]) % 2]
        assert batch.texts["explanation"][at] == f"The {feature} is {opinion}!"
        assert batch.texts["feature"][at] == feature
    held = [views.Reviews().held_out(part).event for part in (split.valid, split.test)]
    every = np.concatenate([rows.event, *held])
    assert sorted(every.tolist()) == list(range(split.dataset.n_events))


def test_reviews_that_say_nothing_are_no_rows() -> None:
    split = by_review(reviewed.reviewed(explained=0.5), valid=0.15, test=0.15)
    view = views.Reviews()
    rows = view.rows(split.train, ahead=0, rng=np.random.default_rng(0))
    assert None not in view.collate(rows).texts["explanation"]
    assert 0 < len(rows) < split.train.n_events
    assert len(views.Reviews(says="title").rows(split.train, ahead=0, rng=np.random.default_rng(0))) == split.train.n_events


def test_texts_are_cut_after_so_many_words() -> None:
    split = reviewed.split()
    batch = asked()
    view = views.Reviews(longest=2)
    assert set(view.collate(view.held_out(split.test)).texts["explanation"]) <= {"The strings", "The sound", "The price"}
    assert all(text is not None and text.endswith("!") for text in batch.texts["explanation"])


def test_what_a_view_cannot_read_it_names() -> None:
    with pytest.raises(DataError, match=r"a dataset with reviews, got tiny; load it .*reviews:PATH"):
        views.Reviews().of(tiny.dataset())
    nothing = by_review(reviewed.reviewed(explained=0.0), valid=0.15, test=0.15)
    with pytest.raises(DataError, match=r"reviews with explanation .* 0 with explanation, 156 with title, 156 with text"):
        views.Reviews().rows(nothing.train, ahead=0, rng=np.random.default_rng(0))
    with pytest.raises(ContractError, match="did you mean title"):
        views.Reviews(says="titel")


def test_views_models_and_tasks_are_described() -> None:
    for value in (views.Reviews(longest=3), SMALL, TINY, objectives.Explanation(context=1.0), tasks.Explaining()):
        check_repr(value)
        assert describe.from_json(json.loads(json.dumps(describe.to_json(value)))) == value


# -- what is counted -----------------------------------------------------------------------------------------------------


def test_words_and_features_are_counted_in_training_alone(tmp_path: Path) -> None:
    split = reviewed.split()
    said = Said.of(split.train, views.Reviews(), words=4, features=True)
    # "is" and "the" are in all 110 explanations, "!" too; "quality" and "sound" in a third.
    assert said.words[:3] == ("!", "is", "the")
    assert said.features == tuple(sorted(reviewed.FEATURES))
    assert said.users.tolist() == split.train.lengths.tolist()
    assert said.items.tolist() == split.train.counts().tolist()
    said.save(tmp_path)
    again = Said.load(tmp_path)
    assert again.fingerprint == said.fingerprint
    assert again.shared_first(11, 4) == said.shared_first(11, 4)
    (tmp_path / "said.arrow").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"what reviews said in .*said\.arrow"):
        Said.load(tmp_path)


def test_shared_features_come_first_and_once() -> None:
    said = Said((), np.ones(2), np.ones(2), ("a", "b", "c", "d"), np.array([0, 3, 3]), np.array([1, 2, 0]), np.array([0, 0, 2]),
                np.array([3, 2]))  # fmt: skip
    assert said.shared_first(0, 1) == ["c", "b", "a", "d"]
    assert said.shared_first(0, 0) == ["b", "c", "a"]
    assert said.shared_first(1, 1) == ["d", "c"]
    assert said.shared_first(1, 0) == []


# -- PETER ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def plain(network: PeterNetwork, symbols: list[int], *, peter_mask: bool = True) -> torch.Tensor:
    """[T, D]: the transformer of a single row, written out once more from the equations."""
    table = torch.cat([network.users.weight, network.items.weight, network.tokens.weight])
    size, width = len(symbols), network.dim
    sines = torch.zeros(size, width)  # in fp32, as the network has them
    for at in range(size):
        for j in range(0, width, 2):
            angle = at / 10_000 ** (j / width)
            sines[at, j], sines[at, j + 1] = math.sin(angle), math.cos(angle)
    x = table[symbols] * math.sqrt(width) + sines.double()
    seen = torch.ones(size, size).tril().bool()
    if peter_mask:
        seen[0, 1] = True
    for block in network.blocks:
        query, key, value = (each.view(size, 2, -1).transpose(0, 1) for each in block.mix(x).chunk(3, 1))
        weights = (query @ key.transpose(1, 2) / math.sqrt(width // 2)).masked_fill(~seen, -torch.inf).softmax(2)
        x = block.norm_attention(x + block.out((weights @ value).transpose(0, 1).reshape(size, width)))
        x = block.norm_feed(x + block.down(torch.nn.functional.gelu(block.up(x))))
    return x


@torch.no_grad()
@pytest.mark.parametrize("mask", ["peter", "causal"])
@pytest.mark.parametrize("feature", [False, True])
def test_peter_charges_what_its_equations_say(feature: bool, mask: str) -> None:
    network = built(replace(SMALL, feature=feature, mask=mask))
    assert isinstance(network, PeterNetwork)
    batch = asked()
    told = network.tell(batch)
    text = context = 0.0
    n_users, n_items = network.users.num_embeddings, network.items.num_embeddings
    rating = []
    for row in range(batch.n_rows):
        words = network.read_words(batch.texts["explanation"][row])
        lead = [*(network.read_words(batch.texts["feature"][row]) if feature else []), BEGIN]
        user, item = int(batch.rows["user"][row]), int(batch.channels["item"][row])
        symbols = [user, n_users + item, *(n_users + n_items + each for each in [*lead, *words])]
        states = plain(network, symbols, peter_mask=mask == "peter")
        gain = network.words(states).log_softmax(1)
        text += sum(float(gain[1 + len(lead) + at, word]) for at, word in enumerate([*words, END]))
        context += sum(float(gain[1, word]) for word in words)
        rating.append(float(network.rating(states[:1])))
    assert told.tokens == sum(len(network.read_words(each)) + 1 for each in batch.texts["explanation"])
    assert float(told.text) == pytest.approx(text, abs=1e-4)
    assert told.context is not None
    assert told.rating is not None
    assert float(told.context) == pytest.approx(context, abs=1e-4)
    assert told.rating.tolist() == pytest.approx(rating, abs=1e-5)
    assert torch.allclose(network.rate(batch), told.rating, atol=1e-9)


def test_words_from_users_are_never_symbols_of_meaning() -> None:
    network = built(SMALL)
    assert isinstance(network, PeterNetwork)
    for text in ("<bos> <eos> <unk>", "BEGIN END", "0 1 2", ""):
        assert not {BEGIN, END} & set(network.read_words(text))
    assert network.read_words("Xylophone") == [UNKNOWN]
    assert min(network.read_words("The price is good!")) >= SPECIAL


def test_unknown_words_are_never_written() -> None:
    network = built(replace(SMALL, words=2))
    assert isinstance(network, PeterNetwork)
    with torch.no_grad():
        network.words.bias[UNKNOWN] = 1000.0
    for text in network.write(asked()):
        assert set(text.split()) <= set(network.said.words)


@torch.no_grad()
def test_peter_writes_what_is_likeliest_step_by_step() -> None:
    network = built(SMALL)
    assert isinstance(network, PeterNetwork)
    batch = asked(3)
    n_users, n_items = network.users.num_embeddings, network.items.num_embeddings
    for row, text in enumerate(network.write(batch)):
        symbols = [int(batch.rows["user"][row]), n_users + int(batch.channels["item"][row]), n_users + n_items + BEGIN]
        found = []
        for _ in range(network.model.longest):
            logits = network.words(plain(network, symbols)[-1])
            logits[[BEGIN, UNKNOWN]] = -torch.inf
            best = int(logits.argmax())
            if best == END:
                break
            found.append(network.said.words[best - SPECIAL])
            symbols.append(n_users + n_items + best)
        assert text == " ".join(found)


# -- PEPLER --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pepler_charges_the_text_after_the_vectors() -> None:
    """Against a row that is put together by hand and read by the backbone alone."""
    network = built(TINY)
    batch = asked(3)
    backbone, total = network.backbone, 0.0
    for row in range(batch.n_rows):
        ids = [network.begin, *network.tokens.encode(" " + batch.texts["explanation"][row]), network.end]
        tables = [each.table for each in network.prompt.sources.values()]
        vectors = torch.stack([tables[0][batch.rows["user"][row]], tables[1][batch.channels["item"][row]]])
        words = backbone.get_input_embeddings()(torch.tensor(ids))
        logits = backbone(inputs_embeds=torch.cat([vectors, words])[None]).logits[0, 2:-1]
        total += float(logits.log_softmax(1).gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert float(network.tell(batch).text) == pytest.approx(total, abs=1e-3)


def test_the_discrete_prompt_holds_the_features_of_both() -> None:
    network = built(replace(TINY, template=DISCRETE, room=200))
    batch = asked(4)
    prompts = network.prompts(batch)
    for row in range(batch.n_rows):
        wanted = " ".join(network.said.shared_first(int(batch.rows["user"][row]), int(batch.channels["item"][row])))
        assert network.tokens.decode(prompts.ids[prompts.offsets[row] : prompts.offsets[row + 1]]) == wanted
    short = built(replace(TINY, template=DISCRETE, room=15)).prompts(batch)
    assert np.diff(short.offsets).max() <= 15
    assert np.diff(short.offsets).min() > 0


@torch.no_grad()
def test_ratings_are_read_from_the_vectors() -> None:
    network = built(replace(TINY, rating="mf"))
    batch = asked()
    tables = [each.table for each in network.prompt.sources.values()]
    wanted = (tables[0][batch.rows["user"]] * tables[1][batch.channels["item"]]).sum(1)
    assert torch.allclose(network.rate(batch), wanted)
    net = built(replace(TINY, rating="mlp"))
    assert [layer.out_features for layer in net.rating if isinstance(layer, torch.nn.Linear)] == [400, 400, 400, 1]
    assert net.rate(batch).shape == (batch.n_rows,)
    assert built(TINY).rate(batch) is None


def test_what_cannot_work_is_refused_with_what_to_do() -> None:
    with pytest.raises(ContractError, match="a backbone of family causal for Pepler, got minilm"):
        models.Pepler(Backbone("minilm"))
    with pytest.raises(ContractError, match="for a rating"):
        models.Pepler(Backbone("tiny-causal"), DISCRETE, rating="mf")
    with pytest.raises(ContractError, match="vectors user and item"):
        models.Pepler(Backbone("tiny-causal"), "[vector wings]")
    with pytest.raises(ContractError, match="did you mean sequential"):
        pepler(tuned="sequentially")
    network, vocab = built(TINY), tiny.vocab(reviewed.split().train)
    bags = objectives.Explanation(context=1.0)
    batch = bags.corrupt(asked(), vocab, torch.Generator())
    with pytest.raises(ContractError, match=r"a network that predicts the context, got PeplerNetwork"):
        bags.charge(network, None, batch, vocab, None)
    with pytest.raises(ContractError, match="needed a model that explains"):
        bags.charge(models.Transformer(dim=8).build(vocab), None, batch, vocab, None)
    with pytest.raises(ContractError, match="a network that ranks items"):
        built(SMALL).score(tiny.marked(asked()), Causal())


# -- the signal ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("model", [SMALL, replace(TINY, rating="mf")])
def test_shards_add_up_and_parts_are_divided_by_what_they_count(model: models.Model) -> None:
    network, split = built(model), reviewed.split()
    vocab = tiny.vocab(split.train)
    objective = objectives.Explanation(context=1.0 if isinstance(model, models.Peter) else 0.0, rating=0.5)
    batch = asked()
    batch.rows["rating"][2] = math.nan
    whole = objective.corrupt(batch, vocab, torch.Generator())
    words = sum(len(text.replace("!", " !").split()) for text in batch.texts["explanation"])
    assert objective.counts(whole) == {
        name: count for name, count in {"text": words + 7, "context": words, "rating": 6}.items() if name in objective.weights
    }
    charged = objective.charge(network, None, whole, vocab, None)
    parts = [objective.charge(network, None, whole.take(which), vocab, None) for which in torch.arange(7).split(3)]
    for name, value in charged.items():
        assert float(sum(part[name] for part in parts)) == pytest.approx(float(value), rel=1e-5)
    rated = torch.arange(7) != 2
    truth = batch.rows["rating"][rated]
    assert float(charged["rating"]) == pytest.approx(float((network.rate(batch)[rated] - truth).square().sum()), rel=1e-5)


# -- learning, judging, serving ------------------------------------------------------------------------------------------


@cache
def learned(feature: bool = False, context: float = 1.0) -> tuple[Fitted, Split]:
    split = reviewed.split()
    made = peter(feature=feature, context=context, dim=32, dropout=0.0, epochs=14, batch_size=16, lr=4e-3, longest=8)
    return fit(made, split, execution=CPU), split


def test_peter_learns_whose_words_and_of_what() -> None:
    """The feature follows from the item, the opinion from the user: knowing neither, a sixth is right."""
    fitted, split = learned()
    found = evaluate(fitted, split)
    assert found.measures["FMR"] > 0.7, "the item does not decide the feature"
    assert found.answers is not None
    right = [f"{text.lower()[:-1]} !" for text in found.answers.column("reference").to_pylist()]
    share = np.mean([one == two for one, two in zip(found.answers.column("generated").to_pylist(), right, strict=True)])
    assert share > 0.5
    assert 1.0 <= found.measures["PPL"] < 1.5


def test_the_report_has_every_measure_and_the_texts(tmp_path: Path) -> None:
    fitted, split = learned()
    found = evaluate(fitted, split)
    assert set(found.measures) == set(tasks.Explaining.measures)
    assert found.facts["with_feature"] == found.facts["with_rating"] == len(views.Reviews().held_out(split.test))
    assert found.facts["users_without_training_review"] == 0
    assert found.answers is not None
    assert found.answers.column_names == ["query", "user", "item", "feature", "generated", "reference"]
    alone = evaluate(fitted, split, measures=["BLEU-4"])
    assert alone.measures == {"BLEU-4": found.measures["BLEU-4"]}
    assert alone.protocol.candidates == "none: texts are written"
    low, high = split.dataset.rating.min(), split.dataset.rating.max()
    fitted.scorer.rating[2].bias.data += 1000  # clipped to the ratings that there are
    worst = evaluate(fitted, split, measures=["MAE"]).measures["MAE"]
    fitted.scorer.rating[2].bias.data -= 1000
    assert worst <= high - low


def test_measures_that_the_data_cannot_give_are_left_out_or_refused() -> None:
    fitted, split = learned()
    table = split.dataset.records["reviews"]
    column = table.column_names.index("feature")
    nameless = table.set_column(column, "feature", pa.nulls(table.num_rows, pa.large_string()))
    bare = replace(split.dataset, records={"reviews": nameless}, rating=None)
    other = replace(split, dataset=bare, sealed_test=replace(split.sealed_test, dataset=bare))
    found = evaluate(fitted, other)
    assert set(tasks.Explaining.measures) - set(found.measures) == {"FMR", "FCR", "DIV", "RMSE", "MAE"}
    with pytest.raises(DataError, match="can be measured by FMR"):
        evaluate(fitted, other, measures=["FMR"])
    with pytest.raises(UserError, match="text measure such as BLEU-4"):
        evaluate(fitted, split, measures=["NDCG@10"])


def test_users_are_matched_by_id() -> None:
    """The same questions of data whose users stand in another order get the same answers; strangers are refused."""
    fitted, split = learned()
    rows = views.Reviews().held_out(split.test)
    turned = replace(split.dataset, vocab=replace(split.dataset.vocab, users=split.dataset.vocab.users[::-1]))
    last = split.dataset.n_users - 1
    other = replace(rows, dataset=turned, user=last - rows.user)
    ask = {"measures": [tasks.Explaining().measure("PPL")], "seed": 0}
    one, two = (fitted.system.task.judge(fitted.scorer, fitted.objective, each, fitted.vocab, **ask) for each in (rows, other))
    assert one.values == two.values
    strange = pa.array([f"x{at}" for at in range(last + 1)], pa.large_string())
    stranger = replace(rows, dataset=replace(turned, vocab=replace(turned.vocab, users=strange)))
    with pytest.raises(DataError, match=r"users that the model was trained on, got \d+ others, such as 'x"):
        fitted.system.task.judge(fitted.scorer, fitted.objective, stranger, fitted.vocab, **ask)


def test_a_saved_explainer_knows_its_users_and_says_the_same(tmp_path: Path) -> None:
    fitted, split = learned()
    before = Recommender.of(fitted)
    saved = before.save(tmp_path / "model")
    after = Recommender.load(saved)
    assert after.vocab.users.equals(split.dataset.vocab.users)
    one, two = (evaluate(each, split) for each in (before, after))
    assert one.answers is not None
    assert one.answers.equals(two.answers)
    said = after.explain("i3", user="u11")
    assert said == before.explain("Title 3", user="u11")
    assert "strings" in said[0].text or "is" in said[0].text
    with pytest.raises(UserError, match=r"an item that the recommender knows, got 'i33'; did you mean 'i3'"):
        after.explain("i33", user="u11")
    with pytest.raises(UserError, match=r"a user that the recommender knows, got 'u111'; did you mean 'u11'"):
        after.explain("i3", user="u111")
    with pytest.raises(UserError, match="learned what each one writes, got none"):
        after.explain("i3")
    with pytest.raises(UserError, match="an item that has reviews in training"):
        after.explain("i12", user="u11")
    with pytest.raises(UserError, match="whose task is Explaining"):
        after.recommend(["i3"])
    (saved / USERS).unlink()
    with pytest.raises(CheckpointError, match=r"users\.arrow"):
        Recommender.load(saved)


def test_systems_that_do_not_explain_say_so_and_keep_no_users(tmp_path: Path) -> None:
    fitted = fit(sasrec(dim=8, max_len=6, epochs=1), tiny.split(), execution=CPU)
    recommender = Recommender.of(fitted)
    assert not (recommender.save(tmp_path / "model") / USERS).exists()
    with pytest.raises(UserError, match="a system that explains, such as peter"):
        recommender.explain("i3", user="u1")


def test_paths_are_reasons_for_a_history() -> None:
    """The same question to a system that knows histories, not users."""
    options = {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "transe_epochs": 0, "per_user": 2, "epochs": 1}
    recommender = Recommender.of(fit(plm_rec(**options, decoding="constrained"), tiny.split(), execution=CPU))
    reasons = recommender.explain("Title 3", history=["i1", "i2", "unheard of"], k=2)
    assert len(reasons) == 2
    for each in reasons:
        assert each.text.endswith("Title 3")
        assert "Title 1" in each.text or "Title 2" in each.text
    with pytest.raises(UserError, match="knows no users by name, got none"):
        recommender.explain("i3", user="u1")
    with pytest.raises(UserError, match="a history with an item that the recommender knows"):
        recommender.explain("i3", history=["unheard of"])
    with pytest.raises(UserError, match="k of at least 1"):
        recommender.explain("i3", history=["i1"], k=0)


def test_both_stages_of_pepler_and_what_each_leaves_alone() -> None:
    """Stage one leaves every bit of the backbone; stage two moves it. `fit` proves both by the bytes of all tensors."""
    split = reviewed.split()
    made = pepler(backbone="tiny-causal", epochs=1, batch_size=16)
    fitted = fit(made, split, execution=CPU)
    sizes = [len(each.said.users) + len(each.said.items) for each in (fitted.scorer,)]
    assert fitted.moved[0]["parameters_moved"] == fitted.moved[0]["parameters_tuned"] == sizes[0] * 32
    assert fitted.moved[0]["parameters_frozen"] > 10_000
    assert fitted.moved[1]["parameters_frozen"] == 0
    prompt = fit(pepler(backbone="tiny-causal", tuned="prompt", epochs=1, batch_size=16), split, execution=CPU)
    original = Backbone("tiny-causal").build().state_dict()
    for name, tensor in prompt.scorer.backbone.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    assert not [name for name in _saved(prompt) if name.startswith("backbone.")]
    assert [name for name in _saved(fitted) if name.startswith("backbone.")]


def _saved(fitted: Fitted) -> list[str]:
    return [name for name in fitted.scorer.state_dict() if system.learned(fitted.system, name)]


def test_plans_of_pepler() -> None:
    def tuned(**given) -> list:
        return [stage.tuning for stage in pepler(backbone="tiny-causal", **given).stages]

    prompt = tuning.Part(("prompt.*",))
    assert tuned() == [prompt, tuning.Everything()]
    assert tuned(tuned="prompt") == [prompt]
    assert tuned(tuned="both") == tuned(rating="mf") == tuned(discrete=True) == [tuning.Everything()]
    weights = [pepler(rating=name).stages[0].objective.rating for name in ("", "mf", "mlp")]
    assert weights == [0.0, 0.01, 1.0]


def test_the_command_line_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted, _ = learned()
    Recommender.of(fitted, name="peter").save(tmp_path / "model")
    wanted = Recommender.of(fitted).explain("i3", user="u11")[0].text
    assert cli(["explain", str(tmp_path), "--user", "u11", "--item", "i3"]) == 0
    assert capsys.readouterr().out.strip() == wanted
    assert cli(["explain", str(tmp_path), "--user", "u11", "--item", "Title 3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"] == [wanted]
    assert cli(["explain", str(tmp_path), "--user", "u11", "--item", "Titel 3"]) == 1
    assert "did you mean 'Title 3'" in capsys.readouterr().err
    assert cli(["explain", str(tmp_path), "--user", "u11", "--history", "i1", "--item", "i3"]) == 1
    assert "--user or --history, got both" in capsys.readouterr().err
