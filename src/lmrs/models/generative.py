"""A sequence-to-sequence language model that reads a history as item codes and answers with one (P5, TIGER)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.answers import Jagged
from lmrs.batch import Batch
from lmrs.decoding import Context, ModelSteps, Steps, beam, seq2seq
from lmrs.errors import CheckpointError, ContractError
from lmrs.indexing import Hybrid, Index, Indexer, LearnedQuantised, Quantised, Title
from lmrs.language import Backbone, admit
from lmrs.language.needs import need
from lmrs.language.running import dropping
from lmrs.losses import Output
from lmrs.models.code_prompts import HISTORY, USER, WORDS, CodePrompts, Wording, Written
from lmrs.models.network import Model, Network
from lmrs.models.reserved import Reserve, ReservedSteps
from lmrs.models.unread import Unread
from lmrs.split import Train
from lmrs.texts import ItemText, TextEncoder, encoded
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Prepared, Vocab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lmrs.language.tokens import Tokens

CONTEXT = 512  # tokens of a prompt, where no backbone says otherwise
_LIVE = 4096  # beams and candidates that are decoded at once
_CELLS = 16_384  # prompt tokens that are read at once


@dataclass(frozen=True)
class Scratch:
    """A T5 (Raffel et al. 2020) whose weights are drawn.

    dim: width D. layers: of the encoder and of the decoder. heads of head_dim each. inner: width between the two maps of a
    feed-forward layer (ReLU). dropout: everywhere, in [0, 1).
    """

    dim: int = 128
    layers: int = 4
    heads: int = 6
    head_dim: int = 64
    inner: int = 1024
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "head_dim", "inner"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ContractError(needed="dropout in [0, 1)", came=f"dropout={self.dropout}")

    def build(self, rows: int, *, start: int) -> PreTrainedModel:
        """A T5 in eval mode with `rows` tokens; `start` pads, and is what its decoder begins with."""
        need("transformers")
        from transformers import T5Config, T5ForConditionalGeneration

        told = T5Config(
            vocab_size=rows, d_model=self.dim, d_kv=self.head_dim, d_ff=self.inner, num_layers=self.layers,
            num_heads=self.heads, dropout_rate=self.dropout, pad_token_id=start, eos_token_id=None,
        )  # fmt: skip
        told.decoder_start_token_id = start
        return T5ForConditionalGeneration(told).eval()


@dataclass(frozen=True)
class Generative(Model):
    """p(item | history) = prod_t p(code token t | prompt, tokens before), by an encoder-decoder; the prompt names items by code.

    index: how items are written; fitted to the training events by `prepare`. backbone: of family seq2seq, for its weights and
    words; with `fresh` for its tokeniser alone. None (needs `fresh`): a vocabulary of nothing but codes and users (TIGER).
    fresh: sizes of a T5 whose weights are drawn, in place of the backbone's.
    wordings: prompts of words, {user} and {list history separator=...}. asking: the number of the one that asks for an item; a
    row whose user nobody knows is asked with the first that names the history and no user.
    users: a user is written as one of so many tokens, by its number modulo `users` (TIGER hashes into 2,000); 0: as the text
    "user_12".
    encoder, text: what reads the items' texts for an index of text vectors (Quantised, LearnedQuantised).
    whole_words: a vector for each word of a prompt is added to its pieces, so that those of one item know each other (P5).
    beams: width of the search through the trie of codes; the items that it finds have their exact log p, and all others one score
    below them. None: the whole catalogue, item by item. The first k are the true ones with None; with a number they are good, not
    certain, and items of the history take places among the beams. Nothing outside the catalogue can come out.
    reserve: share of a path (a code without its last token) that goes to the new items on it, in [0, 1), in scores alone: see
    `reserved.Reserve`. 0: new items have what their own last token gets, which training taught to be next to nothing.
    max_len: events of the history; fewer where the context ends, the oldest left out.
    """

    index: Indexer
    backbone: Backbone | None = None
    fresh: Scratch | None = None
    wordings: tuple[str, ...] = ('{list history separator=""}',)
    asking: int = 0
    users: int = 0
    encoder: TextEncoder | None = None
    text: ItemText = ItemText()  # noqa: RUF009 - a frozen value
    whole_words: bool = False
    beams: int | None = 50
    reserve: float = 0.0
    max_len: int = 20

    slots: ClassVar[frozenset[str]] = frozenset({USER, HISTORY})

    def __post_init__(self) -> None:
        if self.backbone is None and self.fresh is None:
            raise ContractError(needed="a backbone, or fresh sizes", came="neither", remedy="try fresh=Scratch()")
        if self.max_len < 1 or self.users < 0 or (self.beams is not None and self.beams < 1):
            raise ContractError(
                needed="max_len of at least 1, users of at least 0, beams of at least 1 or None",
                came=f"max_len={self.max_len}, users={self.users}, beams={self.beams}",
            )
        if not 0 <= self.reserve < 1:
            raise ContractError(needed="reserve in [0, 1)", came=f"reserve={self.reserve}")
        self._check_wordings()
        if self._reads_texts and self.encoder is None:
            raise ContractError(
                needed=f"an encoder of item texts for {type(self.index).__name__}", came="encoder=None",
                remedy='try TextEncoder(Backbone("minilm"))',
            )  # fmt: skip
        if self.backbone is not None:
            admit(self.backbone, for_="Generative", families=("seq2seq",))

    def _check_wordings(self) -> None:
        for text in self.wordings:
            if not (strange := Wording(text).columns) <= self.slots:
                raise ContractError(
                    needed="words, {user} and {list history separator=...} in a wording", came=f"{sorted(strange)} in {text!r}",
                    remedy="items are written as their codes, and nothing else of them is known here",
                )  # fmt: skip
        if not 0 <= self.asking < len(self.wordings) or not Wording(self.wordings[self.asking]).names_history:
            raise ContractError(
                needed="asking: the number of a wording with {list history}", came=f"{self.asking} of {self.wordings}"
            )
        if self._nobody is None:
            raise ContractError(
                needed="a wording with {list history} and without {user}, for users nobody knows", came=f"{self.wordings}",
                remedy="add one",
            )  # fmt: skip

    @property
    def _nobody(self) -> int | None:
        """The wording for rows of unknown users."""
        able = [self.asking, *range(len(self.wordings))]
        return next((number for number in able if Wording(self.wordings[number]).columns == {HISTORY}), None)

    @property
    def context(self) -> int:
        """Tokens that a prompt may have. Weights that are drawn know no bound of their own."""
        return CONTEXT if self.backbone is None else self.backbone.info().context

    @property
    def listed(self) -> int:
        """The most candidates that a prompt lists."""
        return 0

    @property
    def knows_new(self) -> bool:
        return self._reads_texts or isinstance(self.index, Title)

    @property
    def _reads_texts(self) -> bool:
        index = self.index.first if isinstance(self.index, Hybrid) else self.index
        return isinstance(index, Quantised | LearnedQuantised)

    @property
    def pretrained(self) -> bool:
        return self.fresh is None

    @property
    def prompted(self) -> bool:
        return any(Wording(text).has_words for text in self.wordings)

    @property
    def origin(self) -> str:
        return "" if self.backbone is None or self.fresh is not None else self.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        """The embeddings are not: they get rows for the words of the index."""
        return self.pretrained and name.startswith("backbone.") and "shared" not in name and "embed_tokens" not in name

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Index:
        """The index of the catalogue. Raises DataError if it is made of texts and no item has one."""
        vectors = None
        if self._reads_texts:
            assert self.encoder is not None
            words, _ = self.text.of(replace(train.dataset.vocab, catalogue=train.dataset.items))
            vectors = encoded(self.encoder, words)
        tokens = None if self.backbone is None else self.backbone.tokenizer()
        return self.index.fit(train, seed=seed, tokens=tokens, vectors=vectors)

    def restore(self, folder: Path) -> Prepared:
        return Index.load(folder)

    def build(self, vocab: Vocab) -> GenerativeNetwork:
        """Raises CheckpointError for an index of other items, UserError if the backbone is not at hand."""
        return GenerativeNetwork(self, vocab)


class GenerativeNetwork(Network):
    """backbone: an encoder-decoder of the transformers package. words: [512, D] vectors of whole words, or None.

    about: the description; another `asking` in its place asks in other words. index: how items are written.
    """

    backbone: nn.Module

    def __init__(self, about: Generative, vocab: Vocab) -> None:
        super().__init__()
        index = self.index_in(vocab)
        if index.vocab != vocab.fingerprint:
            raise CheckpointError(needed="an index of these items", came=f"{index!r} of others", remedy="fit again")
        self.about, self.index, self.n_items = about, index, vocab.n_items
        if about._reads_texts:
            self.unread = Unread(without_text=about.text.of(vocab).coverage.without)
        tokens = None if about.backbone is None else index.extended(about.backbone.tokenizer())
        size = index.size if tokens is None else tokens.size
        users: list[list[int]]
        if about.users:
            names = [f"<user_{number}>" for number in range(about.users)] + ["<somebody>"]
            users = [[size + number] for number in range(len(names))]
            tokens, size = None if tokens is None else tokens.extended(tuple(names)), size + len(names)
        elif not any(Wording(text).names_user for text in about.wordings):
            users = [[]]
        elif tokens is None:
            raise ContractError(
                needed="a backbone with a tokeniser for users as text", came="backbone=None", remedy="set users=2000"
            )
        else:
            users = [tokens.encode(f"user_{number}") for number in range(len(vocab.users))] + [tokens.encode("user")]
        self.n_users = about.users or len(users) - 1
        self.prompts = CodePrompts(about.wordings, index, tokens, users, about.context, listed=about.listed)
        self.reserve: Reserve | None = None
        if about.reserve:
            assert vocab.counts is not None
            self.reserve = Reserve.of(index, vocab.counts, about.reserve)
        self.pad = size if tokens is None else tokens.pad or 0
        language = self._language(tokens, size)
        self.dim = int(language.config.d_model)
        self.backbone = language.requires_grad_(True)
        self.words = nn.Embedding(WORDS, self.dim) if about.whole_words else None
        if self.words is not None:
            # A tenth of a token's vector: as large as that, numbers of words drown what the words say.
            nn.init.normal_(self.words.weight, std=0.1 * float(language.get_input_embeddings().weight.detach().std()))

    def index_in(self, vocab: Vocab) -> Index:
        """What `prepare` made."""
        if not isinstance(vocab.prepared, Index):
            raise ContractError(
                needed="an index of the items in vocab.prepared", came=repr(vocab.prepared), remedy="fit makes it"
            )
        return vocab.prepared

    def _language(self, tokens: Tokens | None, size: int) -> Any:
        """The model of the transformers package, with a row for every token."""
        about = self.about
        if about.fresh is not None:
            return about.fresh.build(size + (tokens is None), start=self.pad)
        assert about.backbone is not None
        assert tokens is not None
        from lmrs.language.growing import grow

        language = about.backbone.build()
        grow(language, tokens, rng=torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
        return language

    def train(self, mode: bool = True) -> GenerativeNetwork:
        """There is no train mode: dropout acts where a generator is given."""
        super().train(mode)
        self.backbone.eval()
        return self

    # -- prompts ---------------------------------------------------------------------------------------------------------

    def written(self, batch: Batch, at: Tensor) -> Written:
        """What the model reads when it is asked after the places `at` (int64[M], rising): the items up to and with each place.

        In the wording that the row channel `wording` names, or in that of `about.asking`.
        """
        places = at.cpu().numpy()
        offsets = batch.offsets.numpy()
        row = np.searchsorted(offsets, places, side="right") - 1
        begin = np.maximum(offsets[row], places + 1 - self.about.max_len)
        size = places + 1 - begin
        ends = np.concatenate([[0], np.cumsum(size)])
        flat = np.arange(int(ends[-1])) - np.repeat(ends[:-1], size) + np.repeat(begin, size)
        user = self.users_of(batch)[row]
        known = user >= 0
        if "wording" in batch.rows:
            wording = batch.rows["wording"].cpu().numpy()[row]
            if len(wording) and not 0 <= wording.min() <= wording.max() < len(self.about.wordings):
                raise ContractError(
                    needed=f"wordings 0 to {len(self.about.wordings) - 1}", came=f"{wording.min()} to {wording.max()}",
                    remedy="let the objective draw from the model's wordings",
                )  # fmt: skip
        else:
            nobody = self.about._nobody
            assert nobody is not None
            wording = np.where(known, self.about.asking, nobody)
        return self.prompts.write(batch.channels["item"].cpu().numpy()[flat], ends, user, wording)

    def users_of(self, batch: Batch) -> np.ndarray:
        """int64[B]: as the prompts number them; -1 where nobody is known."""
        user = batch.rows["user"].cpu().numpy() if "user" in batch.rows else np.full(batch.n_rows, -1)
        known = (user >= 0) & ((user < self.n_users) | (self.about.users > 0))
        return np.where(known, user % max(1, self.n_users), -1)

    def show(self, batch: Batch, at: Tensor) -> list[str]:
        """The prompts as people read them."""
        return self.shown(self.written(batch, at))

    def shown(self, written: Written) -> list[str]:
        """Prompts as people read them."""
        tokens = None if self.about.backbone is None else self.index.extended(self.about.backbone.tokenizer())
        out = []
        for begin, end in zip(written.offsets[:-1], written.offsets[1:]):
            parts = []
            for token in written.ids[begin:end].tolist():
                if token >= self.index.size:
                    parts.append(f"<user_{token - self.index.size}>")
                else:
                    own = token - self.index.base
                    told = tokens.decode([token], control=True) if tokens is not None else ""
                    parts.append(self.index.words[own] if own >= 0 else told)
            out.append("".join(parts))
        return out

    def _padded(self, written: Written, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None]:
        """(ids, mask) [B, T] of some prompts and, with whole words, their input vectors [B, T, D]."""
        size = (written.offsets[1:] - written.offsets[:-1])[rows]
        cells = np.arange(int(size.max()))
        real = cells < size[:, None]
        at = np.where(real, written.offsets[:-1][rows][:, None] + cells, 0)
        device = self.place
        ids, mask = torch.from_numpy(np.where(real, written.ids[at], self.pad)).to(device), torch.from_numpy(real).to(device)
        if self.words is None:
            return ids, mask, None
        numbers = torch.from_numpy(np.where(real, written.words[at], 0)).to(device)
        vectors = self.words(numbers) * (numbers > 0)[:, :, None]  # the token that ends a prompt is no word
        return ids, mask, self._inner.get_input_embeddings()(ids) + vectors

    @property
    def place(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def _inner(self) -> Any:
        return self.backbone

    def _blocks(self, written: Written, most: int | None = None) -> list[np.ndarray]:
        """Prompts of similar length together: little padding, bounded memory. most: rows of a block."""
        size = written.offsets[1:] - written.offsets[:-1]
        order = np.argsort(-size, kind="stable")
        out, begin = [], 0
        while begin < len(order):
            longest = int(size[order[begin]])
            end = begin + max(1, _CELLS // longest)
            end = min(end if most is None else min(end, begin + most), len(order))
            end = begin + int((size[order[begin:end]] * 2 > longest).sum())
            out.append(order[begin:end])
            begin = end
        return out

    # -- answers ---------------------------------------------------------------------------------------------------------

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        self._check(visible)
        return self.gains(self.written(batch, at), self.index.batch(target.cpu().numpy()), rng)

    def gains(self, written: Written, wanted: Jagged, rng: torch.Generator | None = None) -> Tensor:
        """[B]: log p(answer | prompt), summed over tokens, with gradients. wanted: (offsets int64[B+1], tokens), answers."""
        blocks = self._blocks(written)
        parts = []
        for rows in blocks:
            ids, mask, vectors = self._padded(written, rows)
            answers, real = self._answers(wanted, rows)
            begun = torch.cat([answers.new_full((len(rows), 1), self._start), answers[:, :-1]], 1)
            with dropping(self.backbone, rng):
                logits = self.backbone(
                    input_ids=ids if vectors is None else None, inputs_embeds=vectors, attention_mask=mask.long(),
                    decoder_input_ids=begun, use_cache=False,
                ).logits  # fmt: skip
            logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
            gain = logits.gather(2, answers[:, :, None])[..., 0] - logits.logsumexp(2)
            parts.append(gain.masked_fill(~real, 0).sum(1))
        back = torch.from_numpy(np.argsort(np.concatenate(blocks), kind="stable")) if blocks else None
        if back is None:
            return next(self.backbone.parameters()).new_zeros(0)
        return torch.cat(parts)[back.to(self.place)]

    def _answers(self, wanted: Jagged, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(tokens int64[B, L], which are real bool[B, L]) of some of the jagged answers."""
        offsets, flat = wanted
        size = (offsets[1:] - offsets[:-1])[rows]
        cells = np.arange(int(size.max(initial=1)))
        real = cells < size[:, None]
        codes = np.where(real, flat[np.where(real, offsets[:-1][rows][:, None] + cells, 0)], self.pad)
        return torch.from_numpy(codes).to(self.place), torch.from_numpy(real).to(self.place)

    @property
    def _start(self) -> int:
        """What the decoder begins with."""
        return int(self._inner.config.decoder_start_token_id)

    @torch.no_grad()
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        self._check(visible)
        trie = self.index.trie
        widest = int(np.diff(trie.levels).max())
        width = widest if self.about.beams is None else min(self.about.beams, widest)
        k = min(self.n_items, width) if self.about.beams is not None else self.n_items
        width = max(width, k)
        out = torch.empty(batch.n_rows, self.n_items)
        for rows, context in self.contexts(batch, max(1, _LIVE // width)):
            steps: Steps = ModelSteps(context)
            if self.reserve is not None:
                steps = ReservedSteps(steps, trie, self.reserve)
            found = beam(steps, trie, k=k, width=width)
            there = found.items >= 0
            least = np.where(there, found.scores, np.inf).min(1)
            cells = np.repeat((least - 1)[:, None], self.n_items, 1)
            cells[np.nonzero(there)[0], found.items[there]] = found.scores[there]
            out[torch.from_numpy(rows)] = torch.from_numpy(cells).float()
        return out.to(self.place)

    @torch.no_grad()
    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        """The exact log p of the candidates: what `score` gives for those that its search finds. Each prompt is read once."""
        self._check(visible)
        items = candidates.cpu().numpy()
        out = torch.full(items.shape, -torch.inf)
        for rows, context in self.contexts(batch, max(1, _LIVE // items.shape[1])):
            owner, column = np.nonzero(items[rows] >= 0)
            if len(owner):
                found = self._log_p(context, owner, items[rows][owner, column])
                out[torch.from_numpy(rows[owner]), torch.from_numpy(column)] = found.float().cpu()
        return out.to(candidates.device)

    def _log_p(self, context: Context, owner: np.ndarray, items: np.ndarray) -> Tensor:
        """[n]: log p of items after the contexts `owner` (both int64[n])."""
        each, real = self.told(context, owner, self.index.batch(items))
        if self.reserve is not None:
            own, more = torch.from_numpy(self.reserve.own[items]), torch.from_numpy(self.reserve.more[items])
            last = torch.arange(len(items), device=self.place), real.sum(1) - 1
            each[last] = each[last].masked_fill(~own.to(self.place), 0) + more.to(each)
        return each.masked_fill(~real, 0).sum(1)

    def told(self, context: Context, owner: np.ndarray, wanted: Jagged) -> tuple[Tensor, Tensor]:
        """([n, L] log p of each token of n answers after the contexts `owner` (int64[n]), which are real bool[n, L])."""
        codes, real = self._answers(wanted, np.arange(len(owner)))
        row = torch.from_numpy(owner).to(self.place)
        each = context.logits.log_softmax(1)[row, codes[:, 0]][:, None]
        if codes.shape[1] > 1:
            logits, _ = context.select(row).read(codes[:, :-1])
            each = torch.cat([each, logits.float().log_softmax(2).gather(2, codes[:, 1:, None])[..., 0]], 1)
        return each, real

    def contexts(self, batch: Batch, most: int) -> Iterator[tuple[np.ndarray, Context]]:
        """(rows of the batch, what the model made of their prompts, asked at `asked`) in blocks of `most` rows at most."""
        yield from self.reading(self.written(batch, batch.channels["asked"].nonzero()[:, 0]), most)

    def reading(self, written: Written, most: int) -> Iterator[tuple[np.ndarray, Context]]:
        """(which prompts, what the model made of them) in blocks of `most` at most."""
        for rows in self._blocks(written, most):
            ids, mask, vectors = self._padded(written, rows)
            yield rows, seq2seq(self._inner, ids if vectors is None else None, mask, embeddings=vectors)

    # -- what it does not have -------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        raise self._missing("states")

    def output(self) -> Output:
        raise self._missing("a table of items")

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        raise self._missing("verdicts")

    def _missing(self, what: str) -> ContractError:
        return ContractError(
            needed=f"a network with {what}", came="Generative, which spells items",
            remedy="use the objective Instructed or Continuation",
        )  # fmt: skip

    def _check(self, visible: Visibility) -> None:
        if not self.about.allows(visible):
            raise ContractError(needed="Causal() visibility for Generative", came=repr(visible))
