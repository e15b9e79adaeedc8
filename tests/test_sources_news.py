"""Synthetic news: the stated law is the one that was drawn from, the oracle reaches the ceiling, a random scorer is at chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lmrs import sources
from lmrs.errors import DataError
from lmrs.measures import AUC, MINDMRR, NDCG, rank_impressions
from lmrs.records import Impressions
from lmrs.sources import Newsroom, click_law, likes_of, news_ceiling, newsroom_of, synthetic_news
from lmrs.sources.news import COMMON, TOPICS, _histories, _law

MEASURES = (AUC(), MINDMRR(), NDCG(5), NDCG(10))


@pytest.fixture(scope="module")
def data():
    return synthetic_news(readers=400, impressions=6, shown=12, history=6)


def scored(data, score: np.ndarray) -> dict[str, np.ndarray]:
    log = Impressions.of(data.records["impressions"])
    ranks, kept = rank_impressions(offsets=log.shown_offsets, clicked=log.clicked, score=np.round(score, 12).ravel())
    assert len(kept) == len(log)
    return {str(measure): measure(ranks) for measure in MEASURES}


@pytest.mark.parametrize("given", ["reader", "history"])
def test_the_oracle_reaches_the_stated_ceiling(data, given):
    got, ceiling = scored(data, click_law(data, given=given)), news_ceiling(data, given=given)
    assert set(got) == set(ceiling)
    for name, values in got.items():
        off = values - ceiling[name]
        assert abs(off.mean()) < 3.5 * off.std() / np.sqrt(len(off)), name
        assert ceiling[name].min() >= 0
        assert ceiling[name].max() <= 1
    assert ceiling["AUC"].mean() > 0.7


def test_who_knows_more_ranks_better_and_chance_is_one_half(data):
    reader, history = (news_ceiling(data, given=given)["AUC"].mean() for given in ("reader", "history"))
    assert 0.5 < history < reader
    none = synthetic_news(readers=400, impressions=6, shown=12, history=0)
    assert news_ceiling(none)["AUC"].mean() < 0.6 < history  # above chance: a topic shown once has fewer rivals if it is liked
    chance = scored(data, np.random.default_rng(5).random((2400, 12)))["AUC"]
    assert abs(chance.mean() - 0.5) < 3.5 * chance.std() / np.sqrt(2400)
    constant = scored(data, np.zeros((2400, 12)))
    assert constant["AUC"].tolist() == [0.5] * 2400
    off = constant["MINDMRR"] - np.mean(1 / np.arange(1, 13))
    assert abs(off.mean()) < 3.5 * off.std() / np.sqrt(2400)


def test_the_ceiling_without_sharpness_is_chance():
    flat = news_ceiling(synthetic_news(readers=5, sharpness=0.0, shown=4), given="reader", k=(2,))
    assert flat["AUC"] == pytest.approx(0.5)
    assert flat["MINDMRR"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert flat["NDCG@2"] == pytest.approx((1 + 1 / np.log2(3)) / 4)


def test_the_law_of_the_history_is_bayes_written_out(data):
    """The posterior by brute force: every set of topics weighed by the probability of the history, without logarithms."""
    room, log = newsroom_of(data), Impressions.of(data.records["impressions"])
    names = list(TOPICS)
    topic = np.array([names.index(cell[0]) for cell in data.items.column("category").to_pylist()])
    old = np.flatnonzero(data.items.column("published").to_numpy() < 1_700_000_000_000_000)
    assert len(old) == 200
    law = click_law(data)
    for at in (0, 7, 2399):
        history, shown, _ = log.row(at)
        weights, laws = [], []
        for liked in itertools.combinations(range(room.topics), room.likes):
            everything = np.where(np.isin(topic, liked), np.exp(room.sharpness), 1.0)
            weights.append(np.prod(everything[history] / everything[old].sum()))
            laws.append(everything[shown] / everything[shown].sum())
        assert law[at] == pytest.approx(np.average(laws, axis=0, weights=weights))
    assert law.sum(axis=1) == pytest.approx(1)


def test_the_clicks_follow_the_law(data):
    log = Impressions.of(data.records["impressions"])
    clicked = log.clicked.reshape(-1, 12)
    assert (clicked.sum(axis=1) == 1).all()
    for given in ("reader", "history"):
        law = click_law(data, given=given)
        for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 1)):  # calibrated: of items with probability p, p are clicked
            cell = (law >= low) & (law < high)
            wanted, spread = law[cell].sum(), np.sqrt((law[cell] * (1 - law[cell])).sum())
            assert abs(clicked[cell].sum() - wanted) < 3.5 * spread
    assert _law(np.array([True, False, False]), np.log(2)) == pytest.approx([0.5, 0.25, 0.25])


def test_histories_are_drawn_from_all_articles_by_the_law():
    topic = np.array([2, 0, 0, 0, 0, 0, 1, 1, 2, 0])  # six of topic 0, two each of 1 and 2
    liked = np.array([[False, True, False]])
    read = _histories(liked, topic, np.log(4.0), 40_000, np.random.default_rng(0))[0]
    weight = np.where(topic == 1, 4.0, 1.0)
    expected = 40_000 * weight / weight.sum()
    assert np.bincount(read, minlength=10) == pytest.approx(expected, abs=4.5 * np.sqrt(expected.max()))


def test_titles_give_the_topic_away_and_only_to_those_who_read_them(data):
    own = {word: name for name, words in TOPICS.items() for word in words.split()}
    assert len(own) == sum(len(words.split()) for words in TOPICS.values()) == 150
    assert len(set(COMMON.split())) == len(COMMON.split()) == 50
    assert not set(own) & set(COMMON.split())
    for title, category in zip(data.items.column("title").to_pylist(), data.items.column("category").to_pylist()):
        words = title.lower().split()
        assert {own[word] for word in words if word in own} == set(category)
        assert len(words) == 8
        assert title[0].isupper()
    bare = synthetic_news(readers=5, purity=0.0)
    assert all(sum(word in own for word in title.lower().split()) == 1 for title in bare.items.column("title").to_pylist())


def test_nothing_is_shown_before_it_appears_and_the_last_days_are_new(data):
    log = Impressions.of(data.records["impressions"])
    published = data.items.column("published").to_numpy()
    assert (published[log.shown] <= np.repeat(log.time, 12)).all()
    rows = log.shown.reshape(-1, 12)
    assert all(len(set(row)) == 12 for row in rows[:200].tolist())
    late = log.time >= np.quantile(log.time, 0.85)
    early = set(log.shown.reshape(-1, 12)[~late].ravel().tolist()) | set(log.history.tolist())
    fresh = ~np.isin(rows[late], list(early))
    assert fresh.mean() > 0.1
    assert (data.time[log.start] == log.time).all()
    for at in (0, 5, 2399):
        history, shown, clicked = log.row(at)
        assert data.item[log.start[at]] == shown[clicked][0]
        first = data.offsets[log.user[at]]
        assert data.item[first : first + 6].tolist() == history.tolist()


def test_the_same_numbers_make_the_same_news_and_another_seed_does_not():
    one, same, other = (synthetic_news(readers=10, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert newsroom_of(one) == Newsroom(seed=1)
    assert eval(repr(newsroom_of(one))) == newsroom_of(one)
    assert likes_of(Newsroom(), 50).sum(axis=1).tolist() == [2] * 50
    named = sources.load("synthetic-news:readers=10,seed=1,sharpness=2.5")
    assert newsroom_of(named) == Newsroom(seed=1, sharpness=2.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topics": 11}, r"topics 2\.\.10"),
        ({"likes": 8}, "likes < topics"),
        ({"sharpness": -1.0}, "sharpness >= 0"),
        ({"purity": 1.5}, r"purity in \[0, 1\]"),
        ({"fresh": 300}, "shown <= fresh <= articles / 2"),
        ({"shown": 200}, "shown <= fresh"),
        ({"readers": 0}, "readers, impressions, days >= 1"),
    ],
)
def test_numbers_that_make_no_news_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        synthetic_news(**change)


def test_other_datasets_have_no_ceiling():
    with pytest.raises(DataError, match="a dataset from synthetic_news, got synthetic; only these have a known ceiling"):
        newsroom_of(sources.synthetic(users=3))
    with pytest.raises(DataError, match="given='reader' or given='history', got 'all'"):
        click_law(synthetic_news(readers=2), given="all")
    with pytest.raises(DataError, match="settings such as synthetic-news:readers=100, got 'reader'; did you mean readers"):
        sources.load("synthetic-news:reader=3")
