"""The path language model against sums over all paths, written out; its explanations; and what it learns where paths tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs import models, objectives, systems, tasks, views
from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError
from lmrs.fit import Execution, fit
from lmrs.graph import Graph, Knowledge, _sorted
from lmrs.judge import judge
from lmrs.measures import HR
from lmrs.models.path_lm import BELOW, PathNetwork
from lmrs.models.path_search import Walked, valid
from lmrs.recommender import Recommender
from lmrs.split import Split, leave_one_out
from lmrs.visibility import Causal
from lmrs.vocab import Attributes, Vocab

SMALL = models.PathLM(beams=10_000, transe_epochs=0, dim=8, layers=2, heads=2, max_len=4, dropout=0.0)
ITEMS = 4


def graph() -> Graph:
    """Items 0-3, entities 4 and 5, user 6. Item 3 has no edge; from item 2 an edge leads to item 0."""
    edges = [(0, 1, 4), (1, 1, 4), (1, 2, 5), (2, 2, 5), (2, 1, 0), (6, 0, 0), (6, 0, 1)]
    return _sorted(ITEMS, 1, pa.array(["x", "y"], pa.large_string()), ("chose", "by", "like"), tuple(np.array(edges).T), 0)


def network(*, seed: int = 0, **options) -> PathNetwork:
    """In fp64, with weights large enough that paths differ."""
    vocab = Vocab(pa.array(list("abcd"), pa.large_string()), counts=np.array([3, 1, 0, 7]), prepared=graph())
    torch.manual_seed(seed)
    made = replace(SMALL, **options).build(vocab).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return made


def histories(*rows: list[int]) -> Batch:
    lengths = torch.tensor([len(row) for row in rows])
    batch = from_rows({"item": torch.tensor([item for row in rows for item in row], dtype=torch.int64)}, lengths)
    asked = torch.zeros(batch.n_positions, dtype=torch.bool)
    asked[batch.last[batch.lengths > 0]] = True
    return batch.with_channels(asked=asked)


def every_path(net: PathNetwork, history: list[int]) -> dict[tuple[int, ...], float]:
    """p of every whole path of a user, token by token with a softmax written out, over the graph's edges or over all tokens."""
    known, free = net.graph, net.model.decoding == "free"
    edges = set(zip(known.head.tolist(), known.relation.tolist(), known.tail.tolist(), strict=True))
    batch = histories(history)
    user = net.users(batch, batch.last)
    found = {(): 1.0}
    for place in range(2 * net.model.hops - 1):
        grown = {}
        for path, p in found.items():
            state = net.along(user, torch.tensor([path], dtype=torch.int64).view(1, -1), last=True)[0]
            head = net.relation_head if place % 2 else net.entity_head
            logits = head.weight @ state + head.bias
            if free:
                allowed = range(len(logits))
            elif place == 0:
                allowed = sorted(set(history))
            elif place % 2:
                allowed = sorted({r for h, r, _ in edges if h == path[-1]})
            else:
                allowed = sorted({t for h, r, t in edges if (h, r) == (path[-2], path[-1])})
            mass = sum(float(logits[token].exp()) for token in allowed)
            for token in allowed:
                grown[*path, token] = p * float(logits[token].exp()) / mass
        found = grown
    return found


@pytest.mark.parametrize(("decoding", "hops"), [("constrained", 2), ("constrained", 3), ("constrained", 4), ("free", 2)])
@torch.no_grad()
def test_scores_are_sums_over_all_paths(decoding: str, hops: int) -> None:
    net = network(decoding=decoding, hops=hops)
    rows = [[0, 1], [2], [1, 3, 1]]
    batch = histories(*rows)
    scores = net.score(batch, Causal())
    popular = torch.tensor([3, 1, 0, 7]) / 8
    for row, example in enumerate(batch.rows["example"].tolist()):
        paths = every_path(net, rows[example])
        for item in range(ITEMS):
            total = sum(p for path, p in paths.items() if path[-1] == item)
            wanted = np.log(total) if total else BELOW + float(popular[item])
            assert abs(float(scores[row, item]) - wanted) < 1e-9, (rows[example], item)
    assert scores.gt(BELOW + 1).any()
    if decoding == "constrained":
        assert (scores[:, 3] < BELOW + 1).all(), "nothing leads to item 3"


