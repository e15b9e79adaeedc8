"""A catalogue's scores in C: the full softmax against fp64, the ranking against that of held scores, at every edge of blocks and
panels, for scores of any size, with any threads; and how the kernel is made."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fit_runs import digest, system, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_faults import interrupted, listening

from lmrs import kernels, native
from lmrs.answers import Ranked, rank, rank_states
from lmrs.errors import ContractError
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, fit
from lmrs.hardware import threads_restored
from lmrs.judge import judge
from lmrs.losses import FullSoftmax, Output, rounded_products, softmax_gain
from lmrs.measures import Sampling
from lmrs.native import library
from lmrs.systems import gru4rec
from lmrs.tasks import ranking
from lmrs.views import Rows

SPLIT = tiny()
needs_a_compiler = pytest.mark.skipif(native.compiler_found() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def kernel() -> native.Kernel:
    found = native.load()
    assert isinstance(found, native.Kernel), found
    return found


def problem(rows: int, items: int, width: int, *, bias: bool, scale: float = 1.0, seed: int = 0):
    """float32 states, table, bias or None (leaves), target."""
    rng = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(n, width, generator=rng).div(width**0.25) for n in (rows, items))
    own = torch.randn(items, generator=rng).requires_grad_() if bias else None
    return (scale * states).requires_grad_(), table.requires_grad_(), own, torch.randint(items, (rows,), generator=rng)


def gradients(cost, *leaves):
    return torch.autograd.grad(cost, [leaf for leaf in leaves if leaf is not None])


def agrees(kernel, states, table, own, target, *, smoothing=0.0, tolerance=3e-6) -> None:
    """Loss and gradients are those of F.cross_entropy in fp64, relative to the size of what each is a difference of."""
    wide = [None if each is None else each.detach().double().requires_grad_() for each in (states, table, own)]
    scores = wide[0] @ wide[1].T if own is None else wide[0] @ wide[1].T + wide[2]
    wanted = F.cross_entropy(scores, target, reduction="sum", label_smoothing=smoothing)
    most = float(states.detach().norm(dim=1).max() * table.detach().norm(dim=1).max())
    tolerance *= 1 + (most + scores.abs().max().item()) / 30  # what fp32 keeps of a score, however its terms cancel
    with native.by_kernel(kernel):
        found = FullSoftmax(smoothing=smoothing).charge(states, Output(table, own), target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=tolerance, abs=tolerance * len(states))
    chosen = F.one_hot(target, len(table)).float()
    sizes = (table[target].norm(), (chosen.T @ states.abs()).norm(), chosen.sum(0).norm())
    for mine, exact, size in zip(gradients(found, states, table, own), gradients(wanted, *wide), sizes):
        assert (mine - exact).norm() <= tolerance * (size + exact.norm())  # the two terms of the difference


@needs_a_compiler
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 47, 48, 49, 145])
@pytest.mark.parametrize("items", [1, 7, 8, 47, 48, 49, 101])
def test_every_edge_of_blocks_and_panels(kernel, rows, items, bias):
    agrees(kernel, *problem(rows, items, 32, bias=bias))


@needs_a_compiler
@pytest.mark.parametrize("width", [1, 8, 16, 48, 50, 64, 80, 128, 200])
def test_every_width(kernel, width):
    agrees(kernel, *problem(70, 130, width, bias=True), smoothing=0.1)


@needs_a_compiler
def test_many_items(kernel):
    """Gradients of panels are summed 64 panels at a time: 3,072 items, and what is left over."""
    for items in (3_072, 3_100, 6_500):
        agrees(kernel, *problem(50, items, 16, bias=True))


@needs_a_compiler
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 120), items=st.integers(1, 400), width=st.integers(1, 70), bias=st.booleans(),
    scale=st.sampled_from([0.0, 0.01, 1.0, 10.0, 100.0, 1000.0]), smoothing=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_problem(kernel, rows, items, width, bias, scale, smoothing, seed):
    """Scores of thousands raise the level in the middle of the catalogue; those far below it must not disturb."""
    states, table, own, target = problem(rows, items, width, bias=bias, scale=scale, seed=seed)
    agrees(kernel, states, table, own, target, smoothing=smoothing, tolerance=1e-5)


@needs_a_compiler
def test_levels_that_rise_again_and_again(kernel):
    """Each item's score is 50 above that of the one before it; the target is the lowest, so its row's level starts there."""
    states = torch.ones(60, 16, requires_grad=True)
    table = (torch.arange(200.0)[:, None] * 50 / 16).repeat(1, 16).requires_grad_()
    agrees(kernel, states, table, None, torch.arange(60) % 3)


@needs_a_compiler
@pytest.mark.parametrize("first", [40, 500, 3_600])
def test_a_level_that_rises_late(kernel, first):
    """What was summed before, near and far, counts no more beside items whose scores are 60 above."""
    states, table, _, target = problem(50, 4_000, 16, bias=False)
    own = torch.where(torch.arange(4_000) < first, 0.0, 60.0).requires_grad_()
    agrees(kernel, states, table, own, target % 40)


@needs_a_compiler
@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_gradients_only_where_they_are_wanted(kernel, wanted):
    leaves = problem(60, 110, 16, bias=True)
    full = {}
    with native.by_kernel(kernel):
        full = gradients(FullSoftmax().charge(leaves[0], Output(leaves[1], leaves[2]), leaves[3]), *leaves[:3])
        some = [each.detach().requires_grad_(bool(ask)) for each, ask in zip(leaves[:3], wanted)]
        cost = FullSoftmax().charge(some[0], Output(some[1], some[2]), leaves[3])
    found = gradients(cost, *(each for each in some if each.requires_grad))
    for mine, same in zip(found, [each for each, ask in zip(full, wanted) if ask], strict=True):
        assert torch.equal(mine, same)


@needs_a_compiler
def test_threads_change_no_bit(kernel):
    states, table, own, target = problem(400, 700, 48, bias=True)
    found = []
    for threads in (1, 2, 5):
        with threads_restored(), native.by_kernel(kernel):
            torch.set_num_threads(threads)
            cost = FullSoftmax().charge(states, Output(table, own), target)
            found.append((cost, *gradients(cost, states, table, own)))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_a_compiler
def test_few_blocks_are_held_where_a_catalogue_is_large(kernel, monkeypatch):
    states, table, own, target = problem(400, 700, 16, bias=True)
    monkeypatch.setattr("lmrs.native.kernel._HELD", 1)
    with threads_restored():
        torch.set_num_threads(3)
        agrees(kernel, states, table, own, target)


class Refusing(native.Kernel):
    def softmax(self, *given, **named):
        raise AssertionError("asked")


@needs_a_compiler
def test_what_it_does_not_serve_goes_by_torch(kernel):
    """fp64, rounded products, and scores that are not finite (an item that is out of the question, a state that is NaN)."""
    states, table, own, target = problem(20, 30, 16, bias=True)
    refusing = Refusing(kernel.path, kernel.library, kernel.lanes, kernel.rows, kernel.panel)

    def charged(states, table, own):
        return FullSoftmax().charge(states, Output(table, own), target).item()

    out = own.detach().clone()
    out[(target[0] + 1) % 30] = -torch.inf
    broken = states.detach().clone()
    broken[3, 2] = torch.nan
    with native.by_kernel(refusing):
        assert charged(states.double(), table.double(), own.double()) == pytest.approx(
            charged_by_torch(states, table, own, target)
        )
        assert charged(broken, table, own) != charged(broken, table, own)  # NaN
        charged(states, table, out)
        with rounded_products(True):
            charged(states, table, own)
        with pytest.raises(AssertionError, match="asked"):
            charged(states, table, own)
        with native.by_kernel(None):
            charged(states, table, own)


def charged_by_torch(states, table, own, target) -> float:
    return F.cross_entropy(states @ table.T + own, target, reduction="sum").item()


# -- the ranking -------------------------------------------------------------------------------------------------------


def questions(rows: int, items: int, *, seed: int, longest: int = 20):
    """(query, seen, truth): histories of up to `longest` items with repeats, one true item each, some of them in the history."""
    rng = np.random.default_rng(seed)
    seen = [rng.integers(items, size=rng.integers(0, longest + 1)) for _ in range(rows)]
    truth = np.array([rng.choice(each) if len(each) and rng.random() < 0.3 else rng.integers(items) for each in seen])
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in seen])]).astype(np.int64)
    return rng.permutation(rows), (offsets, np.concatenate([*seen, np.zeros(0, np.int64)])), (np.arange(rows + 1), truth)


def same(found: Ranked, wanted: Ranked) -> None:
    for name in ("query", "truth", "n_candidates", "items", "scores", "truth_seen"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    for name in ("offsets", "rank", "n_candidates", "greater", "equal"):
        np.testing.assert_array_equal(getattr(found.ranks, name), getattr(wanted.ranks, name), err_msg=name)


def ranked(kernel, states, output, *, k: int, seed: int) -> None:
    """`rank_states` is `rank` of the scores that the kernel makes, in every bit; these are close to torch's."""
    query, seen, truth = questions(len(states), len(output.table), seed=seed)
    given = {"query": query, "seen": seen, "truth": truth, "k": k, "seed": seed}
    scores = torch.from_numpy(np.stack([kernel.line(state, *output) for state in states]))
    torch.testing.assert_close(scores, output.scores(states), rtol=1e-4, atol=1e-4)
    same(rank_states(kernel, states, output, **given), rank(scores, **given))
    del given["truth"]
    found, wanted = rank_states(kernel, states, output, **given), rank(scores, **given)
    assert found.ranks is None
    for name in ("query", "n_candidates", "items", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


@needs_a_compiler
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 17, 33, 48, 100])
@pytest.mark.parametrize("items", [1, 8, 47, 49, 300])
def test_ranking_at_every_edge(kernel, rows, items, bias):
    states, table, own, _ = problem(rows, items, 24, bias=bias)
    output = Output(table.detach(), None if own is None else own.detach())
    for k in (1, 10):
        ranked(kernel, states.detach(), output, k=k, seed=rows)


