"""Responses in dialogues: read, written, judged; the conversation half of UniCRS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import talked
import torch

from lmrs import models, objectives, systems, tasks, taxonomy, views
from lmrs.batch import from_rows
from lmrs.decoding import greedy
from lmrs.errors import ContractError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import fit
from lmrs.measures import Distinct, ItemRatio, SentenceBLEU, Texts, canonical, parse_text
from lmrs.models.speaker import filled
from lmrs.recommender import Recommender
from lmrs.records import SLOT, Dialogues
from lmrs.split import leave_one_out
from lmrs.system import learned
from lmrs.visibility import Causal

SMALL = {"backbone": "tiny-causal", "task": 2, "speech": 2, "context": 24, "dim": 8, "bases": 2, "said": 20, "most": 8}


def network(split, **options):
    """UniCRS's network in fp64, no weight at the value where it starts."""
    model = systems.unicrs(**{"answers": "both"} | SMALL | options).model
    vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = model.build(replace(vocab, prepared=model.prepare(split.train, seed=1))).double()
        for name, parameter in found.named_parameters():
            if name.startswith("speech."):
                parameter.data += 0.2 * torch.randn_like(parameter)
    return found


def asked(split, count: int = 8):
    view, data = views.Replies(), split.dataset
    return view.collate(view.within(data, data.offsets[:-1], data.offsets[1:]).take(np.arange(count)))


# -- measures --------------------------------------------------------------------------------------------------------------


def test_items_are_counted_and_each_is_one_word():
    texts = Texts((f"try {SLOT} or {SLOT}", "no idea", ""), (f"try {SLOT}", "no idea at all", "yes"))
    assert ItemRatio()(texts).tolist() == [2, 0, 0]
    assert parse_text("itemratio") == ItemRatio()
    assert canonical("ITEMRATIO") == "ItemRatio"
    # 2-grams: (try, @) (@, or) (or, @); (no, idea): 4 over the 2 texts that say something
    assert Distinct(2, "responses")(texts) == pytest.approx(4 / 2)
    assert Distinct(3, "responses")(texts) == pytest.approx(2 / 2)
    # order 2 alone: 1 of 3 and no brevity; 1 of 1, 2 words for 4: exp(1 - 2); nothing
    assert SentenceBLEU(2)(texts) == pytest.approx([100 / 3, 100 * np.exp(-1), 0])


# -- greedy ----------------------------------------------------------------------------------------------------------------


def test_no_three_tokens_come_twice_in_a_row_and_the_likeliest_of_the_others_is_taken():
    """Against a search that tries the tokens of each step from the best on and looks for a run that is there twice."""
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(5, 5, generator=rng)  # what comes after a token
    table[:, 4] -= 1.5
    found = greedy(table[:4], lambda chosen: table[chosen], end=4, most=30, unrepeated=3, unwritten=[3])
    free = greedy(table[:4], lambda chosen: table[chosen], end=4, most=30, unwritten=[3])
    assert any(twice(text) for text in free), "nothing to be kept from"
    for row, text in enumerate(found):
        logits, wanted = table[row], []
        while len(wanted) < 30:
            order = logits.argsort(descending=True).tolist()
            token = next(each for each in order if each != 3 and not twice([*wanted, each]))
            if token == 4:
                break
            wanted.append(token)
            logits = table[token]
        assert text == wanted
        assert 3 not in text


def twice(text: list[int]) -> bool:
    runs = [" ".join(map(str, text[at : at + 3])) for at in range(len(text) - 2)]
    return len(set(runs)) < len(runs)


def test_greedy_stops_at_the_end_and_at_the_most():
    always = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]])
    assert greedy(always, lambda chosen: always, end=0, most=4) == [[1, 1, 1, 1], []]


# -- what is asked ---------------------------------------------------------------------------------------------------------


