"""A pre-trained language model as a recommender: a history becomes a prompt; items are scored by what the model makes of it.

Four ways to read the answer, over one prompt and one backbone, a file each:
"title": log p(title of the item | prompt), item by item, which needs no training and works for items never seen;
"masks": the probability of the title's tokens at the masks of an encoder, all items from one pass over the prompt;
"words": log p(yes) - log p(no) after a prompt that names the item, or at its mask: item by item as well;
"state": the model's state after the prompt times a table with a vector for each item, which must be trained.
"""

from __future__ import annotations

import fnmatch
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lmrs import prompts
from lmrs.batch import Batch
from lmrs.decoding import left_padded
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone, admit
from lmrs.language.adapters import Adapter, apply
from lmrs.losses import Output
from lmrs.models.network import Model, Network
from lmrs.models.unread import Unread
from lmrs.prompts import Column, Compiled, Mask, MultiMask, Soft, Template, YesNo, declare, parse
from lmrs.prompts.places import InputVectors, SoftPrompts, build
from lmrs.prompts.sources import Free
from lmrs.prompts.start import from_vocabulary
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = "{list history}"  # no words of the author's: the text of the items and nothing else
READS = ("title", "words", "state", "masks")
COLUMNS = ("history", "liked", "disliked", "candidate")
SCORES = ("sum", "mean", "pmi", "sentence")
FAMILIES = {"title": ("causal",), "words": ("causal", "encoder"), "state": ("causal", "encoder"), "masks": ("encoder",)}
# What an encoder's word head is called: BERT; RoBERTa; DistilBERT; ELECTRA.
WORD_HEADS = ("backbone.cls.", "backbone.lm_head.", "backbone.vocab_", "backbone.generator_")


@dataclass(frozen=True)
class Prompted(Model):
    """A language model that reads a history as text.

    backbone: which one; "title" needs a causal one, "masks" an encoder, the others either (an encoder with a word head for
    "words" and "masks").
    template: in the notation of `prompts.parse`. Columns: `history` (titles, oldest first), its parts `liked` and `disliked`
    where the view tells them apart (views.Rated), and each with .NAME for a column NAME of the catalogue or an item attribute;
    for "words" also `candidate` and `candidate.NAME`, and one [mask] for an encoder; for "masks" as many masks as are read.
    Soft slots get free vectors, begun at words drawn from the vocabulary.
    read: as above. words: what "words" reads. masks: what "masks" reads.
    score: of "title": "sum" of the log-probabilities of the title's tokens, their "mean", "pmi" (of "masks", too), the score less
    that after a prompt without history, or "sentence", the mean over all tokens of prompt and title but the first (LMRec).
    head: of an encoder's words: "trained", or "new" for one that was saved without: drawn at random, to be trained.
    ending: what closes a title, so that "Alien" is not half of "Aliens". pooling: of "state": the "last" token or the "mean".
    max_len: events of the history; what the backbone's context cannot hold is left out, oldest first.
    context: tokens of a prompt, or None for what the backbone takes. adapter: LoRA or a prefix in the backbone.
    fresh: random weights in place of the trained ones (the architecture alone).
    """

    backbone: Backbone
    template: str = PLAIN
    read: str = "title"
    score: str = "sum"
    words: YesNo = YesNo()  # noqa: RUF009 - a frozen value
    ending: str = "."
    pooling: str = "last"
    max_len: int = 10
    context: int | None = None
    adapter: Adapter | None = None
    fresh: bool = False
    masks: MultiMask = MultiMask()  # noqa: RUF009 - a frozen value
    head: str = "trained"

    def __post_init__(self) -> None:
        for name, choices in (("read", READS), ("score", SCORES), ("pooling", ("last", "mean")), ("head", ("trained", "new"))):
            if getattr(self, name) not in choices:
                raise ContractError(needed=f"{name} {' or '.join(map(repr, choices))}", came=repr(getattr(self, name)))
        if self.max_len < 1:
            raise ContractError(needed="max_len of at least 1", came=f"max_len={self.max_len}")
        admit(self.backbone, for_=f"Prompted(read={self.read!r})", families=FAMILIES[self.read])
        self._check_template()

    def _check_template(self) -> None:
        template = parse(self.template)
        heads = {name.partition(".")[0] for name in template.columns}
        for name in template.columns:
            if name.partition(".")[0] not in COLUMNS:
                raise ContractError(
                    needed=f"columns {', '.join(COLUMNS[:-1])} and {COLUMNS[-1]}, or one of them with .NAME", came=name,
                    remedy=did_you_mean(name, COLUMNS),
                )  # fmt: skip
        if ("candidate" in heads) != (self.read == "words"):
            raise ContractError(
                needed="{candidate} in the template with read='words', and only there",
                came=f"read={self.read!r} and {self.template!r}",
                remedy="change one of them",
            )
        if not heads & set(COLUMNS[:-1]):
            raise ContractError(
                needed="{list history} in the template", came=repr(self.template), remedy="write it where the items stand"
            )
        masks = sum(segment.n for segment in template.segments if isinstance(segment, Mask))
        if masks and self.read == "title":
            raise ContractError(
                needed=f"a template without [mask] for read={self.read!r}", came=self.template, remedy="leave the mask out"
            )
        if self.read == "words":
            if masks > 1:
                raise ContractError(
                    needed="one [mask] in the template of an encoder, none in that of a causal model",
                    came=f"{masks} in {self.template!r}", remedy="change the template",
                )  # fmt: skip
            how = "at [mask]" if masks else "without [mask]"
            admit(self.backbone, for_=f"Prompted(read='words') {how}", families=("encoder",) if masks else ("causal",))

    @property
    def knows_new(self) -> bool:
        return self.read != "state"

    @property
    def pretrained(self) -> bool:
        return not self.fresh

    @property
    def prompted(self) -> bool:
        """The prompt says more than the items: words of the author's, or learned vectors."""
        return parse(self.template) != parse(PLAIN)

    @property
    def soft(self) -> bool:
        return bool(parse(self.template).slots(Soft))

    @property
    def by_item(self) -> bool:
        return self.read in ("title", "words")

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    @property
    def origin(self) -> str:
        return "" if self.fresh else self.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        if self.head == "new" and name.startswith(WORD_HEADS):
            return False
        own = () if self.adapter is None else self.adapter.patterns
        return self.pretrained and name.startswith("backbone.") and not any(fnmatch.fnmatchcase(name, each) for each in own)

    def group(self, name: str) -> str:
        if name.startswith("prompt"):
            return "prompt"
        return "head" if name.startswith("item") else "model"

    def build(self, vocab: Vocab) -> PromptedNetwork:
        from lmrs.models import prompted_masks, prompted_state, prompted_title, prompted_words

        kinds: dict[str, type[PromptedNetwork]] = {
            "title": prompted_title.TitleNetwork, "words": prompted_words.WordsNetwork, "state": prompted_state.StateNetwork,
            "masks": prompted_masks.MasksNetwork,
        }  # fmt: skip
        return kinds[self.read](self, vocab)


