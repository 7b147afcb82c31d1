"""Who can be trusted: each labeler's kind and the evidence for it in one sentence, from the factor model."""

from __future__ import annotations

import numpy as np

from alignment.feedback.consensus_records import LabelerReliability
from alignment.feedback.factor_model import Labelers

FEW_RANKINGS = 20  # below this, a labeler's kind is not told
CAREFUL_RELIABILITY = (
    0.7  # reliability of a labeler whose noise is as large as the utilities' own spread
)
STRONG_POSITION = 0.3
ONE_SIDED = 1.28  # standard normal quantile of 90%
TWO_SIDED = 1.96


def is_unreliable(b: np.ndarray, error: np.ndarray, typical: float) -> np.ndarray:
    """(L,) b + 1.28 se < typical / 2: surely less than half as reliable as the typical honest labeler.

    The median of all labelers in place of the typical honest one would miss random clickers where they are many.
    """
    return b + ONE_SIDED * error < typical / 2


def is_position_biased(labelers: Labelers) -> np.ndarray:
    """(L,) the display place surely pulls, and pulls at least as strongly as the utilities."""
    pull = np.abs(labelers.g)
    sure = pull - ONE_SIDED * np.sqrt(labelers.var_g) > STRONG_POSITION
    return sure & (pull > np.abs(labelers.b))


def kind_of(
    b: float, error: float, biased: bool, unreliable: bool, count: int, typical: float
) -> str:
    """The kind of one labeler."""
    if count < FEW_RANKINGS:
        return "too-few-to-tell"
    if biased:
        return "position-biased"
    if unreliable and b + ONE_SIDED * error < 0 and b < -typical / 3:
        return "reversed"
    if unreliable:
        return "random" if b - TWO_SIDED * error < 0.1 else "noisy"
    return "careful" if b >= CAREFUL_RELIABILITY else "noisy"


def labeler_table(
    names: list[str],
    labelers: Labelers,
    counts: np.ndarray,
    agreement: np.ndarray,
    typical: float,
    placed: bool,
) -> list[LabelerReliability]:
    """One row per labeler. `agreement` (L,): share of ordered votes that go with the consensus, NaN without any.
    `typical`: reliability of the typical honest labeler. `placed`: are any display places known."""
    error = np.sqrt(labelers.var_b)
    known = counts >= FEW_RANKINGS
    unreliable = is_unreliable(labelers.b, error, typical) & known
    biased = is_position_biased(labelers) & known
    rows = []
    for index, name in enumerate(names):
        b, e = float(labelers.b[index]), float(error[index])
        kind = kind_of(
            b, e, bool(biased[index]), bool(unreliable[index]), int(counts[index]), typical
        )
        flagged = bool(unreliable[index] or biased[index])
        bias = float(labelers.g[index]) if placed else None
        rows.append(
            LabelerReliability(
                labeler_id=name,
                reliability=_clip(b),
                low=_clip(b - TWO_SIDED * e),
                high=_clip(b + TWO_SIDED * e),
                noise=float(np.sqrt(labelers.s2[index])),
                position_bias=bias,
                count=int(counts[index]),
                kind=kind,
                flagged=flagged,
                evidence=evidence_of(kind, float(agreement[index]), bias, int(counts[index])),
            )
        )
    return rows


def _clip(value: float) -> float:
    return float(min(1.0, max(-1.0, value)))


def evidence_of(kind: str, agreement: float, bias: float | None, count: int) -> str:
    """The evidence for a kind, in one sentence."""
    rankings = f"{count} ranking{'' if count == 1 else 's'}"
    if not np.isfinite(agreement):
        return f"None of {rankings} puts one completion above another where the consensus has an order."
    share = f"{agreement:.0%} of the ordered pairs in {rankings} go with the consensus"
    if kind == "too-few-to-tell":
        return f"{share}, but fewer than {FEW_RANKINGS} rankings are too few to tell."
    if kind == "position-biased":
        where = "first" if (bias or 0) > 0 else "last"
        return f"The answers follow the place on the screen more than the text: what is shown {where} wins; {share}."
    if kind == "reversed":
        return f"Only {share}: the scale seems to be read the wrong way round."
    if kind == "random":
        return f"{share}, which is about what clicking at random gives."
    if kind == "noisy":
        return f"{share}: the direction is right, with many slips."
    return f"{share}."
