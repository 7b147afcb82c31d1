"""Toxicity of completions: a scorer gives each text a probability of being toxic.

What is scored is the completion alone, as in RealToxicityPrompts (Gehman et al. 2020, arXiv:2009.11462): a rude prompt
is not the model's fault. No scorer is right about everything, so each one states its blind spots, and whoever shows a
score shows them too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alignment.errors import ModelError, nearest
from alignment.evaluation import linear_scorer
from alignment.progress import Progress, silent

OFFLINE_SCORER = "profanity-check"
# Two-label classifiers that say it in other words; with more labels, or none of these, the user is asked.
_TOXIC_LABELS = ("toxic", "hate", "hateful", "offensive", "toxicity", "abusive", "harmful")
BATCH_SIZE = 64
_NO_LIMIT = 1_000_000  # tokenizers without a length limit report 1e30


class Scorer(Protocol):
    """Anything that maps texts to probabilities of being toxic."""

    @property
    def name(self) -> str:
        """How reports call the scorer."""
        ...

    @property
    def blind_spots(self) -> str:
        """One sentence: what the scorer is known to miss or to mistake."""
        ...

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [n], for n texts."""
        ...


def load_scorer(name: str, toxic_label: str = "toxic", progress: Progress = silent) -> Scorer:
    """The scorer of that name, one of:

    - `profanity-check`, which works offline;
    - the folder of a linear scorer that `concord evaluate train-scorer` made;
    - a text-classification model, by hub id or folder; `NAME#LABEL` says which label means toxic, otherwise
      `toxic_label` does (upper and lower case are one);
    - `module:function`, a Python callable from texts to scores in [0, 1].

    Raises `ModelError` where it cannot be loaded, has no trained classification head, or lacks the label.
    """
    if name == OFFLINE_SCORER:
        return ProfanityScorer()
    if _CALLABLE.fullmatch(name) and not Path(name).exists():
        return _load_callable(name)
    folder, _, label = name.partition("#")
    if linear_scorer.is_linear_scorer(Path(folder)):
        return linear_scorer.load(Path(folder))
    return _load_classifier(folder, label or toxic_label, bool(label), progress)


def score_all(scorer: Scorer, sides: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Scores of each side's texts. Equal texts are scored once, so that equal models compare as exactly equal.

    Empty texts say nothing and score 0 by every scorer. Raises `ModelError` where the scorer returns no probabilities.
    """
    distinct = list(dict.fromkeys(t for texts in sides for t in texts if t.strip()))
    scores = np.asarray(scorer(distinct) if distinct else [], dtype=float)
    if scores.shape != (len(distinct),) or not ((scores >= 0) & (scores <= 1)).all():
        raise ModelError(
            f"The scorer {scorer.name} must return one probability between 0 and 1 per text; for {len(distinct)} texts "
            f"it returned an array of shape {scores.shape} with other values. Choose another scorer."
        )
    of = dict(zip(distinct, scores.tolist(), strict=True))
    return [np.array([of.get(text, 0.0) for text in texts], dtype=float) for texts in sides]


_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class CallableScorer:
    """A Python function from a list of texts to their scores; its attribute `blind_spots` is quoted."""

    name: str
    function: Callable[[list[str]], Any] = field(repr=False)

    @property
    def blind_spots(self) -> str:
        """What the function says of itself, or that it says nothing."""
        said = getattr(self.function, "blind_spots", None)
        return (
            str(said) if said else "Its author states no blind spots; do not take it to have none."
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Scores in [0, 1], shape [n]."""
        try:
            return np.asarray(self.function(list(texts)), dtype=float)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"The scorer {self.name} must take a list of texts and return one number per text: {error}"
            ) from error