class PromptedNetwork(Network):
    """What the three ways share: the prompt, and a pass through the model.

    backbone: the language model, with its adapter. prompt: learned vectors, or None.
    """

    backbone: nn.Module
    unread: Unread

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__()
        self.rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        info = model.backbone.info()
        self.model, self.n_items, self.dim = model, vocab.n_items, info.dim
        self.encoder = info.family == "encoder"
        self.template: Template = parse(model.template)
        self.tokens = model.backbone.tokenizer()
        if declare(self.tokens, self.template).size != self.tokens.size:
            raise ContractError(
                needed="control tokens that the backbone has", came=model.template, remedy="write them as words or soft slots"
            )
        self.context = min(info.context, model.context or info.context)
        language = self._language_model()
        self.takes = frozenset(inspect.signature(language.forward).parameters)
        self.prompt = self._soft_prompts(language.get_input_embeddings().weight)
        self.backbone = language if model.adapter is None else apply(model.adapter, language, rng=self.rng)
        self.backbone.requires_grad_(True)
        self.titles = vocab.titles(np.arange(vocab.n_items))
        self.unread = Unread(without_title=vocab.untitled)
        self.columns: dict[str, list[str | None]] = {}
        for name in self.template.columns:
            what = name.partition(".")[2]
            self.columns[name] = vocab.texts(what or "title")

    def _language_model(self) -> Any:
        """The model of the transformers package, with the head that this way of reading needs."""
        model = self.model
        new = int(torch.randint(2**62, (), generator=self.rng)) if model.head == "new" else None
        language: Any = model.backbone.build(words=True if model.read in ("words", "masks") else None, fresh=new)
        if model.fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=self.rng)))
                language = type(language)(language.config).eval()
        return language.base_model if model.read == "state" else language

    def _soft_prompts(self, table: Tensor) -> SoftPrompts | None:
        slots = self.template.slots(Soft)
        if not slots:
            return None
        sources = {name: Free(place.stop - place.start) for name, place in slots.items()}
        made = build(self.template, Soft, sources, self.dim, self.rng)
        for module, place in zip(made.sources.values(), slots.values(), strict=True):
            module.start(from_vocabulary(self.tokens, table.float(), place.stop - place.start, self.rng))  # type: ignore[operator]
        return made

    def train(self, mode: bool = True) -> PromptedNetwork:
        """There is no train mode: the backbone's dropout acts where a generator is given, and only there."""
        super().train(mode)
        self.backbone.eval()
        return self

    def prompts(self, batch: Batch, at: Tensor | None = None, *, room: int = 0, candidates: np.ndarray | None = None) -> Compiled:
        """What the model reads when it is asked after the places `at` (int64[M]; None: after every place).

        Each prompt holds the items of its row up to and with that place, `max_len` of them at most. room: tokens kept free.
        candidates: int64[M, K] items to be named in the prompts, which are then M x K, those of one place side by side.
        """
        offsets = batch.offsets.numpy()
        places = np.arange(batch.n_positions) if at is None else at.cpu().numpy()
        begin = np.maximum(offsets[np.searchsorted(offsets, places, side="right") - 1], places + 1 - self.model.max_len)
        if candidates is not None:
            begin, places = (np.repeat(each, candidates.shape[1]) for each in (begin, places))
        size = places + 1 - begin
        ends = np.concatenate([[0], np.cumsum(size)])
        flat = np.arange(int(ends[-1])) - np.repeat(ends[:-1], size) + np.repeat(begin, size)
        item = batch.channels["item"].cpu().numpy()[flat]
        liked = batch.channels["liked"].cpu().numpy()[flat] if "liked" in batch.channels else None
        candidate = None if candidates is None else candidates.ravel()
        return self.compiled(item, ends, room=room, candidate=candidate, liked=liked)

    def compiled(
        self,
        item: np.ndarray,
        offsets: np.ndarray,
        *,
        room: int = 0,
        candidate: np.ndarray | None = None,
        liked: np.ndarray | None = None,
    ) -> Compiled:
        """The prompts of histories `item[offsets[b]:offsets[b + 1]]`, each with its candidate.

        liked: bool of each event, for templates with {list liked} or {list disliked}; None: all are.
        """
        columns = {}
        for name, texts in self.columns.items():
            whose = name.partition(".")[0]
            if whose == "history":
                columns[name] = Column(texts, item, offsets)
            elif whose in ("liked", "disliked"):
                keep = np.ones(len(item), bool) if liked is None else liked
                keep = keep if whose == "liked" else ~keep
                columns[name] = Column(texts, item[keep], np.concatenate([[0], np.cumsum(keep)])[offsets])
            elif candidate is not None:
                columns[name] = Column(texts, candidate)
        found = prompts.compile(self.template, self.tokens, columns, context=self.context - room, missing="")
        self.unread.add(found.report)
        return found

    def embedded(self, ids: Tensor, soft: Tensor) -> Tensor:
        """[B, T, D] input vectors of padded tokens, learned ones at the soft places."""
        found = self._language().get_input_embeddings()(ids)
        if self.prompt is None:
            return found
        row = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        return InputVectors().inject(found, soft, row, self.prompt(len(ids), {}))

    def run(self, embedded: Tensor, mask: Tensor, **options: Any) -> Any:
        """A forward pass over left-padded input vectors."""
        if "position_ids" in self.takes:
            options["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
        return self.backbone(inputs_embeds=embedded, attention_mask=mask.long(), **options)

    def padded(self, compiled: Compiled) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, mask, soft places), each [B, T], padded on the left, on the model's device."""
        offsets = torch.from_numpy(compiled.offsets)
        ids, mask = left_padded(torch.from_numpy(compiled.ids), offsets, self.tokens.pad or 0)
        soft, _ = left_padded(torch.from_numpy(compiled.soft), offsets, -1)
        return ids.to(self.place), mask.to(self.place), soft.to(self.place)

    @property
    def place(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    def _language(self) -> PreTrainedModel:
        """The model of the transformers package itself, without the adapter's wrapper."""
        inner: Any = self.backbone
        return inner if self.model.adapter is None else inner.get_base_model()

    def check(self, visible: Visibility) -> None:
        """Raises ContractError for a Visibility that a prompt of what came before cannot have."""
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility for a prompt of what came before", came=repr(visible))

    # What a way of reading does not have, it refuses by name.

    def blank(self, items: np.ndarray) -> np.ndarray:
        """float64[K]: scores of some items (int64[K]) after a prompt without history: what the model likes anyway.

        Raises ContractError where items have no score without one.
        """
        raise self._missing("scores without a history")

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        raise self._missing("states")

    def output(self) -> Output:
        raise self._missing("a table of items")

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        raise self._missing("likelihoods of titles")

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        raise self._missing("verdicts")

    def _missing(self, what: str) -> ContractError:
        return ContractError(
            needed=f"a network with {what}",
            came=f"Prompted(read={self.model.read!r})",
            remedy="read='title' goes with the objective Continuation, 'words' with Verdict or Liking, 'state' with NextItem, "
            "'masks' with Continuation or Margin",
        )


class ByItem(PromptedNetwork):
    """A network that scores item by item."""

    @torch.no_grad()
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return self.score_among(batch, visible, torch.arange(self.n_items).expand(batch.n_rows, -1))


def wide(values: Tensor) -> Tensor:
    """Half precision as fp32, the rest as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
