"""The rows that travel between the floors, as frozen dataclasses, and their JSONL form.

Every record has `from_json` (a parsed line of a file) and `to_json`. `from_json` raises `InputError` with what is
wrong; the reader of the file adds the line number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alignment.errors import InputError, nearest

Message = dict[str, str]
PromptText = str | list[Message]

MIN_COMPLETIONS = 2
MAX_COMPLETIONS = 9
SPLITS = ("train", "held-out")


def text_of(prompt: PromptText) -> str:
    """A prompt as one readable text: a chat becomes `role: content` lines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def short_id(kind: str, *parts: Any) -> str:
    """A stable id from content: `kind-` and 12 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{kind}-{digest[:12]}"


def _take(
    row: Any, known: dict[str, type | tuple[type, ...]], required: tuple[str, ...]
) -> dict[str, Any]:
    """The known fields of one parsed JSON line, checked for type and presence. Null counts as absent."""
    if not isinstance(row, dict):
        raise InputError(f"expected a JSON object, got {type(row).__name__}")
    for key in required:
        if row.get(key) is None:
            hint = nearest(key, [k for k in row if k not in known])
            raise InputError(f"the key {key!r} is missing{hint}.")
    taken = {}
    for key, kinds in known.items():
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, kinds) or (
            isinstance(value, bool) and kinds not in (bool, (bool,))
        ):
            raise InputError(f"{key!r} has the wrong type ({type(value).__name__}).")
        taken[key] = value
    return taken


def _check_prompt(prompt: PromptText) -> PromptText:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("the prompt is empty.")
        return prompt
    if not prompt:
        raise InputError("the list of chat messages is empty.")
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError("each chat message needs a 'role' and a 'content'.")
        if not isinstance(message.get("content"), str):
            raise InputError("the 'content' of each chat message must be a string.")
    return prompt


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked: plain text or chat messages.

    `category`: the kind of prompt that evaluations report by itself. `references`: answers to hold completions
    against (ROUGE), where the task has them; `reference` in JSON, a text or a list of texts.
    """

    prompt_id: str
    prompt: PromptText
    split: str = "train"
    category: str | None = None
    references: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Any) -> Prompt:
        known = {
            "prompt_id": (str, int),
            "prompt": (str, list),
            "split": str,
            "category": str,
            "reference": (str, list),
        }
        taken = _take(row, known, ("prompt",))
        prompt = _check_prompt(taken["prompt"])
        split = taken.get("split", "train")
        if split not in SPLITS:
            raise InputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        return cls(
            str(taken.get("prompt_id", short_id("prompt", prompt))),
            prompt,
            split,
            (taken.get("category") or "").strip() or None,
            _references(taken.get("reference")),
        )

    def to_json(self) -> dict[str, Any]:
        row = {"prompt_id": self.prompt_id, "prompt": self.prompt, "split": self.split}
        if self.category is not None:
            row["category"] = self.category
        if self.references:
            row["reference"] = list(self.references)
        return row


