"""Preference pairs as prompt groups: the completions of a prompt are encoded once each and compared in all pairs.

One pass per completion (Ouyang et al. 2022, arXiv:2203.02155, section 3.5): K completions take K sequences, where
K (K - 1) / 2 pairs one by one would take K (K - 1). A group is never divided, neither between batches nor between
training and held-out prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from alignment.models.loading import encode_completion, encode_prompt
from alignment.records import PreferencePair, PromptText


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """One prompt with its distinct completions and the pairs among them.

    `input_ids` [C]: token ids of prompt and completion. `first`, `second` [N]: indices of each pair's completions,
    chosen first. `probability`, `weight` [N]. `index`: completion id -> its place.
    """

    prompt_id: str
    prompt: PromptText
    prompt_tokens: int
    completions: tuple[str, ...]
    input_ids: list[list[int]]
    index: dict[str, int]
    first: np.ndarray
    second: np.ndarray
    probability: np.ndarray
    weight: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each completion [C], end-of-sequence included."""
        return np.array([len(ids) - self.prompt_tokens for ids in self.input_ids])


@dataclass(slots=True)
class DataWarnings:
    """What was odd about the pairs, counted. None of it stops the training."""

    identical_pairs: int = 0
    weightless_pairs: int = 0
    empty_completions: int = 0
    contradictory_pairs: int = 0
    cut_completions: int = 0
    cut_tokens: int = 0
    longest_completion: int = 0
    left_out_too_long: int = 0

    def add(self, other: DataWarnings) -> None:
        """Add the counts of another part of the data."""
        for name, count in asdict(other).items():
            both = (getattr(self, name), count)
            setattr(self, name, max(both) if name == "longest_completion" else sum(both))

    def sentences(self, longest: int) -> list[str]:
        """Each finding in a sentence; `longest` is the limit in tokens that was in force."""
        told = [
            (
                self.identical_pairs,
                f"{self.identical_pairs} pair(s) compare equal texts and were left out: they teach nothing.",
            ),
            (
                self.weightless_pairs,
                f"{self.weightless_pairs} pair(s) weigh nothing and were left out: the consensus is not sure of their "
                "order at all. Set reward.weight_by_confidence to false to keep them.",
            ),
            (
                self.empty_completions,
                f"{self.empty_completions} completion(s) are empty; they are scored as an answer that says nothing.",
            ),
            (
                self.contradictory_pairs,
                f"{self.contradictory_pairs} pair(s) stand in the data in both orders; both count, and their scores "
                "are drawn together.",
            ),
            (
                self.cut_completions,
                f"{self.cut_completions} completion(s) were cut at the end to fit {longest} tokens with their prompt, "
                f"{self.cut_tokens} tokens in all (the longest had {self.longest_completion}). To keep them whole, "
                "raise reward.max_length where the model's window is longer than that.",
            ),
            (
                self.left_out_too_long,
                f"{self.left_out_too_long} pair(s) were left out: their prompt alone fills {longest} tokens.",
            ),
        ]
        return [sentence for count, sentence in told if count]


@dataclass(slots=True)
class _Draft:
    """A group under construction."""

    prompt: PromptText
    prompt_ids: list[int]
    places: dict[str, int] = field(default_factory=dict)  # text -> its place
    encoded: list[list[int]] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    pairs: list[tuple[int, int, float, float]] = field(default_factory=list)


def group_pairs(
    tokenizer: Any, pairs: Sequence[PreferencePair], longest: int, *, by_confidence: bool = False
) -> tuple[list[PromptGroup], DataWarnings]:
    """The pairs by prompt, in order of appearance, and what was odd about them.

    `longest`: tokens of prompt and completion at most; a longer completion is cut at its end. `by_confidence`: a pair
    weighs 2 confidence - 1 instead of 1; one that is a coin toss weighs 0 and is left out.
    """
    drafts: dict[str, _Draft] = {}
    warnings = DataWarnings()
    for pair in pairs:
        if pair.chosen == pair.rejected:
            warnings.identical_pairs += 1
            continue
        weight = 2 * pair.confidence - 1 if by_confidence else 1.0
        if weight <= 0:
            warnings.weightless_pairs += 1
            continue
        draft = drafts.get(pair.prompt_id)
        if draft is None:
            draft = _Draft(pair.prompt, encode_prompt(tokenizer, pair.prompt))
            drafts[pair.prompt_id] = draft
        if len(draft.prompt_ids) >= longest:
            warnings.left_out_too_long += 1
            continue
        places = [
            _place(draft, completion_id, text, tokenizer, longest, warnings)
            for completion_id, text in (
                (pair.chosen_id, pair.chosen),
                (pair.rejected_id, pair.rejected),
            )
        ]
        draft.pairs.append((places[0], places[1], pair.probability, weight))
    for draft in drafts.values():
        warnings.contradictory_pairs += _contradictions(draft)
    return [_finished(name, draft) for name, draft in drafts.items() if draft.pairs], warnings