@needs_a_compiler
@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 60), items=st.integers(1, 200), width=st.integers(1, 40), kinds=st.integers(1, 30), k=st.integers(1, 20),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_ranking_with_ties(kernel, rows, items, width, kinds, k, seed):
    """Few kinds of items: most scores are shared, and equal items must have equal scores wherever they stand."""
    states, table, own, _ = problem(rows, kinds, width, bias=True, seed=seed)
    which = torch.randint(kinds, (items,), generator=torch.Generator().manual_seed(seed))
    ranked(kernel, states.detach(), Output(table.detach()[which], own.detach()[which]), k=k, seed=seed)


@needs_a_compiler
def test_ranking_does_not_depend_on_threads_or_company(kernel):
    states, table, _, _ = problem(130, 500, 16, bias=False)
    states, output = states.detach(), Output(table.detach(), None)
    query, seen, truth = questions(130, 500, seed=1)
    whole = rank_states(kernel, states, output, query=query, seen=seen, truth=truth, k=5, seed=2)
    with threads_restored():
        torch.set_num_threads(3)
        same(rank_states(kernel, states, output, query=query, seen=seen, truth=truth, k=5, seed=2), whole)
    for row in (0, 77):
        own = seen[1][seen[0][row] : seen[0][row + 1]]
        alone = rank_states(
            kernel, states[[row]], output, query=query[[row]], seen=(np.array([0, len(own)]), own),
            truth=(np.arange(2), truth[1][[row]]), k=5, seed=2,
        )  # fmt: skip
        np.testing.assert_array_equal(alone.items[0], whole.items[row])
        np.testing.assert_array_equal(alone.scores[0], whole.scores[row])
        assert alone.ranks.rank[0] == whole.ranks.rank[row]


