"""What the consensus says: of pairs, prompts, labelers, and overall.

Pairs and prompts are held as arrays and become records when they are read, so that a hundred thousand of them cost
nothing until somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar, overload

from alignment.records import Votes

T = TypeVar("T")

KINDS = ("careful", "noisy", "random", "reversed", "position-biased", "too-few-to-tell")


class LazyRecords(Sequence[T], Generic[T]):
    """A read-only list of `size` records. The first reading calls `prepare`, whose result makes record after record."""

    __slots__ = ("_made", "_prepare", "_size")

    def __init__(self, size: int, prepare: Callable[[], Callable[[int], T]]) -> None:
        self._size = size
        self._prepare = prepare
        self._made: Callable[[int], T] | None = None

    def _make(self, index: int) -> T:
        if self._made is None:
            self._made = self._prepare()
        return self._made(index)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._size))]
        if not -self._size <= index < self._size:
            raise IndexError(f"index {index} is out of range: there are {self._size} records")
        return self._make(index % self._size)

    def __iter__(self) -> Iterator[T]:
        return map(self._make, range(self._size))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(other) == self._size
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"<{self._size} records>"


@dataclass(frozen=True, slots=True)
class PairConsensus:
    """Two completions of one prompt, preferred first.

    `confidence`: that this order is the true one. `probability`: that a typical honest labeler prefers the first (the
    soft label). `votes.chosen` are for this order.
    """

    prompt_id: str
    preferred_id: str
    other_id: str
    confidence: float
    probability: float
    votes: Votes

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_id": self.prompt_id,
            "preferred_id": self.preferred_id,
            "other_id": self.other_id,
            "confidence": self.confidence,
            "probability": self.probability,
            "votes": self.votes.to_json(),
        }


@dataclass(frozen=True, slots=True)
class PromptConsensus:
    """One prompt. `ranks`: consensus rank per completion, 1 is best, equal where the data say tie.

    `kendall_w` and `mean_tau_b` are None where they are not defined; `undefined` then says why, by figure.
    `disagreement_share`: this prompt's part of all the votes that contradict each other, in [0, 1].
    `none_acceptable`: rankings which hold that no completion is acceptable. `settled`: a known order decides.
    """

    prompt_id: str
    ranks: dict[str, int]
    kendall_w: float | None
    mean_tau_b: float | None
    min_confidence: float | None
    disagreement_share: float
    rankings: int
    none_acceptable: int = 0
    settled: bool = False
    undefined: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LabelerReliability:
    """One labeler.

    `reliability`: correlation of what the labeler perceives with the true utilities, in [-1, 1], with a 95% interval
    `low` to `high`; 1 is perfect, 0 a random clicker, negative reads the scale the wrong way round. `noise`: standard
    deviation of what the true utilities do not explain, in normal scores. `position_bias`: pull towards what is shown
    first, on the same scale as reliability; None where no display positions are known.
    """

    labeler_id: str
    reliability: float
    low: float
    high: float
    noise: float
    position_bias: float | None
    count: int
    kind: str
    flagged: bool
    evidence: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ConsensusSummary:
    """The whole. A figure that is not defined is None, and `undefined` says why, by the figure's name.

    `agreement_with_consensus`: mean over labelers of the share of their ordered pairs that go with the consensus order;
    `trusted_agreement_with_consensus` over the labelers who are not flagged. `components`: groups of labelers with no
    prompt in common; one is what you want. `settled_prompts`: those with a known order. `unacceptable_prompts`: those
    of which at least half of the rankings hold that no completion is acceptable.
    """

    prompts: int
    rankings: int
    labelers: int
    pairs: int
    krippendorff_alpha: float | None
    krippendorff_low: float | None
    krippendorff_high: float | None
    pairwise_agreement: float | None
    agreement_with_consensus: float | None
    trusted_agreement_with_consensus: float | None
    flagged_labelers: int
    components: int
    settled_prompts: int
    unacceptable_prompts: int
    reliable_signal: bool
    message: str
    undefined: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
