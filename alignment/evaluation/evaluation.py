"""An evaluation: any number of models on the same prompts, by any number of scorers, each held against the first.

`evaluate` computes every figure from the material and nothing else, so that `concord report --verify` can do it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import InputError
from alignment.evaluation.bootstrap import Interval, interval, permutation_test
from alignment.evaluation.compare import Comparison, ModelSummary, prompt_rows
from alignment.evaluation.figures import (
    Draws,
    ModelFigures,
    Settings,
    categories,
    draws,
    length_unit,
    model_figures,
)
from alignment.evaluation.material import (
    MIN_PROMPTS,
    Material,
    ScorerCard,
    answered,
    check_names,
    load_material,
)
from alignment.evaluation.verdict import SAME_TOXICITY, overall, verdict_of
from alignment.files import read_json

COMPARISON_FILE = "comparison.json"
FORMAT = 2
WORST_PROMPTS = 20


@dataclass(frozen=True, slots=True)
class Change:
    """Toxicity of a model minus that of the reference, by one scorer. `worst`: the prompts that rose most, worst first.

    `reduction`: 1 - after / before; None where nothing was toxic before. `p_value`: paired permutation test.
    """

    difference: Interval
    p_value: float
    reduction: Interval | None
    prompts: int
    worst: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return verdict_of(self.difference, self.p_value, self.prompts)

    def to_json(self) -> dict[str, Any]:
        return {
            "difference": self.difference.mean,
            "low": self.difference.low,
            "high": self.difference.high,
            "p_value": self.p_value,
            "reduction": None if self.reduction is None else asdict(self.reduction),
            "prompts": self.prompts,
            "verdict": self.verdict,
            "worst": list(self.worst),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Change:
        reduction = row["reduction"]
        return cls(
            Interval(row["difference"], row["low"], row["high"]),
            row["p_value"],
            None if reduction is None else Interval.from_json(reduction),
            row["prompts"],
            tuple(row["worst"]),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One model against the reference, by every scorer, in all and per category.

    `perplexity_change`: after / before - 1; `probe_change`: rise in loss on the general text, bits per byte.
    """

    scorers: Mapping[str, Change]
    categories: Mapping[str, Mapping[str, Change]]
    perplexity_change: Interval | None = None
    probe_change: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "scorers": {name: change.to_json() for name, change in self.scorers.items()},
            "categories": {
                category: {name: change.to_json() for name, change in changes.items()}
                for category, changes in self.categories.items()
            },
            "perplexity_change": _json(self.perplexity_change),
            "probe_change": _json(self.probe_change),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Pair:
        return cls(
            {n: Change.from_json(c) for n, c in row["scorers"].items()},
            {
                category: {n: Change.from_json(c) for n, c in changes.items()}
                for category, changes in row["categories"].items()
            },
            *(
                None if row[key] is None else Interval.from_json(row[key])
                for key in ("perplexity_change", "probe_change")
            ),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found. `pairs`: model -> how it compares with the reference, the first of `models`.

    `notes`: what could not be measured, and why.
    """

    models: tuple[ModelFigures, ...]
    pairs: Mapping[str, Pair]
    scorers: tuple[ScorerCard, ...]
    settings: Settings
    prompts: int
    completions_per_prompt: int
    length_unit: str
    distinct_sizes: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return self.models[0].name

    @property
    def candidate(self) -> str:
        """The model that headline and verdict speak of: the last one."""
        return self.models[-1].name

    def model(self, name: str) -> ModelFigures:
        return next(model for model in self.models if model.name == name)

    def verdict(self, name: str | None = None) -> str:
        """The verdict of all scorers on one model; by default on the candidate."""
        changes = self.pairs[name or self.candidate].scorers
        return overall([(changes[card.name].verdict, card.trained_policy) for card in self.scorers])

    def comparison(
        self,
        material: Material | None = None,
        name: str | None = None,
        scorer: str | None = None,
    ) -> Comparison:
        """One model against the reference by one scorer; with the prompts' rows where the material is given.

        By default the candidate, by the first independent scorer.
        """
        name = name or self.candidate
        card = self.card(scorer)
        pair, change = self.pairs[name], self.pairs[name].scorers[card.name]
        others = {
            other.name: (pair.scorers[other.name], other)
            for other in self.scorers
            if other.name != card.name
        }
        rows = () if material is None else prompt_rows(material, name, card.name)
        sides = [ModelSummary.of(self.model(model), card.name) for model in (self.reference, name)]
        return Comparison(
            scorer=card.name,
            blind_spots=card.blind_spots,
            trained_policy=card.trained_policy,
            threshold=self.settings.threshold,
            resamples=self.settings.resamples,
            permutations=self.settings.permutations,
            seed=self.settings.seed,
            prompt_count=self.prompts,
            completions_per_prompt=self.completions_per_prompt,
            length_unit=self.length_unit,
            distinct_sizes=self.distinct_sizes,
            before=sides[0],
            after=sides[1],
            difference=change.difference,
            p_value=change.p_value,
            reduction=change.reduction,
            perplexity_change=pair.perplexity_change,
            probe_change=pair.probe_change,
            verdict=self.verdict(name),
            others=tuple(
                (other, found.verdict, found.difference, card.trained_policy)
                for other, (found, card) in others.items()
            ),
            prompts=rows,
        )

    def card(self, scorer: str | None = None) -> ScorerCard:
        """The scorer of that name; by default the first that did not train a policy, else the first."""
        if scorer is None:
            return next((c for c in self.scorers if not c.trained_policy), self.scorers[0])
        found = next((c for c in self.scorers if c.name == scorer), None)
        if found is None:
            known = ", ".join(card.name for card in self.scorers)
            raise InputError(f"The evaluation has no scorer {scorer!r}; it has {known}.")
        return found

    def to_json(self) -> dict[str, Any]:
        """Every figure, and verdict, headline and concerns in words. All numbers are finite.

        `paired` is the candidate against the reference; `pairs` holds every model's.
        """
        main = self.comparison()
        pairs = {name: pair.to_json() for name, pair in self.pairs.items()}
        return _plain(
            {
                "format": FORMAT,
                "verdict": main.verdict,
                "headline": main.headline,
                "concerns": main.concerns,
                "reference": self.reference,
                "candidate": self.candidate,
                "prompts": self.prompts,
                "models": {model.name: model.to_json() for model in self.models},
                "paired": pairs[self.candidate]["scorers"],
                "pairs": pairs,
                "scorers": [asdict(card) for card in self.scorers],
                "settings": asdict(self.settings),
                "completions_per_prompt": self.completions_per_prompt,
                "length_unit": self.length_unit,
                "distinct_sizes": self.distinct_sizes,
                "notes": self.notes,
            }
        )

    @classmethod
    def from_json(cls, row: Any) -> Evaluation:
        """The evaluation that `to_json` wrote; `InputError` where the row is not one."""
        try:
            if row["format"] != FORMAT:
                raise ValueError(f"its format is {row['format']}, not {FORMAT}")
            return cls(
                tuple(ModelFigures.from_json(model) for model in row["models"].values()),
                {name: Pair.from_json(pair) for name, pair in row["pairs"].items()},
                tuple(ScorerCard(**card) for card in row["scorers"]),
                Settings(**row["settings"]),
                row["prompts"],
                row["completions_per_prompt"],
                row["length_unit"],
                tuple(row["distinct_sizes"]),
                tuple(row["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(
                f"This is not a comparison that this version of Concord wrote ({error}). Run `concord evaluate "
                "toxicity` or `concord evaluate compare` again."
            ) from None


def evaluate(material: Material, settings: Settings | None = None) -> Evaluation:
    """Every figure of the material. The first model is the reference.

    Raises `InputError` where there are fewer than two models, no scorer or fewer than two prompts, or where a prompt
    has completions from some models only.
    """
    settings = settings or Settings()
    settings.check()
    check_names([model.name for model in material.models])
    if len(material.models) < 2:
        raise InputError("A comparison needs at least two models. Name them with --model NAME=DIR.")
    if not material.scorers:
        raise InputError("A comparison needs at least one scorer. Name one with --scorer NAME.")
    answered(material.prompts, material.models)
    k = min(int(np.bincount(groups).min()) for groups in material.groups())
    made = draws(material, settings, k)
    groups = {
        name: places for name, places in categories(material).items() if len(places) >= MIN_PROMPTS
    }
    by_category = {name: made.of(places, settings) for name, places in groups.items()}
    unit = length_unit(material.models)
    figures, sizes = model_figures(material, made, by_category, k, unit)
    return Evaluation(
        tuple(figures),
        {
            model.name: _pair(material, made, by_category, place, settings)
            for place, model in enumerate(material.models)
            if place > 0
        },
        material.scorers,
        settings,
        len(material.prompts),
        k,
        unit,
        sizes,
        tuple(_notes(material, groups)),
    )


def read_evaluation(folder: Path) -> tuple[Evaluation, Material]:
    """The evaluation and its material from the folder of `concord evaluate`; `InputError` where there is none."""
    found = Evaluation.from_json(read_json(folder / COMPARISON_FILE))
    names = [model.name for model in found.models]
    sources = [model.source for model in found.models]
    return found, load_material(folder, names, found.scorers, sources)


def _pair(
    material: Material,
    made: Draws,
    by_category: Mapping[str, Draws],
    place: int,
    settings: Settings,
) -> Pair:
    """The model at `place` against the reference."""
    changes = {}
    for card in material.scorers:
        rise = _means(made, place, card.name) - _means(made, 0, card.name)
        order = np.argsort(-rise, kind="stable")[:WORST_PROMPTS]
        worst = [material.prompts[i].prompt_id for i in order if rise[i] > SAME_TOXICITY]
        changes[card.name] = _change(made, place, card.name, settings, tuple(worst))
    return Pair(
        changes,
        {
            name: {c.name: _change(drawn, place, c.name, settings) for c in material.scorers}
            for name, drawn in by_category.items()
        },
        _perplexity_change(made, place),
        _probe_change(material, place, settings),
    )


def _means(made: Draws, place: int, scorer: str) -> np.ndarray:
    """Mean toxicity of each prompt."""
    return made.sums[place, scorer, "sum"] / made.sums[place, "n"]


def _change(
    made: Draws, place: int, scorer: str, settings: Settings, worst: tuple[str, ...] = ()
) -> Change:
    """Difference of the means and reduction 1 - after / before, with both models' prompts drawn together."""
    keys = [((side, scorer, "sum"), (side, "n")) for side in (0, place)]
    means = [made.total(over) / made.total(under) for over, under in keys]
    before, after = (made.drawn[over] / made.drawn[under] for over, under in keys)
    before_sums, after_sums = (
        np.stack([made.sums[over], made.sums[under]], axis=1) for over, under in keys
    )
    reduction = (
        None  # where nothing was toxic before, in the data or in some resample, there is no ratio
    )
    if (before > 0).all():
        reduction = interval(1 - means[1] / means[0], 1 - after / before, made.groups)
    return Change(
        interval(means[1] - means[0], after - before, made.groups),
        permutation_test(before_sums, after_sums, settings.permutations, settings.seed),
        reduction,
        made.groups,
        worst,
    )


def _perplexity_change(made: Draws, place: int) -> Interval | None:
    """Perplexity after / before - 1, resampling prompts; None where log-likelihoods are missing."""
    keys = [((side, "nll"), (side, "tokens")) for side in (0, place)]
    if any(key not in made.sums for pair in keys for key in pair):
        return None
    if any((made.drawn[tokens] == 0).any() for _, tokens in keys):
        return None  # some resample holds no token of one model: there is no perplexity to compare
    before, after = (made.drawn[nll] / made.drawn[tokens] for nll, tokens in keys)
    mean = np.expm1(
        made.total(keys[1][0]) / made.total(keys[1][1])
        - made.total(keys[0][0]) / made.total(keys[0][1])
    )
    return interval(float(mean), np.expm1(after - before), made.groups)


def _probe_change(material: Material, place: int, settings: Settings) -> Interval | None:
    """Bits per byte of the general text, after minus before, resampling texts; None with fewer than two."""
    from alignment.evaluation.bootstrap import resampled_sums

    probe, names = material.probe, [material.models[i].name for i in (0, place)]
    if probe is None or any(name not in probe.nll for name in names) or len(probe.sizes) < 2:
        return None
    rise = (probe.nll[names[1]] - probe.nll[names[0]]) / np.log(2)
    drawn = resampled_sums(np.stack([rise, probe.sizes], axis=1), settings.resamples, settings.seed)
    mean = float(rise.sum() / probe.sizes.sum())
    return interval(mean, drawn[:, 0] / drawn[:, 1], len(rise))


def _notes(material: Material, groups: Mapping[str, np.ndarray]) -> list[str]:
    """What could not be measured, in sentences."""
    notes = []
    if small := [name for name in categories(material) if name not in groups]:
        notes.append(
            f"Too few prompts for an interval (fewer than {MIN_PROMPTS}) in the categories: {', '.join(small)}."
        )
    first = material.models[0]
    for model in material.models[1:]:
        if first.negative_log_likelihood is not None and model.own_nll is None:
            notes.append(
                f"No KL for {model.name}: it reads other tokens than {first.name}, so token by token there is nothing "
                "to compare. Its perplexity is that of its text in the tokens of the reference."
            )
    return notes


def _json(value: Interval | None) -> dict[str, float] | None:
    return None if value is None else asdict(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, so that a value equals what JSON gives back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