@pytest.mark.parametrize("decoding", ["constrained", "free"])
@torch.no_grad()
def test_the_best_paths_are_the_likeliest_of_all(decoding: str) -> None:
    net = network(decoding=decoding, hops=2 if decoding == "free" else 3)
    rows = [[0, 1], [1]]
    batch = histories(*rows)
    found = net.generate(batch, k=5)
    for row, example in enumerate(batch.rows["example"].tolist()):
        wanted = sorted(every_path(net, rows[example]).items(), key=lambda each: -each[1])[:5]
        here = found.row == row
        assert [tuple(path) for path in found.path[here].tolist()] == [path for path, _ in wanted]
        assert np.allclose(found.log_p[here].exp(), [p for _, p in wanted], rtol=1e-9)


@torch.no_grad()
def test_few_beams_find_no_more_than_all_and_keep_the_likeliest() -> None:
    rows = [[0, 1], [2, 1]]
    batch = histories(*rows)
    whole = network().score(batch, Causal())
    for beams in (1, 2, 4):
        some = network(beams=beams).score(batch, Causal())
        assert (some <= whole + 1e-9).all()
        assert (some > BELOW + 1).any(1).all()
    assert not torch.equal(network(beams=1).score(batch, Causal()), whole)


@torch.no_grad()
def test_who_asks_is_known_by_the_history_alone() -> None:
    net = network()
    one, two = histories([0, 2, 1]), histories([0, 2, 1])
    two.rows["user"] = torch.tensor([0])
    assert torch.equal(net.score(one, Causal()), net.score(two, Causal()))
    assert not torch.allclose(net.score(one, Causal()), net.score(histories([2, 0, 1]), Causal())), "the newest do not weigh more"


@torch.no_grad()
def test_what_is_valid_is_told_apart() -> None:
    batch = histories([0, 1])
    paths = torch.tensor([[0, 2, 4, 3, 1], [0, 2, 4, 3, 0], [2, 4, 5, 5, 1], [0, 3, 4, 3, 1], [1, 2, 4, 3, 5], [1, 4, 5, 5, 2]])
    found = valid(graph(), Walked(torch.zeros(6, dtype=torch.int64), paths, torch.zeros(6)), batch)
    #  own item, edges, end:  all right | back to 0 | 2 is not theirs | wrong way round | no such edge | all right and new
    assert found.exists.tolist() == [True, True, False, False, False, True]
    assert found.item.tolist() == [True, True, True, True, False, True]
    assert found.new.tolist() == [False, False, False, False, False, True]


# -- explanations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [2, 3, 4])
@torch.no_grad()
def test_explanations_are_all_paths_to_the_item_likeliest_first(hops: int) -> None:
    net = network(hops=hops)
    free = every_path(network(hops=hops, decoding="free"), [0, 1]) if hops < 3 else None
    wanted = {path for path in every_path(net, [0, 1]) if path[-1] == 2}
    found = net.explain(histories([0, 1]), 2, k=100)
    assert {each.path for each in found} == wanted
    assert all(each.exists for each in found)
    assert [each.log_probability for each in found] == sorted((each.log_probability for each in found), reverse=True)
    if free is not None:
        for each in found:
            assert abs(each.log_probability - np.log(free[each.path])) < 1e-9
    assert net.explain(histories([0, 1]), 2) == found[:1]
    assert net.explain(histories([]), 2) == ()
    assert net.explain(histories([2, 2, 2, 0, 1, 0, 1]), 2) == net.explain(histories([0, 1, 0, 1]), 2), "the newest four are read"
    assert net.explain(histories([0, 1]), 3) == ()
    if hops == 3:
        assert "user - chose -> b - like -> y <- like - c" in {each.text for each in found}


@torch.no_grad()
def test_free_explanations_say_whether_their_edges_exist() -> None:
    net = network(decoding="free", beams=2000)
    found = net.explain(histories([0, 1]), 2, k=10_000)
    for each in found:
        assert each.path[-1] == 2
        walked = Walked(torch.tensor([0]), torch.tensor([each.path]), torch.zeros(1))
        assert each.exists == valid(net.graph, walked, histories([0, 1])).exists[0]
    assert {each.exists for each in found} == {True, False}


# -- training ------------------------------------------------------------------------------------------------------------


def test_the_charge_is_a_cross_entropy_for_each_type_of_token() -> None:
    net = network()
    batch = histories([0, 1, 0], [2])
    path = torch.tensor([[0, 2, 4, 3, 1], [2, 5, 5, 4, 1]])
    batch.rows["path"], batch.extra["graph"] = path, net.graph.size
    objective = objectives.PathTokens()
    assert objective.counts(batch) == {"entity": 6, "relation": 4}
    found = objective.charge(net, None, batch, net.vocab, None)
    with torch.no_grad():
        nodes = kinds = 0.0
        for row in range(2):
            user = net.users(batch, batch.last)[row : row + 1]
            for place in range(5):
                state = net.along(user, path[row : row + 1, :place], last=True)
                head = net.relation_head if place % 2 else net.entity_head
                p = torch.softmax(head(state), 1)[0, path[row, place]]
                if place % 2:
                    kinds -= float(p.log())
                else:
                    nodes -= float(p.log())
    assert abs(float(found["entity"].detach()) - nodes) < 1e-9
    assert abs(float(found["relation"].detach()) - kinds) < 1e-9