def test_every_turn_of_the_recommender_is_a_question_the_last_words_too():
    split = talked.split(20)
    data = split.dataset
    rows = data.records["dialogues"].to_pylist()
    events = data.offsets[1:]
    more = []
    for row in rows:
        more.append(row)
        if row["event"] + len(row["items"]) == events[row["dialogue"]]:
            more.append(row | {"turn": row["turn"] + 1, "text": "Enjoy it", "items": [], "event": int(events[row["dialogue"]])})
    import pyarrow as pa

    table = pa.Table.from_pylist(more, schema=data.records["dialogues"].schema)
    data = replace(data, records={"dialogues": table})
    said = Dialogues.of(table)
    view = views.Replies()
    for made in (talked.by_user(data), leave_one_out(data)):
        read = view.rows(made.train, ahead=0, rng=np.random.default_rng(0)).turn.tolist()
        parts = [tasks.Responding(view).rows(each).turn.tolist() for each in (made.valid, made.test)]
        every = [*read, *parts[0], *parts[1]]
        assert sorted(every) == [at for at in range(len(said)) if said.role[at].as_py() == "recommender"], "each turn once"
        assert (said.event[read] <= made.train.stop[said.dialogue[read]]).all()
    batch = view.collate(view.within(data, data.offsets[:-1], data.offsets[1:]))
    assert set(batch.texts) == {"context", "response"}
    assert "Enjoy it" in batch.texts["response"]
    row = batch.texts["response"].index("Enjoy it")
    own = batch.channels["item"][int(batch.offsets[row]) : int(batch.offsets[row + 1])].tolist()
    user = int(batch.rows["user"][row])
    assert own == [data.n_items, *data.item[data.offsets[user] : data.offsets[user + 1]].tolist()]


# -- UniCRS ----------------------------------------------------------------------------------------------------------------


