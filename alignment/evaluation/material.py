"""What an evaluation works on: completions of several models to the same prompts, with their scores and likelihoods.

It lies in the evaluation's folder as JSONL, so that every figure can be computed again:

- `prompts.jsonl`: the prompts, in order.
- `completions_NAME.jsonl`: one completion of the model NAME a line: `completion_id`, `prompt_id`, `text`, `finished`,
  `tokens`, and where known `base_nll` and `own_nll` (-log p in nats under the reference and under the model itself),
  `base_tokens` (the tokens that `base_nll` is summed over), `toxicity` (scorer -> score) and `spans` (the places of
  toxic words, as pairs of character offsets).
- `probe.jsonl`, where a forgetting probe was given: -log p of each general text under each model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import InputError
from alignment.files import read_jsonl, write_jsonl
from alignment.records import Completion, Prompt

PROMPTS_FILE, PROBE_FILE = "prompts.jsonl", "probe.jsonl"
MIN_PROMPTS = 2
MIN_PROMPTS_FOR_VERDICT = (
    10  # below, even the widened interval misses the truth too often on skewed scores
)
_NAME = re.compile(r"[\w.@+-]{1,60}")

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ModelCompletions:
    """What one model said, and how likely the base model finds it.

    `negative_log_likelihood`: nats per completion under the base model, summed over its tokens, shape [n].
    `tokens`: tokens per completion that it is summed over, shape [n]. Both in the order of `completions`, or both None.
    `own_nll`: nats per completion under the model itself, shape [n]; None where it is not known or where the model
    reads other tokens than the base, so that no KL is defined. `source`: the folder or hub id.
    """

    name: str
    completions: Sequence[Completion]
    negative_log_likelihood: np.ndarray | None = None
    tokens: np.ndarray | None = None
    own_nll: np.ndarray | None = None
    source: str = ""

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]


@dataclass(frozen=True, slots=True)
class ScorerCard:
    """A scorer as a report names it. `trained_policy`: it (or what it labelled) trained a policy under comparison."""

    name: str
    blind_spots: str
    trained_policy: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Held-out general text under each model: `nll[name]` in nats per text, shape [texts]; `sizes`: UTF-8 bytes."""

    nll: Mapping[str, np.ndarray]
    sizes: np.ndarray


@dataclass(frozen=True, slots=True)
class Material:
    """The completions of all models, the reference first, and their scores.

    `scores`: scorer name -> for each model its scores, shape [n]. `spans`: completion id -> places of toxic words.
    """

    prompts: tuple[Prompt, ...]
    models: tuple[ModelCompletions, ...]
    scorers: tuple[ScorerCard, ...]
    scores: Mapping[str, Sequence[np.ndarray]]
    spans: Mapping[str, Spans] = field(default_factory=dict)
    probe: Probe | None = None

    def groups(self) -> list[np.ndarray]:
        """For each model the place of each completion's prompt, shape [n]."""
        index = {prompt.prompt_id: i for i, prompt in enumerate(self.prompts)}
        return [np.array([index[c.prompt_id] for c in m.completions]) for m in self.models]