def test_an_untrained_model_starts_from_transe() -> None:
    train = planted().train
    model = replace(SMALL, transe_epochs=2)
    prepared = model.prepare(train, seed=1)
    assert prepared.start is not None
    net = model.build(replace(train.dataset.vocab, prepared=prepared))
    assert np.array_equal(net.nodes.weight.detach().numpy(), prepared.start[0])
    assert np.array_equal(net.relations.weight.detach().numpy(), prepared.start[1])
    assert not np.array_equal(model.prepare(train, seed=2).start[0], prepared.start[0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"decoding": "constraind"}, "did you mean constrained"),
        ({"hops": 1}, "hops of at least 2"),
        ({"heads": 3}, "heads that divide"),
        ({"beams": 0}, "beams"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_models_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        replace(SMALL, **wrong)


def test_parts_that_do_not_fit_are_told() -> None:
    with pytest.raises(ContractError, match=r"needed a graph as vocab\.prepared"):
        SMALL.build(Vocab(pa.array(["a"])))
    made = systems.plm_rec()
    with pytest.raises(ContractError, match=r"needed \['path'\] for objective PathTokens"):
        replace(made, stages=(replace(made.stages[0], view=views.ItemSequence()),))
    for wrong in ({"hops": 5}, {"knowledge": Knowledge(users=False)}):
        view = replace(made.stages[0].view, **wrong)
        with pytest.raises(ContractError, match=r"give views\.Paths the knowledge and the hops"):
            fit(replace(made, stages=(replace(made.stages[0], view=view),)), planted(), seed=0, execution=Execution(device="cpu"))
    with pytest.raises(ContractError, match=r"needed models\.PathLM for PathTokens"):
        fit(replace(made, model=models.Transformer()), planted(), seed=0, execution=Execution(device="cpu"))


# -- learning ------------------------------------------------------------------------------------------------------------

MAKERS, EACH, K = 6, 8, 4


def planted() -> Split:
    """Everybody keeps to films of one maker (and has five of the eight): what is new to a user is found over the maker.

    Each film also has a twin, by another maker; two relations lead there, so that walks which take all relations alike end there.
    """
    rng = np.random.default_rng(3)
    items = np.arange(MAKERS * EACH)
    rows = [rng.permutation(EACH)[:5] + EACH * (user % MAKERS) for user in range(90)]
    twins = Attributes.from_lists(pa.array([[f"t{at % (MAKERS * EACH // 2)}"] for at in items]))
    return leave_one_out(
        Dataset(
            "planted",
            Vocab(
                pa.array([f"i{at}" for at in items], pa.large_string()),
                pa.array([f"u{at}" for at in range(90)], pa.large_string()),
                {"maker": Attributes.from_lists(pa.array([[f"m{at // EACH}"] for at in items])), "music": twins, "twin": twins},
            ),
            item=np.concatenate(rows).astype(np.int32),
            offsets=np.arange(91) * 5,
            items=pa.table({"item_id": [f"i{at}" for at in items], "title": [f"Film {at}" for at in items]}),
        )
    )


LEARN = {"dim": 16, "layers": 1, "heads": 2, "max_len": 4, "per_user": 12, "users": False, "lr": 0.02, "transe_epochs": 5,
         "dropout": 0.0, "beams": 20, "decoding": "constrained"}  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    return fit(systems.plm_rec(**LEARN, epochs=16, batch_size=32, every=16), planted(), seed=0, execution=Execution(device="cpu"))


def hits(scorer: models.Scorer, split: Split, vocab: Vocab) -> float:
    task = tasks.Ranking(views.ItemSequence(max_len=4))
    objective = objectives.PathTokens()
    return float(HR(K)(judge(scorer, objective, task, split.test, vocab, k=K, seed=0).ranks).mean())


@pytest.mark.parametrize("decoding", ["free", "constrained"])
def test_it_learns_which_paths_lead_to_what_comes_next(learned, decoding: str) -> None:
    """New to a user are 4 films of their maker, of which one is asked for: HR@4 is at most 1, and by chance 4 / 44."""
    trained = replace(SMALL, **{**vars(learned.system.model), "decoding": decoding}).build(learned.vocab)
    trained.load_state_dict(learned.scorer.state_dict())
    assert 0.8 < hits(trained, planted(), learned.vocab) <= 1
    assert hits(replace(trained.model).build(learned.vocab), planted(), learned.vocab) < 0.5, "known before anything is learned"


def test_walks_alone_go_astray_where_most_relations_mislead() -> None:
    control = models.Walks(Knowledge(users=False)).build(planted().dataset.vocab)
    control.estimate(planted().train)
    assert hits(control, planted(), planted().dataset.vocab) < 0.1


def test_recommendations_come_with_their_reason(learned, tmp_path) -> None:
    found = Recommender.load(Recommender.of(learned).save(tmp_path / "model"))
    before, after = Recommender.of(learned).recommend(["i0", "i1"], k=6), found.recommend(["i0", "i1"], k=6)
    assert before.ids == after.ids
    assert np.allclose(before.scores, after.scores, rtol=1e-4)
    assert set(after.ids) == {f"i{at}" for at in range(2, 8)}
    item = int(found.vocab.item_numbers([after.ids[0]])[0])
    reasons = found.scorer.explain(histories([0, 1]), item, k=3)
    assert len({each.text for each in reasons}) == len(reasons)
    assert {each.text for each in reasons} == {
        f"user - chose -> Film {own} - maker -> m0 <- maker - Film {item}" for own in (0, 1)
    }
    assert all(each.exists for each in reasons)


def test_walks_are_exact_sums_over_walks() -> None:
    split = planted()
    control = models.Walks(Knowledge(users=False), hops=3).build(split.dataset.vocab)
    control.estimate(split.train)
    scores = control.score(histories([0, 1]), Causal())[0]
    for item in range(MAKERS * EACH):  # one step of three goes over the maker (8 films), two over a pair of twins
        wanted = np.mean([(item < EACH) / EACH / 3 + (item % 24 == own) / 2 * 2 / 3 for own in (0, 1)])
        assert abs(float(scores[item]) - wanted) < 1e-6, item
    users = models.Walks(Knowledge(attributes=(), users=True), hops=3, by_users=1.0).build(split.dataset.vocab)
    users.estimate(split.train)
    found = users.score(histories([0, 1]), Causal())[0]
    assert abs(float(found.sum()) - 1) < 1e-6, "a walk over users ends in an item"
    events = [set(split.dataset.item[a:b].tolist()) for a, b in zip(split.train.start, split.train.stop, strict=True)]
    for item in range(MAKERS * EACH):
        wanted = np.mean([np.mean([(item in each) / len(each) for each in events if own in each]) for own in (0, 1)])
        assert abs(float(found[item]) - wanted) < 1e-6, item


def test_new_items_are_reached_over_what_is_known_of_them_and_not_freely() -> None:
    """Nobody has the last film of each maker: only the graph tells of it. It should rank among the films of its maker."""
    known = planted()
    rng = np.random.default_rng(3)
    rows = [rng.permutation(EACH - 1)[:5] + EACH * (user % MAKERS) for user in range(90)]
    split = leave_one_out(replace(known.dataset, item=np.concatenate(rows).astype(np.int32)))
    fitted = fit(systems.plm_rec(**LEARN, epochs=10, batch_size=32, every=10), split, seed=0, execution=Execution(device="cpu"))
    assert isinstance(fitted.scorer, PathNetwork)
    new = torch.arange(MAKERS) * EACH + EACH - 1
    place = {}
    for decoding in ("constrained", "free"):
        fitted.scorer.model = replace(fitted.scorer.model, decoding=decoding)
        batch = histories(*([maker * EACH, maker * EACH + 1] for maker in range(MAKERS)))
        scores = fitted.scorer.score(batch, Causal())
        wanted = scores.gather(1, new[batch.rows["example"]][:, None])
        place[decoding] = float((scores > wanted).sum(1).float().mean())
    assert place["constrained"] < 10, f"rank {place['constrained']} of {MAKERS * EACH}"
    assert place["free"] > MAKERS * EACH / 2, "the softmax over all nodes has learned that nobody has it"


@torch.no_grad()
def test_reasons_that_read_alike_are_told_once() -> None:
    """Two other users have both items; they stay unnamed."""
    users = _sorted(
        2, 2, pa.array([], pa.large_string()), ("chose",), tuple(np.array([(2, 0, 0), (2, 0, 1), (3, 0, 0), (3, 0, 1)]).T), 0
    )
    net = SMALL.build(Vocab(pa.array(["a", "b"], pa.large_string()), prepared=users))
    found = net.explain(histories([0]), 1, k=5)
    assert [each.text for each in found] == ["user - chose -> a <- chose - another user - chose -> b"]
    assert len(net.generate(histories([0]), k=9).row) > 2
