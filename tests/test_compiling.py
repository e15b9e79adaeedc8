"""torch.compile on the blocks of a network: chosen by what a probe finds, on for the updates alone, and never in a short run.

Compiling takes a minute, so most tests put a counting stand-in where the compiled code would be; slow ones compile.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from fit_runs import digest, system, tiny
from test_faults import interrupted, listening

from lmrs import compiling
from lmrs.batch import from_rows
from lmrs.compiling import Gain, Seen, Watch
from lmrs.errors import ContractError
from lmrs.fit import Execution, fit
from lmrs.hardware import threads_restored
from lmrs.models.blocks import Gated, PostNorm, QueryNorm
from lmrs.systems import gru4rec, sasrec
from lmrs.visibility import Causal, Full

SPLIT = tiny()


def run(compile: str = "auto", named: str = "sasrec", **keywords):
    execution = Execution(device="cpu", kernels="torch", compile=compile, checkpoint_every=2, **keywords.pop("execution", {}))
    return fit(system(named), SPLIT, seed=3, execution=execution, **keywords)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What goes through a stand-in for compiled code, which is the plain code: "update", or "look" without gradients."""
    found: list[str] = []

    def compiled(block):
        plain = block.forward

        def way(*given):
            found.append("update" if torch.is_grad_enabled() else "look")
            return plain(*given)

        return way

    monkeypatch.setattr(compiling, "compiled", compiled)
    return found


@pytest.fixture
def own_notes(monkeypatch, tmp_path) -> Path:
    """A cache in which nothing was found before."""
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


def a_call(block=None, *, lengths=(5, 3, 1), width: int = 8, rng: int | None = 7) -> Seen:
    block = QueryNorm().build(width, 2, 0.3, 0.0) if block is None else block
    batch = from_rows({"item": torch.zeros(sum(lengths), dtype=torch.int64)}, torch.tensor(lengths))
    drawn = None if rng is None else torch.Generator().manual_seed(rng)
    x = torch.linspace(-1, 1, sum(lengths) * width).view(-1, width).requires_grad_()
    return Seen(block, (x, batch, Causal(), drawn), 1.0)


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "long", "chosen", "tried"),
    [
        (Gain(2.0, 0.0), 0.0, "on", {"off": 0.5}),
        (Gain(1.05, 0.0), 0.0, "off", {"on": 1.05}),
        (Gain(2.0, 1e9), 0.0, "off", {"on": 2.0}),
        (Gain(2.0, 0.0), 1e9, "untried", None),
    ],
)
def test_auto_takes_what_pays(monkeypatch, calls, own_notes, gain, long, chosen, tried):
    """After one plain update; the run is then that of the way taken. What is too short measures nothing."""
    asked = []
    monkeypatch.setattr(compiling, "LONG", long)
    monkeypatch.setattr(compiling, "measured", lambda seen: (asked.append(seen), gain)[1])
    found = run()
    assert (found.compile, found.probed.get("compile")) == (chosen, tried)
    assert len(asked) == (chosen != "untried")
    assert calls == ["update"] * ((found.steps - 1) * (chosen == "on"))
    assert digest(found) == digest(run("off"))


@pytest.mark.parametrize(
    ("gain", "seconds", "chosen"),
    [
        (Gain(0.7, 60.0), 1.0, ("off", {"on": 0.7})),
        (Gain(2.0, 60.0), 1.0, ("off", {"on": 2.0})),  # not long enough, whatever starting took when it was measured
        (Gain(2.0, 0.0), 1199.0, ("off", {"on": 2.0})),
        (Gain(2.0, 299.0), 1200.0, ("on", {"off": 0.5})),
        (Gain(2.0, 301.0), 1200.0, ("off", {"on": 2.0})),
    ],
)
def test_what_was_found_before_is_not_measured_again(monkeypatch, gain, seconds, chosen):
    monkeypatch.setattr(compiling, "kept", lambda seen: gain)
    monkeypatch.setattr(compiling, "measured", lambda seen: pytest.fail("measured"))
    monkeypatch.setattr(compiling, "seconds", lambda seen, way: seconds / 200)
    assert compiling.choose(a_call(), update=30.0, updates=200, say=print) == chosen


