"""The survey's training strategies, computed from the stages and proved on the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lmrs import models, objectives, systems, tasks, taxonomy, tuning, views
from lmrs.fit import Execution, fit
from lmrs.system import Budget, Estimate, Paper, Stage, System
from lmrs.taxonomy import TaxonomyError, cell, check, fingerprints
from lmrs.testing import tiny

CELLS = {
    "gru4rec": taxonomy.PRETRAIN,
    "caser": taxonomy.PRETRAIN,
    "sasrec": taxonomy.PRETRAIN,
    "esasrec": taxonomy.PRETRAIN,
    "bert4rec": taxonomy.PRETRAIN,
    "transformers4rec": taxonomy.PRETRAIN,
    "s3rec": taxonomy.WHOLE,
    "unisrec": taxonomy.PART,
    "lmrec": taxonomy.TUNING_FREE,
    "zero-shot": taxonomy.TUNING_FREE,
    "tallrec": taxonomy.FIXED_PROMPT,
    "language": taxonomy.TUNING_FREE,
    "ppr": taxonomy.FIXED_MODEL,
    "prl": taxonomy.PRETRAIN,
    "plm-nr": taxonomy.PART,
    "prec": taxonomy.EXTRA,
    "prompt4nr": taxonomy.BOTH,
    "ptm4tag": taxonomy.WHOLE,
    "plm-rec": taxonomy.PRETRAIN,
    "p5": taxonomy.PRETRAIN,
    "tiger": taxonomy.PRETRAIN,
    "peter": taxonomy.PRETRAIN,
    "pepler": taxonomy.BOTH,
    "kbrd": taxonomy.PRETRAIN,
    "unicrs": taxonomy.FIXED_MODEL,
    "popularity": taxonomy.CONTROL,
    "recent-popularity": taxonomy.CONTROL,
    "markov": taxonomy.CONTROL,
    "item-knn": taxonomy.CONTROL,
    "ease": taxonomy.CONTROL,
    "walks": taxonomy.CONTROL,
}

# Where the survey's printed table and the system as it was published differ: (printed, computed, why).
CONTRADICTIONS = {
    "prl": (taxonomy.BOTH, taxonomy.PRETRAIN, "nothing is pre-trained: the prompt is part of a model trained from scratch"),
    "p5": (
        taxonomy.TUNING_FREE,
        taxonomy.PRETRAIN,
        "its weights learn from the very data; only the wording may be new when asked",
    ),
    "prompt4nr": (taxonomy.FIXED_PROMPT, taxonomy.BOTH, "its hybrid templates have virtual tokens, which are tuned as well"),
    "s3rec": (
        taxonomy.EXTRA,
        taxonomy.WHOLE,
        "the released code goes on with all weights of the pre-trained encoder and tunes all of them",
    ),
}

SEQUENCE = views.ItemSequence(max_len=8)


def stage(name: str = "s", **options) -> Stage:
    return Stage(name, SEQUENCE, objectives.NextItem(), **options)


def system(*stages: Stage) -> System:
    return System(Paper("", "", 2020), models.Transformer(dim=8, heads=2, max_len=8), stages, tasks.Ranking(SEQUENCE))


def test_the_cell_of_every_system_in_the_catalogue() -> None:
    assert {name: cell(make()) for name, make in systems.CATALOGUE.items()} == CELLS


def test_the_survey_agrees_but_for_the_listed_contradictions() -> None:
    found = {}
    for name, make in systems.CATALOGUE.items():
        printed = make().paper.survey
        if printed and printed != cell(make()):
            found[name] = (printed, cell(make()))
    assert found == {name: (printed, computed) for name, (printed, computed, _) in CONTRADICTIONS.items()}


def test_systems_that_the_survey_names_say_so() -> None:
    named = {name for name, make in systems.CATALOGUE.items() if make().paper.survey}
    assert named == {
        "bert4rec",
        "p5",
        "pepler",
        "plm-nr",
        "plm-rec",
        "ppr",
        "prec",
        "prl",
        "prompt4nr",
        "ptm4tag",
        "s3rec",
        "transformers4rec",
        "unicrs",
        "unisrec",
        "zero-shot",
        "lmrec",
    }


def test_without_its_pre_training_s3rec_is_trained_in_one_stage() -> None:
    assert cell(systems.s3rec(pretrain=False)) == taxonomy.PRETRAIN


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [
        ((stage(),), taxonomy.PRETRAIN),
        ((stage(), stage()), taxonomy.WHOLE),
        ((stage(), stage(tuning=tuning.Part(("blocks.*",)))), taxonomy.PART),
        ((stage(), stage(tuning=tuning.Head())), taxonomy.EXTRA),
        ((stage(), stage(tuning=tuning.Nothing())), taxonomy.PRETRAIN),
        ((stage(), stage(start="new")), taxonomy.EXTRA),
        ((stage(), stage(tuning=tuning.Head()), stage()), taxonomy.WHOLE),  # the last stage decides
    ],
)
def test_the_cell_follows_from_the_stages(stages: tuple[Stage, ...], wanted: str) -> None:
    assert cell(system(*stages)) == wanted


@pytest.mark.parametrize("strategy", tuning.STRATEGIES)
def test_one_language_model_stands_in_every_cell(strategy: str) -> None:
    """The cell is computed from the composition, which the strategy's name only chose; after training it is proved on weights."""
    made = systems.language(strategy=strategy, backbone="tiny-causal", epochs=1, batch_size=8, max_len=3, measure="NDCG@10/3neg")
    assert cell(made) == strategy
    fitted = fit(made, tiny.split(), execution=Execution(device="cpu"))
    moved = fitted.moved[-1]
    fresh = made.model.build(fitted.vocab).state_dict()
    learned = {name for name, tensor in fitted.scorer.state_dict().items() if not torch.equal(tensor, fresh[name])}
    groups = {made.model.group(name) for name in learned if "lora" not in name}
    expected = {
        taxonomy.PRETRAIN: {"model"}, taxonomy.WHOLE: {"model", "head"}, taxonomy.PART: {"head"}, taxonomy.EXTRA: {"head"},
        taxonomy.FIXED_MODEL: {"prompt"}, taxonomy.FIXED_PROMPT: {"model"}, taxonomy.TUNING_FREE: set(),
        taxonomy.BOTH: {"model", "prompt"},
    }  # fmt: skip
    if strategy not in (taxonomy.PRETRAIN, taxonomy.WHOLE, taxonomy.PART, taxonomy.EXTRA):  # whose tables are drawn anew
        assert groups == expected[strategy]
    given = {name for name in learned if made.model.given(name)}
    if strategy in (taxonomy.PART, taxonomy.EXTRA, taxonomy.FIXED_MODEL, taxonomy.TUNING_FREE):
        assert not given, "a frozen backbone changed"
        assert moved["parameters_frozen"] > 30_000
    else:
        assert moved["parameters_frozen"] == 0
    assert (moved["tensors_moved"] == 0) == (strategy == taxonomy.TUNING_FREE)


