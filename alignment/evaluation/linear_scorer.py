"""A toxicity scorer to train in seconds, without a hub: logistic regression on TF-IDF of words and characters.

It exists so that there can be a second judge, independent of the first, on a machine without a network. The folder
holds `scorer.json` (what it was trained on, held-out accuracy) and `weights.npz`; loading it executes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from alignment.errors import InputError, ModelError
from alignment.files import disk_errors, read_json, write_json

SCORER_FILE, WEIGHTS_FILE = "scorer.json", "weights.npz"
HELD_OUT = 0.1
MIN_TEXTS_OF_A_KIND = 20
_BUCKETS = 2**17  # per kind of feature
_CHUNK = 20_000  # texts vectorised at once


@dataclass(frozen=True)
class LinearScorer:
    """`weights`: [features], of words and word pairs first, then of character runs; `idf` likewise."""

    name: str
    weights: np.ndarray = field(repr=False)
    idf: np.ndarray = field(repr=False)
    bias: float
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def blind_spots(self) -> str:
        """One sentence, with what it was trained on."""
        return (
            f"It is a linear classifier over words and character runs, trained on {self.about['texts']:,} texts "
            f"(held-out accuracy {self.about['held_out_accuracy']:.1%}): it knows no grammar, so it misses negation "
            "and irony, and is unreliable on texts unlike those."
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [n]."""
        parts = [
            1 / (1 + np.exp(-(self._features(texts[i : i + _CHUNK]) @ self.weights + self.bias)))
            for i in range(0, len(texts), _CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _features(self, texts: Sequence[str]) -> sparse.csr_matrix:
        return _weighted(self._counts(texts), self.idf)

    @cached_property
    def _counts(self) -> Any:
        return counter()


def counter() -> Any:
    """Texts -> hashed counts [n, features]: words and word pairs, and runs of 2 to 4 characters within words."""
    from sklearn.feature_extraction.text import HashingVectorizer

    common: dict[str, Any] = {"n_features": _BUCKETS, "alternate_sign": False, "norm": None}
    kinds = [
        HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common),
        HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), **common),
    ]

    def count(texts: Sequence[str]) -> sparse.csr_matrix:
        return sparse.csr_matrix(sparse.hstack([kind.transform(list(texts)) for kind in kinds]))

    return count


def _weighted(counts: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """Sublinear TF-IDF, each row of length 1."""
    counts = counts.copy()
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(1)).ravel())
    scale = sparse.diags(1 / np.where(norms > 0, norms, 1.0))
    return sparse.csr_matrix(scale @ counts)


def train(texts: Sequence[str], toxic: Sequence[bool], name: str, seed: int = 0) -> LinearScorer:
    """Train on texts and whether each is toxic; a tenth is held out for the stated accuracy, then all are used.

    Equal texts are kept on one side. Raises `InputError` with fewer than 20 texts of either kind.
    """
    labels = np.array(toxic, dtype=bool)
    kinds = int(labels.sum()), int((~labels).sum())
    if min(kinds) < MIN_TEXTS_OF_A_KIND:
        raise InputError(
            f"A scorer needs at least {MIN_TEXTS_OF_A_KIND} toxic and as many other texts; there are {kinds[0]} and "
            f"{kinds[1]}."
        )
    from sklearn.linear_model import LogisticRegression

    counts = counter()(texts)
    idf = np.log((1 + len(texts)) / (1 + np.asarray((counts > 0).sum(0)).ravel())) + 1
    features = _weighted(counts, idf)
    distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    held = np.random.default_rng(seed).random(len(distinct)) < HELD_OUT
    out = held[[distinct[text] for text in texts]]

    def fit(rows: np.ndarray) -> Any:
        model = LogisticRegression(
            C=10.0, class_weight="balanced", solver="liblinear", random_state=seed
        )
        return model.fit(features[rows], labels[rows])

    accuracy = float(fit(~out).score(features[out], labels[out])) if out.any() else float("nan")
    model = fit(np.ones(len(texts), dtype=bool))
    about = {"texts": len(texts), "toxic": kinds[0], "held_out_accuracy": accuracy, "seed": seed}
    return LinearScorer(name, model.coef_[0], idf, float(model.intercept_[0]), about)


def save(scorer: LinearScorer, folder: Path) -> None:
    """Write the scorer's folder."""
    used = np.flatnonzero(scorer.weights)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        used=used,
        weights=scorer.weights[used].astype(np.float32),
        idf=scorer.idf.astype(np.float32),
        bias=np.float64(scorer.bias),
    )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_FILE).write_bytes(buffer.getvalue())
    write_json(folder / SCORER_FILE, {"kind": "linear", "name": scorer.name, **scorer.about})


def is_linear_scorer(folder: Path) -> bool:
    """Whether the folder holds a scorer that `save` wrote."""
    return (folder / SCORER_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def load(folder: Path) -> LinearScorer:
    """The scorer in `folder`; `ModelError` where its files are damaged."""
    about = read_json(folder / SCORER_FILE)
    try:
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as stored:
            idf = stored["idf"].astype(float)
            weights = np.zeros(len(idf))
            weights[stored["used"]] = stored["weights"]
            bias = float(stored["bias"])
        return LinearScorer(str(about["name"]), weights, idf, bias, about)
    except (KeyError, ValueError, OSError, IndexError) as error:
        raise ModelError(
            f"The scorer in {folder} is damaged ({error}). Train it again: `concord evaluate train-scorer`."
        ) from error
