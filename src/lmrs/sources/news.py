"""News with readers and impressions from a stated click model, so that the best possible score is known.

Every article has one topic, and a title of words that give it away (the words of topics do not overlap). Every reader likes
`likes` of the `topics`, all sets equally probable. Given the items C of an impression the reader clicks exactly one:

    P(click i | C, reader) = exp(s l_i) / sum_{j in C} exp(s l_j),   l_i = 1 if the reader likes the topic of i, else 0

and the clicks of the history were drawn, independently, by the same law from all articles of the time before the log. With one
click an impression, ranking by the probability of the click is optimal for AUC, MRR and NDCG at once, so that both ceilings are
exact: of those who know the reader, and of those who know the history only (the mean of the law over the posterior of all
sets of topics). Titles are of real words, so that pre-trained language models may know something of them.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.numbering import Numbering
from lmrs.records import COLUMNS, Impressions
from lmrs.sources.assemble import assemble, with_records
from lmrs.sources.catalogue import attributes

TOPICS = {
    "sport": "goal coach match league striker stadium referee tournament champion penalty defender playoff medal sprint trophy",
    "weather": "storm rain forecast flood thunder snow hurricane drought sunshine temperature frost humidity hail blizzard cloud",
    "finance": "stocks bank inflation investor dividend market bonds loan currency profit mortgage shares earnings deficit debt",
    "health": "doctor vaccine hospital disease patient surgery medicine therapy diagnosis nurse virus symptoms clinic fever pill",
    "travel": "airport hotel flight beach passport luggage cruise tourist resort itinerary hostel island visa airline suitcase",
    "food": "recipe chef restaurant pasta dessert oven spices soup bakery cheese vegetables sauce breakfast chocolate grill",
    "politics": "senator election parliament vote candidate ballot governor law treaty campaign minister senate veto press mayor",
    "music": "concert guitar singer album orchestra melody drummer lyrics band piano festival chorus violin songwriter tour",
    "technology": "software laptop robot startup browser engine phone internet algorithm password server gadget chip app website",
    "science": "telescope planet physics fossil laboratory ocean galaxy comet astronaut gravity chemist meteor genome atom moon",
}  # fmt: skip
COMMON = (
    "new today after people first week says year big more local city report best back could why how may old great top day "
    "many next last world small never most plans calls ready again early late open major quiet long high real "
    "home team life time way things look move"
)
_BEGIN = 1_700_000_000  # seconds: when the log begins
_DAY = 86_400


@dataclass(frozen=True)
class Newsroom:
    """The law. topics: 2..10. likes: topics that a reader likes, below `topics`. sharpness: s >= 0 above; 0 is chance.

    title: words of a title, >= 1; purity: chance in [0, 1] that a word of a title is of the topic (one always is).
    shown: items of an impression, >= 2. seed: of everything that is drawn.
    """

    topics: int = 8
    likes: int = 2
    sharpness: float = 3.0
    title: int = 8
    purity: float = 0.5
    shown: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not (
            2 <= self.topics <= len(TOPICS)
            and 1 <= self.likes < self.topics
            and self.sharpness >= 0
            and self.title >= 1
            and 0 <= self.purity <= 1
            and self.shown >= 2
        ):
            raise DataError(
                needed=f"topics 2..{len(TOPICS)}, 1 <= likes < topics, sharpness >= 0, title >= 1, purity in [0, 1], shown >= 2",
                came=repr(self),
                remedy="change the numbers",
            )


def synthetic_news(
    *,
    readers: int = 300,
    articles: int = 400,
    impressions: int = 5,
    history: int = 10,
    days: int = 7,
    fresh: int = 100,
    topics: int = 8,
    likes: int = 2,
    sharpness: float = 3.0,
    title: int = 8,
    purity: float = 0.5,
    shown: int = 10,
    seed: int = 0,
) -> Dataset:
    """A Dataset with `records["impressions"]`, `impressions` of each reader at random moments of `days` days.

    Half of the articles appear before the log (the history is read then), the others evenly in the course of it; an impression
    shows `shown` different ones of the `fresh` newest, so the last days show articles that no earlier day has seen. The items
    have title, category (the topic) and published (microseconds). See `Newsroom` for the other numbers.

    Raises DataError for numbers that make no log.
    """
    room = Newsroom(topics=topics, likes=likes, sharpness=sharpness, title=title, purity=purity, shown=shown, seed=seed)
    if not (readers >= 1 and impressions >= 1 and history >= 0 and days >= 1 and shown <= fresh <= articles // 2):
        raise DataError(
            needed="readers, impressions, days >= 1, history >= 0 and shown <= fresh <= articles / 2",
            came=f"readers={readers}, impressions={impressions}, days={days}, history={history}, shown={shown}, fresh={fresh}, "
            f"articles={articles}",
            remedy="change the numbers",
        )
    rng = np.random.default_rng([seed, 22])
    old = articles // 2
    topic = rng.permutation(np.arange(articles) % topics)
    published = np.r_[np.sort(rng.integers(-days * _DAY, 0, old)), np.arange(articles - old) * days * _DAY // (articles - old)]
    liked = likes_of(room, readers)

    read = _histories(liked, topic[:old], sharpness, history, rng)
    read_at = np.sort(rng.integers(-days * _DAY, 0, (readers, history)), axis=1)

    n = readers * impressions
    owner = np.repeat(np.arange(readers), impressions)
    moment = np.sort(rng.integers(1, days * _DAY, (readers, impressions)), axis=1).ravel()
    newest = np.searchsorted(published, moment, side="right")
    offered = newest[:, None] - 1 - _some(n, fresh, shown, rng)  # [n, shown]
    law = _law(liked[owner[:, None], topic[offered]], sharpness)
    picked = np.minimum((np.cumsum(law, axis=1) <= rng.random((n, 1))).sum(axis=1), shown - 1)
    click = offered[np.arange(n), picked]

    items, names = Numbering(), pa.array([f"N{a}" for a in range(articles)], pa.large_string())
    number = np.empty(articles, np.int32)
    seen = np.concatenate([read.ravel(), click, np.arange(articles)])
    number[seen] = items.add(names.take(pa.array(seen)))
    table = pa.table(
        {
            "item_id": names,
            "title": pa.array(_titles(room, topic, rng), pa.large_string()),
            "category": pa.array(np.array(list(TOPICS))[topic].tolist(), pa.large_string()),
            "published": (published + _BEGIN) * 1_000_000,
        }
    ).take(pa.array(np.argsort(number)))
    table, found = attributes(table)
    made, place = assemble(
        name="synthetic-news",
        user=np.concatenate([np.repeat(np.arange(readers), history), owner]),
        item=number[np.concatenate([read.ravel(), click])],
        time=(np.concatenate([read_at.ravel(), moment]) + _BEGIN) * 1_000_000,
        users=pa.table({"user_id": pa.array([f"U{u}" for u in range(readers)], pa.large_string())}),
        items=table,
        attributes=found,
        about={
            "source": "synthetic-news",
            "newsroom": asdict(room),
            "order": "time, then file order",
            "order_known": True,
            "notes": [f"{n:,} impressions"],
        },
    )
    log = pa.table(
        {
            "key": pa.array([str(at + 1) for at in range(n)], pa.large_string()),
            "user": owner.astype(np.int32),
            "time": (moment + _BEGIN) * 1_000_000,
            "history": pa.array(list(number[read[owner]]), COLUMNS["impressions"]["history"]),
            "shown": pa.array(list(number[offered]), COLUMNS["impressions"]["shown"]),
            "clicked": pa.array(list(np.arange(shown) == picked[:, None]), COLUMNS["impressions"]["clicked"]),
            "start": place[readers * history :],
            "stop": place[readers * history :] + 1,
        },
        schema=pa.schema(list(COLUMNS["impressions"].items())),
    )
    return with_records(made, impressions=log)


def likes_of(room: Newsroom, readers: int) -> np.ndarray:
    """bool[readers, topics]: what each reader likes."""
    rng = np.random.default_rng([room.seed, 21])
    return np.argsort(np.argsort(rng.random((readers, room.topics)), axis=1), axis=1) < room.likes


def _histories(liked: np.ndarray, topic: np.ndarray, sharpness: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """int64[readers, length]: articles drawn by P(a) = exp(s l_a) / sum: first the topic, then one of its articles."""
    articles = np.argsort(topic, kind="stable")
    counts = np.bincount(topic, minlength=liked.shape[1])
    climb = np.cumsum(counts * np.exp(sharpness * liked), axis=1)
    drawn = rng.random((len(liked), length, 1)) * climb[:, None, -1:]
    chosen = np.minimum((climb[:, None] <= drawn).sum(axis=2), liked.shape[1] - 1)
    within = np.minimum((rng.random(chosen.shape) * counts[chosen]).astype(np.int64), counts[chosen] - 1)
    return articles[(np.cumsum(counts) - counts)[chosen] + within]


def _some(n: int, of: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """int64[n, k]: k different numbers below `of` for each row, in random order; 1,024 rows at a time to save memory."""
    found = np.empty((n, k), np.int64)
    for lo in range(0, n, 1024):
        keys = rng.random((min(1024, n - lo), of))
        first = np.argpartition(keys, k - 1, axis=1)[:, :k]
        found[lo : lo + 1024] = np.take_along_axis(first, np.argsort(np.take_along_axis(keys, first, axis=1), axis=1), axis=1)
    return found


def _titles(room: Newsroom, topic: np.ndarray, rng: np.random.Generator) -> list[str]:
    common, own = COMMON.split(), [words.split() for words in TOPICS.values()]
    found = []
    for at in topic:
        of_topic = rng.random(room.title) < room.purity
        of_topic[rng.integers(room.title)] = True
        words = [own[at][rng.integers(len(own[at]))] if yes else common[rng.integers(len(common))] for yes in of_topic]
        found.append(" ".join(words).capitalize())
    return found


def _law(liked: np.ndarray, sharpness: float) -> np.ndarray:
    """float64[..., K]: P(click) of items that are liked or not."""
    weight = np.exp(sharpness * liked)
    return weight / weight.sum(axis=-1, keepdims=True)


def newsroom_of(dataset: Dataset) -> Newsroom:
    """The law that made a Dataset. Raises DataError for one that `synthetic_news` did not make."""
    if "newsroom" not in dataset.about:
        raise DataError(needed="a dataset from synthetic_news", came=dataset.name, remedy="only these have a known ceiling")
    return Newsroom(**dataset.about["newsroom"])


def click_law(dataset: Dataset, *, given: str = "history") -> np.ndarray:
    """float64[n, K]: the probability of each item of each impression of being the one that is clicked.

    given: "reader" - to one who knows what the reader likes; "history" - to one who knows the law, the topics and the history.
    Ranking by it cannot be beaten in expectation by anybody who knows no more.
    """
    room, log = newsroom_of(dataset), Impressions.of(dataset.records["impressions"])
    if given not in ("reader", "history"):
        raise DataError(needed="given='reader' or given='history'", came=repr(given))
    assert dataset.items is not None
    place = {name: at for at, name in enumerate(TOPICS)}
    topic = np.array([place[names[0]] for names in dataset.items.column("category").to_pylist()])
    shown = topic[log.shown].reshape(len(log), room.shown)
    if given == "reader":
        return _law(likes_of(room, dataset.n_users)[log.user[:, None], shown], room.sharpness)
    before = np.bincount(topic[dataset.items.column("published").to_numpy() < _BEGIN * 1_000_000], minlength=room.topics)
    sets = np.array([np.isin(np.arange(room.topics), each) for each in itertools.combinations(range(room.topics), room.likes)])
    # log P(history | set) = sum over clicks of s l - log sum_{a before the log} exp(s l_a)
    owner = np.repeat(np.arange(len(log)), np.diff(log.history_offsets))
    read = np.zeros((len(log), room.topics))
    np.add.at(read, (owner, topic[log.history]), 1)
    total = np.log(np.exp(room.sharpness * sets) @ before)  # [sets]
    evidence = room.sharpness * read @ sets.T - read.sum(axis=1, keepdims=True) * total  # [n, sets]
    posterior = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    law = np.zeros(shown.shape)
    for at, each in enumerate(sets):
        law += posterior[:, at, None] * _law(each[shown], room.sharpness)
    return law


def news_ceiling(dataset: Dataset, *, given: str = "history", k: tuple[int, ...] = (5, 10)) -> dict[str, np.ndarray]:
    """The best expected AUC, MINDMRR and NDCG@k of each impression, float64[n] each, for one who knows what `given` says.

    Items with equal probability are in random order. Chance is 1/2, and the mean over places r of 1/r and 1/log2(r + 1) [r <= k].
    """
    law = click_law(dataset, given=given)
    shown = law.shape[1]
    close = np.round(law, 12)  # sums of many sets differ in the last bits
    above = (close[:, None, :] > close[:, :, None]).sum(axis=2)
    beside = (close[:, None, :] == close[:, :, None]).sum(axis=2) - 1
    found = {"AUC": (law * (1 - (above + beside / 2) / (shown - 1))).sum(axis=1)}
    places = np.arange(1, shown + 1)
    gains = {"MINDMRR": 1 / places, **{f"NDCG@{cut}": np.where(places <= cut, 1 / np.log2(places + 1), 0) for cut in k}}
    for name, gain in gains.items():
        sums = np.concatenate([[0], np.cumsum(gain)])  # an item with b equals beside it takes each of b + 1 places equally often
        found[name] = (law * (sums[above + beside + 1] - sums[above]) / (beside + 1)).sum(axis=1)
    return found