def test_the_prompt_has_a_vector_a_token_and_the_maps_are_shifted():
    found = network(talked.split(20))
    prompt, speech = found.prompt, found.speech
    rng = torch.Generator().manual_seed(0)
    words = torch.randn(2, 4, 32, generator=rng).double()
    item, named = torch.tensor([[24, 2, 0], [24, 5, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    vectors, there = speech(prompt, item, named, words, real)
    assert there.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    names = [name for name, _ in prompt.named_parameters() if not name.startswith("task.")]
    assert sorted(speech.names) == sorted(names)
    shift = dict(zip(speech.names, speech.shift, strict=True))
    with torch.no_grad():
        for name, parameter in prompt.named_parameters():
            parameter += shift.get(name, 0)
        table, fusion = prompt.items(), prompt.fusion
        for row, n, k in ((0, 4, 3), (1, 2, 2)):
            tokens = fusion.tokens(words[row, :n])
            chosen = torch.stack([table[each] if each < 24 else fusion.nothing.weight[0] for each in item[row, :k].tolist()])
            share = torch.softmax(tokens @ fusion.affinity.weight.T @ chosen.T / 32, 1)
            assert torch.allclose(vectors[row, 2 : 2 + n], fusion.out(share @ chosen + tokens))
            assert torch.allclose(vectors[row, :2], speech.task())


def test_the_likelihood_is_that_of_the_language_model_fed_by_hand():
    split = talked.split(20)
    found, batch = network(split), asked(split)
    told = found.tell(batch)
    model = found.backbone
    read, scores = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for row in range(batch.n_rows):
        one = batch.take(torch.tensor([row]))
        ids, real, item, named, words = found._asked(one, one.last)
        prompt, _ = found.speech(found.prompt, item, named, words, real)
        parts = batch.texts["response"][row].split(SLOT)
        said = []
        for at, part in enumerate(parts):
            said += ["slot"] if at else []
            text = (" " + part if at == 0 else part) if at + 1 == len(parts) else (" " + part if at == 0 else part).rstrip()
            said += found.tokens.encode(text) if text.strip() else []
        assert "slot" in said
        said.append(found.tokens.eos)
        before = torch.cat([prompt[0], read[ids[0]], read[torch.tensor(found.tokens.encode("System:"))]])
        after = torch.stack([found.speech.slot if each == "slot" else read[each] for each in said[:-1]])
        out = model(inputs_embeds=torch.cat([before, after])[None], output_hidden_states=True)
        states = out.hidden_states[-1][0][len(before) - 1 :]
        assert torch.allclose(out.logits[0][len(before) - 1 :], states @ scores.T)
        logits = torch.cat([states @ scores.T, (states @ found.speech.named)[:, None]], 1).log_softmax(1)
        wanted = sum(logits[at, len(scores) if each == "slot" else each] for at, each in enumerate(said))
        assert torch.allclose(told.total[row], wanted)
        assert told.tokens[row] == len(said)


def test_what_is_written_is_likeliest_at_every_step_alone_and_among_others():
    """The text that was written, judged step by step: no other next token is likelier, but for repetitions and marks."""
    split = talked.split(20)
    found, batch = network(split, most=6), asked(split)
    found.speech.named.data *= 30  # so that slots are written
    found.speech.slot.data *= 0.3
    texts = found.write(batch)
    assert texts == [found.write(batch.take(torch.tensor([row])))[0] for row in range(batch.n_rows)]
    blind = replace(batch, texts=batch.texts | {"response": ("other",) * batch.n_rows})
    assert found.write(blind) == texts, "the answer was read"
    model, scores = found.backbone, found.backbone.get_output_embeddings().weight
    marks = [each for each in found.tokens.marks.values() if each != found.tokens.eos]
    vectors, real = found._before(batch)
    wanted = []
    for row in range(batch.n_rows):
        before, said = vectors[row][real[row]], []
        for _ in range(6):
            after = [found.speech.slot if each == len(scores) else found._embed(torch.tensor(each)) for each in said]
            inputs = torch.cat([before, torch.stack(after)]) if after else before
            states = model(inputs_embeds=inputs[None], output_hidden_states=True).hidden_states[-1][0, -1]
            logits = torch.cat([scores @ states, (found.speech.named @ states)[None]]).detach()
            logits[marks] = -torch.inf
            logits[[each for each in range(len(logits)) if twice([*said, each])]] = -torch.inf
            if int(logits.argmax()) == found.tokens.eos:
                break
            said.append(int(logits.argmax()))
        wanted.append(found.speech.text(found.tokens, [-1 if each == len(scores) else each for each in said]))
    assert texts == wanted
    assert any(SLOT in text for text in texts)


def test_responses_are_read_and_written_the_same():
    found = network(talked.split(20))
    for text in (f"You should watch {SLOT}", f"{SLOT} ? or ({SLOT})", "Yes", f"{SLOT}", ""):
        assert found.speech.text(found.tokens, found.speech.read(found.tokens, text)) == text
    assert found.tokens.eos not in found.speech.read(found.tokens, "<|endoftext|>"), "a text spells the end"
    assert filled(f"Try {SLOT} or {SLOT}, not {SLOT}", ["Heat (1995)", "Ronin"]) == "Try Heat (1995) or Ronin, not"


def test_an_encoder_writes_nothing():
    with pytest.raises(ContractError, match="family causal"):
        systems.unicrs(answers="responses", backbone="minilm")
    with pytest.raises(ContractError, match="answers 'items' or"):
        systems.unicrs(answers="response")
    split = talked.split(20)
    silent = network(split, answers="items")
    with pytest.raises(ContractError, match="answers='response"):
        tasks.Responding().judge(silent, None, tasks.Responding().rows(split.test), split.dataset.vocab, measures=[], seed=0)


QUICK = SMALL | {"pretrain_epochs": 1, "epochs": 1, "converse_epochs": 1, "context": 12, "max_len": 9}


@pytest.fixture(scope="module")
def both():
    split = talked.split(24)
    return split, fit(systems.unicrs(answers="both", **QUICK), split)


def test_to_speak_changes_neither_the_language_model_nor_what_is_recommended(both):
    split, fitted = both
    assert taxonomy.cell(fitted.system) == taxonomy.FIXED_MODEL
    assert [line["stage"] for line in fitted.log] == ["fuse", "recommend", "converse"]
    fresh = fitted.system.model.backbone.build().state_dict()
    for name, tensor in fitted.scorer.backbone.state_dict().items():
        assert torch.equal(tensor, fresh[name]), name
    assert not any(learned(fitted.system, name) for name in fitted.scorer.state_dict() if name.startswith("backbone."))
    silent = fit(systems.unicrs(answers="items", **QUICK), split)
    for name, tensor in silent.scorer.state_dict().items():
        assert torch.equal(tensor, fitted.scorer.state_dict()[name]), name


def test_items_and_responses_are_judged_by_one_run(both):
    split, fitted = both
    found = evaluate(fitted, split)
    items = evaluate(fitted, split, measures=["Recall@10"])
    texts = evaluate(fitted, split, measures=["PPL", "SentenceBLEU-2", "ItemRatio", "Distinct-2[responses]"])
    assert found.measures["Recall@10"] == items.measures["Recall@10"]
    for name in ("PPL", "SentenceBLEU-2", "ItemRatio", "Distinct-2[responses]"):
        assert found.measures[name] == pytest.approx(texts.measures[name]), name
    asked_for = tasks.Conversing().rows(split.test).turn.tolist()
    every = tasks.Responding().rows(split.test).turn.tolist()
    for name in ("generated", "reference"):
        written = dict(zip(every, texts.answers[name].to_pylist(), strict=True))
        assert found.answers[name].to_pylist() == [written[turn] for turn in asked_for]
    rows = tasks.Responding().rows(split.test)
    assert texts.answers.num_rows == texts.table.num_rows == len(rows)
    said = Dialogues.of(split.dataset.records["dialogues"])
    wanted = [said.text[turn].as_py().replace(SLOT, "<item>") for turn in rows.turn.tolist()]
    assert texts.answers["reference"].to_pylist() == wanted
    assert texts.measures["ItemRatio"] == pytest.approx(
        np.mean([text.count("<item>") for text in texts.answers["generated"].to_pylist()])
    )
    total = texts.answers["log_likelihood"].to_numpy().sum()
    assert texts.measures["PPL"] == pytest.approx(np.exp(-total / texts.answers["tokens"].to_numpy().sum()))
    with pytest.raises(UserError, match="a measure such as"):
        evaluate(fitted, split, measures=["FMR"])


def test_the_prompts_alone_learn_what_recommenders_say():
    """Between what the frozen model says by itself and the entropy of the four phrases."""
    split = talked.split(60)
    options = SMALL | {"said": 20, "context": 10}
    system = systems.unicrs(answers="responses", pretrain=False, converse_epochs=4, converse_lr=0.02, **options)
    before, rows = network(split, answers="responses"), tasks.Responding().rows(split.test)
    fitted = fit(system, split, seed=1)
    judge = tasks.Responding(system.task.view).judge
    names = [parse_text("PPL"), parse_text("ItemRatio")]
    first = judge(before, None, rows, fitted.vocab, measures=names[:1], seed=0).values["PPL"]
    last = judge(fitted.scorer, None, rows, fitted.vocab, measures=names, seed=0).values
    assert 4 ** (1 / 20) < last["PPL"] < 0.3 * first
    assert fitted.log[-1]["valid"]["PPL"] < fitted.log[0]["valid"]["PPL"]


def test_shards_add_up_and_an_empty_one_costs_nothing():
    split = talked.split(20)
    found, objective, vocab = network(split), objectives.Reply(), split.dataset.vocab
    prepared = objective.corrupt(asked(split), vocab, torch.Generator())
    shards = [prepared.take(torch.tensor(each, dtype=torch.int64)) for each in ([], [0, 3, 5], [1, 2, 4, 6, 7])]
    with torch.no_grad():
        costs = [float(objective.charge(found, None, each, vocab, None)["reply"]) for each in (prepared, *shards)]
    assert costs[1] == 0
    assert costs[0] == pytest.approx(sum(costs[1:]))
    counts = [objective.counts(each)["reply"] for each in (prepared, *shards)]
    assert counts[0] == sum(counts[1:]) > counts[1] == 0
    assert found.write(shards[0]) == []


def test_items_are_found_as_before_by_a_network_that_also_speaks():
    split = talked.split(20)
    silent, speaking = network(split, answers="items"), network(split)
    bare = from_rows({"item": torch.tensor([3, 1])}, torch.tensor([2]))
    assert torch.equal(silent(bare, Causal()), speaking(bare, Causal()))
    assert models.FusedPrompt(speaking.model.backbone, task=0, speech=3).group("speech.task.*") == "prompt"


# -- KBRD ------------------------------------------------------------------------------------------------------------------

WORDY = {"dim": 8, "bases": 2, "speech_dim": 16, "layers": 1, "context": 30, "said": 12, "most": 6, "max_len": 9}


def kbrd(split, **options):
    model = systems.kbrd(**{"answers": "both"} | WORDY | options).model
    vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = model.build(replace(vocab, prepared=model.prepare(split.train, seed=1))).double()
        for parameter in found.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return found


def test_what_was_named_biases_the_words_as_in_the_equation():
    split = talked.split(20)
    found, batch = kbrd(split), asked(split)
    speech = found.speech
    u = found(batch, Causal(), at=batch.last)
    memory, gap = speech.heard(batch.texts["context"])
    said = torch.tensor([[0, 5, 6]]).expand(batch.n_rows, -1)
    logits = speech.logits(said, memory, gap, u)
    bias = speech.second.weight @ torch.relu(speech.first.weight @ u.T + speech.first.bias[:, None])  # [W, B]
    speech.first = None
    assert torch.allclose(logits, speech.logits(said, memory, gap, u) + bias.T[:, None])
    assert kbrd(split, word_bias=False).speech.second is None


def test_words_are_judged_and_written_alone_as_among_others():
    split = talked.split(20)
    found, batch = kbrd(split), asked(split)
    told, texts = found.tell(batch), found.write(batch)
    for row in range(batch.n_rows):
        one = batch.take(torch.tensor([row]))
        alone = found.tell(one)
        assert torch.allclose(alone.total[0], told.total[row])
        assert alone.tokens[0] == told.tokens[row]
        assert found.write(one)[0] == texts[row]
        # the chain rule, one word at a time
        speech, symbols = found.speech, found.speech.read(batch.texts["response"][row])
        assert speech.text(symbols) == " ".join(batch.texts["response"][row].lower().split()), "all are words of training"
        memory, gap = speech.heard(one.texts["context"])
        u, total = found(one, Causal(), at=one.last), 0.0
        for at, symbol in enumerate([*symbols, 1]):
            said = torch.tensor([[0, *symbols[:at]]])
            total += speech.logits(said, memory, gap, u, last=True).log_softmax(1)[0, symbol]
        assert torch.allclose(told.total[row], total)


def test_the_vocabulary_is_that_of_training():
    split = talked.split(40)
    about = systems.kbrd(answers="both", **WORDY).model.speech
    words = about.vocabulary(split.train, 9)
    assert words == about.vocabulary(talked.changed(split), 9)
    assert {"watch", "film", "should"} < set(words)
    assert SLOT not in words
    assert "never" not in words
    assert replace(about, words=3).vocabulary(split.train, 9) == words[:3]
    short = kbrd(split, words=3)
    assert short.speech.read(f"you {SLOT} zebra")[1:] == [3, 2]
    assert all("zebra" not in text for text in short.write(asked(split)))


def test_kbrd_learns_to_speak_and_finds_items_as_before(tmp_path):
    """Words: between the four phrases' entropy and that of single words."""
    split = talked.split(70)
    options = WORDY | {"epochs": 2, "converse_epochs": 12, "converse_lr": 0.01, "converse_batch_size": 16, "speech_dropout": 0.0}
    fitted = fit(systems.kbrd(answers="both", **options), split, seed=1)
    assert [line["stage"] for line in fitted.log][::7] == ["recommend", "converse"]
    silent = fit(systems.kbrd(**{k: v for k, v in options.items() if k in ("dim", "bases", "max_len", "epochs")}), split, seed=1)
    for name, tensor in silent.scorer.state_dict().items():
        assert torch.equal(tensor, fitted.scorer.state_dict()[name]), name
    found = evaluate(fitted, split, measures=["PPL", "ItemRatio"])
    assert 4 ** (1 / 6) < found.measures["PPL"] < 1.6
    assert found.measures["ItemRatio"] == 1
    phrases = {text.lower() for text in found.answers["reference"].to_pylist()}
    assert set(found.answers["generated"].to_pylist()) <= phrases
    saved = Recommender.of(fitted)
    again = Recommender.load(saved.save(tmp_path / "run"))
    said = ["Hello I want funny", 'Try "Film 3"', "More"]
    assert again.reply(said, k=3).response == saved.reply(said, k=3).response != ""
    assert "Film" in again.reply(said).response