def _place(
    draft: _Draft,
    completion_id: str,
    text: str,
    tokenizer: Any,
    longest: int,
    warnings: DataWarnings,
) -> int:
    """Where a completion stands in its group; a text that is new to the group is encoded."""
    place = draft.places.setdefault(text, len(draft.places))
    if place == len(draft.encoded):
        completion = encode_completion(tokenizer, text)
        room = longest - len(draft.prompt_ids)
        warnings.empty_completions += not text.strip()
        if len(completion) > room:
            warnings.cut_completions += 1
            warnings.cut_tokens += len(completion) - room
            warnings.longest_completion = max(warnings.longest_completion, len(completion))
        draft.encoded.append(draft.prompt_ids + completion[:room])
    draft.index.setdefault(completion_id, place)
    return place


def _contradictions(draft: _Draft) -> int:
    """Pairs that stand in the group in both orders, each as likely as not or more."""
    orders = {(i, j) for i, j, probability, _ in draft.pairs if probability > 0.5}
    return sum((j, i) in orders for i, j in orders) // 2


def _finished(prompt_id: str, draft: _Draft) -> PromptGroup:
    first, second, probability, weight = zip(*draft.pairs, strict=True)
    return PromptGroup(
        prompt_id,
        draft.prompt,
        len(draft.prompt_ids),
        tuple(draft.places),
        draft.encoded,
        draft.index,
        np.array(first),
        np.array(second),
        np.array(probability, float),
        np.array(weight, float),
    )


def split_groups(
    groups: Sequence[PromptGroup], fraction: float, seed: int
) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """(the rest, a part of `fraction` of the groups): at least one group on either side; needs two."""
    count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    drawn = set(np.random.default_rng(seed).permutation(len(groups))[:count].tolist())
    rest = [group for number, group in enumerate(groups) if number not in drawn]
    return rest, [group for number, group in enumerate(groups) if number in drawn]


def batches_of(
    groups: Sequence[PromptGroup], completions: int, tokens: int | None = None, seed: int = 0
) -> list[list[int]]:
    """Indices of `groups` in batches of at most that many completions and, padding included, that many tokens.

    Groups of about equal length come together, so that little is padding; a group larger than the budget makes a batch
    of its own. Groups of equal length are shuffled with `seed`.
    """
    widths = np.array([max(map(len, group.input_ids)) for group in groups])
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(widths[order], kind="stable")]
    batches: list[list[int]] = []
    sequences = 0
    for number in order.tolist():
        more = len(groups[number].input_ids)
        full = sequences + more > completions or (
            tokens is not None and (sequences + more) * widths[number] > tokens
        )
        if not batches or full:
            batches.append([])
            sequences = 0
        batches[-1].append(number)
        sequences += more
    return batches


def batch_row(groups: Sequence[PromptGroup], counts: np.ndarray) -> dict[str, Any]:
    """A batch as a row of the training set. `counts` [len(groups), M]: how often each head sees each group."""
    offsets = np.cumsum([0, *(len(group.input_ids) for group in groups)])[:-1]
    weights = [
        group.weight[:, None] * seen[None, :] for group, seen in zip(groups, counts, strict=True)
    ]
    return {
        "input_ids": [ids for group in groups for ids in group.input_ids],
        "first": _joined(groups, "first", offsets),
        "second": _joined(groups, "second", offsets),
        "probability": np.concatenate([group.probability for group in groups]).tolist(),
        "weight": np.concatenate([group.weight for group in groups]).tolist(),
        "head_weight": np.concatenate(weights).tolist(),
    }


def _joined(groups: Sequence[PromptGroup], name: str, offsets: np.ndarray) -> list[int]:
    moved = [getattr(group, name) + at for group, at in zip(groups, offsets, strict=True)]
    return np.concatenate(moved).tolist()


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """The one batch of `rows` as tensors, padded on the right.

    `input_ids` [C, S], `last` [C] (place of the last token), `first`, `second`, `probability`, `weight` [N],
    `head_weight` [N, M].
    """
    (row,) = rows
    sequences = [torch.tensor(ids) for ids in row["input_ids"]]
    tensors = {
        name: torch.tensor(row[name], dtype=torch.float32)
        for name in ("probability", "weight", "head_weight")
    }
    return {
        "input_ids": pad_sequence(sequences, batch_first=True, padding_value=pad_id),
        "last": torch.tensor([len(ids) - 1 for ids in sequences]),
        "first": torch.tensor(row["first"]),
        "second": torch.tensor(row["second"]),
        **tensors,
    }


def prompts_on_both_sides(
    train: Sequence[PreferencePair], held_out: Sequence[PreferencePair]
) -> list[str]:
    """Ids of the prompts that have pairs on both sides, sorted."""
    return sorted({pair.prompt_id for pair in train} & {pair.prompt_id for pair in held_out})
