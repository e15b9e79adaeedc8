"""Which item does a sentence speak of: prompts learn to join words and items before they are asked what comes next (UniCRS)."""

from __future__ import annotations

from dataclasses import dataclass

from lmrs.batch import Batch
from lmrs.objectives.next_item import NextItem
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Spoken(NextItem):
    """-log p(item | what was named, what was said, the sentence that names it), with a view that reveals the sentence.

    NextItem at the last place of a row, but for this: it cannot be asked, for nobody has the sentence at test time. A stage with
    it is therefore not validated and takes its last epoch. data: `views.Turns(reveal=True)`. Sibling: NextItem.
    """

    places: str = "last"

    def ask(self, batch: Batch, vocab: Vocab) -> Batch | None:  # type: ignore[override]
        return None
