"""Agreement among labelers: Kendall's W and tau-b per prompt, Krippendorff's alpha, pairwise agreement, components.

Everything is vectorised over prompts, with memory linear in the rankings. A figure that is not defined is NaN in these
arrays; `consensus` turns it into None with the reason. Ranks are (R, K), 0 is unranked; rows are sorted by prompt.
"""

from __future__ import annotations

from functools import lru_cache

import krippendorff
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from alignment.feedback.pair_votes import PairVotes

BOOTSTRAP_BLOCKS = 400
BOOTSTRAP_RESAMPLES = 1000
MOST_UNITS = 20_000


def mid_ranks(ranks: np.ndarray) -> np.ndarray:
    """(R, K) ranks from 1 among the ranked completions, tied ones sharing the mean; 0 where unranked."""
    mid = np.zeros(ranks.shape)
    for k in range(ranks.shape[1]):
        other = ranks[:, k, None]
        mid += np.where(other > 0, (other < ranks) + 0.5 * (other == ranks), 0)
    return np.where(ranks > 0, mid + 0.5, 0.0)


def kendall_w(ranks: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(P,) Kendall's coefficient of concordance, corrected for ties (Kendall and Gibbons 1990, section 6.10).

    W = 12 S / (m^2 (n^3 - n) - m sum_r T_r). Random rankings average 1/m, not 0. NaN where fewer than two labelers
    ranked, where they ranked different completions, or where all rankings are all ties.
    """
    ranked = ranks > 0
    m = np.diff(np.append(starts, len(ranks))).astype(float)
    n = np.add.reduceat(ranked.sum(axis=1), starts) / m
    same = (np.add.reduceat(ranked.astype(int), starts, axis=0) % m[:, None].astype(int) == 0).all(
        axis=1
    )
    sums = np.add.reduceat(mid_ranks(ranks), starts, axis=0)
    inside = sums > 0
    deviation = np.where(inside, sums - (m * (n + 1) / 2)[:, None], 0)
    tie_term = np.add.reduceat(_tie_terms(ranks), starts)
    bound = m**2 * (n**3 - n) - m * tie_term
    defined = (m >= 2) & same & (bound > 0)
    return np.where(defined, 12 * (deviation**2).sum(axis=1) / np.where(defined, bound, 1), np.nan)


def _tie_terms(ranks: np.ndarray) -> np.ndarray:
    """(R,) sum over groups of t tied completions of t^3 - t."""
    level = np.zeros(ranks.shape)
    for k in range(ranks.shape[1]):
        level += (ranks[:, k, None] == ranks) & (ranks > 0)
    return np.where(ranks > 0, level**2 - 1, 0).sum(axis=1)  # each of the t members adds t^2 - 1


def mean_tau_b(votes: PairVotes, starts: np.ndarray) -> np.ndarray:
    """(P,) mean Kendall tau-b over all pairs of rankings of a prompt (Kendall 1945, Biometrika 33:239).

    tau-b = sum s t / sqrt(sum s^2 sum t^2) over the pairs of completions that both rank, s and t their votes. Pairs of
    rankings of which one is all ties have none; NaN where no pair of rankings has one. Where all rankings of a prompt
    rank the same completions, the sum over pairs of rankings is that of unit vectors: (|sum s/|s||^2 - m) / 2.
    """
    norm = np.sqrt((votes.vote != 0).sum(axis=1))
    units = votes.vote / np.maximum(norm, 1)[:, None]
    ordered = np.add.reduceat((norm > 0).astype(float), starts)
    total = ((np.add.reduceat(units, starts, axis=0) ** 2).sum(axis=1) - ordered) / 2
    count = ordered * (ordered - 1) / 2
    same = np.logical_or.reduceat(votes.cast, starts) == np.logical_and.reduceat(votes.cast, starts)
    ends = np.append(starts[1:], len(votes.vote))
    for p in np.flatnonzero(~same.all(axis=1)):
        rows = slice(starts[p], ends[p])
        total[p], count[p] = _sum_tau_b(
            votes.vote[rows].astype(float), votes.cast[rows].astype(float)
        )
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sum_tau_b(vote: np.ndarray, cast: np.ndarray) -> tuple[float, int]:
    """Sum and number of the tau-b of all pairs of the rows of (m, N) votes, over the pairs that both cast."""
    product = vote @ vote.T
    own = vote**2 @ cast.T  # own[r, s]: ordered votes of r among those that s cast too
    norm = np.sqrt(own * own.T)
    upper = np.triu(norm > 0, 1)
    return float((product[upper] / norm[upper]).sum()), int(upper.sum())


def pairwise_agreement(votes: PairVotes) -> float | None:
    """Share of all pairs of labelers' votes on the same two completions that are the same; None without any."""
    cast = votes.wins + votes.losses + votes.ties
    both = (cast * (cast - 1)).sum()
    same = sum((c * (c - 1)).sum() for c in (votes.wins, votes.losses, votes.ties))
    return float(same / both) if both else None


def disagreement_shares(votes: PairVotes) -> np.ndarray:
    """(P,) each prompt's share of all pairs of votes that contradict each other; zeros where none do."""
    contradictions = (votes.wins * votes.losses).sum(axis=1).astype(float)
    return contradictions / max(contradictions.sum(), 1.0)


def value_counts(ranks: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(P K, V) how many labelers gave each rank to each completion: the units of Krippendorff's alpha."""
    values = max(int(ranks.max(initial=0)), 2)
    counts = [
        np.add.reduceat((ranks == v).astype(np.int32), starts, axis=0) for v in range(1, values + 1)
    ]
    return np.stack(counts, axis=-1).reshape(-1, values)


def coincidences(counts: np.ndarray, blocks: int, width: int) -> np.ndarray:
    """(blocks, V, V) coincidence matrices of (P width, V) counts, prompts dealt into the blocks in turn.

    o[c, k] = sum over units of n_c (n_k - [c = k]) / (m - 1) (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability).
    """
    prompts, values = len(counts) // width, counts.shape[1]
    pairable = counts.sum(axis=1)
    scale = np.where(pairable > 1, 1 / np.maximum(pairable - 1, 1), 0)
    missing = -prompts % blocks

    def dealt(units: np.ndarray) -> np.ndarray:
        """(blocks, units of the block, V) of (P width, V)."""
        padded = np.pad(units, ((0, missing * width), (0, 0)))
        return padded.reshape(-1, blocks, width, values).swapaxes(0, 1).reshape(blocks, -1, values)

    scaled, by_block = dealt(scale[:, None] * counts), dealt(counts.astype(float))
    result = scaled.swapaxes(1, 2) @ by_block
    diagonal = np.arange(values)
    result[:, diagonal, diagonal] -= scaled.sum(axis=1)
    return result


def ordinal_alpha(matrix: np.ndarray) -> np.ndarray:
    """(...,) Krippendorff's alpha for ordinal data of (..., V, V) coincidences; NaN where there is no variation.

    alpha = 1 - (n - 1) sum o d / sum n_c n_k d, d[c, k] = (sum of n from c to k - (n_c + n_k) / 2)^2.
    """
    totals = matrix.sum(axis=-1)
    middle = np.cumsum(totals, axis=-1) - totals / 2
    distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    observed = (matrix * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1))
    defined = expected > 0
    ratio = (totals.sum(axis=-1) - 1) * observed / np.where(defined, expected, 1)
    return np.where(defined, 1 - ratio, np.nan)


def krippendorff_alpha(
    counts: np.ndarray, width: int, seed: int
) -> tuple[float | None, tuple[float, float] | None]:
    """Krippendorff's alpha, ordinal, of (P width, V) counts, and its 95% bootstrap interval over prompts.

    None where they are not defined. Up to MOST_UNITS units the `krippendorff` package computes alpha, beyond that the
    same formula in linear memory. Prompts are resampled in at most BOOTSTRAP_BLOCKS blocks.
    """
    prompts = len(counts) // width
    blocks = min(prompts, BOOTSTRAP_BLOCKS)
    matrices = coincidences(counts, blocks, width)
    value = float(ordinal_alpha(matrices.sum(axis=0)))
    if not np.isfinite(value):
        return None, None
    if len(counts) <= MOST_UNITS:
        value = float(krippendorff.alpha(value_counts=counts, level_of_measurement="ordinal"))
    values = matrices.shape[-1]
    resampled = _draws(blocks, seed) @ matrices.reshape(blocks, -1)
    alphas = ordinal_alpha(resampled.reshape(-1, values, values))
    alphas = alphas[np.isfinite(alphas)]
    if prompts < 2 or len(alphas) < BOOTSTRAP_RESAMPLES // 2:
        return value, None
    low, high = np.quantile(alphas, [0.025, 0.975])
    return value, (float(low), float(high))


@lru_cache(maxsize=4)
def _draws(blocks: int, seed: int) -> np.ndarray:
    """(resamples, blocks) how often each bootstrap resample draws each block."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), BOOTSTRAP_RESAMPLES).astype(float)


def beyond_chance(z: np.ndarray, degrees: np.ndarray, starts: np.ndarray) -> float:
    """Agreement of all pairs of rankings of a prompt, in standard errors of what random rankings give.

    The sum of z_r . z_s over those pairs has mean 0 and variance sum |z_r|^2 |z_s|^2 / degrees if the rankings are
    random permutations (Hoeffding 1951, Annals of Mathematical Statistics 22:558). (R, K) scores, (R,) degrees of
    freedom. 0 where no prompt has two rankings.
    """
    square = np.einsum("rk,rk->r", z, z)
    total = np.add.reduceat(z, starts, axis=0)
    agreement = ((total**2).sum() - square.sum()) / 2
    scaled = square / np.sqrt(np.maximum(degrees, 1))
    variance = ((np.add.reduceat(scaled, starts) ** 2).sum() - (scaled**2).sum()) / 2
    return float(agreement / np.sqrt(variance)) if variance > 1e-12 else 0.0


def labeler_components(prompt: np.ndarray, labeler: np.ndarray) -> int:
    """Groups of labelers linked by shared prompts, of (R,) prompt and labeler of each ranking."""
    prompts, labelers = int(prompt.max()) + 1, int(labeler.max()) + 1
    size = prompts + labelers
    graph = sparse.coo_matrix(
        (np.ones(len(prompt)), (prompt, prompts + labeler)), shape=(size, size)
    )
    _, groups = connected_components(graph, directed=False)
    return len(np.unique(groups[prompts + labeler]))
