"""P5's questions in wordings of our own, by family, and one of each kind that training never shows."""

from __future__ import annotations

Question = tuple[str, str]  # (wording, kind of its answer: models.answering.ANSWERS)

HISTORY = '{list history separator=" , "}'
LIST = '{list candidates separator=" , "}'


def _all(answer: str, *wordings: str) -> tuple[Question, ...]:
    return tuple((text, answer) for text in wordings)


# A family's questions. Number in P5's appendix behind.
FAMILIES: dict[str, tuple[Question, ...]] = {
    "sequential": _all(  # 2-1 to 2-6
        "item",
        f"The user bought {HISTORY} . What comes next ?",
        f"{{user}} has bought {HISTORY} so far . Name the next item .",
        f"Here is what {{user}} bought , in order : {HISTORY} . Predict the next one .",
        f"Items so far : {HISTORY} . Which item would the user like to buy next ?",
        f"After {HISTORY} , what will {{user}} buy ?",
        f"{{user}} is a user who liked {HISTORY} . Recommend the next item to {{user}} .",
    ),
    "direct": _all(  # OpenP5's straightforward recommendation
        "item",
        "What would {user} like to buy ?",
        "Recommend an item to {user} .",
        "Which item is good for {user} ?",
        "Find something that {user} will like .",
    ),
    "candidates": _all(  # 5-5 to 5-7, 2-7 to 2-9
        "item",
        f"Choose an item for {{user}} among {LIST} .",
        f"Which of these would {{user}} like : {LIST} ?",
        f"{{user}} bought {HISTORY} . Choose the next item among {LIST} .",
    ),
    "yes-no": _all(  # 5-1 to 5-3, 2-11, 2-12
        "yes-no",
        "Will {user} like {item} ?",
        "Should we recommend {item} to {user} ?",
        f"{{user}} bought {HISTORY} . Is {{item}} the next item ?",
    ),
    "rating": (
        *_all("rating", "How will {user} rate {item} ?", "Which star rating does {user} give to {item} ?"),  # 1-1, 1-2
        *_all("stars", "Will {user} rate {item} with {star} ?"),  # 1-3
        *_all("like", "Does {user} like or dislike {item} ?"),  # 1-4
    ),
    "explanation": (
        *_all("explanation", "Explain to {user} why to buy {item} .", "What does {user} say of {item} ?"),  # 3-1, 3-2
        *_all(  # 3-5, 3-6
            "explanation", "{user} calls {item} {title} . Explain why .", "{user} rated {item} with {star} . Explain why ."
        ),
        *_all("rated explanation", "Which rating does {user} give to {item} , and why ?"),  # 3-7
        *_all(  # 3-9 to 3-11
            "explanation",
            "Explain to {user} why to buy {item} , speaking of {feature} .",
            "What does {user} say of the {feature} of {item} ?",
            "Speaking of {feature} , why does {user} rate {item} with {star} ?",
        ),
    ),
    "review": (
        *_all("title", "Write a short title for this review of {user} : {text}", "Sum up in a few words : {text}"),  # 4-1, 4-3
        *_all(  # 4-2
            "rating",
            "Which star rating belongs to this review of {user} : {text}",
            "How many stars has a review that says {text}",
        ),
    ),
}

# By what can be asked: the family that teaches it, the number of its question in that family, a wording for it beyond them all.
ASKS: dict[str, tuple[str, int, Question]] = {
    "sequential": ("sequential", 1, (f"Given the history of {{user}} : {HISTORY} , what is the item to recommend ?", "item")),
    "direct": ("direct", 0, ("Suggest an item that suits {user} .", "item")),
    "candidates": ("candidates", 0, (f"Take the one that suits {{user}} out of {LIST} .", "item")),
    "yes-no": ("yes-no", 0, ("Does {item} suit {user} ?", "yes-no")),
    "rating": ("rating", 0, ("What is the rating of {item} by {user} ?", "rating")),
    "explanation": ("explanation", 0, ("Tell {user} a reason to buy {item} .", "explanation")),
    "feature": ("explanation", 5, ("With a word on {feature} , tell {user} a reason to buy {item} .", "explanation")),
    "review-title": ("review", 0, ("A headline for what {user} wrote : {text}", "title")),
    "review-rating": ("review", 2, ("The stars that {user} gave when writing {text}", "rating")),
}

# A wording for users nobody knows, if no family has one.
NOBODY: Question = FAMILIES["sequential"][0]