def test_a_short_run_times_nothing(monkeypatch, own_notes):
    monkeypatch.setattr(compiling, "seconds", lambda *given: pytest.fail("timed"))
    assert compiling.choose(a_call(), update=11.9, updates=100, say=print) == ("untried", {})
    monkeypatch.setattr(compiling, "seconds", lambda *given: 3.0)  # half a minute an update, a tenth of it in the blocks
    monkeypatch.setattr(compiling, "measured", lambda seen: pytest.fail("measured"))
    assert compiling.choose(a_call(), update=30.0, updates=100, say=print) == ("untried", {})
    assert compiling.choose(None, update=30.0, updates=10**6, say=print) == ("off", {})


def test_what_torch_cannot_do_is_told(monkeypatch, own_notes):
    """Asked for: an error; chosen: the run goes on without."""

    def refuse(function, *, dynamic):
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(compiling, "LONG", 0.0)
    with pytest.raises(ContractError, match=r"torch can compile here, got torch\.compile is not supported .*; use --compile off"):
        run("on")
    reporter, heard = listening()
    found = run("auto", reporter=reporter)
    assert (found.compile, found.probed) == ("unable", {})
    assert "trying torch.compile on a block" in heard.getvalue()
    assert not own_notes.exists()
    with pytest.raises(ContractError, match="compile among auto, on, off, got 'fast'"):
        run("fast")


def test_an_error_of_compiling_in_an_update(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def broken(*given):
        raise TorchDynamoException("No working C++ compiler found\nSet TORCH_LOGS")

    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic: broken)
    with pytest.raises(ContractError, match="compile here, got No working C\\+\\+ compiler found; use --compile off"):
        run("on")

    def other(*given):
        raise RuntimeError("another matter")

    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic: other)
    with pytest.raises(RuntimeError, match="another matter"):
        run("on")


@pytest.mark.parametrize(("named", "blocks"), [("sasrec", 1), ("two-stages", 1)])
def test_on_compiles_every_update_and_nothing_else(monkeypatch, named, blocks):
    made, calls = [], []

    def compile(function, *, dynamic):
        made.append(dynamic)
        return lambda *given: (calls.append(torch.is_grad_enabled()), function(*given))[1]

    monkeypatch.setattr(torch, "compile", compile)
    found = run("on", named)
    assert (found.compile, found.probed) == ("on", {})
    assert made == [True] * len(system(named).stages)
    assert calls == [True] * (found.steps * blocks)
    assert digest(found) == digest(run("off", named))
    assert not any({"forward", "look"} & vars(each).keys() for each in found.scorer.modules())
    assert not [name for name in found.scorer.state_dict() if "_orig_mod" in name]


def test_a_network_without_blocks(calls):
    small = gru4rec(dim=8, max_len=8, epochs=1)
    reporter, heard = listening()
    for asked, told in (("auto", ""), ("on", "nothing is compiled")):
        found = fit(small, SPLIT, execution=Execution(device="cpu", compile=asked), reporter=reporter)
        assert (found.compile, found.probed.get("compile"), calls) == ("off", None, [])
        assert told in heard.getvalue()
        assert ("nothing is compiled" in heard.getvalue()) == (asked == "on")


