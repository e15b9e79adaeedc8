"""The conversation half of UniCRS: prompts of one vector a token, and a frozen language model that writes after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence

from lmrs.decoding import greedy
from lmrs.language.tokens import Tokens
from lmrs.models.prompted import wide
from lmrs.models.speaker import Told
from lmrs.records import SLOT

if TYPE_CHECKING:
    from lmrs.models.fused_prompt import PromptMaker

UNREPEATED = 3  # no run of three tokens occurs twice in a response


class Speech(nn.Module):
    """What learns: task vectors; the words-and-items half, as a difference to the one that finds items; the slot of an item.

    P = softmax_over_items(A) E + T, one vector a token of the dialogue (section 4.4), with the maps of `PromptMaker` plus
    `shift`, which is zero at first: this half starts from what was learned before, learns on its own, and leaves the other one
    as it is. An item in a response is a token of its own, W, the number of rows of the model's table: `slot` is its row of the
    table that is read, `named` of the one that scores. They start as the means of the rows there are; the language model has no
    new row.
    """

    def __init__(self, task: int, prompt: PromptMaker, backbone: Any) -> None:
        super().__init__()
        from lmrs.models.fused_prompt import TaskVectors

        read, scores = backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight
        self.task = TaskVectors(task, read.shape[1])
        self.names = [name for name, _ in prompt.named_parameters() if name.startswith("fusion.")]
        if self.names:
            self.names += [name for name, _ in prompt.named_parameters() if name.startswith("items.")]
        given = dict(prompt.named_parameters())
        self.shift = nn.ParameterList(torch.zeros_like(given[name]) for name in self.names)
        self.slot, self.named = (nn.Parameter(each.detach().float().mean(0)) for each in (read, scores))

    def forward(self, prompt: PromptMaker, item: Tensor, named: Tensor, words: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors [B, L, D], which are real bool[B, L]) to stand before the dialogue; see `PromptMaker`."""
        vectors = self.task()
        parts, there = [vectors.expand(len(item), -1, -1)], [real.new_ones(len(item), len(vectors))]
        if prompt.fusion is not None:
            own = dict(prompt.named_parameters())
            moved = {name: own[name] + shift for name, shift in zip(self.names, self.shift, strict=True)}
            table = functional_call(prompt.items, _under(moved, "items."), ())
            parts.append(functional_call(prompt.fusion, _under(moved, "fusion."), (table, item, words, real, named)))
            there.append(real)
        return torch.cat(parts, 1), torch.cat(there, 1)

    # -- words -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _rows(backbone: Any) -> int:
        return backbone.get_output_embeddings().weight.shape[0]

    def read(self, tokens: Tokens, text: str) -> list[int]:
        """The tokens of a response: it is data, and no token of meaning comes of it. -1 for an item."""
        ids: list[int] = []
        parts = f" {text}".split(SLOT) if text else [""]
        for at, part in enumerate(parts):
            ids += [-1] if at else []
            ids += tokens.encode(part if at + 1 == len(parts) else part.rstrip(" ")) if part.strip() else []
        return ids

    def text(self, tokens: Tokens, ids: Sequence[int]) -> str:
        """What `read` reads, on one line."""
        parts: list[list[int]] = [[]]
        for each in ids:
            if each < 0:
                parts.append([])
            else:
                parts[-1].append(each)
        texts = [" ".join(tokens.decode(part).replace(SLOT, "").split("\n")) for part in parts]
        for at in range(len(texts) - 1):
            if texts[at] and not texts[at].endswith((" ", "(", '"')):
                texts[at] += " "
        return " ".join(SLOT.join(texts).split())

    def embed(self, ids: Tensor, backbone: Any) -> Tensor:
        """[..., D]: the rows of some tokens; -1 is the slot."""
        rows = backbone.get_input_embeddings()(ids.clamp_min(0))
        return torch.where((ids < 0)[..., None], self.slot.to(rows.dtype), rows)

    def logits(self, states: Tensor, backbone: Any) -> Tensor:
        """[M, W + 1] from the states [M, D] of the model: its own words, then the slot."""
        head = backbone.get_output_embeddings()
        return torch.cat([wide(head(states.to(head.weight.dtype))), (states @ self.named)[:, None]], 1)

    # -- a response ------------------------------------------------------------------------------------------------------

    def judged(
        self,
        vectors: Tensor,
        real: Tensor,
        said: list[list[int]],
        backbone: Any,
        run: Callable[[Tensor, Tensor], Tensor],
        *,
        end: int,
    ) -> Told:
        """log p of the responses (tokens of `read`, to which the end is added) after what `vectors` [B, L, D] say."""
        ids = pad_sequence([torch.tensor([*each, end]) for each in said], batch_first=True, padding_value=end).to(vectors.device)
        size = torch.tensor([len(each) + 1 for each in said], device=vectors.device)
        longest = ids.shape[1]
        there = torch.arange(longest, device=ids.device) < size[:, None]
        every, mask = _leftmost_padding(
            torch.cat([vectors, self.embed(ids, backbone).to(vectors)], 1), torch.cat([real, there], 1)
        )
        states = run(every, mask)[:, -longest - 1 : -1]
        charged = torch.arange(longest, device=ids.device) >= longest - size[:, None]  # texts end where the row ends
        logits = self.logits(states[charged], backbone)
        target = torch.where(ids[there] < 0, logits.shape[1] - 1, ids[there])
        gain = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
        row = torch.repeat_interleave(torch.arange(len(said), device=ids.device), size)
        return Told(gain.new_zeros(len(said)).index_add(0, row, gain), size)

    @torch.no_grad()
    def written(
        self, vectors: Tensor, real: Tensor, backbone: Any, *, end: int, most: int, unwritten: list[int], size: int
    ) -> list[list[int]]:
        """The likeliest responses, step by step. size: of the vocabulary; rows of the table behind it are no tokens."""
        vectors, mask = _leftmost_padding(vectors, real)
        dtype = next(backbone.parameters()).dtype
        body, cache, slot = backbone.base_model, None, self._rows(backbone)

        def go_on(vectors: Tensor) -> Tensor:
            nonlocal cache
            place = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -vectors.shape[1] :]
            out = body(
                inputs_embeds=vectors.to(dtype), attention_mask=mask.long(), position_ids=place, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            cache = out.past_key_values
            return self.logits(wide(out.last_hidden_state[:, -1]), backbone)

        def step(chosen: Tensor) -> Tensor:
            nonlocal mask
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            return go_on(self.embed(torch.where(chosen == slot, -1, chosen)[:, None], backbone))

        never = [*unwritten, *range(size, slot)]
        found = greedy(go_on(vectors), step, end=end, most=most, unrepeated=UNREPEATED, unwritten=never)
        return [[-1 if each == slot else each for each in text] for text in found]


def _under(values: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}


def _leftmost_padding(vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The same vectors [B, L, D] in their order, those that are not real before all others."""
    order = torch.argsort(real.long(), dim=1, stable=True)[:, int((~real).sum(1).min()) :]
    return vectors.gather(1, order[..., None].expand(-1, -1, vectors.shape[2])), real.gather(1, order)