@needs_a_compiler
def test_questions_that_it_does_not_serve(kernel):
    states, table, own, _ = problem(6, 40, 16, bias=True)
    states, table, own = states.detach(), table.detach(), own.detach()
    query, seen, truth = questions(6, 40, seed=3)
    given = {"query": query, "seen": seen, "truth": truth, "k": 5, "seed": 2}
    assert rank_states(kernel, states, Output(table, own), **given) is not None
    two = (np.array([0, 2, 3, 4, 5, 6, 7]), np.arange(7))
    none = (np.array([0, 0, 2, 3, 4, 5, 6]), np.arange(6))
    for other in (two, none):
        assert rank_states(kernel, states, Output(table, own), **{**given, "truth": other}) is None
    own[3] = -torch.inf
    assert rank_states(kernel, states, Output(table, own), **given) is None
    assert rank_states(kernel, states.double(), Output(table.double(), None), **given) is None
    states[2, 1] = torch.nan
    assert rank_states(kernel, states, Output(table, None), **given) is None


@pytest.fixture(scope="module")
def trained():
    return fit(system("sasrec"), SPLIT, seed=3, execution=Execution(device="cpu", kernels="torch"))


def judged(trained, kernel, queries=None, **keywords):
    with native.by_kernel(kernel):
        asked = SPLIT.test if queries is None else queries
        return judge(trained.scorer, trained.objective, trained.system.task, asked, trained.vocab, k=5, seed=1, **keywords)