@pytest.mark.parametrize("began", ["on", "off"])
def test_a_run_keeps_what_it_began_with(tmp_path, monkeypatch, calls, own_notes, began):
    rates = {"on": 2.0, "off": 0.5}
    monkeypatch.setattr(compiling, "LONG", 0.0)
    monkeypatch.setattr(compiling, "measured", lambda seen: Gain(rates[began], 0.0))
    interrupted(SPLIT, tmp_path, at=5, execution=Execution(device="cpu", kernels="torch", checkpoint_every=2))
    monkeypatch.setattr(compiling, "measured", lambda seen: pytest.fail("measured again"))
    calls.clear()
    again = run("auto", out=tmp_path, resume=True)
    assert (again.compile, again.probed["compile"]) == (began, {"off": 0.5} if began == "on" else {"on": 0.5})
    assert len(calls) == (again.steps - 4) * (began == "on")  # two, and two of the checkpoint
    calls.clear()
    other = {"on": "off", "off": "on"}[began]
    found = run(other, out=tmp_path, resume=True)
    assert (found.compile, found.probed.get("compile")) == (other, None)  # what is asked for counts


@pytest.mark.parametrize(("patience", "every", "least"), [(None, 1, 5), (1, 1, 2), (1, 2, 4), (9, 9, 5)])
def test_a_run_is_as_long_as_it_is_at_the_least(monkeypatch, patience, every, least):
    asked = []
    monkeypatch.setattr(compiling, "choose", lambda seen, **about: (asked.append(about), ("off", {}))[1])
    small = sasrec(dim=8, layers=1, heads=2, max_len=8, epochs=5, batch_size=8, patience=patience, every=every)
    fit(small, SPLIT, execution=Execution(device="cpu"))
    (about,) = asked
    assert about["updates"] == least * 3  # 24 users
    assert about["update"] > 0
    asked.clear()
    run(named="two-stages")
    run(named="three-stages")  # the one in between learns nothing
    assert [each["updates"] for each in asked] == [2 * 2 * 3, 2 * 1 * 3]


# -- the probe ---------------------------------------------------------------------------------------------------------


def test_what_an_update_does_in_its_blocks_is_seen():
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = QueryNorm().build(8, 2, 0.0, 0.0), Gated().build(8, 2, 0.0, 0.0)

    network, small, large = Two(), a_call(lengths=(3, 1)).given, a_call(lengths=(5, 3)).given
    with Watch(network) as watch:
        assert watch.seen is None
        network.first(*small)
        network.second(large[0] * 1.0, *large[1:])
        network.first(*small[:2], rng=small[3], visible=small[2])
    seen = watch.seen
    assert seen.block is network.second
    assert seen.work == (4 + 8 + 4) / 8
    assert seen.given[1:] == large[1:]
    assert seen.given[0].is_leaf
    assert seen.given[0].requires_grad
    network.second(*small)
    assert watch.seen.work == seen.work  # closed
    with Watch(network) as watch:
        network.second(small[0], rng=small[3], visible=small[2], batch=small[1])
    assert watch.seen.given[1:] == small[1:]


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_all_pieces_of_an_update_count(monkeypatch, micro_batch):
    asked = []
    monkeypatch.setattr(compiling, "choose", lambda seen, **about: (asked.append(seen), ("off", {}))[1])
    run(execution={"micro_batch": micro_batch})
    (seen,) = asked
    assert (seen.work == 1) == (micro_batch is None)
    assert seen.given[1].n_rows == (micro_batch or 8)


