"""Families: every question that can be put about one event, in one model (P5's multi-task training)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.answering import ANSWERS, AnsweringNetwork
from lmrs.models.code_prompts import CANDIDATES, HISTORY, Wording
from lmrs.models.grounds import grounds_in
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab

OF_TEXTS = ("explanation", "title", "feature", "text")  # what a question may need of the texts of an event
OTHERS = 64  # rows for which other items are drawn at once


@dataclass(frozen=True)
class Families(LookingBack):
    """sum_k share_k mean over the rows of family k of the mean over tokens of -log p(token | question, tokens before).

    families: (name, share, questions); a question is a wording and the kind of its answer, one of models.answering.ANSWERS. Their
    numbers, counted through all families, are those of the model's wordings. candidates: items in a list, the true one included.

    Every row (an event, views.Events) draws one family among those that it can be asked of, with probability ~ share, then one of
    that family's questions, uniformly; a row that can be asked nothing is left out. What a question needs is read off its wording
    and answer: a history, a rating, a text of the event. Yes-no questions show the true item (rating) or another one with
    probability 1/2; candidates are the true item and others that the row's history does not have, shuffled. hidden: the answer.
    """

    families: tuple[tuple[str, float, tuple[tuple[str, str], ...]], ...]
    candidates: int = 100

    ahead = 0

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.families]
        sound = all(own and 0 < share < math.inf for _, share, own in self.families)
        if not names or not sound or len(set(names)) < len(names):
            raise ContractError(
                needed="families with distinct names, shares above 0 and questions of their own", came=repr(self.families)
            )
        for text, answer in self.questions:
            Wording(text)
            if answer not in ANSWERS:
                raise ContractError(needed=f"an answer among {', '.join(ANSWERS)}", came=f"{answer!r} to {text!r}")
        if self.candidates < 2:
            raise ContractError(needed="candidates of at least 2", came=f"candidates={self.candidates}")

    @property
    def questions(self) -> tuple[tuple[str, str], ...]:
        return tuple(question for _, _, own in self.families for question in own)

    @property
    def weights(self) -> dict[str, float]:
        total = sum(share for _, share, _ in self.families)
        return {name: share / total for name, share, _ in self.families}

    # -- what is drawn ---------------------------------------------------------------------------------------------------

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """Row channels: `wording` (-1 where a row can be asked nothing), `shown` (the item a question shows), `verdict`, `star`
        (NaN or a rating that is shown) and, if a question lists candidates, `among` (int64[B, C], -1 where there are fewer)."""
        able = self.able(batch)
        wording = self._drawn(able, rng)
        n, item, rating = batch.n_rows, batch.rows["item"], batch.rows["rating"]
        verdict = torch.rand(n, generator=rng, dtype=torch.float64) < 0.5
        answers, columns = [answer for _, answer in self.questions], [Wording(text).columns for text, _ in self.questions]

        def rows(asks: list[bool]) -> Tensor:
            return (torch.tensor([*asks, False])[wording]).nonzero()[:, 0]

        drawn = {"wording": wording}
        shown = item.clone()
        false = rows([answer == "yes-no" for answer in answers])
        false = false[~verdict[false]]
        shown[false] = self._others(batch, false, vocab, 1, rng)[:, 0]
        drawn["shown"] = torch.where(shown < 0, item, shown)
        drawn["verdict"] = verdict | (shown < 0)  # where the history has every other item
        star = rating.clone()
        if "stars" in answers:
            wrong = rows([answer == "stars" for answer in answers])
            wrong = wrong[~verdict[wrong]]
            ratings = torch.from_numpy(grounds_in(vocab).ratings).to(rating.dtype)
            step = torch.randint(1, max(2, len(ratings)), (len(wrong),), generator=rng)
            star[wrong] = ratings[(torch.searchsorted(ratings, rating[wrong].contiguous()) + step) % max(1, len(ratings))]
            drawn["verdict"][wrong] = star[wrong] == rating[wrong]  # where there is but one rating
        drawn["star"] = star
        if any(CANDIDATES in each for each in columns):
            listing = rows([CANDIDATES in each for each in columns])
            among = torch.full((n, self.candidates), -1, dtype=torch.int64)
            found = torch.cat([item[listing, None], self._others(batch, listing, vocab, self.candidates - 1, rng)], 1)
            order = torch.rand(found.shape, generator=rng, dtype=torch.float64).masked_fill(found < 0, 2).argsort(1)
            among[listing] = found.gather(1, order)
            drawn["among"] = among
        return replace(batch, rows={**batch.rows, **drawn})

    def able(self, batch: Batch) -> Tensor:
        """bool[B, Q]: which questions can be put to which rows."""
        rated, past = batch.rows["rating"].isfinite(), batch.lengths > 0
        said = {
            name: torch.tensor(
                [text is not None and bool(text.strip()) for text in batch.texts.get(name, (None,) * batch.n_rows)]
            )
            for name in OF_TEXTS
        }
        out = torch.ones(batch.n_rows, len(self.questions), dtype=torch.bool)
        for number, (text, answer) in enumerate(self.questions):
            columns = Wording(text).columns
            needs = [said[name] for name in OF_TEXTS if name in columns]
            if HISTORY in columns:
                needs.append(past)
            if "star" in columns or answer in ("rating", "rated explanation", "like", "stars"):
                needs.append(rated)
            if answer in ("explanation", "rated explanation", "title"):
                needs.append(said["title" if answer == "title" else "explanation"])
            for need in needs:
                out[:, number] &= need
        return out

    def _drawn(self, able: Tensor, rng: torch.Generator) -> Tensor:
        """int64[B]: a question for each row, -1 where none can be asked."""
        family = self._family
        shares = torch.tensor([share for _, share, _ in self.families], dtype=torch.float64)
        open_ = torch.stack([able[:, family == number].any(1) for number in range(len(shares))], 1)
        weight = (shares * open_).cumsum(1)
        unit = torch.rand(len(able), 1, generator=rng, dtype=torch.float64)
        chosen = (weight <= unit * weight[:, -1:]).sum(1).clamp_max(len(shares) - 1)
        keys = torch.rand(able.shape, generator=rng, dtype=torch.float64)
        keys = keys.masked_fill(~able | (family[None] != chosen[:, None]), -1)
        best, number = keys.max(1) if len(able) else (keys.sum(1), keys.sum(1).long())
        return torch.where(best >= 0, number, -1)

    @property
    def _family(self) -> Tensor:
        """int64[Q]: the family of each question."""
        return torch.tensor([number for number, (_, _, own) in enumerate(self.families) for _ in own])

    def _others(self, batch: Batch, rows: Tensor, vocab: Vocab, count: int, rng: torch.Generator) -> Tensor:
        """int64[R, count]: distinct items, neither the row's own nor of its history, uniformly; -1 where there are fewer."""
        out = torch.full((len(rows), count), -1, dtype=torch.int64)
        for some in torch.arange(len(rows)).split(OTHERS):
            keys = torch.rand(len(some), vocab.n_items, generator=rng)
            for at, row in enumerate(rows[some].tolist()):
                keys[at, batch.channels["item"][batch.offsets[row] : batch.offsets[row + 1]]] = -1
            keys[torch.arange(len(some)), batch.rows["item"][rows[some]]] = -1
            best, found = keys.topk(min(count, vocab.n_items), 1)
            out[some, : found.shape[1]] = torch.where(best >= 0, found, -1)
        return out

    # -- what is charged -------------------------------------------------------------------------------------------------

    def counts(self, prepared: Batch) -> dict[str, int]:
        family = self._asked(prepared)
        return {name: int((family == number).sum()) for number, (name, _, _) in enumerate(self.families)}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        if not isinstance(network, AnsweringNetwork):
            raise ContractError(
                needed="models.Answering for the objective Families", came=type(network).__name__, remedy="use another objective"
            )
        if network.about.questions[: len(self.questions)] != self.questions:
            raise ContractError(
                needed="a model whose first wordings are the questions of Families", came=f"{network.about.questions}"
            )
        asked = (prepared.rows["wording"].cpu() >= 0).nonzero()[:, 0]
        if not len(asked):
            nothing = next(network.parameters()).sum() * 0
            return {name: nothing for name, _, _ in self.families}
        some = prepared.take(asked)
        gain, tokens = network.answered(some, rng)
        cost, family = -gain / tokens.to(gain), self._asked(some).to(gain.device)
        return {name: cost[family == number].sum() for number, (name, _, _) in enumerate(self.families)}

    def _asked(self, prepared: Batch) -> Tensor:
        """int64[B]: the family that each row was asked of, -1 for none."""
        wording = prepared.rows["wording"].cpu()
        return torch.where(wording >= 0, self._family[wording], -1)
