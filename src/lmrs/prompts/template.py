"""A Template: segments in order and the special tokens round them."""

from __future__ import annotations

from dataclasses import dataclass

from lmrs.errors import ContractError
from lmrs.prompts.segments import Control, Data, Hard, ListOf, Segment, Soft, Target, Vector, check_roles


@dataclass(frozen=True)
class Frame:
    """The special tokens round a prompt, by role.

    start: before everything. end: after the prompt, before a Target that ends the template. stop: after the Target, and charged
    like it (without a Target it is left out, so that a prompt can be continued).
    """

    start: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_roles(self.start + self.end + self.stop)

    def __str__(self) -> str:
        shown = {"start": ",".join(self.start), "end": ",".join(self.end), "stop": ",".join(self.stop)}
        return "[frame" + "".join(f" {name}={roles}" for name, roles in shown.items() if roles) + "]"


@dataclass(frozen=True)
class Template:
    """Segments in order. `str()` writes it in the notation that `parse` reads; `parse(str(template)) == template`.

    segments: neighbouring Hard texts are joined and empty ones dropped, so that one template has one form.
    frame: the special tokens round it; None: what the backbone's tokenizer suggests (`compiling.frame_of`); Frame(): none.
    Raises ContractError for a slot name with two lengths, a Target that is not alone or not last, or no segment at all.
    """

    segments: tuple[Segment, ...]
    frame: Frame | None = None

    def __post_init__(self) -> None:
        joined: list[Segment] = []
        for segment in self.segments:
            if isinstance(segment, Hard) and joined and isinstance(joined[-1], Hard):
                joined[-1] = Hard(joined[-1].text + segment.text)
            elif not isinstance(segment, Hard) or segment.text:
                joined.append(segment)
        object.__setattr__(self, "segments", tuple(joined))
        if not joined:
            raise ContractError(needed="a template with at least one segment", came="an empty one")
        targets = [at for at, segment in enumerate(joined) if isinstance(segment, Target)]
        if targets and targets != [len(joined) - 1]:
            raise ContractError(
                needed="at most one Target, as the last segment", came=str(self), remedy="move {target ...} to the end"
            )
        self.slots(Soft), self.slots(Vector)

    def slots(self, kind: type[Soft] | type[Vector]) -> dict[str, slice]:
        """Name -> places among all positions of its kind, in the order of first appearance."""
        found: dict[str, slice] = {}
        for segment in self.segments:
            if not isinstance(segment, kind):
                continue
            if segment.name not in found:
                first = max((each.stop for each in found.values()), default=0)
                found[segment.name] = slice(first, first + segment.length)
            elif found[segment.name].stop - found[segment.name].start != segment.length:
                raise ContractError(
                    needed=f"one length for the slot {segment.name!r}", came=str(self), remedy="rename one of the slots"
                )
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that examples must have, each once, in order."""
        found: list[str] = []
        for segment in self.segments:
            match segment:
                case Data(field) | Target(field):
                    found.append(field)
                case ListOf():
                    found += segment.columns
        return tuple(dict.fromkeys(found))

    @property
    def controls(self) -> tuple[str, ...]:
        """The control tokens, each once, in order."""
        return tuple(dict.fromkeys(segment.token for segment in self.segments if isinstance(segment, Control)))

    def without_target(self) -> Template:
        """The template that asks: the same prompt, to be continued. Raises ContractError if nothing but a Target is left."""
        return Template(tuple(each for each in self.segments if not isinstance(each, Target)), self.frame)

    def __str__(self) -> str:
        return ("" if self.frame is None else str(self.frame)) + "".join(map(str, self.segments))