def test_timing_a_block_changes_nothing():
    seen = a_call()
    before, weights = seen.given[3].get_state(), [each.clone() for each in seen.block.parameters()]
    assert compiling.seconds(seen, seen.block.forward) > 0
    assert torch.equal(seen.given[3].get_state(), before)
    assert all(each.grad is None for each in (seen.given[0], *seen.block.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(weights, seen.block.parameters(), strict=True))
    for each in seen.block.parameters():
        each.requires_grad_(False)
    seen.given[0].requires_grad_(False)
    assert compiling.seconds(seen, seen.block.forward) > 0


def test_the_probe_compares_and_keeps(monkeypatch, calls, own_notes):
    """The best turn of either way; the first of the compiled one is the start."""
    took = iter([30.0, 4.0, 7.0, 3.0, 5.0, 9.0, 6.0])
    ways = []
    monkeypatch.setattr(compiling, "seconds", lambda seen, way: (ways.append(way), next(took))[1])
    seen = a_call()
    assert compiling.kept(seen) is None
    assert compiling.measured(seen) == Gain(3 / 5, 25.0)
    assert [way == seen.block.forward for way in ways] == [False, True, False, True, False, True, False]
    assert compiling.kept(seen) == Gain(3 / 5, 25.0)
    (note,) = own_notes.iterdir()
    assert json.loads(note.read_text()) == {"rate": 0.6, "start": 25.0}
    note.write_text('{"rate": 7.5, "start": 1.0}')
    assert compiling.kept(a_call(lengths=(6, 3))) == Gain(7.5, 1.0)  # about as many positions
    others = [
        a_call(lengths=(5, 3, 1) * 2), a_call(width=4), a_call(rng=None), a_call(QueryNorm().build(8, 1, 0.3, 0.0)),
        a_call(QueryNorm().build(8, 2, 0.0, 0.0)), a_call(QueryNorm().build(8, 2, 0.3, 0.1)),
        a_call(PostNorm(expand=1).build(8, 2, 0.3, 0.0)), Seen(seen.block, (*seen.given[:2], Full(), seen.given[3]), 1.0),
    ]  # fmt: skip
    assert [compiling.kept(each) for each in others] == [None] * len(others)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiling.kept(seen) is None
    with threads_restored():
        torch.set_num_threads(torch.get_num_threads() + 1)
        assert compiling.kept(seen) is None
    others = (compiling, "processor", lambda: "another"), (torch, "__version__", "9.9"), (compiling, "chosen_kernel", str)
    for place, name, other in others:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, other)
            assert compiling.kept(seen) is None
    assert compiling.kept(seen) is not None


def test_a_cache_that_cannot_be_written(monkeypatch, calls, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(compiling, "SECONDS", 0.0)
    assert compiling.kept(a_call()) is None
    assert compiling.measured(a_call()).rate > 0


# -- what is compiled --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own, of its own code
@pytest.mark.parametrize("block", [QueryNorm(), PostNorm(), Gated()])
def test_compiled_and_plain_agree(monkeypatch, capfd, block, tmp_path):
    """To rounding, with the same dropout, for rows of any length; nothing is printed."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    built = block.build(16, 2, 0.3, 0.0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ways = [(built, compiling.compiled(built))]
    level = logging.getLogger("torch._dynamo").level
    for lengths in ((9, 9, 4, 3), (12, 7, 2), (5,), (30, 20, 11, 10, 3, 1)):
        found = []
        for some in ([], ways):
            x, batch, visible, rng = a_call(built, lengths=lengths, width=16).given
            for at in (None, batch.last):
                with compiling.put_on(some):
                    out = built(x, batch, visible, rng, at)
                    found.append([out, *torch.autograd.grad(out.square().sum(), [x, *built.parameters()])])
        for plain, other in zip(found[:2], found[2:], strict=True):
            for a, b in zip(plain, other, strict=True):
                assert (a - b).norm() <= 1e-4 * a.norm()
    assert logging.getLogger("torch._dynamo").level == level
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_fit_through_real_compiled_code(monkeypatch, tmp_path):
    """A probe that measures, and a run that agrees with the plain one to rounding."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "LONG", 0.0)
    probed = run("auto")
    assert probed.probed["compile"].keys() <= {"on", "off"}
    assert len(list((tmp_path / "cache" / "compiled").iterdir())) == 1
    found, plain = run("on"), run("off")
    for a, b in zip(found.scorer.parameters(), plain.scorer.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert found.scorer.state_dict().keys() == plain.scorer.state_dict().keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_no_cpp_compiler(monkeypatch):
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", (None, "there-is-no-such-compiler"))
    with pytest.raises(ContractError, match=r"torch can compile here, got .*No working C\+\+ compiler"):
        run("on")