def alike(found, wanted) -> None:
    np.testing.assert_array_equal(found.ranks.rank, wanted.ranks.rank)
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    assert (found.fallback, found.truth_seen) == (wanted.fallback, wanted.truth_seen)


@needs_a_compiler
def test_judging_by_the_kernel(kernel, trained, monkeypatch):
    """The same ranks; without scores, unless somebody has no history, there are several true items, or negatives are drawn."""
    plain = judged(trained, None)
    calls = []
    scores = Output.scores
    monkeypatch.setattr(Output, "scores", lambda self, states: (calls.append(len(states)), scores(self, states))[1])
    alike(judged(trained, kernel), plain)
    assert not calls
    short = replace(SPLIT.test, stop=np.where(np.arange(len(SPLIT.test)) == 2, SPLIT.test.start, SPLIT.test.stop))
    monkeypatch.setattr(ranking, "SCORE_CELLS", 5 * trained.vocab.n_items)
    for asked in (short, replace(SPLIT.test, stop=np.maximum(SPLIT.test.start + 1, SPLIT.test.stop - 2))):
        calls.clear()
        found = judged(trained, kernel, asked)
        assert calls
        assert max(calls) <= 5
        alike(found, judged(trained, None, asked))
    sampling = Sampling(4, "uniform")
    found, wanted = (judged(trained, each, samplings=(sampling,)) for each in (kernel, None))
    np.testing.assert_array_equal(found.sampled[sampling].rank, wanted.sampled[sampling].rank)


@needs_a_compiler
def test_a_score_of_its_own_is_not_streamed(trained):
    class Upside(type(trained.scorer)):
        def score(self, batch, visible):
            return -super().score(batch, visible)

    some = SPLIT.test.take(np.flatnonzero(SPLIT.test.stop > SPLIT.test.start))
    rows = Rows(some.dataset, some.user, some.start, some.stop)
    task = trained.system.task
    placed = ranking.placed(trained.scorer, trained.objective, task.view, rows, trained.vocab)
    dense, _ = ranking.scores(trained.scorer, trained.objective, task.view, rows, trained.vocab)
    torch.testing.assert_close(placed.output.scores(placed.states), dense)
    other = copy.deepcopy(trained.scorer)
    other.__class__ = Upside
    assert ranking.placed(other, trained.objective, task.view, rows, trained.vocab) is None


