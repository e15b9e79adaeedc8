"""One sequence-to-sequence model for several kinds of questions: which item, yes or no, how many stars, why (P5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lmrs.answers import Jagged
from lmrs.batch import Batch
from lmrs.errors import ContractError, DataError, UserError
from lmrs.indexing import Index
from lmrs.measures.words import first_words
from lmrs.models.code_prompts import CANDIDATES, HISTORY, ITEM, TEXTS, USER, Wording, Written
from lmrs.models.explainer import Explainer, Sentence, Told
from lmrs.models.generative import Generative, GenerativeNetwork
from lmrs.models.grounds import Grounds, grounds_in
from lmrs.models.said import Said
from lmrs.order import priority
from lmrs.split import Train
from lmrs.views.events import Events
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

ANSWERS = ("item", "yes-no", "rating", "like", "stars", "explanation", "rated explanation", "title")
OF_RATINGS = ("rating", "like", "stars", "rated explanation")
SPOKEN = ("explanation", "rated explanation", "title")
CONTEXT = 2048  # tokens of a prompt where weights are drawn: candidates take room
_PROMPTS = 2048  # yes-no prompts that are written at once


@dataclass(frozen=True)
class Answering(Generative):
    """A Generative that is asked in wordings of several kinds; all answers are text, and one likelihood scores them.

    answers: by wording, what kind it asks for: "item" (its code), "yes-no" (is the shown item the next one?), "rating" ("4"),
    "like" ("like" above the middle of the ratings, else "dislike"), "stars" (yes or no: is {star} the rating?), "explanation",
    "rated explanation" (rating and text), "title" (the headline of a review).
    Slots: {user}, {item} (the one in question), {list history}, {list candidates}, and texts: {star}, {feature}, {title}, {text}.

    asking: the wording of the question that is put when items are ranked, texts are written or ratings predicted; for the kinds
    it does not ask for, the first wording of the kind that names only user and item. In a yes-no wording an item's score is
    log p(yes) - log p(no); with {list candidates} only candidates can be ranked, and all must be in the list.
    says, longest: as in views.Reviews. tokens: the most that are written. candidates: the longest list.
    expected: a predicted rating is sum_r r p(r) over the ratings of training, p normalised over their words; False: the likeliest
    of those words (P5 writes greedily and reads a number).
    """

    answers: tuple[str, ...] = ("item",)
    says: str = "explanation"
    longest: int = 20
    tokens: int = 60
    candidates: int = 100
    expected: bool = True

    slots: ClassVar[frozenset[str]] = frozenset({USER, ITEM, HISTORY, CANDIDATES, *TEXTS})

    def _check_wordings(self) -> None:
        if len(self.answers) != len(self.wordings) or not set(self.answers) <= set(ANSWERS):
            raise ContractError(needed=f"an answer for each wording among {', '.join(ANSWERS)}", came=f"{self.answers}")
        if not 0 <= self.asking < len(self.wordings):
            raise ContractError(needed="asking: the number of a wording", came=f"{self.asking} of {self.wordings}")
        if self.longest < 1 or self.tokens < 1 or self.candidates < 2:
            raise ContractError(
                needed="longest and tokens of at least 1, candidates of at least 2",
                came=f"longest={self.longest}, tokens={self.tokens}, candidates={self.candidates}",
            )
        if self.backbone is None:
            raise ContractError(needed="a backbone whose tokeniser writes the answers", came="backbone=None")
        if self.ranks_by == "item" and self._nobody is None:
            raise ContractError(
                needed="a wording with {list history} and without {user}, for users nobody knows", came=f"{self.wordings}",
                remedy="add one",
            )  # fmt: skip

    @property
    def questions(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.wordings, self.answers, strict=True))

    @property
    def ranks_by(self) -> str:
        """How `asking` ranks items: "item", "yes-no", "candidates", or "" if it does not."""
        if self.answers[self.asking] == "item":
            return "candidates" if CANDIDATES in Wording(self.wordings[self.asking]).columns else "item"
        return "yes-no" if self.answers[self.asking] == "yes-no" else ""

    @property
    def by_item(self) -> bool:
        return self.ranks_by in ("yes-no", "candidates")

    @property
    def knows_users(self) -> bool:
        return not set(self.answers) <= {"item", "yes-no"}

    @property
    def context(self) -> int:
        return CONTEXT if self.fresh is not None else super().context

    @property
    def listed(self) -> int:
        return self.candidates if any(CANDIDATES in Wording(text).columns for text in self.wordings) else 0

    def find(self, answer: str, *, hinted: bool = False) -> int | None:
        """The number of the wording that asks for that kind: `asking` if it does, else the first of user and item (and, if
        hinted, of the feature) alone."""
        if self.answers[self.asking] == answer and ("feature" in Wording(self.wordings[self.asking]).columns) == hinted:
            return self.asking
        wanted = {USER, ITEM, "feature"} if hinted else {USER, ITEM}
        return next(
            (n for n, (text, kind) in enumerate(self.questions) if kind == answer and Wording(text).columns == wanted), None
        )

    def prepare(self, train: Train, *, seed: int) -> Grounds:  # type: ignore[override]
        """Raises DataError for answers that the data cannot give."""
        index, data, asked = Generative.prepare(self, train, seed=seed), train.dataset, set(self.answers)
        ratings = np.zeros(0)
        if data.rating is not None:
            ratings = np.unique(np.asarray(data.rating)[train.events()[1]].astype(np.float64))
            ratings = ratings[np.isfinite(ratings)]
        if asked & set(OF_RATINGS) and not len(ratings):
            raise DataError(
                needed="ratings, for questions about them", came=f"{data.name}, which has none", remedy="leave the family out"
            )
        said = Said((), np.bincount(train.events()[0], minlength=data.n_users), train.counts(), (), *(np.zeros(0, np.int64),) * 4)
        if asked & set(SPOKEN):
            view = Events(says=self.says)
            rows = view.rows(train, ahead=0, rng=np.random.default_rng(0))
            texts = view.collate(rows).texts
            columns = Wording(self.wordings[self.asking]).columns
            needs = [("explanation", self.says, bool(asked & {"explanation", "rated explanation"}))]
            needs += [
                ("title", "title", "title" in asked),
                ("text", "text", "title" in asked),
                ("feature", "feature", "feature" in columns),
            ]
            for name, column, needed in needs:
                if needed and not any(texts.get(name, ())):
                    raise DataError(
                        needed=f"reviews with {column} among the training events, for questions about them",
                        came=f"{data.name}, which has none",
                        remedy='load it with its texts ("reviews:PATH"), or choose other families' if not texts
                        else "choose another text with says=..., or other families",
                    )  # fmt: skip
        return Grounds(index, said, ratings)

    def restore(self, folder: Path) -> Grounds:
        return Grounds.load(folder)

    def build(self, vocab: Vocab) -> AnsweringNetwork:
        return AnsweringNetwork(self, vocab)


class AnsweringNetwork(GenerativeNetwork, Explainer):
    """said, ratings: what `prepare` counted. It ranks as GenerativeNetwork does, and writes and rates as an Explainer."""

    about: Answering

    def __init__(self, about: Answering, vocab: Vocab) -> None:
        super().__init__(about, vocab)
        grounds = grounds_in(vocab)
        self.said, self.ratings = grounds.said, grounds.ratings
        assert about.backbone is not None
        self.reader = about.backbone.tokenizer()
        if self.reader.eos is None:
            raise ContractError(needed="a backbone with an end-of-text token", came=about.backbone.name, remedy="choose another")
        self.eos = self.reader.eos

    def index_in(self, vocab: Vocab) -> Index:
        return grounds_in(vocab).index

    # -- questions as text -----------------------------------------------------------------------------------------------

    def asked(self, batch: Batch) -> Written:
        """The questions of a batch that objectives.Families prepared."""
        rows = {name: value.cpu().numpy() for name, value in batch.rows.items()}
        texts: dict[str, Sequence[str | None]] = {name: batch.texts.get(name, ()) for name in TEXTS}
        texts["star"] = [None if not np.isfinite(each) else _number(each) for each in rows["star"]]
        among = None
        if "among" in rows:
            real = rows["among"] >= 0
            among = (np.concatenate([[0], np.cumsum(real.sum(1))]), rows["among"][real])
        return self.prompts.write(
            batch.channels["item"].cpu().numpy(), batch.offsets.numpy(), self.users_of(batch), rows["wording"],
            shown=rows["shown"], among=among, texts=texts,
        )  # fmt: skip

    def answers(self, batch: Batch) -> Jagged:
        """(offsets, tokens): what is to be said to the questions of such a batch, each with the token that ends it."""
        rows = {name: batch.rows[name].tolist() for name in ("wording", "item", "rating", "verdict")}
        found: list[Sequence[int] | np.ndarray] = []
        for row, number in enumerate(rows["wording"]):
            kind, rating = self.about.answers[number], rows["rating"][row]
            if kind == "item":
                found.append(self.index.code(rows["item"][row]))
                continue
            match kind:
                case "yes-no" | "stars":
                    said = "yes" if rows["verdict"][row] else "no"
                case "like":
                    said = "like" if rating > self.ratings[[0, -1]].mean() else "dislike"
                case "rating":
                    said = _number(rating)
                case "rated explanation":
                    said = f"{_number(rating)} , {batch.texts['explanation'][row]}"
                case _:
                    said = batch.texts["title" if kind == "title" else "explanation"][row] or ""
            found.append(self.spelt(said))
        return _jagged(found)

    def spelt(self, text: str) -> list[int]:
        """The tokens of an answer. It is data: no token of meaning comes of it but the end."""
        return [*self.reader.encode(f" {text}" if text else "")[: self.about.tokens], self.eos]

    def answered(self, batch: Batch, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """([B] log p(answer | question) with gradients, int64[B] tokens of the answers) of a batch that Families prepared."""
        wanted = self.answers(batch)
        return self.gains(self.asked(batch), wanted, rng), torch.from_numpy(np.diff(wanted[0]))

    # -- items -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        match self.about.ranks_by:
            case "item":
                return GenerativeNetwork.score(self, batch, visible)
            case "yes-no":
                every = torch.arange(self.n_items, device=batch.channels["item"].device).expand(batch.n_rows, -1)
                return self.score_among(batch, visible, every)
        raise UserError(
            needed="a question that ranks the whole catalogue",
            came=f"{self.about.wordings[self.about.asking]!r}",
            remedy="ask for another family (asks=sequential), or measure among drawn items, such as NDCG@10/99neg",
        )

    @torch.no_grad()
    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        how = self.about.ranks_by
        if how not in ("yes-no", "candidates"):
            return GenerativeNetwork.score_among(self, batch, visible, candidates)
        self._check(visible)
        items = candidates.cpu().numpy()
        found = self._picked(batch, items) if how == "candidates" else self._approved(batch, items)
        return found.to(candidates.device)

    def _picked(self, batch: Batch, items: np.ndarray) -> Tensor:
        """[B, K]: log p(code | the list of them). The order of a list is a hash of what is in it."""
        real = items >= 0
        sums = np.where(real, items, 0).sum(1)
        order = np.argsort(np.where(real, priority(0, sums[:, None], np.where(real, items, 0)) >> np.uint64(1), 2**63), axis=1)
        listed = np.take_along_axis(items, order, 1)
        among = (np.concatenate([[0], np.cumsum(real.sum(1))]), listed[listed >= 0])
        written = self.prompts.write(
            batch.channels["item"].cpu().numpy(), batch.offsets.numpy(), self.users_of(batch),
            np.full(batch.n_rows, self.about.asking), among=among,
        )  # fmt: skip
        out = torch.full(items.shape, -torch.inf)
        for rows, context in self.reading(written, max(1, 4096 // items.shape[1])):
            owner, column = np.nonzero(real[rows])
            if len(owner):
                each, there = self.told(context, owner, self.index.batch(items[rows][owner, column]))
                out[torch.from_numpy(rows[owner]), torch.from_numpy(column)] = each.masked_fill(~there, 0).sum(1).float().cpu()
        return out

    def _approved(self, batch: Batch, items: np.ndarray) -> Tensor:
        """[B, K]: log p(yes) - log p(no), every item asked about on its own."""
        out = torch.full(items.shape, -torch.inf)
        history, begin = batch.channels["item"].cpu().numpy(), batch.offsets.numpy()
        users = self.users_of(batch)
        every, column = np.nonzero(items >= 0)
        for at in range(0, len(every), _PROMPTS):
            row, which = every[at : at + _PROMPTS], column[at : at + _PROMPTS]
            size = np.diff(begin)[row]
            ends = np.concatenate([[0], np.cumsum(size)])
            flat = np.arange(int(ends[-1])) + np.repeat(begin[row] - ends[:-1], size)
            written = self.prompts.write(
                history[flat], ends, users[row], np.full(len(row), self.about.asking), shown=items[row, which]
            )
            found = self._among(written, [self.spelt("yes"), self.spelt("no")])
            out[torch.from_numpy(row), torch.from_numpy(which)] = (found[:, 0] - found[:, 1]).float().cpu()
        return out

    def _among(self, written: Written, words: list[list[int]]) -> Tensor:
        """[B, W]: log p of each of some answers to each question."""
        out = torch.empty(len(written.offsets) - 1, len(words), device=self.place, dtype=torch.float64)
        for rows, context in self.reading(written, max(1, 4096 // len(words))):
            owner = np.repeat(np.arange(len(rows)), len(words))
            each, real = self.told(context, owner, _jagged(words * len(rows)))
            out[torch.from_numpy(rows).to(self.place)] = each.masked_fill(~real, 0).sum(1).double().view(len(rows), -1)
        return out

    # -- pairs of a user and an item -------------------------------------------------------------------------------------

    def paired(self, batch: Batch, wording: np.ndarray) -> Written:
        """Questions about pairs (views.reviews.pairs), in wordings without a history."""
        none = np.zeros(batch.n_rows + 1, np.int64)
        texts = {name: batch.texts.get(name, (None,) * batch.n_rows) for name in TEXTS}
        item = batch.channels["item"].cpu().numpy()
        return self.prompts.write(item[:0], none, self.users_of(batch), wording, shown=item, texts=texts)

    @torch.no_grad()
    def rate(self, batch: Batch) -> Tensor | None:
        number = self.about.asking if self.about.answers[self.about.asking] == "rating" else self.about.find("rating")
        if number is None:
            return None
        written = self.paired(batch, np.full(batch.n_rows, number))
        if not batch.n_rows:
            return torch.zeros(0, device=self.place)
        found = self._among(written, [self.spelt(_number(each)) for each in self.ratings])
        ratings = torch.from_numpy(self.ratings).to(found)
        return found.softmax(1) @ ratings if self.about.expected else ratings[found.argmax(1)]

    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        wording = self._speaking(batch)
        if not batch.n_rows:
            nothing = next(self.parameters()).sum() * 0
            return Told(nothing, 0, None, None if self.rate(batch) is None else nothing.expand(0))
        wanted = _jagged([self.spelt(text or "") for text in batch.texts["explanation"]])
        gain = self.gains(self.paired(batch, wording), wanted, rng)
        return Told(gain.sum(), int(wanted[0][-1]), None, self.rate(batch))

    def write(self, batch: Batch) -> list[str]:
        return self._said(self.paired(batch, self._speaking(batch)))

    @torch.no_grad()
    def explain(self, batch: Batch, item: int, *, k: int = 1) -> tuple[Sentence, ...]:
        pair = self.pair(batch, item)
        hinted = bool(pair.texts["feature"][0]) and self.about.find("explanation", hinted=True) is not None
        number = self.about.find("explanation", hinted=hinted)
        if number is None:
            raise UserError(
                needed="a model that learned explanations", came="one without", remedy="fit with explanation among its families"
            )
        return tuple(map(Sentence, self._said(self.paired(pair, np.full(1, number)))))[:k]

    def _speaking(self, batch: Batch) -> np.ndarray:
        """int64[B]: the wordings in which texts are asked for; a row without a feature is asked in one that needs none."""
        asking, plain = self.about.asking, self.about.find("explanation")
        number = asking if self.about.answers[asking] in ("explanation", "title") else plain
        if number is None:
            raise ContractError(
                needed="a model that learned explanations", came="one without", remedy="fit with explanation among its families"
            )
        if "feature" not in Wording(self.about.wordings[number]).columns or plain is None:
            return np.full(batch.n_rows, number)
        hints = batch.texts.get("feature", (None,) * batch.n_rows)
        return np.array([number if hint else plain for hint in hints], np.int64)

    @torch.no_grad()
    def _said(self, written: Written) -> list[str]:
        """The answer to each question: greedily, the likeliest token of the tokeniser's own at every step."""
        found: list[list[int]] = [[] for _ in range(len(written.offsets) - 1)]
        marks = [each for each in self.reader.marks.values() if each != self.eos]
        for rows, context in self.reading(written, 256):
            ended = np.zeros(len(rows), bool)
            for _ in range(self.about.tokens):
                logits = context.logits.clone()
                logits[:, marks] = -torch.inf
                logits[:, self.reader.size :] = -torch.inf
                chosen = logits.argmax(1)
                ended |= chosen.cpu().numpy() == self.eos
                if ended.all():
                    break
                for at in np.flatnonzero(~ended):
                    found[rows[at]].append(int(chosen[at]))
                _, context = context.read(chosen[:, None])
        return [first_words(self.reader.decode(each), self.about.longest) for each in found]


def _number(rating: float) -> str:
    return f"{rating:g}"


def _jagged(rows: Sequence[Sequence[int] | np.ndarray]) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat = np.concatenate([np.asarray(row, np.int64) for row in rows]) if len(rows) else np.zeros(0, np.int64)
    return offsets, flat
