"""From a CSV file with column names of one's own to recommendations."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import lmrs
from lmrs.systems import item_knn


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    rng = random.Random(0)
    shelves = {"tea": ["assam", "darjeeling", "sencha"], "bread": ["rye", "wheat", "spelt"], "fruit": ["apple", "pear", "plum"]}
    lines = ["customer;article;bought"]
    for customer in range(60):
        shelf = rng.choice(list(shelves.values()))
        basket = rng.sample(shelf, 2) + rng.sample([article for each in shelves.values() for article in each], 2)
        lines += [f"c{customer};{article};2024-01-{day + 1:02d}" for day, article in enumerate(basket)]
    (folder / "sales.csv").write_text("\n".join(lines) + "\n")

    data = lmrs.load(folder / "sales.csv", columns={"user": "customer", "item": "article", "time": "bought"})
    split = lmrs.leave_one_out(data)
    fitted = lmrs.fit(item_knn(), split)
    found = lmrs.evaluate(fitted, split, measures=["HR@3"])
    print(f"HR@3 {found.measures['HR@3']:.2f}, 95 % interval {found.intervals['HR@3']}")
    print("after assam:", lmrs.Recommender.of(fitted).recommend(["assam"], k=2).ids)


if __name__ == "__main__":
    main()