def _references(given: str | list[Any] | None) -> tuple[str, ...]:
    """The reference answers of a prompt, empty ones left out."""
    found = [given] if isinstance(given, str) else given or []
    if not all(isinstance(reference, str) for reference in found):
        raise InputError("'reference' must be a text or a list of texts.")
    return tuple(reference for reference in found if reference.strip())


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model to a prompt. `finished`: the model ended it with its end-of-sequence token."""

    completion_id: str
    prompt_id: str
    text: str
    finished: bool = True
    tokens: int | None = None
    run_id: str | None = None

    @classmethod
    def from_json(cls, row: Any) -> Completion:
        known = {
            "completion_id": (str, int),
            "prompt_id": (str, int),
            "text": str,
            "finished": bool,
            "tokens": int,
            "run_id": str,
        }
        taken = _take(row, known, ("prompt_id", "text"))
        taken["prompt_id"] = str(taken["prompt_id"])
        given = taken.pop("completion_id", None)
        fallback = short_id("completion", taken["prompt_id"], taken["text"])
        return cls(completion_id=str(given) if given is not None else fallback, **taken)

    def to_json(self) -> dict[str, Any]:
        return {
            "completion_id": self.completion_id,
            "prompt_id": self.prompt_id,
            "text": self.text,
            "finished": self.finished,
            "tokens": self.tokens,
            "run_id": self.run_id,
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """One labeler's order of the completions of one prompt.

    `ranks`: completion id -> rank, 1 is best, equal ranks are ties, a missing completion is unranked.
    `positions`: completion id -> place at which it was shown, from 0; None where it is not known.
    `seconds`: time from showing to submitting; None where it is not known.
    `none_acceptable`: the labeler holds that no completion should be given to anybody, whatever their order.
    """

    prompt_id: str
    labeler_id: str
    ranks: dict[str, int]
    positions: dict[str, int] | None = None
    seconds: float | None = None
    simulated: bool = False
    none_acceptable: bool = False

    @classmethod
    def from_json(cls, row: Any) -> Ranking:
        known = {
            "prompt_id": (str, int),
            "labeler_id": (str, int),
            "ranks": dict,
            "positions": dict,
            "seconds": (int, float),
            "simulated": bool,
            "none_acceptable": bool,
        }
        taken = _take(row, known, ("prompt_id", "labeler_id", "ranks"))
        ranks = check_ranks(taken["ranks"])
        positions = taken.get("positions")
        if positions is not None:
            check_positions(positions, ranks)
        seconds = taken.get("seconds")
        if seconds is not None and (not math.isfinite(seconds) or seconds < 0):
            raise InputError("'seconds' must be a time of 0 or more.")
        return cls(
            str(taken["prompt_id"]),
            str(taken["labeler_id"]),
            ranks,
            positions,
            seconds,
            taken.get("simulated", False),
            taken.get("none_acceptable", False),
        )

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "prompt_id": self.prompt_id,
            "labeler_id": self.labeler_id,
            "ranks": self.ranks,
        }
        if self.positions is not None:
            row["positions"] = self.positions
        if self.seconds is not None:
            row["seconds"] = self.seconds
        if self.simulated:
            row["simulated"] = True
        if self.none_acceptable:
            row["none_acceptable"] = True
        return row


def check_ranks(ranks: dict[str, Any]) -> dict[str, int]:
    """`ranks` if it ranks 2 to 9 completions with whole numbers from 1; `InputError` otherwise."""
    if not MIN_COMPLETIONS <= len(ranks) <= MAX_COMPLETIONS:
        raise InputError(
            f"a ranking needs {MIN_COMPLETIONS} to {MAX_COMPLETIONS} completions, this one has {len(ranks)}."
        )
    for completion_id, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise InputError(
                f"the rank of {completion_id!r} is {rank!r}; ranks are whole numbers from 1 (best)."
            )
    return ranks


def check_positions(positions: dict[str, Any], ranks: dict[str, int]) -> None:
    """`InputError` unless every ranked completion has a distinct place, a whole number from 0."""
    places = list(positions.values())
    if any(not isinstance(p, int) or isinstance(p, bool) or p < 0 for p in places):
        raise InputError("'positions' must hold whole numbers from 0 (the place shown first).")
    if len(set(places)) != len(places):
        raise InputError("'positions' gives two completions the same place.")
    missing = [c for c in ranks if c not in positions]
    if missing:
        raise InputError(f"'positions' lacks the ranked completion {missing[0]!r}.")


@dataclass(frozen=True, slots=True)
class Votes:
    """How many labelers ranked chosen above rejected, below it, and level with it."""

    chosen: int
    rejected: int
    tie: int

    def to_json(self) -> dict[str, int]:
        return {"chosen": self.chosen, "rejected": self.rejected, "tie": self.tie}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two completions of one prompt, preferred first.

    `confidence`: that this order is the true one. `probability`: that a typical careful labeler prefers chosen
    (the soft label). Both lie in [0, 1].
    """

    prompt: PromptText
    chosen: str
    rejected: str
    probability: float
    confidence: float
    prompt_id: str
    chosen_id: str
    rejected_id: str
    votes: Votes = field(default_factory=lambda: Votes(0, 0, 0))

    @classmethod
    def from_json(cls, row: Any) -> PreferencePair:
        known = {
            "prompt": (str, list),
            "chosen": (str, list),
            "rejected": (str, list),
            "probability": (int, float),
            "confidence": (int, float),
            "prompt_id": (str, int),
            "chosen_id": (str, int),
            "rejected_id": (str, int),
            "votes": dict,
        }
        taken = _take(row, known, ("prompt", "chosen", "rejected"))
        prompt = _check_prompt(taken["prompt"])
        chosen, rejected = (_plain(taken[key]) for key in ("chosen", "rejected"))
        if chosen == rejected:
            raise InputError(
                "chosen and rejected are the same text: a pair needs two different ones."
            )
        for key in ("probability", "confidence"):
            if not 0 <= taken.get(key, 1.0) <= 1:
                raise InputError(f"{key!r} must lie between 0 and 1.")
        votes = {
            key: (taken.get("votes") or {}).get(key, 0) for key in ("chosen", "rejected", "tie")
        }
        if not all(isinstance(count, int) and count >= 0 for count in votes.values()):
            raise InputError("'votes' must hold whole numbers under chosen, rejected and tie.")
        prompt_id = str(taken.get("prompt_id", short_id("prompt", prompt)))
        return cls(
            prompt,
            chosen,
            rejected,
            float(taken.get("probability", 1.0)),
            float(taken.get("confidence", 1.0)),
            prompt_id,
            str(taken.get("chosen_id", short_id("completion", prompt_id, chosen))),
            str(taken.get("rejected_id", short_id("completion", prompt_id, rejected))),
            Votes(**votes),
        )

    def to_json(self) -> dict[str, Any]:
        chat = not isinstance(self.prompt, str)

        def answer(text: str) -> str | list[Message]:
            return [{"role": "assistant", "content": text}] if chat else text

        return {
            "prompt": self.prompt,
            "chosen": answer(self.chosen),
            "rejected": answer(self.rejected),
            "probability": self.probability,
            "confidence": self.confidence,
            "prompt_id": self.prompt_id,
            "chosen_id": self.chosen_id,
            "rejected_id": self.rejected_id,
            "votes": self.votes.to_json(),
        }


