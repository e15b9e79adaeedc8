"""What `fit` says and leaves when something goes wrong, and what must not change its numbers."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fit_runs import digest, fitting, system, tiny, two_stages
from impressed import news
from rich.console import Console

from lmrs import checkpoint, hardware, native
from lmrs.errors import BusyError, CheckpointError, ContractError, DataError, DivergedError, SealedError, StorageError, UserError
from lmrs.fit import Execution, Interrupted, fit
from lmrs.lock import RunLock
from lmrs.progress import Reporter
from lmrs.split import Split, leave_one_out
from lmrs.systems import bert4rec, plm_nr, sasrec


def kept_vectors():
    """A news system whose encoder's vectors are kept for two steps, in buffers."""
    return plm_nr(
        backbone="tiny-encoder", policy="cached", staleness=2, pooling="mean", tuned=None, layers=2, text_heads=2, text_width=3,
        query=5, dim=8, heads=2, max_len=4, epochs=1, batch_size=8,
    )  # fmt: skip


SMALL = {"dim": 8, "layers": 1, "heads": 2, "max_len": 8, "epochs": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def split() -> Split:
    return tiny()


def run(named: str, split: Split, **keywords):
    keywords.setdefault("execution", Execution(device="cpu", checkpoint_every=2))
    return fit(system(named), split, seed=3, **keywords)


def steps(folder) -> list[str]:
    return [path.name for path in checkpoint.steps(folder / "checkpoints")]


# Numbers that are not numbers


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_that_is_not_finite(split, tmp_path):
    wild = sasrec(**SMALL, lr=1e30)
    pattern = (
        r"finite numbers in training, got a loss of next=(nan|inf) in stage 'train', epoch 1, step 2 "
        r"\(rows of users u\d+, u\d+, u\d+, \.\.\.\); lower lr or set clip; "
        rf"the last good state is {tmp_path}/checkpoints/step-00000001"
    )
    with pytest.raises(DivergedError, match=pattern):
        fit(wild, split, out=tmp_path, execution=Execution(device="cpu", checkpoint_every=1))
    tensors, _ = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints", report=pytest.fail))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    with pytest.raises(DivergedError, match="the last good state is not saved"):
        fit(wild, split)


def test_a_gradient_that_is_not_finite(split, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, most: torch.tensor(float("nan")))
    with pytest.raises(DivergedError, match=r"a gradient of norm nan in stage 'train', epoch 1, step 1 "):
        run("bert4rec", split)


def test_weights_that_are_not_finite_are_never_saved(split, tmp_path, monkeypatch):
    step, made = torch.optim.AdamW.step, []

    def spoil(self):
        step(self)
        made.append(1)
        if len(made) == 4:
            self.param_groups[0]["params"][0].data.view(-1)[0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(DivergedError, match=r"NaN or infinity in network\.items\.weight after step 4; .*/step-00000002"):
        run("sasrec", split, out=tmp_path)
    assert steps(tmp_path) == ["step-00000002"]


# Who owns the folder, and what is in it


def test_two_owners(split, tmp_path):
    with RunLock(tmp_path), pytest.raises(BusyError, match=f"owned by process {os.getpid()}"):
        run("sasrec", split, out=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["lock"]
    run("sasrec", split, out=tmp_path)  # and it is left free


def test_a_folder_with_a_run_is_not_overwritten(split, tmp_path):
    run("sasrec", split, out=tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="one with checkpoints; add --resume, or choose another --out"):
        run("sasrec", split, out=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def titled(split, word: str):
    """The split with a title for each item."""
    ids = split.dataset.vocab.items.to_pylist()
    price = pa.array([1] * len(ids), pa.decimal128(5, 2))  # no model reads it, and no fit may stumble over it
    table = pa.table({"item_id": ids, "title": [f"{word} {name}" for name in ids], "price": price})
    return replace(split, dataset=replace(split.dataset, items=table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"got seed 4 \(was 3\)"),
        ({"lr": 0.02}, r"got system with lr=0\.02 \(was lr=0\.01\)"),
        ({"dim": 16, "dropout": 0.1}, r"got system with dim=16 \(was dim=8\), dropout=0\.1 \(was dropout=0\.3\)"),
        ({"other": True}, r"got system System\(paper=Paper\(.* \(was System\(paper=Paper\("),
        ({"data": True}, r"got data [0-9a-f]{64} \(was [0-9a-f]{64}\)"),
        ({"split": True}, r"got split with .*max_valid.*: 5.*max_valid.*: null"),
        ({"precision": "bf16"}, r"got precision bf16 \(was fp32\)"),
        ({"titles": True}, r"got catalogue [0-9a-f]{64} \(was [0-9a-f]{64}\)"),
    ],
)
def test_resuming_something_else_is_refused(split, tmp_path, change, message):
    small = {**SMALL, "lr": 0.01, "dropout": 0.3}
    split = titled(split, "film")
    fit(sasrec(**small), split, out=tmp_path, seed=3)
    before = checkpoint.latest(tmp_path / "checkpoints", report=pytest.fail)
    what = {key: value for key, value in change.items() if key in ("lr", "dim", "dropout")}
    changed = bert4rec(**SMALL) if "other" in change else sasrec(**{**small, **what})
    if "data" in change:
        split = titled(tiny(seed=6), "film")
    if "titles" in change:
        split = titled(split, "book")
    if "split" in change:
        split = leave_one_out(split.dataset, max_valid=5)
    execution = Execution(device="cpu", precision=change.get("precision", "fp32"))
    with pytest.raises(CheckpointError, match=rf"the run that made {re.escape(str(before))}, {message}.*; use the same"):
        fit(changed, split, out=tmp_path, seed=change.get("seed", 3), resume=True, execution=execution)


def listening() -> tuple[Reporter, io.StringIO]:
    heard = io.StringIO()
    return Reporter(console=Console(file=heard, width=1000)), heard


def interrupted(split, folder, *, at: int, execution: Execution | None = None) -> None:
    """A run that died at the update `at`."""
    with pytest.MonkeyPatch.context() as patch:
        step, made = torch.optim.AdamW.step, []

        def die(self):
            made.append(1)
            if len(made) == at:
                raise KeyboardInterrupt
            step(self)

        patch.setattr(torch.optim.AdamW, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run("sasrec", split, out=folder, **({} if execution is None else {"execution": execution}))


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_newest_checkpoint(split, tmp_path, cut):
    whole = digest(run("sasrec", split))
    interrupted(split, tmp_path, at=10)
    assert steps(tmp_path) == ["step-00000006", "step-00000008"]
    file = tmp_path / "checkpoints" / "step-00000008" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    reporter, heard = listening()
    assert digest(run("sasrec", split, out=tmp_path, resume=True, reporter=reporter)) == whole
    said = heard.getvalue()
    assert re.search(r"step-00000008 is damaged \(needed \d+ bytes in .*tensors\.safetensors, got \d+ bytes;", said)
    assert "resuming from step-00000006" in said


def test_no_checkpoint_is_whole(split, tmp_path):
    interrupted(split, tmp_path, at=10)
    for path in checkpoint.steps(tmp_path / "checkpoints"):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000006/state\.json, got No such file"):
        run("sasrec", split, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-5], r"needed \d+ bytes of .*metrics\.jsonl, got \d+"),
        (lambda text: b"{" + text[1:].replace(b'"epoch"', b"'epoch'"), r"lines of JSON in .*metrics\.jsonl"),
    ],
)
def test_a_damaged_log(split, tmp_path, spoil, message):
    run("sasrec", split, out=tmp_path)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(spoil(log.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        run("sasrec", split, out=tmp_path, resume=True)


def test_nothing_to_resume(split, tmp_path):
    reporter, heard = listening()
    whole = digest(run("sasrec", split))
    assert digest(run("sasrec", split, out=tmp_path, resume=True, reporter=reporter)) == whole
    assert "no checkpoint yet: starting from the beginning" in heard.getvalue()
    with pytest.raises(CheckpointError, match="a run folder to resume from"):
        run("sasrec", split, resume=True)


def test_another_torch_is_mentioned(split, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.0.1")
        run("sasrec", split, out=tmp_path)
    reporter, heard = listening()
    run("sasrec", split, out=tmp_path, resume=True, reporter=reporter)
    assert f"it was made with torch 2.0.1, this is {torch.__version__}" in heard.getvalue()


# A disk that is full


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("call", "number"), [("write", 30), ("write", 75), ("fsync", 3), ("fsync", 12), ("rename", 1), ("mkdir", 3)]
)
def test_a_full_disk(split, tmp_path, code, call, number):
    whole = digest(run("sasrec", split))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        real = getattr(os, call)

        def refuse(*args, **kwargs):
            calls.append(args)
            if len(calls) > number:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match=rf"{tmp_path}.*, got {os.strerror(code)}"):
            run("sasrec", split, out=tmp_path)
    assert len(calls) > number
    assert digest(run("sasrec", split, out=tmp_path, resume=True)) == whole


def test_a_log_that_cannot_be_written(split, tmp_path, monkeypatch):
    def refuse(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith("metrics.jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StorageError, match=rf"needed \d+ bytes in {tmp_path}/metrics.jsonl, got No space left on device; free some space"
    ):
        run("sasrec", split, out=tmp_path)


# What is told before anything is trained


def test_told_at_once(split):
    second = two_stages().stages[1]
    for measure, message in [
        ("NDGC@10", "did you mean NDCG"),
        ("RMSE", "a measure of ranks to watch, such as NDCG@10, got RMSE"),
    ]:
        stage = replace(second, budget=replace(second.budget, measure=measure))
        late = replace(two_stages(), stages=(two_stages().stages[0], stage))
        reporter, heard = listening()
        with pytest.raises((UserError, ContractError), match=message):
            fit(late, split, reporter=reporter)
        assert heard.getvalue() == ""


def test_nobody_to_learn_from():
    split = tiny()
    lonely = replace(split, train=replace(split.train, stop=split.train.start + 1))
    with pytest.raises(DataError, match="users with at least two training events, got none"):
        run("sasrec", lonely)


def test_the_test_part_stays_sealed(split):
    class Curious(Reporter):
        def say(self, line: str) -> None:
            split.test

    with pytest.raises(SealedError, match="sealed during fit"):
        run("sasrec", split, reporter=Curious())
    split.test


# What must not change the numbers


@pytest.fixture
def double():
    """Everything in fp64, so that equal means equal."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("named", ["softmax", "sampled", "bce", "gbce", "bert4rec", "two-stages"])
def test_gradient_accumulation_changes_nothing(split, double, monkeypatch, named):
    """Gradients of every step and the final weights, for micro-batches of every kind of unevenness."""
    seen: list[torch.Tensor] = []
    step = torch.optim.AdamW.step

    def note(self):
        seen.append(torch.cat([p.grad.reshape(-1) for group in self.param_groups for p in group["params"] if p.grad is not None]))
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    if named == "two-stages":
        made = two_stages(epochs=1)
        made = replace(made, model=replace(made.model, dropout=0.0, attention_dropout=0.0))
    elif named == "bert4rec":
        made = bert4rec(**SMALL, dropout=0.0, hide=0.5)
    else:
        made = sasrec(**SMALL, dropout=0.0, loss=named, negatives=5)
    found = []
    for micro in (None, 1, 3, 8, 100):
        seen.clear()
        fitted = fit(made, split, execution=Execution(device="cpu", micro_batch=micro))
        assert seen[0].dtype == torch.float64
        found.append((torch.cat(seen), torch.cat([p.reshape(-1) for p in fitted.scorer.parameters()]).detach(), fitted.log))
    (gradients, weights, log), *others = found
    assert gradients.abs().max() > 1e-3
    for other_gradients, other_weights, other_log in others:
        torch.testing.assert_close(other_gradients, gradients, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(other_weights, weights, rtol=1e-6, atol=1e-9)
        assert [line["loss"] for line in other_log] == [pytest.approx(line["loss"], rel=1e-9) for line in log]


def test_the_global_generator_is_neither_read_nor_moved(split):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global one is what this is about
    before, numpy_before = torch.random.get_rng_state(), json.dumps(np.random.get_state()[1].tolist())  # noqa: NPY002
    whole = digest(run("bert4rec", split))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert json.dumps(np.random.get_state()[1].tolist()) == numpy_before  # noqa: NPY002
    torch.manual_seed(2)
    assert digest(run("bert4rec", split)) == whole


def test_how_often_it_saves_changes_nothing(split, tmp_path):
    whole = digest(run("two-stages", split))
    for every in (1, 100):
        execution = Execution(device="cpu", checkpoint_every=every)
        assert digest(run("two-stages", split, out=tmp_path / str(every), execution=execution)) == whole


def test_threads_change_nothing_but_the_last_bits(split):
    one = run("sasrec", split).scorer.state_dict()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three = run("sasrec", split).scorer.state_dict()
    finally:
        torch.set_num_threads(threads)
    for name, weight in one.items():
        torch.testing.assert_close(three[name], weight, rtol=1e-5, atol=1e-5)


def test_another_seed_is_another_run(split):
    assert digest(fit(system("sasrec"), split, seed=1))["weights"] != digest(fit(system("sasrec"), split, seed=2))["weights"]


def test_a_parameter_without_a_gradient_stays(split):
    """Weight decay and momentum act on what the step used: a stage that never touches a parameter leaves its bits alone."""
    fitted = run("two-stages", split)
    second = fitted.moved[1]
    assert second["parameters_frozen"] == 8 * 8 + 2 * 8  # positions and the last norm
    assert second["tensors_moved"] == second["tensors_tuned"]


def test_interrupted_is_not_a_mistake_of_the_user():
    assert not issubclass(Interrupted, UserError)


@pytest.mark.parametrize(("named", "precision"), [("sasrec", "bf16"), ("bert4rec", "bf16"), ("sasrec", "bf16-loss")])
def test_bf16_is_close_and_repeats(split, named, precision):
    execution = Execution(device="cpu", precision=precision)
    half, full = run(named, split, execution=execution), run(named, split)
    assert digest(half) == digest(run(named, split, execution=execution))
    assert digest(half)["weights"] != digest(full)["weights"]
    for line, expected in zip(half.log, full.log, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=0.01)


@pytest.mark.parametrize(
    ("items", "gain", "loss", "chosen"),
    [
        (0, 2.0, "softmax", "bf16-loss"),
        (0, 1.2, "softmax", "fp32"),
        (10**6, 2.0, "softmax", "fp32"),
        (0, 2.0, "bce", "fp32"),
    ],
)
def test_auto_precision_rounds_where_it_pays(split, monkeypatch, items, gain, loss, chosen):
    monkeypatch.setattr(fitting, "LARGE", items)
    monkeypatch.setattr(fitting, "bf16_gain", lambda n: gain)
    system = sasrec(**{**SMALL, "epochs": 1}, loss=loss)
    fitted = fit(system, split, execution=Execution(device="cpu", precision="auto", kernels="torch"))
    assert fitted.precision == chosen
    told = {"fp32": 1 / gain} if chosen == "bf16-loss" else {"bf16-loss": gain}
    assert fitted.probed == ({"precision": told} if items == 0 and loss == "softmax" else {})
    assert digest(fitted) == digest(fit(system, split, execution=Execution(device="cpu", precision=chosen, kernels="torch")))


def test_rounding_must_beat_a_softmax_that_is_fast_without(split, monkeypatch):
    monkeypatch.setattr(fitting, "LARGE", 0)
    monkeypatch.setattr(fitting, "bf16_gain", lambda n: 1.8)
    monkeypatch.setattr(native, "load", lambda: native.Kernel(Path("none"), None, 16, 48, 48))
    for gain, chosen in ((1.1, "bf16-loss"), (1.3, "fp32"), (0.5, "bf16-loss")):
        monkeypatch.setattr(fitting, "softmax_gain", lambda kernel, gain=gain: gain)
        monkeypatch.setattr(fitting._Run, "_kernels", lambda self, scorer: (None, ()))
        fitted = fit(sasrec(**{**SMALL, "epochs": 1}), split, execution=Execution(device="cpu", precision="auto"))
        assert fitted.precision == chosen


@pytest.mark.parametrize(("gain", "chosen"), [(1.6, "bf16-loss"), (1.4, "fp32")])
def test_rounding_by_a_kernel_must_beat_the_faster_way_without(split, monkeypatch, gain, chosen):
    monkeypatch.setattr(fitting, "LARGE", 0)
    monkeypatch.setattr(fitting, "bf16_gain", lambda n: 0.1)
    monkeypatch.setattr(native, "load", lambda: native.Kernel(Path("none"), None, 16, 48, 48, rounds=True))
    monkeypatch.setattr(fitting, "rounding_gain", lambda kernel: gain)
    monkeypatch.setattr(fitting._Run, "_kernels", lambda self, scorer: (None, ()))
    fitted = fit(sasrec(**{**SMALL, "epochs": 1}), split, execution=Execution(device="cpu", precision="auto"))
    assert fitted.precision == chosen
    assert fitted.probed["precision"] == ({"fp32": 1 / gain} if chosen == "bf16-loss" else {"bf16-loss": gain})


def test_a_run_keeps_the_precision_it_began_with(split, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "LARGE", 0)
    monkeypatch.setattr(fitting, "bf16_gain", lambda n: 2.0)
    execution = Execution(device="cpu", precision="auto", kernels="torch", checkpoint_every=2)
    whole = run("sasrec", split, execution=execution)
    interrupted(split, tmp_path, at=5, execution=execution)
    monkeypatch.setattr(fitting, "bf16_gain", lambda n: 1.0)
    again = run("sasrec", split, out=tmp_path, resume=True, execution=execution)
    assert (again.precision, again.probed) == ("bf16-loss", {"precision": {"fp32": 0.5}})
    assert digest(again) == digest(whole)


def probing(monkeypatch, chosen: int) -> list[int]:
    """Whoever asks for threads is told to take `chosen`, after updates with one and with two; returns how many asked."""
    asked = []

    def fewest_threads(seconds, *, most, rows):
        asked.append(rows)
        assert min(seconds(threads, some) for threads in (1, 2) for some in (1, rows)) > 0
        return chosen, {3 - chosen: 0.86}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(fitting, "fewest_threads", fewest_threads)
    return asked


AUTO = Execution(device="cpu", threads="auto", checkpoint_every=2)


@pytest.mark.parametrize("named", ["sasrec", "two-stages", "kept vectors"])
@pytest.mark.parametrize("chosen", [1, 2])
def test_a_probe_of_threads_changes_no_bit(split, monkeypatch, named, chosen):
    """Dropout, drawn negatives, a head, and vectors that live for some steps, are what they are without it."""
    made, given = (kept_vectors(), news()) if named == "kept vectors" else (system(named), split)
    before = torch.get_num_threads()
    plain = fit(made, given, seed=3, execution=Execution(device="cpu", threads=chosen))
    asked = probing(monkeypatch, chosen)
    probed = fit(made, given, seed=3, execution=AUTO)
    assert asked == [8]
    assert digest(probed) == digest(plain)
    assert (plain.threads, plain.probed.get("threads")) == (chosen, None)
    assert (probed.threads, probed.probed["threads"]) == (chosen, {str(3 - chosen): 0.86})
    assert torch.get_num_threads() == before


def test_a_run_keeps_the_threads_it_began_with(split, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 2)  # what it would take without a probe
    asked = probing(monkeypatch, 1)
    whole = digest(run("sasrec", split, execution=AUTO))
    interrupted(split, tmp_path, at=5, execution=AUTO)
    assert len(asked) == 2
    probing(monkeypatch, 2)
    again = run("sasrec", split, out=tmp_path, resume=True, execution=AUTO)
    assert (again.threads, again.probed["threads"]) == (1, {"2": 0.86})
    assert digest(again) == whole


def test_threads_that_are_said_are_not_probed(split, tmp_path, monkeypatch):
    asked = probing(monkeypatch, 2)
    interrupted(split, tmp_path, at=5, execution=AUTO)
    asked.clear()
    again = run("sasrec", split, out=tmp_path, resume=True, execution=Execution(device="cpu", threads=1))
    assert (again.threads, again.probed.get("threads")) == (1, None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert run("sasrec", split, execution=AUTO).threads == 3
    assert run("sasrec", split).threads == torch.get_num_threads()
    assert not asked
    with pytest.raises(ContractError, match="a number of threads, 'auto' or None, got 'many'"):
        run("sasrec", split, execution=Execution(threads="many"))
    with pytest.raises(UserError, match="at least 1 thread, got 0"):
        run("sasrec", split, execution=Execution(threads=0))


def test_an_unknown_precision_is_refused(split):
    with pytest.raises(ContractError, match="a precision among fp32, bf16-loss, bf16, auto, got 'half'"):
        run("sasrec", split, execution=Execution(precision="half"))