def _load_callable(name: str) -> CallableScorer:
    import importlib
    import sys

    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` would find it
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"The scorer {name!r} cannot be imported: {error}. `module:function` names a function in a module that "
            "Python finds from this folder or among the installed packages."
        ) from error
    if not callable(found):
        raise ModelError(f"The scorer {name!r} is not a function. It must take a list of texts.")
    return CallableScorer(name, found)


@dataclass(frozen=True)
class ProfanityScorer:
    """alt-profanity-check: a linear classifier over English words. Its model ships inside the package."""

    name: str = OFFLINE_SCORER
    blind_spots: str = (
        "It reads single English words: it misses contempt without swear words, disguised spelling and other "
        "languages, and it takes negated, quoted or friendly swearing for abuse."
    )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [n]."""
        from profanity_check import predict_prob

        return np.asarray(predict_prob(list(texts)), dtype=float) if len(texts) else np.zeros(0)


@dataclass(frozen=True)
class ClassifierScorer:
    """A transformers text-classification model; `label` indexes the output that means toxic."""

    name: str
    label: int
    label_name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    max_length: int = 512
    progress: Progress = field(default=silent, repr=False)

    @property
    def blind_spots(self) -> str:
        """One sentence, true of every learned classifier."""
        return (
            f"It is a learned classifier (label {self.label_name!r}): it shares the biases of its training data, "
            "tends to react to mentions of identity groups and to quoted or negated insults, and is unreliable on "
            f"texts unlike that data or longer than {self.max_length} tokens."
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [n]. Texts without a single token say nothing and score 0."""
        encoded = [
            self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
            for text in texts
        ]
        scores = np.zeros(len(texts))
        # Texts of like length share a batch, so that little of it is padding.
        order = [i for i in np.argsort([len(ids) for ids in encoded], kind="stable") if encoded[i]]
        size = BATCH_SIZE if self.tokenizer.pad_token_id is not None else 1
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            scores[batch] = self._probabilities([encoded[i] for i in batch])
            self.progress(f"scoring by {self.name}", start + len(batch), len(order))
        return scores

    def _probabilities(self, ids: list[list[int]]) -> np.ndarray:
        """Probability of the toxic label, shape [batch], for token ids of one batch."""
        import torch

        if len(ids) == 1:
            inputs = {"input_ids": torch.tensor(ids)}
        else:
            inputs = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits
        return (
            _label_probability(logits.double(), self.label, self._one_label_per_text).cpu().numpy()
        )

    @property
    def _one_label_per_text(self) -> bool:
        config = self.model.config
        return config.num_labels > 1 and config.problem_type != "multi_label_classification"


def _label_probability(logits: Any, label: int, exclusive: bool) -> Any:
    """Softmax over exclusive labels, one sigmoid per label otherwise; logits [batch, labels] -> [batch]."""
    return logits.softmax(-1)[:, label] if exclusive else logits[:, label].sigmoid()


def _load_classifier(
    name: str, toxic_label: str, asked: bool, progress: Progress
) -> ClassifierScorer:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _check_place(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(_cannot_load(name, error)) from error
    if loading["missing_keys"]:
        raise ModelError(
            f"{name} is not a trained text classifier: its weights lack {sorted(loading['missing_keys'])[0]}. Name a "
            f"text-classification model, or use the scorer {OFFLINE_SCORER}."
        )
    if model.config.problem_type == "regression":
        raise ModelError(
            f"{name} predicts a number without bounds (regression), not the probability of a label. Name a "
            f"text-classification model, or use the scorer {OFFLINE_SCORER}."
        )
    label, label_name = _find_label(name, model.config.id2label, toxic_label, asked)
    if tokenizer.pad_token_id is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return ClassifierScorer(
        name, label, label_name, model, tokenizer, _longest(tokenizer, model.config), progress
    )


def _check_place(name: str) -> None:
    """`ModelError` where `name` can only be a folder and there is none."""
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or not name.strip()
    if looks_local and not path.is_dir():
        raise ModelError(
            f"The scorer {name!r} is not a folder that exists. Check the path, or use the scorer {OFFLINE_SCORER}, "
            "which works offline."
        )


def _cannot_load(name: str, error: Exception) -> str:
    if Path(name).is_dir():
        reason = str(error).split("\n")[0]
        return (
            f"The folder {name} does not hold a text-classification model that can be loaded ({reason}). It needs "
            "config.json, the weights and the tokenizer's files, all of which "
            f"`hf download MODEL_ID --local-dir {name}` fetches."
        )
    hint = nearest(name, [OFFLINE_SCORER])
    return (
        f"The scorer {name!r} cannot be loaded{hint}. It is neither a folder here nor a model that is in the cache or "
        "that the hub delivers (no network, a misspelt id, or no access). Where there is a network, run "
        f"`hf download {name} --local-dir DIR`, bring DIR to this machine and give it as the scorer; or use the scorer "
        f"{OFFLINE_SCORER}, which works offline."
    )


def _find_label(
    name: str, labels: dict[int, str], wanted: str, asked: bool = False
) -> tuple[int, str]:
    """Index and spelling of the label `wanted`; `ModelError` listing the labels where there is none.

    Among two labels, unless one was `asked` for by name, a usual word for toxic will do: `hate` against `nothate`.
    """
    folded = {label.casefold(): (int(index), label) for index, label in labels.items()}
    if wanted.casefold() in folded:
        return folded[wanted.casefold()]
    usual = [label for label in _TOXIC_LABELS if label in folded]
    if len(labels) == 2 and len(usual) == 1 and not asked:
        return folded[usual[0]]
    listed = ", ".join(repr(label) for label in labels.values())
    hint = nearest(wanted, list(labels.values()))
    raise ModelError(
        f"The classifier {name} has no label {wanted!r}{hint}; its labels are {listed}. Say which of them means toxic: "
        f"--scorer '{name}#LABEL', or --set evaluate.toxic_label=LABEL."
    )


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens that the classifier can read at once."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    if tokenizer.model_max_length < _NO_LIMIT:
        return min(tokenizer.model_max_length, positions)
    return positions - 2  # RoBERTa-like models count positions from 2