@dataclass(frozen=True, slots=True)
class LabelerVote:
    """One labeler's order of two completions of a held-out prompt.

    `group`: the kind of labeler, such as careful. `with_others`: whether it is the order of the consensus of all the
    other labelers; None where they give none.
    """

    labeler_id: str
    group: str
    trusted: bool
    prompt_id: str
    preferred_id: str
    other_id: str
    with_others: bool | None = None


@dataclass(frozen=True, slots=True)
class LabelerEvidence:
    """What the labelers did: votes, and the mean place at which each completion was shown (completion id -> place)."""

    votes: Sequence[LabelerVote] = ()
    positions: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> LabelerEvidence:
        return cls([LabelerVote(**vote) for vote in row["votes"]], row["positions"])

    def to_json(self) -> dict[str, Any]:
        return {"votes": [asdict(vote) for vote in self.votes], "positions": dict(self.positions)}


def _plain(answer: str | list[Message]) -> str:
    """A chosen or rejected answer as text: TRL's conversational form holds one assistant message."""
    if isinstance(answer, str):
        return answer
    if (
        len(answer) != 1
        or not isinstance(answer[0], dict)
        or not isinstance(answer[0].get("content"), str)
    ):
        raise InputError("chosen and rejected must be a text or a list of one assistant message.")
    return answer[0]["content"]