def check_names(names: Sequence[str]) -> None:
    """`InputError` unless the names are distinct and can be part of a file's name."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"A model cannot be called {name!r}: use letters, digits and . _ - + @, at most 60 characters."
            )
    if twice := next((n for n in names if list(names).count(n) > 1), None):
        raise InputError(f"Two models are called {twice!r}. Give each a name of its own.")


def answered(prompts: Sequence[Prompt], models: Sequence[ModelCompletions]) -> list[Prompt]:
    """The prompts that the models answered, after checking that they can be paired.

    Prompts that no model answered are left out. Raises `InputError` where fewer than two are left, where a prompt has
    completions from some models only, or where completions name an unknown prompt.
    """
    known = {prompt.prompt_id for prompt in prompts}
    if len(known) < len(prompts):
        raise InputError("Two prompts have the same prompt_id. Give each prompt an id of its own.")
    sides = [{c.prompt_id for c in model.completions} for model in models]
    for model, side in zip(models, sides, strict=True):
        if unknown := sorted(side - known):
            raise InputError(
                f"The completions of {model.name} name the prompt {unknown[0]!r}, which is not among the prompts. "
                "Give the prompts file from which they were sampled."
            )
        nll, count = model.negative_log_likelihood, len(model.completions)
        if nll is not None and len(nll) != count:
            raise InputError(
                f"{model.name} has {count} completions but log-likelihoods for {len(nll)}. Score all of its "
                "completions under the base model."
            )
    everything = set().union(*sides)
    for model, side in zip(models, sides, strict=True):
        if unpaired := sorted(everything - side):
            raise InputError(
                f"The prompt {unpaired[0]!r} has no completions from {model.name}. A paired comparison needs "
                "completions of the same prompts from every model: sample the missing ones."
            )
    if len(everything) < MIN_PROMPTS:
        raise InputError(
            f"A comparison needs completions of at least {MIN_PROMPTS} prompts from both models, and "
            f"{MIN_PROMPTS_FOR_VERDICT} for a verdict; there are {len(everything)}. Add held-out prompts."
        )
    return [prompt for prompt in prompts if prompt.prompt_id in everything]


def save_material(folder: Path, material: Material) -> None:
    """Write the files that the head of this module describes."""
    write_jsonl(folder / PROMPTS_FILE, [p.to_json() for p in material.prompts])
    for place, model in enumerate(material.models):
        rows = [_row(material, place, i) for i in range(len(model.completions))]
        write_jsonl(folder / f"completions_{model.name}.jsonl", rows)
    if material.probe is not None:
        names = list(material.probe.nll)
        columns = np.stack([material.probe.nll[name] for name in names], axis=1)
        write_jsonl(
            folder / PROBE_FILE,
            [
                {"bytes": int(size), "nll": dict(zip(names, row.tolist(), strict=True))}
                for size, row in zip(material.probe.sizes, columns, strict=True)
            ],
        )


def _row(material: Material, place: int, i: int) -> dict[str, Any]:
    model = material.models[place]
    completion = model.completions[i]
    row = completion.to_json()
    for key, values in (
        ("base_nll", model.negative_log_likelihood),
        ("base_tokens", model.tokens),
        ("own_nll", model.own_nll),
    ):
        if values is not None:
            row[key] = float(values[i])
    row["toxicity"] = {
        card.name: float(material.scores[card.name][place][i]) for card in material.scorers
    }
    if spans := material.spans.get(completion.completion_id):
        row["spans"] = [list(span) for span in spans]
    return row


def load_material(
    folder: Path, names: Sequence[str], scorers: Sequence[ScorerCard], sources: Sequence[str]
) -> Material:
    """The material that `save_material` wrote; `InputError` where a file is missing or was changed."""
    prompts = tuple(read_jsonl(folder / PROMPTS_FILE, Prompt.from_json))
    scores: dict[str, list[np.ndarray]] = {card.name: [] for card in scorers}
    models, spans = [], {}
    for name, source in zip(names, sources, strict=True):
        path = folder / f"completions_{name}.jsonl"
        rows = read_jsonl(path, dict)
        try:
            for card in scorers:
                scores[card.name].append(np.array([r["toxicity"][card.name] for r in rows], float))
        except (KeyError, TypeError):
            raise InputError(
                f"{path} lacks the scores of a scorer that the comparison names: it was changed after the evaluation. "
                "Run the evaluation again."
            ) from None
        completions = [Completion.from_json(row) for row in rows]
        for completion, row in zip(completions, rows, strict=True):
            if row.get("spans"):
                spans[completion.completion_id] = tuple((a, b) for a, b in row["spans"])
        base, tokens, own = (_column(rows, key) for key in ("base_nll", "base_tokens", "own_nll"))
        models.append(ModelCompletions(name, completions, base, tokens, own, source))
    answered(prompts, models)
    return Material(prompts, tuple(models), tuple(scorers), scores, spans, _load_probe(folder))


def _column(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray | None:
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else np.array(values, dtype=float)


def _load_probe(folder: Path) -> Probe | None:
    path = folder / PROBE_FILE
    if not path.is_file():
        return None
    rows = read_jsonl(path, dict)
    try:
        nll = {name: np.array([row["nll"][name] for row in rows]) for name in rows[0]["nll"]}
        return Probe(nll, np.array([row["bytes"] for row in rows], dtype=float))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} lacks likelihoods of its texts: it was changed after the evaluation. Run the evaluation again."
        ) from None


def without_tokens(model: ModelCompletions) -> ModelCompletions:
    """The model with the token counts of its completions left out: they cannot be held against other tokens."""
    return replace(model, completions=[replace(c, tokens=None) for c in model.completions])