@needs_a_compiler
@pytest.mark.parametrize(("gain", "streams"), [(1.3, True), (1.0, False)])
def test_evaluation_goes_by_what_is_faster(trained, monkeypatch, gain, streams):
    asked = []
    monkeypatch.setattr(kernels, "GAINS", {task: lambda kernel: gain for task in native.TASKS})
    monkeypatch.setattr(
        native.Kernel, "rank", lambda self, *given, rank=native.Kernel.rank: (asked.append(1), rank(self, *given))[1]
    )
    found = evaluate(trained, SPLIT)
    assert bool(asked) == streams
    monkeypatch.setattr(kernels, "load", lambda: "no C compiler")
    assert found.measures == evaluate(trained, SPLIT).measures


# -- how it is made ----------------------------------------------------------------------------------------------------


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    assert library.load.__wrapped__() == "no C compiler"


@pytest.mark.parametrize(("body", "told"), [("exit 1", "CalledProcessError"), ('[ "$1" = --version ]', "OSError")])
def test_a_compiler_that_fails(monkeypatch, tmp_path, body, told):
    broken = tmp_path / "broken-cc"
    broken.write_text(f"#!/bin/sh\n{body}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    assert library.load.__wrapped__() == f"broken-cc did not make it ({told})"


@needs_a_compiler
def test_it_is_made_once_and_by_flags_that_the_compiler_takes(monkeypatch, tmp_path):
    """A compiler that knows no -march=native is asked without it."""
    plain = tmp_path / "plain-cc"
    calls = tmp_path / "calls"
    real = shutil.which("cc") or native.compiler_found()
    plain.write_text(f'#!/bin/sh\necho "$*" >> {calls}\ncase "$*" in *=native*) exit 1;; esac\nexec {real} "$@"\n')
    plain.chmod(0o755)
    monkeypatch.setenv("CC", str(plain))
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    kernel = library.load.__wrapped__()
    assert isinstance(kernel, native.Kernel)
    assert len(calls.read_text().splitlines()) == 4  # its version, two flags refused, made
    agrees(kernel, *problem(70, 130, 20, bias=True), smoothing=0.1)
    assert library.load.__wrapped__().path == kernel.path
    assert len(calls.read_text().splitlines()) == 5
    note = kernel.path.with_suffix(".json")
    gain = softmax_gain(kernel)
    assert gain > 0
    assert json.loads(note.read_text()) == {"softmax": gain}
    note.write_text('{"softmax": 7.5}')
    assert softmax_gain(kernel) == 7.5
    assert softmax_gain(replace(kernel, path=tmp_path / "nowhere" / "here.so")) > 0  # what cannot be kept is measured again


# -- the choice of a fit -----------------------------------------------------------------------------------------------


ALL = native.TASKS


def run(kernels: str, named: str = "sasrec", **keywords):
    execution = Execution(device="cpu", checkpoint_every=2, kernels=kernels, precision=keywords.pop("precision", "fp32"))
    asked = gru4rec(epochs=1) if named == "gru4rec" else system(named)
    return fit(asked, SPLIT, seed=3, execution=execution, **keywords)


def said(monkeypatch, **gains: float) -> None:
    """What the probes find; 2 for a task that is not named."""
    monkeypatch.setattr(kernels, "GAINS", {task: lambda kernel, task=task: gains.get(task, 2.0) for task in ALL})


@needs_a_compiler
def test_auto_takes_what_is_faster(monkeypatch):
    said(monkeypatch, softmax=1.25, attention=1.05, ranking=4.0)
    found, torchs = run("auto"), run("torch")
    assert found.kernels == ("softmax", "ranking")
    assert found.probed == {"softmax": {"torch": 0.8}, "attention": {"native": 1.05}, "ranking": {"torch": 0.25}}
    assert (torchs.kernels, torchs.probed) == ((), {})
    assert digest(found) != digest(torchs)
    said(monkeypatch, softmax=1.05, attention=1.0, ranking=0.5)
    assert run("auto").kernels == ()
    assert digest(run("auto")) == digest(torchs)
    said(monkeypatch)
    assert run("auto").kernels == run("native").kernels == ALL
    assert run("native").probed == {}
    assert digest(run("auto")) == digest(run("native"))


@needs_a_compiler
def test_the_two_differ_by_rounding():
    native_run, torch_run = run("native"), run("torch")
    assert digest(native_run) != digest(torch_run)
    for a, b in zip(native_run.scorer.parameters(), torch_run.scorer.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@needs_a_compiler
@pytest.mark.parametrize(
    ("named", "precision", "rounds", "tasks"),
    [
        ("sasrec", "fp32", False, ALL),
        ("sasrec-gbce", "fp32", True, ("attention", "ranking")),
        ("sasrec", "bf16-loss", True, ALL),
        ("sasrec", "bf16-loss", False, ("attention", "ranking")),
        ("sasrec", "bf16", True, ("ranking",)),
        ("gru4rec", "fp32", True, ("softmax", "ranking")),
    ],
)
def test_a_fit_asks_for_what_it_has_a_use_for(kernel, monkeypatch, named, precision, rounds, tasks):
    if rounds and not kernel.rounds:
        pytest.skip("no products of bf16 numbers here")
    monkeypatch.setattr(native, "load", lambda: replace(kernel, rounds=rounds))
    found = run("native", named, precision=precision)
    assert found.kernels == tasks


@needs_a_compiler
def test_rounded_products_are_probed_beside_rounded_products(kernel, monkeypatch):
    monkeypatch.setattr(native, "load", lambda: replace(kernel, rounds=True))
    said(monkeypatch)
    monkeypatch.setattr(kernels, "softmax_gain", lambda kernel, *, rounded: 1.02 if rounded else 9.0)
    found = run("auto", precision="bf16-loss")
    assert found.kernels == ("attention", "ranking")
    assert found.probed["softmax"] == {"native": 1.02}


@needs_a_compiler
@pytest.mark.parametrize("began", [ALL, ("attention",), ()])
def test_a_run_keeps_what_it_began_with(tmp_path, monkeypatch, began):
    said(monkeypatch, **{task: 2.0 if task in began else 0.5 for task in ALL})
    execution = Execution(device="cpu", checkpoint_every=2)
    interrupted(SPLIT, tmp_path, at=5, execution=execution)
    whole = run("auto")
    said(monkeypatch, **{task: 0.5 if task in began else 2.0 for task in ALL})
    again = run("auto", out=tmp_path, resume=True)
    assert again.kernels == began
    assert digest(again) == digest(whole)


@needs_a_compiler
def test_a_run_goes_on_without_the_compiler_it_began_with(tmp_path, monkeypatch):
    said(monkeypatch)
    interrupted(SPLIT, tmp_path, at=5, execution=Execution(device="cpu", checkpoint_every=2))
    monkeypatch.setattr(native, "load", lambda: "no C compiler")
    reporter, heard = listening()
    assert run("auto", out=tmp_path, resume=True, reporter=reporter).kernels == ()
    assert "softmax, attention, ranking: native before, goes on by torch: no C compiler" in heard.getvalue()


def test_what_is_asked_for_and_is_not_there(monkeypatch):
    with pytest.raises(ContractError, match="kernels among auto, torch, native, got 'fast'"):
        run("fast")
    monkeypatch.setattr(native, "load", lambda: "no C compiler")
    assert (run("auto").kernels, run("auto").probed) == ((), {})
    with pytest.raises(ContractError, match="a C compiler for the kernels, got no C compiler; install one, or use torch"):
        run("native")
