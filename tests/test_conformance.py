"""Every part of the library under the public checks of lmrs.testing. A new part needs two lines here; test_meta.py sees to it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import impressed
import numpy as np
import pyarrow as pa
import pytest
import reviewed
import talked
import torch

from lmrs import indexing, losses, measures, models, negatives, objectives, sources, systems, taxonomy, views
from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.graph import Knowledge
from lmrs.language import Backbone
from lmrs.language.adapters import Lora
from lmrs.split import Split, Train
from lmrs.testing import (
    ControlTests,
    DocumentTests,
    ExplainerTests,
    FittedTests,
    LikelihoodTests,
    LossTests,
    MeasureTests,
    ModelTests,
    ObjectiveTests,
    RecordViewTests,
    SourceTests,
    SystemTests,
    VerdictTests,
    ViewTests,
    tiny,
)
from lmrs.testing.models import CLOSE, built
from lmrs.texts import Attention, ItemText, TextEncoder
from lmrs.visibility import Causal

V = tiny.dataset().n_items
SMALL = {"dim": 8, "layers": 2, "heads": 2, "max_len": 9}

# -- models --------------------------------------------------------------------------------------------------------------


class TestTransformer(ModelTests):
    part = models.Transformer(**SMALL)


class TestTransformerLikeBERT(ModelTests):
    part = models.Transformer(**SMALL, block=models.PostNorm(), embed_norm=True, transform=True, bias=True, attention_dropout=0.3)


class TestTransformerLikeSASRec(ModelTests):
    part = models.Transformer(**SMALL, block=models.QueryNorm(), scale=True, align="left")


class TestTransformerGated(ModelTests):
    part = models.Transformer(**SMALL, block=models.Gated(expand=2), tied=False, positions=False, item_dim=6)


class TestTransformerWithFeatures(ModelTests):
    part = models.Transformer(**SMALL, features=models.Features(names=("genres",), times=("hour", "weekday")))


class TestTransformerWithSoftClock(ModelTests):
    part = models.Transformer(**SMALL, features=models.Features(times=("weekday",), merge="elementwise", clock="soft", bins=3))


class TestPathLM(ModelTests):
    part = models.PathLM(transe_epochs=1, beams=50, dim=8, layers=2, heads=2, max_len=9)
    unused = ("relations.weight", "relation_head.weight", "relation_head.bias")  # a path begins with a node


class TestPathLMFree(ModelTests):
    part = models.PathLM(Knowledge(users=False), decoding="free", transe_epochs=0, beams=20, dim=8, layers=1, heads=2, max_len=9)
    unused = TestPathLM.unused


class TestPromptedCausal(ModelTests):
    part = models.Prompted(Backbone("tiny-causal"), "[soft start 2] After {list history} comes", read="state", max_len=9)


class TestPromptedEncoder(ModelTests):
    part = models.Prompted(Backbone("tiny-encoder"), read="state", pooling="mean", max_len=9)


class TestPromptedWithLora(ModelTests):
    part = models.Prompted(Backbone("tiny-causal"), read="state", max_len=9, adapter=Lora(rank=2))


READER = TextEncoder(Backbone("tiny-encoder"))


class TestTextItems(ModelTests):
    part = models.TextItems(READER, adaptor=models.Adaptor(experts=3), **SMALL)
    unused = ("adaptor.noise.weight",)  # the gate's noise needs a generator


class TestProfilePrompt(ModelTests):
    part = models.ProfilePrompt(models.Transformer(**SMALL), personal=False, length=2)
    unused = ("prompt.table",)  # rows that no `start` opens are read by the body alone


PAID = views.Rewarded(views.ItemSequence(max_len=8), rating=4.0)


class TestRewardPrompt(ModelTests):
    part = models.RewardPrompt(models.Transformer(**SMALL, tied=False, bias=True), PAID)


class TestRewardPromptOfGRU(ModelTests):
    part = models.RewardPrompt(models.Recurrent(dim=8, max_len=9), PAID, fusion="mlp")


class TestTextItemsWithIds(ModelTests):
    part = models.TextItems(READER, ItemText(("title",)), models.Adaptor(experts=1), ids=True, **SMALL)


class TestRecurrent(ModelTests):
    part = models.Recurrent(dim=8, layers=2, max_len=9, dropout=0.3, embedding_dropout=0.3)


class TestRecurrentUntied(ModelTests):
    part = models.Recurrent(dim=8, max_len=9, tied=False, bias=False)


class TestCaser(ModelTests):
    part = models.Caser(dim=6, window=3, horizontal=4, vertical=2, max_len=9)


class TestCaserWithUsers(ModelTests):
    part = models.Caser(dim=6, window=3, horizontal=4, vertical=2, max_len=9, users=True)


SPELLER = models.Scratch(dim=16, layers=2, heads=2, head_dim=8, inner=32)


class TestGenerativeInCodes(LikelihoodTests):
    part = models.Generative(indexing.Quantised(2, 4), fresh=SPELLER, encoder=READER, beams=None, max_len=9)


class TestGenerativeOfUsersInASearch(LikelihoodTests):
    part = models.Generative(
        indexing.LearnedQuantised(2, 4, hidden=(16,), steps=20), fresh=SPELLER, encoder=READER, users=5, beams=6, max_len=9,
        wordings=('{user}{list history separator=""}', '{list history separator=""}'),
    )  # fmt: skip


class TestGenerativeInWords(LikelihoodTests):
    part = models.Generative(
        indexing.Sequential(), Backbone("tiny-seq2seq"), wordings=("{user} had {list history}", "After {list history}"),
        whole_words=True, max_len=9,
    )  # fmt: skip


class TestPopularity(ControlTests):
    part = models.Popularity()


class TestRecentPopularity(ControlTests):
    part = models.RecentPopularity(days=5)


class TestMarkov(ControlTests):
    part = models.Markov()


class TestMarkovWithoutSmoothing(ControlTests):
    part = models.Markov(smoothing=0)


class TestItemKNN(ControlTests):
    part = models.ItemKNN(k=4)


class TestItemKNNByCosine(ControlTests):
    part = models.ItemKNN(weights="cosine", k=4, shrink=2.0, recency=0.8)


class TestTextTowers(DocumentTests):
    part = models.TextTowers(TextEncoder(Backbone("tiny-encoder"), normalise=False), hidden=6)


class TestTextTowersOfOneText(DocumentTests):
    part = models.TextTowers(TextEncoder(Backbone("tiny-encoder")), towers="joined")


class TestWalks(ControlTests):
    part = models.Walks()


class TestEASE(ControlTests):
    part = models.EASE(regularisation=3.0)


# -- objectives ----------------------------------------------------------------------------------------------------------


class TestTags(ObjectiveTests):
    part = objectives.Tags()
    model = models.TextTowers(TextEncoder(Backbone("tiny-encoder"), normalise=False), dropout=0.3)

    def batch(self, train: Train) -> Batch:
        view, train = views.Documents(), tiny.posts().train
        return view.collate(view.rows(train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(10)))

    def test_no_state_reads_what_it_predicts(self) -> None:
        """What is prepared has no tag in it that a network could read."""
        train = tiny.posts().train
        prepared = self.prepared(self.batch(train), train, 0)
        assert prepared.n_positions == 0
        assert bool(prepared.rows["tags"].any(1).all())

    def test_the_answer_depends_on_the_whole_history(self) -> None:
        """On the whole document, and on no tag."""
        train = tiny.posts().train
        network, batch = self.parts(train)[0], self.batch(train)
        question = self.part.ask(batch, tiny.vocab(train))
        before = network.score(question, self.part.asked_visible)
        for part in views.Documents().parts:
            texts = tuple(text and f"another {text}" for text in batch.texts[part])
            other = replace(question, texts=batch.texts | {part: texts})
            moved = (network.score(other, self.part.asked_visible) - before).abs().amax(1) > CLOSE
            assert moved.tolist() == [text is not None for text in texts], part


GRAPH = Knowledge().of(tiny.split().train)


class TestPathTokens(ObjectiveTests):
    part = objectives.PathTokens()
    model = models.PathLM(transe_epochs=0, dim=8, layers=2, heads=2, max_len=12, dropout=0.3)
    zero_cost = {"entity": math.log(GRAPH.n_nodes), "relation": math.log(GRAPH.n_relations)}

    def batch(self, train: Train) -> Batch:
        view = views.Paths(max_len=8, per_user=2)
        return view.collate(view.rows(train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(10)))

    def test_no_state_reads_what_it_predicts(self) -> None:
        train = tiny.split().train
        network, batch = self.parts(train)[0], self.batch(train)
        users, path = network.users(batch, batch.last), batch.rows["path"]
        before = network.along(users, path[:, :-1])
        for place in range(path.shape[1] - 1):
            changed = path[:, :-1].clone()
            changed[:, place] = (changed[:, place] + 1) % GRAPH.n_relations
            after = network.along(users, changed)
            assert torch.allclose(after[:, : place + 1], before[:, : place + 1], rtol=0, atol=1e-10), f"place {place} is foreseen"
            assert not torch.allclose(after[:, place + 1], before[:, place + 1]), f"place {place} is forgotten"


class TestContinuation(ObjectiveTests):
    part = objectives.Continuation(places="all")
    zero_cost = {"title": math.log(V)}


class TestContinuationAtOnePlace(ObjectiveTests):
    part = objectives.Continuation(places="random")
    zero_cost = {"title": math.log(V)}


class TestMargin(ObjectiveTests):
    part = objectives.Margin(places="all")
    zero_cost = {"margin": V - 1}


class TestMarginAtTheLastPlace(ObjectiveTests):
    part = objectives.Margin(margin=0.5, places="last")
    zero_cost = {"margin": (V - 1) / 2}


class TestLiking(ObjectiveTests):
    part = objectives.Liking(places="all")
    view = views.Rated(views.ItemSequence(max_len=8))
    zero_cost = {"liking": math.log(2)}


class TestVerdict(ObjectiveTests):
    part = objectives.Verdict(negatives.Uniform(k=3), places="all")
    zero_cost = {"verdict": math.log(2)}


class TestNextItemAtTheLastPlace(ObjectiveTests):
    part = objectives.NextItem(places="last")
    zero_cost = {"next": math.log(V)}


class TestNextItem(ObjectiveTests):
    part = objectives.NextItem()
    zero_cost = {"next": math.log(V)}


class TestNextItemWithBCE(ObjectiveTests):
    part = objectives.NextItem(losses.BCE(negatives.Uniform(k=3)))
    zero_cost = {"next": 4 * math.log(2)}


class TestNextItemWithSharedNegatives(ObjectiveTests):
    part = objectives.NextItem(losses.SampledSoftmax(negatives.ByPopularity(k=5, alpha=0.5, shared=True)))


class TestNextItems(ObjectiveTests):
    part = objectives.NextItems(targets=3)
    zero_cost = {"next": 4 * math.log(2)}


class TestCloze(ObjectiveTests):
    part = objectives.Cloze(hide=0.4, last=0.3)
    zero_cost = {"cloze": math.log(V)}


class TestClozeKeepOne(ObjectiveTests):
    part = objectives.Cloze(hide=0.9, keep_one=True, most=3, loss=losses.FullSoftmax(smoothing=0.1))
    zero_cost = {"cloze": math.log(V)}


class TestPermuted(ObjectiveTests):
    part = objectives.Permuted(share=0.5, span=2)
    model = models.Transformer(dim=8, layers=2, heads=2, max_len=16)
    zero_cost = {"permuted": math.log(V)}


class TestContrastive(ObjectiveTests):
    part = objectives.Contrastive(words=0.3)
    zero_cost = {"item": math.log(10), "sequence": math.log(10)}  # ten rows in the batch


class TestContrastiveOfTexts(ObjectiveTests):
    part = objectives.Contrastive(words=0.3, duplicates="exclude", weight=0.5)
    model = models.TextItems(READER, adaptor=models.Adaptor(experts=2), **SMALL)


class TestOpened(ObjectiveTests):
    part = objectives.Opened(hide=0.5, drop=0.4)
    model = models.ProfilePrompt(models.Transformer(dim=8, layers=2, heads=2, max_len=12, dropout=0.3), personal=False, length=2)
    zero_cost = {"next": math.log(V), "alike": math.log(10)}  # ten rows in the batch
    runs = 1  # the others predict nothing


class TestRewardedNext(ObjectiveTests):
    part = objectives.RewardedNext()
    view = PAID


class TestRewardedNextUnweighed(ObjectiveTests):
    part = objectives.RewardedNext(losses.BCE(negatives.Uniform(k=3)), weigh=False)
    view = PAID
    zero_cost = {"next": 4 * math.log(2)}


class TestInstructed(ObjectiveTests):
    part = objectives.Instructed((("next", 1.0, (0, 2)), ("direct", 1.0, (1,))), places="all")
    zero_cost = {"next": math.log(V), "direct": math.log(V)}


class TestReplaced(ObjectiveTests):
    part = objectives.Replaced()
    zero_cost = {"cloze": math.log(V), "replaced": math.log(2)}


class TestReplacedFromTheBatch(ObjectiveTests):
    part = objectives.Replaced(pool="batch")
    runs = 1  # the discriminator's inputs are drawn from the hidden items themselves


class TestMutual(ObjectiveTests):
    part = objectives.Mutual(attributes="genres", hide=0.4)


class TestMutualInfoNCE(ObjectiveTests):
    part = objectives.Mutual(attributes="genres", hide=0.4, mim_loss="infonce", negatives=3)


class TestTotal(ObjectiveTests):
    part = objectives.Total((("next", 1.0, objectives.NextItem()), ("real", 0.5, objectives.Replaced())))
    zero_cost = {"next.next": math.log(V), "real.cloze": math.log(V), "real.replaced": math.log(2)}


# -- views, losses -------------------------------------------------------------------------------------------------------


class TestItemSequence(ViewTests):
    part = views.ItemSequence(max_len=5)


class TestItemSequenceInWindows(ViewTests):
    part = views.ItemSequence(max_len=4, stride=4, jitter=True)


class TestItemSequencePrefixes(ViewTests):
    part = views.ItemSequence(max_len=5, prefixes=True)


class TestDocuments(RecordViewTests):
    part = views.Documents()
    data = staticmethod(tiny.posts)

    def changed(self, split: Split) -> Train:
        """Later documents say something else and have other tags."""
        data, later = split.dataset, split.train.lengths == 0
        users = data.users
        for part in self.part.parts:
            texts = [f"another {text}" if now else text for text, now in zip(users.column(part).to_pylist(), later, strict=True)]
            users = users.set_column(users.column_names.index(part), part, pa.array(texts, pa.large_string()))
        item = np.where(np.repeat(later, data.lengths), (data.item + 1) % data.n_items, data.item).astype(np.int32)
        return Train(replace(data, users=users, item=item), split.train.stop)

    def test_histories_leave_room_for_the_question(self) -> None:
        """A question adds no position to a text."""
        rows = self.rows(tiny.posts().train)
        assert self.part.asked(rows, asks=1) is rows


class TestPaths(ViewTests):
    part = views.Paths(max_len=5)

    def test_lengths_are_respected(self) -> None:
        """One event is a past to walk from; the path tells what comes later."""
        rows = self.rows(tiny.split().train, ahead=0)
        assert set(np.unique(rows.stop - rows.start)) == set(range(1, 6))

    def test_every_user_with_two_events_is_read(self) -> None:
        """Those that is whose walks end well: the others have nothing new to walk to, or it cannot be reached."""
        train = tiny.split().train
        found = np.unique(self.rows(train, ahead=1).user)
        assert len(found) > len(np.flatnonzero(train.lengths >= 2)) / 2


class TestProfiled(ViewTests):
    part = views.Profiled(views.ItemSequence(max_len=5))


class TestRated(ViewTests):
    part = views.Rated(views.ItemSequence(max_len=5))


class TestRewarded(ViewTests):
    part = views.Rewarded(views.ItemSequence(max_len=5), rating=4.0)


# -- dialogues -------------------------------------------------------------------------------------------------------------


class TestNamedEntities(ModelTests):
    part = models.NamedEntities(models.Relational(dim=8, bases=2), hidden=6, max_len=9, dropout=0.2)


class TestSpoken(ObjectiveTests):
    part = objectives.Spoken()
    zero_cost = {"next": math.log(V)}


class TestKBRD(SystemTests):
    part = staticmethod(systems.kbrd)
    options = {"dim": 8, "bases": 2, "max_len": 9, "dropout": 0.1}

    @staticmethod
    def data():
        return talked.split()


class TestKBRDThatTalks(SystemTests):
    part = staticmethod(systems.kbrd)
    options = {
        "answers": "both", "dim": 8, "bases": 2, "max_len": 9, "speech_dim": 8, "layers": 1, "context": 20, "said": 12, "most": 4,
    }  # fmt: skip
    cell = taxonomy.PART

    @staticmethod
    def data():
        return talked.split()


class TestFusedPromptOfAnEncoder(ModelTests):
    part = models.FusedPrompt(Backbone("tiny-encoder"), models.Relational(dim=8, bases=2), task=2, context=12, max_len=9)
    unused = ("prompt.fusion.nothing.weight",)


class TestFusedPromptOfACausalModel(ModelTests):
    part = models.FusedPrompt(
        Backbone("tiny-causal"), models.Relational(dim=8, bases=2), task=0, context=12, max_len=9, bias=False
    )
    unused = ("prompt.fusion.nothing.weight",)


class TestUniCRS(SystemTests):
    part = staticmethod(systems.unicrs)
    options = {"backbone": "tiny-encoder", "task": 2, "context": 12, "dim": 8, "bases": 2, "max_len": 9}
    cell = taxonomy.FIXED_MODEL

    @staticmethod
    def data():
        return talked.split(24)


class TestUniCRSThatTalks(SystemTests):
    part = staticmethod(systems.unicrs)
    options = {
        "answers": "both", "backbone": "tiny-causal", "task": 2, "context": 12, "dim": 8, "bases": 2, "max_len": 9, "speech": 2,
        "said": 12, "most": 4,
    }  # fmt: skip
    cell = taxonomy.FIXED_MODEL

    @staticmethod
    def data():
        return talked.split(24)


class TestReply(ObjectiveTests):
    part = objectives.Reply()
    model = models.FusedPrompt(
        Backbone("tiny-causal"), models.Relational(dim=8, bases=2), task=0, context=12, max_len=9, speech=2
    )

    def batch(self, train: Train) -> Batch:
        view, data = views.Replies(max_len=8), talked.data(20)
        return view.collate(view.within(data, data.offsets[:-1], data.offsets[1:]).take(np.arange(10)))

    def parts(self, train: Train):
        return built(self.model, talked.split(20).train), None

    def test_no_state_reads_what_it_predicts(self) -> None:
        """tests/test_responses.py holds what is charged to a language model that is fed by hand."""

    def test_the_answer_depends_on_the_whole_history(self) -> None:
        """As for NextItem: the question is the same."""


class TestReplies(RecordViewTests):
    part = views.Replies(max_len=3, turns=2)

    @staticmethod
    def data():
        return talked.split()

    def changed(self, split: Split) -> Train:
        return talked.changed(split)


class TestTurns(RecordViewTests):
    part = views.Turns(max_len=3, turns=2)

    @staticmethod
    def data():
        return talked.split()

    def changed(self, split: Split) -> Train:
        return talked.changed(split)


class TestTurnsRevealed(TestTurns):
    part = views.Turns("both", max_len=9, reveal=True)


class TestFullSoftmax(LossTests):
    part = losses.FullSoftmax(block=3)


class TestFullSoftmaxSmoothed(LossTests):
    part = losses.FullSoftmax(smoothing=0.2)


class TestSampledSoftmax(LossTests):
    part = losses.SampledSoftmax(negatives.Uniform(k=4, shared=True))


class TestSampledSoftmaxByPopularity(LossTests):
    part = losses.SampledSoftmax(negatives.ByPopularity(k=4))


class TestBCE(LossTests):
    part = losses.BCE(negatives.Uniform(k=2))


class TestGBCE(LossTests):
    part = losses.GBCE(negatives.Uniform(k=4))


class TestBPRMax(LossTests):
    part = losses.BPRMax(negatives.ByPopularity(k=4, shared=True))


# -- measures ------------------------------------------------------------------------------------------------------------


class TestHR(MeasureTests):
    part = measures.HR(5)


class TestRecall(MeasureTests):
    part = measures.Recall(5)


class TestPrecision(MeasureTests):
    part = measures.Precision(5)


class TestF1(MeasureTests):
    part = measures.F1(5)


class TestNDCG(MeasureTests):
    part = measures.NDCG(10)


class TestNDCGOfTheWholeRanking(MeasureTests):
    part = measures.NDCG()


class TestMRR(MeasureTests):
    part = measures.MRR(10)


class TestMAP(MeasureTests):
    part = measures.MAP(10)


class TestMINDMRR(MeasureTests):
    part = measures.MINDMRR()


class TestTagRecall(MeasureTests):
    part = measures.TagRecall(2)


class TestTagF1(MeasureTests):
    part = measures.TagF1(2)


class TestAUC(MeasureTests):
    part = measures.AUC()


class TestGAUC(MeasureTests):
    part = measures.GAUC("positives")
    high = 3.0  # weighted by the positives of a query: the mean is in [0, 1], a query's share is not


class TestSampledNDCG(MeasureTests):
    part = measures.Sampled(measures.NDCG(10), 20)


class TestCoverage(MeasureTests):
    part = measures.Coverage(5)


class TestNovelty(MeasureTests):
    part = measures.Novelty(5)
    high = 12.0  # bits: log2(N + V) at most


class TestARP(MeasureTests):
    part = measures.ARP(5)
    high = 50.0  # training events


class TestPopularityBias(MeasureTests):
    part = measures.PopularityBias(5)
    low = -1.0


class TestRMSE(MeasureTests):
    part = measures.RMSE()
    high = 4.0


class TestMAE(MeasureTests):
    part = measures.MAE()
    high = 4.0


# -- systems -------------------------------------------------------------------------------------------------------------


class TestSASRecSystem(SystemTests):
    part = staticmethod(systems.sasrec)
    options = SMALL


class TestBERT4RecSystem(SystemTests):
    part = staticmethod(systems.bert4rec)
    options = SMALL


class TestESASRecSystem(SystemTests):
    part = staticmethod(systems.esasrec)
    options = {**SMALL, "negatives": 6}


class TestGRU4RecSystem(SystemTests):
    part = staticmethod(systems.gru4rec)
    options = {"dim": 8, "max_len": 9}


class TestCaserSystem(SystemTests):
    part = staticmethod(systems.caser)
    options = {"dim": 8, "window": 3, "horizontal": 4, "max_len": 9}


class TestTransformers4RecSystem(SystemTests):
    part = staticmethod(systems.transformers4rec)
    options = {**SMALL, "item_dim": 6, "features": ("genres",)}


class TestTransformers4RecReplacedSystem(SystemTests):
    part = staticmethod(systems.transformers4rec)
    options = {**SMALL, "item_dim": 6, "objective": "replaced"}


class TestS3RecSystem(SystemTests):
    part = staticmethod(systems.s3rec)
    options = SMALL
    cell = taxonomy.WHOLE


class TestUniSRecSystem(SystemTests):
    part = staticmethod(systems.unisrec)
    options = {**SMALL, "backbone": "tiny-encoder", "experts": 3}
    cell = taxonomy.PART


class TestUniSRecWithIdsSystem(SystemTests):
    part = staticmethod(systems.unisrec)
    options = {**SMALL, "backbone": "tiny-encoder", "experts": 2, "ids": True}
    cell = taxonomy.PART


class TestUniSRecWholeSystem(SystemTests):
    part = staticmethod(systems.unisrec)
    options = {**SMALL, "backbone": "tiny-encoder", "experts": 2, "tuning": "whole"}
    cell = taxonomy.WHOLE


class TestUniSRecUntunedSystem(SystemTests):
    part = staticmethod(systems.unisrec)
    options = {**SMALL, "backbone": "tiny-encoder", "experts": 2, "tuning": "none"}
    cell = taxonomy.PRETRAIN


TALK = {"backbone": "tiny-causal", "max_len": 4}


class TestZeroShotSystem(SystemTests):
    part = staticmethod(systems.zero_shot)
    options = TALK
    cell = taxonomy.TUNING_FREE


class TestLMRecSystem(SystemTests):
    part = staticmethod(systems.lmrec)
    options = TALK
    cell = taxonomy.TUNING_FREE


class TestLMRecTunedSystem(SystemTests):
    part = staticmethod(systems.lmrec)
    options = {
        "backbone": "tiny-encoder",
        "max_len": 4,
        "scorer": "masks",
        "masks": 9,
        "loss": "hinge",
        "measure": "NDCG@10/3neg",
    }
    cell = taxonomy.FIXED_PROMPT


class TestTALLRecSystem(SystemTests):
    part = staticmethod(systems.tallrec)
    options = {**TALK, "rank": 2, "measure": "NDCG@10/3neg"}
    cell = taxonomy.FIXED_PROMPT


class TestTALLRecWithRatingsSystem(SystemTests):
    part = staticmethod(systems.tallrec)
    options = {**TALK, "rank": 2, "rating": 3.0}
    cell = taxonomy.FIXED_PROMPT


class TestLanguageWithAHead(SystemTests):
    part = staticmethod(systems.language)
    options = {**TALK, "strategy": taxonomy.EXTRA}
    cell = taxonomy.EXTRA


class TestLanguageWithLora(SystemTests):
    part = staticmethod(systems.language)
    options = {**TALK, "strategy": taxonomy.PART, "rank": 2}
    cell = taxonomy.PART


class TestLanguageWithSoftPrompts(SystemTests):
    part = staticmethod(systems.language)
    options = {**TALK, "strategy": taxonomy.FIXED_MODEL, "measure": "NDCG@10/3neg"}
    cell = taxonomy.FIXED_MODEL


COLD = {"few": 4, "dim": 8, "layers": 1, "heads": 1, "max_len": 9, "hidden": 8}


class TestPPR(SystemTests):
    part = staticmethod(systems.ppr)
    options = {**COLD, "loss": "softmax"}
    cell = taxonomy.FIXED_MODEL
    data = staticmethod(tiny.profiled)


class TestPPRFullAndShared(SystemTests):
    part = staticmethod(systems.ppr)
    options = {**COLD, "variant": "full", "length": 2, "personal": False}
    cell = taxonomy.BOTH
    data = staticmethod(tiny.profiled)


class TestPRL(SystemTests):
    part = staticmethod(systems.prl)
    options = {"rating": 4.0, "dim": 8, "max_len": 9}


SPELT = {"dim": 16, "layers": 1, "heads": 2, "max_len": 6}


class TestP5System(SystemTests):
    part = staticmethod(systems.p5)
    options = {**SPELT, "beams": None}


class TestP5OfAPretrainedModelSystem(SystemTests):
    part = staticmethod(systems.p5)
    options = {"fresh": False, "index": "hybrid", "branches": 3, "cluster": 4, "max_len": 6, "prompt": "unseen"}
    cell = taxonomy.FIXED_PROMPT


class TestP5OfListsSystem(FittedTests):
    part = staticmethod(systems.p5)
    options = {**SPELT, "families": ("candidates", "direct"), "asks": "candidates", "candidates": 13}


class TestP5OfYesAndNoSystem(SystemTests):
    part = staticmethod(systems.p5)
    options = {**SPELT, "families": ("yes-no",), "asks": "yes-no", "index": "independent"}


class TestP5OfRatingsSystem(FittedTests):
    part = staticmethod(systems.p5)
    options = {**SPELT, "families": ("sequential", "rating"), "asks": "rating"}


class TestP5OfReviewsSystem(FittedTests):
    part = staticmethod(systems.p5)
    options = {
        **SPELT,
        "families": ("explanation", "review", "rating"),
        "shares": (2.0, 1.0, 1.0),
        "asks": "feature",
        "longest": 3,
    }
    data = staticmethod(reviewed.split)


QUESTIONS = (
    ("sequential", 2.0, (("{user} had {list history} . Next ?", "item"), ("After {list history} ?", "item"))),
    ("rating", 1.0, (("Will {user} like {item} ?", "rating"), ("{user} {item} {star}", "stars"), ("{user} {item}", "like"))),
    ("explanation", 1.0, (("Why {item} , {user} ?", "explanation"), ("{user} {item} {feature}", "explanation"))),
)
ASKED = models.Answering(
    indexing.Random(2, 4), Backbone("tiny-seq2seq"), models.Scratch(dim=16, layers=1, heads=2, head_dim=8, inner=32),
    tuple(text for _, _, own in QUESTIONS[:2] for text, _ in own), whole_words=True, beams=None, max_len=9,
    answers=tuple(answer for _, _, own in QUESTIONS[:2] for _, answer in own),
)  # fmt: skip


class TestAnswering(LikelihoodTests):
    part = ASKED


class TestAnsweringOfReviews(ExplainerTests):
    part = replace(
        ASKED, wordings=tuple(text for _, _, own in QUESTIONS for text, _ in own), tokens=6,
        answers=tuple(answer for _, _, own in QUESTIONS for _, answer in own),
    )  # fmt: skip
    data = staticmethod(reviewed.split)


class TestEvents(RecordViewTests):
    part = views.Events(max_len=4, recent=6, longest=3, reads=1)
    data = staticmethod(reviewed.split)

    def changed(self, split: Split) -> Train:
        return reviewed.changed(split)


class TestFamilies(ObjectiveTests):
    part = objectives.Families(QUESTIONS[:2])
    model = ASKED
    zero_cost = dict.fromkeys(("sequential", "rating"), math.log(Backbone("tiny-seq2seq").tokenizer().size + 2 * 4))

    def batch(self, train: Train) -> Batch:
        view = views.Events(max_len=8)
        return view.collate(view.rows(train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(0, 60, 5)))

    def prepared(self, batch: Batch, train: Train, seed: int) -> Batch:
        vocab = replace(tiny.vocab(train), prepared=self.model.prepare(train, seed=0))
        return self.part.corrupt(batch, vocab, torch.Generator().manual_seed(seed))

    def test_no_state_reads_what_it_predicts(self) -> None:
        """tests/test_p5_families.py shows which words a question has: the answer is not among them."""


class TestTIGERSystem(SystemTests):
    part = staticmethod(systems.tiger)
    options = {
        **SPELT, "backbone": "tiny-encoder", "levels": 2, "codes": 4, "steps": 20, "users": 5, "head_dim": 8, "inner": 32,
    }  # fmt: skip


class TestReviews(RecordViewTests):
    part = views.Reviews(longest=3)
    data = staticmethod(reviewed.split)

    def changed(self, split: Split) -> Train:
        return reviewed.changed(split)

    def test_histories_leave_room_for_the_question(self) -> None:
        """A row is one position, and nothing is appended to it."""


class TestPeter(ExplainerTests):
    part = models.Peter(words=50, dim=16, dropout=0.3)
    data = staticmethod(reviewed.split)


class TestPeterPlus(ExplainerTests):
    part = models.Peter(feature=True, words=4, longest=3, mask="causal", dim=8, layers=1)
    data = staticmethod(reviewed.split)


class TestPepler(ExplainerTests):
    part = models.Pepler(Backbone("tiny-causal"), rating="mf", tokens=6)
    data = staticmethod(reviewed.split)


class TestPeplerRated(ExplainerTests):
    part = models.Pepler(Backbone("tiny-causal"), "[vector user][vector item] {feature}", rating="mlp", fresh=True, tokens=3)
    data = staticmethod(reviewed.split)


class TestExplanation(ObjectiveTests):
    part = objectives.Explanation(context=0.5, rating=0.1)
    model = models.Peter(words=50, dim=8)
    zero_cost = {"text": math.log(3 + 9), "context": math.log(3 + 9)}  # three symbols and nine words

    def batch(self, train: Train) -> Batch:
        view = views.Reviews()
        return view.collate(view.held_out(reviewed.split().test).take(np.arange(10)))

    def parts(self, train: Train):
        return reviewed.network(self.model), None

    def test_no_state_reads_what_it_predicts(self) -> None:
        """tests/test_explanations.py holds what is charged to the equations, written out once more."""

    def test_the_answer_depends_on_the_whole_history(self) -> None:
        """There is no history; who and what make the difference (ExplainerTests)."""


class TestPETERSystem(FittedTests):
    part = staticmethod(systems.peter)
    options = {"dim": 16, "words": 50}
    data = staticmethod(reviewed.split)


class TestPEPLERSystem(FittedTests):
    part = staticmethod(systems.pepler)
    options = {"backbone": "tiny-causal"}
    cell = taxonomy.BOTH
    data = staticmethod(reviewed.split)


class TestPEPLERPromptSystem(FittedTests):
    part = staticmethod(systems.pepler)
    options = {"backbone": "tiny-causal", "tuned": "prompt"}
    cell = taxonomy.FIXED_MODEL
    data = staticmethod(reviewed.split)


class TestPEPLERDiscreteSystem(FittedTests):
    part = staticmethod(systems.pepler)
    options = {"backbone": "tiny-causal", "discrete": True}
    cell = taxonomy.FIXED_PROMPT
    data = staticmethod(reviewed.split)


class TestPopularitySystem(SystemTests):
    part = staticmethod(systems.popularity)
    cell = taxonomy.CONTROL


class TestRecentPopularitySystem(SystemTests):
    part = staticmethod(systems.recent_popularity)
    cell = taxonomy.CONTROL


class TestMarkovSystem(SystemTests):
    part = staticmethod(systems.markov)
    cell = taxonomy.CONTROL


class TestItemKNNSystem(SystemTests):
    part = staticmethod(systems.item_knn)
    cell = taxonomy.CONTROL


class TestPTM4Tag(FittedTests):
    part = staticmethod(systems.ptm4tag)
    options = {"backbone": "tiny-encoder", "lr": 1e-3}
    cell = taxonomy.WHOLE
    data = staticmethod(tiny.posts)


class TestPTM4TagFrozen(FittedTests):
    part = staticmethod(systems.ptm4tag)
    options = {"backbone": "tiny-encoder", "lr": 1e-2, "tuned": False, "towers": "shared"}
    cell = taxonomy.EXTRA
    data = staticmethod(tiny.posts)


class TestPLMRec(SystemTests):
    part = staticmethod(systems.plm_rec)
    options = {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "transe_epochs": 2, "per_user": 4, "beams": 2_000}


class TestPLMRecConstrained(SystemTests):
    part = staticmethod(systems.plm_rec)
    options = {**TestPLMRec.options, "decoding": "constrained", "users": False}


class TestWalksSystem(SystemTests):
    part = staticmethod(systems.walks)
    options = {"max_len": 6}
    cell = taxonomy.CONTROL


class TestEASESystem(SystemTests):
    part = staticmethod(systems.ease)
    cell = taxonomy.CONTROL


# -- sources -------------------------------------------------------------------------------------------------------------


class TestSynthetic(SourceTests):
    def load(self) -> Dataset:
        return sources.synthetic(users=20, items=9, length=6, spread=2)


class TestOwnFolder(SourceTests):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        events = [
            "user,item,timestamp",
            "a,01,1000000300",
            "b,1,1000000100",
            "a,1,1000000200",
            "b,é,1000000100",
            "a,nan,1000000300",
        ]
        (tmp_path / "interactions.csv").write_text("\n".join(events) + "\n", encoding="utf-8")
        self.path = tmp_path

    def load(self) -> Dataset:
        return sources.load(str(self.path), cache=self.path / "cache")


# -- impressions -----------------------------------------------------------------------------------------------------------

TINY_TEXT = TextEncoder(Backbone("tiny-encoder"), Attention(2, 3, 5), normalise=False, layers=1)


class TestNews(ModelTests):
    part = models.News(TINY_TEXT, dim=8, heads=2, query=5, max_len=9)


class TestTextClicks(ModelTests):
    part = models.TextClicks(TextEncoder(Backbone("tiny-encoder")), **SMALL)
    unused = (
        "hidden_item", "click.cross", "click.bias", "click.norm.weight", "click.norm.bias", "click.deep.weight",
        "click.deep.bias", "click.out.weight", "click.out.bias",
    )  # fmt: skip


class TestEnsemble(VerdictTests):
    part = models.Ensemble(
        (
            models.Prompted(Backbone("tiny-encoder"), "{list history} {candidate} [mask]", read="words", max_len=9),
            models.Prompted(Backbone("tiny-causal"), "[soft p 2] {list history} {candidate}", read="words", max_len=9),
        ),
        max_len=9,
    )


class TestShown(ObjectiveTests):
    part = objectives.Shown()
    zero_cost = {"shown": math.log(3)}

    def batch(self, train: Train) -> Batch:
        return impressed.with_candidates(super().batch(train), V)

    def test_no_state_reads_what_it_predicts(self) -> None:
        """The states are those of the history, whatever is shown."""
        train = tiny.split().train
        network, _ = self.parts(train)
        batch = self.batch(train)
        before = network(batch, self.part.visible, at=batch.last)
        batch.rows["candidates"] = (batch.rows["candidates"] + 1) % V
        assert torch.equal(network(batch, self.part.visible, at=batch.last), before)


class TestShownByItem(TestShown):
    part = objectives.Shown(by_item=True, visible=Causal())
    zero_cost = {"shown": math.log(2)}


class TestImpressions(RecordViewTests):
    part = views.Impressions(max_len=3, unclicked=2)
    data = staticmethod(impressed.news)

    def changed(self, split: Split) -> Train:
        return impressed.changed(split)


class TestPLMNRSystem(SystemTests):
    part = staticmethod(systems.plm_nr)
    options = {
        "backbone": "tiny-encoder", "layers": 2, "tuned": 1, "text_heads": 2, "text_width": 3, "query": 5, "dim": 8, "heads": 2,
        "max_len": 4, "lr": 1e-3,
    }  # fmt: skip
    cell = taxonomy.PART
    data = staticmethod(impressed.news)


class TestPLMNRWholeSystem(TestPLMNRSystem):
    options = {**TestPLMNRSystem.options, "tuned": None, "policy": "cached", "staleness": 2, "pooling": "mean"}
    cell = taxonomy.WHOLE


class TestPRECSystem(SystemTests):
    part = staticmethod(systems.prec)
    options = {"backbone": "tiny-encoder", "dim": 8, "layers": 1, "max_len": 4, "hidden": 6}
    cell = taxonomy.EXTRA
    data = staticmethod(impressed.news)


class TestPrompt4NRSystem(SystemTests):
    part = staticmethod(systems.prompt4nr)
    options = {"backbone": "tiny-encoder", "max_len": 2, "unclicked": 2, "lr": 1e-3}
    cell = taxonomy.BOTH
    data = staticmethod(impressed.news)
