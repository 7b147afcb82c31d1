"""What a user could install instead, behind one signature: a table of rankings in, a probability per pair out.

crowd-kit and choix are needed for the benchmark alone; without them their rows are left out, and the table says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from alignment.feedback.pair_votes import votes_of
from alignment.feedback.ranking_table import RankingTable

Peer = Callable[[RankingTable], np.ndarray]


def installed_peers() -> dict[str, Peer]:
    """Name -> peer, of the packages that are installed."""
    peers: dict[str, Peer] = {}
    if find_spec("crowdkit"):
        peers["crowd-kit OneCoinDawidSkene"] = lambda table: _crowdkit_labels(
            table, "OneCoinDawidSkene"
        )
        peers["crowd-kit DawidSkene"] = lambda table: _crowdkit_labels(table, "DawidSkene")
        peers["crowd-kit NoisyBradleyTerry"] = _noisy_bradley_terry
    if find_spec("choix"):
        peers["choix Plackett-Luce"] = _plackett_luce
    return peers


def missing_peers() -> list[str]:
    """The packages that are not installed."""
    return [
        name
        for name, module in (("crowd-kit", "crowdkit"), ("choix", "choix"))
        if not find_spec(module)
    ]


def _comparisons(table: RankingTable) -> tuple[np.ndarray, ...]:
    """Every ordered vote: (prompt, pair, labeler, does first win)."""
    votes = votes_of(table.ranks, table.starts[:-1])
    row, pair = np.nonzero(votes.vote)
    return table.prompt[row], pair, table.labeler[row], votes.vote[row, pair] > 0


def _crowdkit_labels(table: RankingTable, method: str) -> np.ndarray:
    """(P, N) P(first is better) of a crowd-kit classifier: each pair of a prompt is a task, each vote a label."""
    import crowdkit.aggregation as aggregation
    import pandas as pd

    prompt, pair, labeler, first = _comparisons(table)
    width = table.ranks.shape[1]
    pairs = width * (width - 1) // 2
    frame = pd.DataFrame(
        {"task": prompt * pairs + pair, "worker": labeler, "label": first.astype(int)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimate = getattr(aggregation, method)(n_iter=100).fit_predict_proba(frame)
    result = np.full(len(table.prompt_ids) * pairs, 0.5)
    result[estimate.index.to_numpy()] = estimate[1].to_numpy() if 1 in estimate else 0.0
    return result.reshape(-1, pairs)


def _noisy_bradley_terry(table: RankingTable) -> np.ndarray:
    """(P, N) sigmoid of the score difference of crowd-kit's NoisyBradleyTerry, items named within their prompts."""
    import crowdkit.aggregation as aggregation
    import pandas as pd

    prompt, pair, labeler, first = _comparisons(table)
    width = table.ranks.shape[1]
    i, j = np.triu_indices(width, 1)
    left, right = prompt * width + i[pair], prompt * width + j[pair]
    frame = pd.DataFrame(
        {"worker": labeler, "left": left, "right": right, "label": np.where(first, left, right)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimate = aggregation.NoisyBradleyTerry(n_iter=100).fit_predict(frame)
    scores = np.zeros(len(table.prompt_ids) * width)
    scores[estimate.index.to_numpy()] = estimate.to_numpy()
    scores = scores.reshape(-1, width)
    return _sigmoid(scores[:, i] - scores[:, j])


def _plackett_luce(table: RankingTable) -> np.ndarray:
    """(P, N) choix's regularised Luce spectral ranking of each prompt; ties enter as comparisons left out."""
    import choix

    votes = votes_of(table.ranks, table.starts[:-1])
    scores = np.zeros((len(table.prompt_ids), table.ranks.shape[1]))
    wins: list[list[tuple[int, int]]] = [[] for _ in table.prompt_ids]
    for row, pair in zip(*np.nonzero(votes.vote), strict=True):
        i, j = int(votes.first[pair]), int(votes.second[pair])
        wins[table.prompt[row]].append((i, j) if votes.vote[row, pair] > 0 else (j, i))
    for p, data in enumerate(wins):
        scores[p] = choix.lsr_pairwise(scores.shape[1], data, alpha=0.1)
    return _sigmoid(scores[:, votes.first] - scores[:, votes.second])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
