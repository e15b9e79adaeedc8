"""Dialogues of a stated law, so that the best possible score is known.

Every film has one genre, and an attribute that says which. A seeker wants one genre, all equally probable, and opens in one of
two ways: with words of that genre (chance `told`) or by naming a film of it. In each of `rounds` rounds the recommender then
names one film that nobody has named,

    P(film i) = exp(s g_i) / sum_j exp(s g_j),   g_i = 1 if i is of the genre, else 0,  j over the films not named yet

and the seeker answers with words that tell nothing. Who knows the genre, from the words or from the film, cannot do better than
to rank the films of the genre that were not named before all others; who reads one of the two only has to guess in the other
dialogues.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.records import COLUMNS, SLOT
from lmrs.sources.assemble import assemble, with_records
from lmrs.vocab import Attributes

GENRES = {
    "comedy": "funny jokes laughs silly", "horror": "scary ghosts blood nightmares", "romance": "love kisses wedding hearts",
    "western": "cowboys horses desert sheriff", "space": "rockets aliens planets galaxies",
    "war": "soldiers battle tanks trenches", "music": "songs dancing stage choir", "crime": "detective murder police heist",
}  # fmt: skip
_OPENINGS = ("Hello I want {}", "Hi give me something with {}", "I feel like {} tonight", "Any movie with {} please")
_NAMED = (f"I liked {SLOT} a lot", f"Something like {SLOT} please", f"We just saw {SLOT} again")
_OFFERS = (f"You should watch {SLOT}", f"Have you seen {SLOT} yet", f"Then {SLOT} is for you", f"I would try {SLOT}")
_ANSWERS = ("Sounds good and what else", "Not seen yet any other", "Thanks tell me more", "Maybe and then")


@dataclass(frozen=True)
class Talk:
    """The law. films: V, at least twice the genres. genres: 2..8. rounds: films that a recommender names, fewer than a genre has.

    sharpness: s >= 0 above; 0 is chance. told: chance in [0, 1] that the genre is told in words. seed: of everything drawn.
    """

    films: int = 60
    genres: int = 6
    rounds: int = 2
    sharpness: float = 4.0
    told: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not (
            2 <= self.genres <= len(GENRES)
            and 1 <= self.rounds < self.films // max(1, self.genres)
            and self.sharpness >= 0
            and 0 <= self.told <= 1
        ):
            raise DataError(
                needed=f"genres 2..{len(GENRES)}, 1 <= rounds < films / genres, sharpness >= 0 and told in [0, 1]",
                came=repr(self), remedy="change the numbers",
            )  # fmt: skip


def synthetic_dialogues(
    *, dialogues: int = 300, films: int = 60, genres: int = 6, rounds: int = 2, sharpness: float = 4.0, told: float = 0.5,
    seed: int = 0,
) -> Dataset:  # fmt: skip
    """A Dataset of dialogues of the law; `about["talk"]` keeps it, see `talk_of`. Raises DataError for numbers that make none."""
    law = Talk(films, genres, rounds, sharpness, told, seed)
    if dialogues < 1:
        raise DataError(needed="at least one dialogue", came=str(dialogues))
    rng = np.random.default_rng([seed, 5])
    names = list(GENRES)[:genres]
    genre = np.arange(films) % genres
    rows: list[dict] = []
    items: list[int] = []
    user: list[int] = []
    for at in range(dialogues):
        wanted, named = int(rng.integers(genres)), []
        turns: list[tuple[str, str, list[int]]] = []
        if rng.random() < told:
            words = rng.permutation(GENRES[names[wanted]].split())[:2]
            turns.append(("seeker", _OPENINGS[rng.integers(len(_OPENINGS))].format(" and ".join(words)), []))
        else:
            named.append(int(rng.choice(np.flatnonzero(genre == wanted))))
            turns.append(("seeker", _NAMED[rng.integers(len(_NAMED))], named[:]))
        for step in range(rounds):
            weight = np.exp(sharpness * (genre == wanted))
            weight[named] = 0
            named.append(int(rng.choice(films, p=weight / weight.sum())))
            if step:
                turns.append(("seeker", _ANSWERS[rng.integers(len(_ANSWERS))], []))
            turns.append(("recommender", _OFFERS[rng.integers(len(_OFFERS))], named[-1:]))
        for turn, (role, text, here) in enumerate(turns):
            rows.append({"dialogue": at, "turn": turn, "role": role, "text": text, "items": here, "event": len(items)})
            items += here
            user += [at] * len(here)
    order = list(dict.fromkeys([*items, *range(films)]))  # films are numbered as they appear, then the rest
    number = {film: at for at, film in enumerate(order)}
    for row in rows:
        row["items"] = [number[film] for film in row["items"]]
    ids = pa.array([f"f{film}" for film in order], pa.large_string())
    lists = pa.array([[names[genre[film]]] for film in order], pa.list_(pa.large_string()))
    made, _ = assemble(
        name="synthetic-dialogues",
        user=np.array(user),
        item=np.array([number[film] for film in items], np.int32),
        users=pa.table({"user_id": pa.array([f"d{at}" for at in range(dialogues)], pa.large_string())}),
        items=pa.table({"item_id": ids, "title": pa.array([f"Film {film}" for film in order], pa.large_string())}),
        attributes={"genre": Attributes.from_lists(lists)},
        about={
            "source": "synthetic-dialogues",
            "talk": asdict(law),
            "order": "order of the mentions",
            "order_known": True,
            "notes": [],
        },
    )
    return with_records(made, dialogues=pa.Table.from_pylist(rows, schema=pa.schema(list(COLUMNS["dialogues"].items()))))


def talk_of(dataset: Dataset) -> Talk:
    """The law of synthetic dialogues. Raises DataError for any other data."""
    if "talk" not in dataset.about:
        raise DataError(
            needed="a dataset from sources.synthetic_dialogues", came=dataset.name, remedy="only these have a known ceiling"
        )
    return Talk(**dataset.about["talk"])


def talk_ceiling(law: Talk, *, of_genre: np.ndarray, named: np.ndarray, k: int) -> np.ndarray:
    """float64[n]: the best expected HR@k for whoever knows the genre.

    of_genre, named: int64[n], how many different films of the wanted genre, and how many in all, were named before the question.
    """
    per = np.array([len(range(each, law.films, law.genres)) for each in range(law.genres)])
    if len(set(per.tolist())) > 1:
        raise DataError(needed="genres of equal size for the ceiling", came=f"{law.films} films in {law.genres} genres")
    left, others = per[0] - of_genre, law.films - named - (per[0] - of_genre)
    mass = left * np.exp(law.sharpness) + others
    return (np.minimum(k, left) * np.exp(law.sharpness) + np.clip(k - left, 0, others)) / mass