def test_counting_is_a_control() -> None:
    assert cell(System(Paper("", "", 2020), models.Popularity(), (Estimate(),), tasks.Ranking(SEQUENCE))) == taxonomy.CONTROL


# -- the proof ---------------------------------------------------------------------------------------------------------------


def modules() -> nn.ModuleDict:
    return nn.ModuleDict({"network": nn.Linear(3, 2), "head": nn.Linear(2, 2)})


def flip(tensor: torch.Tensor) -> None:
    """Change the lowest bit of the first value."""
    tensor.data.view(-1)[:1].view(torch.int32).bitwise_xor_(1)


def test_one_bit_of_a_frozen_tensor_is_noticed() -> None:
    made = modules()
    before = fingerprints(made)
    flip(made["network"].bias)
    with torch.no_grad():
        made["head"].weight.add_(1)
    with pytest.raises(TaxonomyError, match=r"declared frozen but changed: network\.bias$"):
        check(before, made, ["head.weight", "head.bias"], updates=1)


def test_a_zero_that_lost_its_sign_is_noticed() -> None:
    made = modules()
    nn.init.zeros_(made["network"].bias)
    before = fingerprints(made)
    made["network"].bias.data.neg_()
    with pytest.raises(TaxonomyError, match=r"network\.bias"):
        check(before, made, [], updates=1)


def test_tuned_tensors_that_all_stayed_are_noticed() -> None:
    made = modules()
    with pytest.raises(TaxonomyError, match="none of the 2 tensors declared tuned has moved in 5 updates"):
        check(fingerprints(made), made, ["head.weight", "head.bias"], updates=5)


def test_a_tuned_tensor_that_stayed_is_counted() -> None:
    """One of several may stay for a good reason (an unused bias); the counts tell, and conformance insists."""
    made = modules()
    before = fingerprints(made)
    flip(made["head"].bias)
    assert check(before, made, ["head.weight", "head.bias"], updates=5) == {
        "tensors_tuned": 2,
        "tensors_moved": 1,
        "parameters_tuned": 6,
        "parameters_moved": 2,
        "parameters_frozen": 8,
    }


def test_nothing_declared_nothing_moved_is_fine() -> None:
    made = modules()
    assert check(fingerprints(made), made, [], updates=0)["parameters_frozen"] == 14


def test_fingerprints_tell_types_and_shapes_of_any_kind_apart_by_bytes() -> None:
    made = nn.ModuleDict({"a": nn.Linear(2, 2).double(), "b": nn.Embedding(3, 1)})
    found = fingerprints(made)
    assert set(found) == {"a.weight", "a.bias", "b.weight"}
    assert len(set(found.values())) == 3
    assert found == fingerprints(made)


def test_fit_refuses_a_stage_that_moves_what_it_declared_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(epochs=1, batch_size=8, patience=None)
    made = system(replace(stage(), budget=budget, tuning=tuning.Part(("blocks.*",))))
    plain = tuning.apply

    def careless(chosen, given):
        declared = plain(chosen, given)
        for parameter in given.parameters():
            parameter.requires_grad_(True)
        return declared

    monkeypatch.setattr(tuning, "apply", careless)
    with pytest.raises(TaxonomyError, match="declared frozen but changed: network"):
        fit(made, tiny.split(), execution=Execution(device="cpu"))
