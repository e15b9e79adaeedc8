"""Encoders read at their masks, and whole sentences: against the model called by hand, token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs import models, systems
from lmrs.errors import ContractError, UserError
from lmrs.language import Backbone
from lmrs.models.prompted_masks import _states_at
from lmrs.prompts import MultiMask
from lmrs.testing import tiny
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

CAUSAL, ENCODER = Backbone("tiny-causal"), Backbone("tiny-encoder")
MASKED = "A user watched {list history}. Next is [mask 4]."
ONE = "A user watched {list history}. Next is [mask]."


def vocab() -> Vocab:
    """Titles of different lengths, two longer than the masks, one hostile."""
    known = tiny.vocab(tiny.split().train)
    titles = [f"Film {'of the bad movie ' * (item % 3)}{item}" for item in range(known.n_items)]
    titles[5] = "[MASK] [PAD]"
    titles[6] = "x"
    return replace(known, catalogue=pa.table({"item_id": known.items, "title": titles}))


def network(template: str = MASKED, backbone: Backbone = ENCODER, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return models.Prompted(backbone, template, **{"read": "masks", "masks": MultiMask(4), "max_len": 3, **options}).build(
            vocab()
        )


def asked():
    return tiny.marked(tiny.batch(tiny.split().train, lengths=(5, 3, 3, 1)))


@torch.no_grad()
def at_the_masks(made, ids: list[int]) -> torch.Tensor:
    """[n, W] log-probabilities at the masks of one prompt, called plainly."""
    said = made.backbone(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
    return said[[place for place, token in enumerate(ids) if token == made.tokens.mask]]


OVER = {"mean": lambda each: sum(each) / len(each), "min": min, "max": max, "product": sum}


@pytest.mark.parametrize("padding", ["include", "exclude"])
@pytest.mark.parametrize("together", ["mean", "min", "max", "product"])
@pytest.mark.parametrize("one", [False, True], ids=["many", "one"])
def test_a_title_scores_its_tokens_at_the_masks(together: str, padding: str, one: bool) -> None:
    read = MultiMask(4, padding, together=together, one=one)
    made, batch = network(ONE if one else MASKED, masks=read), asked()
    found = made.score(batch, Causal())
    assert found.shape == (batch.n_rows, made.n_items)
    for row in range(batch.n_rows):
        said = at_the_masks(made, made.prompts(batch, batch.last[row : row + 1]).ids.tolist())
        assert len(said) == (1 if one else 4)
        for item in (0, 2, 5, 6):
            words = made.tokens.encode(f" {made.titles[item]}")[:4]
            words += [made.tokens.pad] * (4 - len(words)) if padding == "include" else []
            each = [float(said[0 if one else at, word]) for at, word in enumerate(words)]
            assert float(found[row, item]) == pytest.approx(OVER[together](each), abs=2e-4)


def test_titles_cannot_spell_masks_or_padding() -> None:
    made = network()
    assert made.tokens.mask not in made.reader.ids[5].tolist()
    assert made.reader.real.sum(1).tolist() == [min(4, len(made.tokens.encode(f" {title}"))) for title in made.titles]
    assert made.reader.cut == sum(len(made.tokens.encode(f" {title}")) > 4 for title in made.titles) > 0


def test_the_likelihood_is_the_softmax_of_the_scores_and_verdicts_are_scores() -> None:
    made, batch = network(), asked()
    scores = made.score(batch, Causal())
    target = torch.tensor([0, 5, 6, 12])
    found = made.likelihood(batch, Causal(), batch.last, target)
    assert torch.allclose(found, scores.log_softmax(1)[torch.arange(4), target], atol=1e-5)
    items = torch.tensor([[0, 3], [6, 5], [1, 1], [12, 2]])
    assert torch.allclose(made.verdicts(batch, Causal(), batch.last, items), scores.gather(1, items), atol=1e-5)
    assert torch.equal(made.score_among(batch, Causal(), items), scores.gather(1, items))
    (-found.sum()).backward()
    moved = [name for name, each in made.named_parameters() if each.grad is not None and each.grad.any()]
    assert any("cls.predictions.transform" in name for name in moved)
    assert any("layer.0" in name for name in moved)


def test_only_the_states_at_the_masks_reach_the_word_head() -> None:
    """The shortcut gives the logits of a whole pass, and leaves the model as it was."""
    made, batch = network(), asked()
    ids, mask, soft = made.padded(made.prompts(batch, batch.last))
    places = (ids == made.tokens.mask).nonzero()[:, 1].view(batch.n_rows, -1)
    with torch.no_grad():
        whole = made.run(made.embedded(ids, soft), mask).logits
        with _states_at(made.backbone.base_model, places):
            few = made.run(made.embedded(ids, soft), mask).logits
        again = made.run(made.embedded(ids, soft), mask).logits
    assert few.shape[:2] == places.shape
    assert torch.allclose(few, whole.gather(1, places[..., None].expand(-1, -1, whole.shape[2])), atol=1e-5)
    assert torch.equal(whole, again)


def test_pmi_takes_off_the_score_without_a_history() -> None:
    plain, made, batch = network(), network(score="pmi"), asked()
    said = at_the_masks(plain, plain.compiled(np.zeros(0, np.int64), np.zeros(2, np.int64)).ids.tolist())
    for item in (0, 5):
        words = plain.tokens.encode(f" {plain.titles[item]}")[:4]
        prior = sum(float(said[at, word]) for at, word in enumerate(words)) / len(words)
        assert plain.blank(np.array([item])) == pytest.approx(prior, abs=2e-4)
        wanted = plain.score(batch, Causal())[:, item] - prior
        assert torch.allclose(made.score(batch, Causal())[:, item], wanted, atol=5e-4)


def test_a_sentence_scores_the_mean_over_all_its_tokens() -> None:
    made = network("A user watched {list history}. Next is", CAUSAL, read="title", score="sentence")
    batch = asked()
    found = made.score(batch, Causal())
    for row in range(batch.n_rows):
        prompt = made.prompts(batch, batch.last[row : row + 1]).ids.tolist()
        for item in (0, 2, 6):
            ids = prompt + made.tokens.encode(f" {made.titles[item]}.")
            with torch.no_grad():
                out = made.backbone(input_ids=torch.tensor([ids]), labels=torch.tensor([ids]))
            assert float(found[row, item]) == pytest.approx(-float(out.loss), abs=2e-4)


def test_the_prior_of_a_title_and_of_a_verdict() -> None:
    titles = network("After {list history} comes", CAUSAL, read="title")
    by_pmi = network("After {list history} comes", CAUSAL, read="title", score="pmi")
    batch, items = asked(), np.array([5, 2])
    gap = (titles.score(batch, Causal()) - by_pmi.score(batch, Causal()))[:, [5, 2]]
    assert torch.allclose(gap, torch.from_numpy(titles.blank(items)).float().expand(4, -1), atol=1e-3)
    words = network("After {list history}: {candidate}?", CAUSAL, read="words")
    empty = words.compiled(np.zeros(0, np.int64), np.zeros(2, np.int64), candidate=np.array([5]))
    with torch.no_grad():
        last = words.backbone(input_ids=torch.tensor([empty.ids.tolist()])).logits[0, -1]
    yes, no = (words.tokens.encode(f" {word}")[0] for word in ("yes", "no"))
    assert words.blank(items)[0] == pytest.approx(float(last[yes] - last[no]), abs=1e-4)
    with pytest.raises(ContractError, match="scores without a history, got Prompted\\(read='state'\\)"):
        network("{list history}", CAUSAL, read="state").blank(items)


def test_the_margin_is_charged_of_every_other_item() -> None:
    """By hand from scores that the network gives."""
    from lmrs.objectives import Margin

    made, batch = network(masks=MultiMask(4, "include")), tiny.batch(tiny.split().train, lengths=(4, 3))
    known, rule = vocab(), Margin(margin=0.7, places="last")
    prepared = rule.corrupt(batch, known, torch.Generator().manual_seed(0))
    found = rule.charge(made, None, prepared, known, None)["margin"]
    scores = made.score(tiny.marked(prepared), Causal()).double()
    wanted = 0.0
    for row, target in enumerate(prepared.channels["target"][prepared.last].tolist()):
        wanted += sum(max(0.0, 0.7 + float(scores[row, j] - scores[row, target])) for j in range(made.n_items) if j != target)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-4)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ContractError, match=r"needed 4 masks in the template .* got 1 in .*; write \[mask 4\]"):
        network(ONE, masks=MultiMask(4))
    with pytest.raises(ContractError, match=r"a backbone of family encoder .* got tiny-causal"):
        network(MASKED, CAUSAL)
    with pytest.raises(ContractError, match="needed together=mean, min, max, product, got 'meen'; did you mean mean"):
        MultiMask(4, together="meen")
    with pytest.raises(UserError, match="needed scorer=masks to tune"):
        systems.lmrec(loss="hinge")
    with pytest.raises(UserError, match=r"needed a scorer .* got 'mask'; did you mean masks"):
        systems.lmrec(scorer="mask")
    with pytest.raises(UserError, match="needed a loss none, hinge, softmax, got 'hinges'"):
        systems.lmrec(loss="hinges", scorer="masks", backbone="tiny-encoder")
    with pytest.raises(UserError, match="needed a trained word head"):
        systems.lmrec(head="new", scorer="masks", backbone="tiny-encoder")


def test_a_new_word_head_is_saved_and_a_trained_one_is_not() -> None:
    trained, new = models.Prompted(ENCODER, MASKED, read="masks"), models.Prompted(ENCODER, MASKED, read="masks", head="new")
    name = "backbone.cls.predictions.transform.dense.weight"
    assert name in network().state_dict()
    assert trained.given(name)
    assert not new.given(name)
    assert new.given("backbone.bert.encoder.layer.0.output.dense.weight")


def test_chance_is_log_v() -> None:
    """With equal titles nothing can be told apart: the softmax over the catalogue is uniform."""
    known = replace(vocab(), catalogue=pa.table({"item_id": vocab().items, "title": ["film"] * vocab().n_items}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = models.Prompted(ENCODER, MASKED, read="masks", masks=MultiMask(4)).build(known)
    batch = asked()
    found = made.likelihood(batch, Causal(), batch.last, torch.arange(4))
    assert torch.allclose(found, torch.full((4,), -math.log(known.n_items)), atol=1e-5)
