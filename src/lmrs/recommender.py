"""A trained system that answers: saved as a folder of safetensors, JSON and Arrow, asked for users it has never seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from lmrs import describe, saved
from lmrs.answers import Jagged, rank, rank_states
from lmrs.batch import from_rows
from lmrs.dataset import Dataset
from lmrs.errors import UserError, nearest
from lmrs.folder import MODEL, bad
from lmrs.models.network import Explained, Model, Network, Scorer
from lmrs.native import Kernel, by_kernel
from lmrs.objectives import Objective
from lmrs.recommendations import FALLBACK, Recommendations, as_texts, check_count, check_histories, unknown_of
from lmrs.records import SLOT
from lmrs.system import Stage, System
from lmrs.tasks.ranking import placed, scores
from lmrs.views.sequence import Rows
from lmrs.vocab import Vocab, named

if TYPE_CHECKING:  # a process that answers one question need not know how models are trained
    from lmrs.fit import Fitted

_NEAR = 1e-5  # scores closer than this share of their size may change places when they are computed in another batch
_BLOCK, _CELLS = 256, 64_000_000  # histories, and scores (256 MB), at once
_MANY = 200_000_000  # scores of a call from which on the kernel is asked for: it may have to be made first, once for a machine
_LISTED = 200_000  # names that are searched for the nearest: longer lists would take seconds

Time = str | int | float | datetime | np.datetime64


@dataclass(frozen=True)
class Reply:
    """The answer to what somebody said.

    recommendations: items, best first. response: what the system says, with titles of these in it; None for one that says
    nothing. named, named_titles: ids and titles of the items that were understood, in order.
    unmatched: what looks like a title and is none of the catalogue. ambiguous: titles of several items. unsure: what may be a
    title or ordinary words: quotation marks would tell.
    """

    recommendations: Recommendations
    response: str | None
    named: tuple[str, ...]
    named_titles: tuple[str, ...]
    unmatched: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        names = ("named", "named_titles", "unmatched", "ambiguous", "unsure")
        lists = {name: list(getattr(self, name)) for name in names}
        return {**self.recommendations.to_dict(), "response": self.response, **lists}


@dataclass(frozen=True, eq=False)
class Recommender:
    """A trained system with its vocabulary and catalogue.

    system: what it is. vocab: with training counts. scorer, objective: what ranks, and how it is asked (None for controls).
    items: catalogue table in vocab order, or None. name, settings: for reports. seeds: of the fit. about: how it came to be
    (JSON values).
    notes: what a user should know about this copy (code that changed since it was saved).
    """

    system: System
    vocab: Vocab
    scorer: Scorer
    objective: Objective | None
    items: pa.Table | None = None
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, fitted: Fitted, *, name: str = "", settings: dict[str, Any] | None = None) -> Recommender:
        """The recommender that `fit` has trained.

        name: for reports (else the paper's). settings: the keywords of the system (else the whole system).
        """
        return cls(
            system=fitted.system,
            vocab=fitted.vocab,
            scorer=fitted.scorer,
            objective=fitted.objective,
            items=fitted.split.dataset.items,
            name=name or fitted.system.paper.title.split(":")[0],
            settings=describe.to_json(fitted.system) if settings is None else settings,
            seeds=(fitted.seed,),
            about={"data": fitted.split.dataset.name, "data_hash": fitted.split.dataset.fingerprint},
        )

    def asking(self, system: System) -> Recommender:
        """The same weights under another System, which puts another question to them (p5 with another `asks`).

        Raises CheckpointError unless the other's model has just these tensors.
        """
        scorer = saved.rebuilt(system, self.vocab, self.scorer.state_dict(), Path(self.name or "the recommender"))
        return replace(self, system=system, scorer=scorer.to(self.device), objective=_asking(system))

    # -- answers ---------------------------------------------------------------------------------------------------------

    def recommend(
        self,
        history: Sequence[str | int],
        *,
        k: int = 10,
        exclude: Iterable[str | int] = (),
        exclude_seen: bool = True,
        times: Sequence[Time] | None = None,
        profile: Mapping[str, str | int] | None = None,
    ) -> Recommendations:
        """The k best items for one history.

        history: item ids, oldest first; of a long one the newest count (the view's max_len). Unknown ids are ignored, and named.
        exclude: ids that must not come. exclude_seen: leave out the items of the whole history.
        times: of the history's events, as datetime, ISO text or seconds since the epoch; only systems that read times need them.
        profile: what is known of the user, {"age": "25", ...}, for systems that read profiles: then the history may be empty. For
        systems of documents the parts of one, {"title": "...", "text": "..."}.
        Raises UserError for k < 1, for ids that are neither text nor whole numbers, for times that do not fit the history, for
        attributes and values that were not met in training.
        """
        asked, known = None if times is None else [times], None if profile is None else [profile]
        return self.recommend_batch([history], k=k, exclude=exclude, exclude_seen=exclude_seen, times=asked, profiles=known)[0]

    def recommend_batch(
        self,
        histories: Sequence[Sequence[str | int]],
        *,
        k: int = 10,
        exclude: Iterable[str | int] = (),
        exclude_seen: bool = True,
        times: Sequence[Sequence[Time]] | None = None,
        profiles: Sequence[Mapping[str, str | int]] | None = None,
    ) -> list[Recommendations]:
        """`recommend` for many histories: the same items in the same order as one by one (scores within rounding)."""
        check_count(k)
        check_histories(histories)
        if self.system.task.serving is None:
            raise UserError(
                needed="a system that recommends items for a history",
                came=f"{self.name}, whose task is {type(self.system.task).__name__}",
                remedy="lmrs systems lists what each does",
            )
        users = None if profiles is None else self._users(profiles, len(histories))
        banned_ids = as_texts(exclude)
        banned = self.vocab.item_numbers(banned_ids)
        strangers = unknown_of(banned_ids, banned)
        banned = banned[banned >= 0]
        kernel = self._kernel(len(histories))
        out: list[Recommendations] = []
        block = max(1, min(_BLOCK, _CELLS // max(1, self.vocab.n_items)))
        for begin in range(0, len(histories), block):
            texts = [as_texts(history) for history in histories[begin : begin + block]]
            ends = np.cumsum([len(each) for each in texts])
            numbers = np.split(self.vocab.item_numbers([text for each in texts for text in each]), ends[:-1])
            when = None
            if times is not None:
                moments = [_moments(each, text) for each, text in zip(times[begin : begin + block], texts, strict=True)]
                when = [each[number >= 0] for each, number in zip(moments, numbers, strict=True)]
            some = None if users is None else users.slice(begin, block)
            rows = self._rows([each[each >= 0] for each in numbers], when, some)
            known, ranked = self.system.task.serving.known(rows), self._ranked(rows, banned, k, exclude_seen, kernel)
            for text, number, says, (items, found) in zip(texts, numbers, known, ranked, strict=True):
                ids = self.vocab.item_ids(items)
                titles, unknown = named(self.items, items, ids), tuple(dict.fromkeys(unknown_of(text, number)))
                fallback = "" if says else FALLBACK
                out.append(Recommendations(tuple(ids), tuple(titles), tuple(found.tolist()), unknown, strangers, fallback))
        return out

    def reply(self, said: Sequence[str], *, k: int = 10, exclude: Iterable[str | int] = (), exclude_seen: bool = True) -> Reply:
        """The k best items for a dialogue and, of a system that speaks, a response.

        said: its turns, oldest first: "User: I loved Heat (1995). What else?", "System: ...", or without a name in turns. Titles
        are read as `decoding.mentions.named` does. exclude: ids that must not come. exclude_seen: leave out what was named.
        Raises UserError for a system that cannot read dialogues, for k < 1, and if nothing is said.
        """
        check_count(k)
        from lmrs.conversation import conversational, heard, question, response
        from lmrs.decoding import Titles
        from lmrs.models.speaker import filled

        task = conversational(self.system.task, self.name)
        found = heard(said, Titles(self.titles(np.arange(self.vocab.n_items)), threshold=None))
        rows = question(found, task, self.vocab, self.items)
        text = response(self.scorer, task, rows, self.device)
        ids = as_texts(exclude)
        banned = self.vocab.item_numbers(ids)
        cells, _ = scores(self.scorer, self.objective, task.view, rows, self.vocab, self.device)
        cells = cells.clone()
        cells[:, torch.from_numpy(banned[banned >= 0])] = -torch.inf
        seen = (np.array([0, len(found.items)]), np.array(found.items, np.int64)) if exclude_seen else None
        slots = 0 if text is None else text.count(SLOT)
        ranked = rank(cells, query=np.zeros(1, np.int64), seen=seen, k=max(k, slots), seed=0)
        best = ranked.items[0][ranked.items[0] >= 0]
        titles = self.titles(best)
        return Reply(
            Recommendations(
                ids=tuple(self.vocab.item_ids(best[:k])),
                titles=tuple(titles[:k]),
                scores=tuple(ranked.scores[0][: len(best[:k])].tolist()),
                unknown_excluded=unknown_of(ids, banned),
            ),
            response=None if text is None else filled(text, titles),
            named=tuple(self.vocab.item_ids(np.array(found.items, np.int64))),
            named_titles=tuple(self.titles(np.array(found.items, np.int64))),
            unmatched=found.told("unmatched"),
            ambiguous=found.told("ambiguous"),
            unsure=found.told("unsure"),
        )

    def explain(
        self,
        item: str | int,
        *,
        user: str | int | None = None,
        history: Sequence[str | int] = (),
        feature: str | None = None,
        k: int = 1,
    ) -> tuple[Explained, ...]:
        """At most k reasons why a user chose, or would choose, an item, best first; each has a `text`. None may be found.

        item: its id, or its title if only one item has it. user: an id, for systems that learned something of each user (peter,
        pepler); history: item ids, oldest first, for the others (plm-rec); unknown ones are ignored. feature: what to speak of,
        for systems that read it.
        Raises UserError for an unknown item or user (with the nearest ones), and for a system that does not explain.
        """
        check_count(k)
        scorer, model = self.scorer, self.system.model
        if not isinstance(scorer, Network) or type(scorer).explain is Network.explain:
            raise UserError(
                needed="a system that explains, such as peter, pepler or plm-rec", came=self.name, remedy="fit one of them"
            )
        number = self._item(*as_texts([item]))
        knows = isinstance(model, Model) and model.knows_users
        if knows and user is None:
            raise UserError(needed=f"a user, for {self.name} learned what each one writes", came="none", remedy="name one")
        if not knows and not len(history):
            raise UserError(needed=f"a history, for {self.name} knows no users by name", came="none", remedy="give item ids")
        known = self.vocab.item_numbers(as_texts(history))
        if not knows and not (known >= 0).any():
            raise UserError(needed="a history with an item that the recommender knows", came="none", remedy="check the ids")
        whose = self._user(*as_texts([user])) if knows and user is not None else -1
        batch = from_rows(
            {"item": torch.from_numpy(known[known >= 0])},
            torch.tensor([int((known >= 0).sum())]),
            {"user": torch.tensor([whose])},
            {"feature": [feature]},
        )
        return scorer.explain(batch.to(self.device), number, k=k)

    def _item(self, text: str) -> int:
        """The number of an item by its id, or by a title that it has alone."""
        number = int(self.vocab.item_numbers([text])[0])
        if number >= 0:
            return number
        titles = self.titles(np.arange(self.vocab.n_items))
        same = [at for at, title in enumerate(titles) if title.casefold() == text.casefold()]
        if len(same) > 1:
            ids = ", ".join(self.vocab.item_ids(np.array(same[:5])))
            raise UserError(needed="an item", came=f"{text!r}, the title of {len(same)} items", remedy=f"give the id ({ids})")
        if not same:
            raise _unknown("item", text, [*self.vocab.items.to_pylist(), *titles])
        return same[0]

    def _user(self, text: str) -> int:
        number = int(self.vocab.user_numbers([text])[0])
        if number < 0:
            raise _unknown("user", text, self.vocab.users.to_pylist())
        return number

    @property
    def device(self) -> str:
        """Where the weights are: "cpu" or "cuda"."""
        for tensor in chain(self.scorer.parameters(), self.scorer.buffers()):
            return tensor.device.type
        return "cpu"

    def titles(self, numbers: np.ndarray) -> list[str]:
        """Display names of items, by number: the title where the catalogue has one, else the id."""
        return named(self.items, numbers, self.vocab.item_ids(numbers))

    def _kernel(self, n: int) -> Kernel | None:
        """What ranks n histories without holding their scores, if they are so many that torch would take longer than a moment."""
        if not isinstance(self.scorer, Network) or self.device != "cpu" or n * self.vocab.n_items < _MANY:
            return None
        from lmrs.kernels import fastest

        kernel, tasks = fastest(["ranking"])
        return kernel if tasks else None

    def _ranked(
        self, rows: Rows, banned: np.ndarray, k: int, exclude_seen: bool, kernel: Kernel | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(item numbers, scores) for each history.

        A matrix product rounds differently in another batch. Where that could change the order, the row is asked again alone,
        so that one history always gets one answer.
        """
        items, found = self._top(rows, banned, k, exclude_seen, kernel)
        if len(rows) > 1:
            real = np.where(np.isfinite(found), found.astype(np.float64), -1e300)
            near = real[:, :-1] - real[:, 1:] <= _NEAR * np.maximum(np.abs(real[:, :-1]), 1e-6)
            close = (near & np.isfinite(found[:, 1:])).any(axis=1)
            for row in np.flatnonzero(close).tolist():
                items[row], found[row] = (each[0] for each in self._top(rows.take(np.array([row])), banned, k, exclude_seen))
        out = []
        for row in range(len(rows)):
            there = items[row, :k] >= 0
            out.append((items[row, :k][there], found[row, :k][there]))
        return out

    def _users(self, profiles: Sequence[Mapping[str, str | int]], n: int) -> pa.Table:
        """Profiles, or documents, as a user table, checked."""
        from lmrs.models.profiles import Profiles
        from lmrs.views import Documents

        if isinstance(view := self.system.task.serving, Documents):
            return view.table(profiles)
        known = self.vocab.prepared
        if not isinstance(known, Profiles):
            raise UserError(needed="a system that reads profiles", came=self.name, remedy="leave the profile out")
        if len(profiles) != n:
            raise UserError(needed=f"{n} profiles, one for each history", came=str(len(profiles)))
        said = [known.check(profile) for profile in profiles]
        return pa.table({name: pa.array([each.get(name) for each in said], pa.large_string()) for name in known.names})

    def _rows(self, histories: list[np.ndarray], times: list[np.ndarray] | None, users: pa.Table | None) -> Rows:
        lengths = np.array([len(history) for history in histories], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        item = np.concatenate([*histories, np.zeros(0, np.int64)]).astype(np.int32)
        when = None if times is None else np.concatenate(times)
        asked = Dataset("histories", self.vocab, item, offsets, time=when, users=users)
        nobody = np.full(len(histories), -1)  # no user of the training data
        return Rows(asked, nobody if users is None else np.arange(len(histories)), offsets[:-1], offsets[1:])

    def _top(
        self, rows: Rows, banned: np.ndarray, k: int, exclude_seen: bool, kernel: Kernel | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(items int32[R, k + 1], scores): one more than asked, to see what stands next to the last."""
        serving, asked = self.system.task.serving, (self.scorer, self.objective)
        assert serving is not None
        stop = rows.stop if exclude_seen else rows.start
        spans = [rows.dataset.item[begin:end] for begin, end in zip(rows.start.tolist(), stop.tolist(), strict=True)]
        query = np.zeros(len(rows), np.int64)
        if kernel is not None:
            with by_kernel(kernel, ["ranking"]):
                states = placed(*asked, serving, rows, self.vocab)
            if states is not None:
                left = _jagged([np.append(span, banned) for span in spans])
                ranked = rank_states(kernel, *states, query=query, seen=left, k=k + 1, seed=0)
                if ranked is not None:
                    return ranked.items, ranked.scores
        cells, _ = scores(*asked, serving, rows, self.vocab, self.device)
        cells[:, torch.from_numpy(banned)] = -torch.inf
        ranked = rank(cells, query=query, seen=_jagged(spans), k=k + 1, seed=0)
        return ranked.items, ranked.scores

    # -- files -----------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> Path:
        """Writes the folder whole or not at all, and returns its path; a recommender that was there is replaced.

        Raises StorageError if the disk refuses, or if the folder holds something else.
        """
        folder = Path(folder)
        told = {
            "name": self.name, "settings": self.settings, "seeds": list(self.seeds), "fallback": FALLBACK, "about": self.about,
        }  # fmt: skip
        saved.write(folder, system=self.system, vocab=self.vocab, scorer=self.scorer, items=self.items, told=told)
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> Recommender:
        """Reads what `save` wrote; nothing is used before its bytes are checked.

        Raises CheckpointError, naming the file, if one is missing, cut, changed or does not belong to the others.
        """
        found = saved.read(Path(folder), device=device)
        try:
            return cls(
                system=found.system,
                vocab=found.vocab,
                scorer=found.scorer,
                objective=_asking(found.system),
                items=found.items,
                name=found.told["name"],
                settings=found.told["settings"],
                seeds=tuple(found.told["seeds"]),
                about=found.told["about"],
                notes=tuple(f"{file} has changed since this recommender was saved" for file in found.changed),
            )
        except (KeyError, TypeError) as error:
            raise bad(Path(folder) / MODEL, "a recommender of this version of lmrs", repr(error)) from error


def _asking(system: System) -> Objective | None:
    last = system.stages[-1] if system.stages else None
    return last.objective if isinstance(last, Stage) else None


def _unknown(what: str, text: str, choices: list[str]) -> UserError:
    """For a name that the recommender does not know, with the nearest ones."""
    close = nearest(text, choices[:_LISTED])
    remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else f"such as {choices[0]!r}" if choices else ""
    return UserError(
        needed=f"{'an' if what == 'item' else 'a'} {what} that the recommender knows", came=repr(text), remedy=remedy
    )


def _moments(times: Sequence[Time], history: list[str]) -> np.ndarray:
    """int64 microseconds since the epoch."""
    if len(times) != len(history):
        raise UserError(needed=f"{len(history)} times, one for each item of the history", came=str(len(times)))
    out = []
    for each in times:
        try:
            if isinstance(each, str | datetime | np.datetime64):
                out.append(int(np.asarray(each, "datetime64[us]").astype(np.int64)))
            else:
                out.append(round(each * 1_000_000))
        except (ValueError, TypeError, OverflowError):
            raise UserError(
                needed="times as datetime, ISO text or seconds since the epoch",
                came=f"{each!r}"[:60],
                remedy="such as '2024-01-31'",
            ) from None
    return np.array(out, np.int64)


def _jagged(spans: list[np.ndarray]) -> Jagged:
    return np.cumsum([0, *map(len, spans)]), np.concatenate(spans).astype(np.int64)
