"""The model card in the reward model's folder: what it is, how far to trust it, how to load it."""

from __future__ import annotations

from typing import Any

_CARD = """---
library_name: peft
base_model: {base_model}
tags: [reward-model, rlhf, concord]
---

# Reward model

A score for completions, learned by Concord from people's rankings of completions of `{base_model}`
({train_pairs} preference pairs to train on, {validation_pairs} to validate). Higher is better; only differences between
completions of one prompt mean something: `sigmoid((r1 - r2) / {temperature:.3g})` is the probability that a careful
labeler prefers the first.

## How far to trust it

Measured on {held_out_pairs} pairs of {held_out_prompts} prompts that it has not seen.

| figure | value |
|---|---|
{rows}

{by_margin}
{by_length}
{groups}
{warnings}
## Where it errs most

{worst}

Everything else is in `trust.json` and `reward.html` beside this file.

## Use

```python
{code}
```

The score is read at the last token, end-of-sequence. PPO normalises it by mean {score_mean:.4g} and standard deviation
{score_std:.4g}.{heads}

## Limits

It knows completions like those that were ranked. For others the score may be high without reason{unsure}.
It repeats the judgement of these labelers under their guidelines, faults included.
"""
_SHOWN, _LONGEST = 5, 120  # of the worst examples, and of their texts in characters
_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained("{base_model}", num_labels=1)
model = PeftModel.from_pretrained(base, "THIS FOLDER").eval()
score = model(input_ids=ids).logits  # ids [1, S]: prompt, completion, end-of-sequence"""
_WHOLE = """from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("THIS FOLDER").eval()
score = model(input_ids=ids).logits  # ids [1, S]: prompt, completion, end-of-sequence"""


def model_card(result: dict[str, Any], trust: dict[str, Any], about: dict[str, Any]) -> str:
    """The text of README.md. `result`: of `RewardResult`; `about`: base model and options, as in `reward.json`."""
    base = about["base_model"]
    full = about["config"]["full_finetuning"]
    with_heads = trust["uncertainty"] is not None
    return _CARD.format(
        base_model=base,
        rows="\n".join(f"| {name} | {value} |" for name, value in _rows(trust)),
        by_margin=_table("Accuracy by how sure the consensus is", "range", trust["by_margin"]),
        by_length=_table("Accuracy by prompt length", "range", trust["by_prompt_length"]),
        groups=_table("Agreement with labelers", "group", trust["by_labeler_group"]),
        warnings="".join(f"- {sentence}\n" for sentence in result["messages"]),
        worst=_worst(trust["worst"]),
        code=(_WHOLE if full else _ADAPTER.format(base_model=base)),
        heads=(
            " `heads.safetensors` holds the single heads, whose mean the score is."
            if with_heads
            else ""
        ),
        unsure=" (the heads then disagree, which Concord watches during PPO)" if with_heads else "",
        held_out_prompts=trust["held_out_prompts"],
        **{
            key: result[key]
            for key in (
                "train_pairs",
                "validation_pairs",
                "held_out_pairs",
                "temperature",
                "score_mean",
                "score_std",
            )
        },
    )


def _rows(trust: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("accuracy, with 95% interval", _with_interval(trust["accuracy"])),
        ("a trusted labeler's agreement with the other labelers", _with_interval(trust["ceiling"])),
        ("log loss, nats (of the labels themselves)", _losses(trust["log_loss"])),
        ("expected calibration error", _number(trust["calibration"]["ece"])),
        *_bias("length", trust["length_bias"]),
        *_bias("place on the labelers' screen", trust["position_bias"]),
    ]
    return [(name, value) for name, value in rows if value]


def _bias(quantity: str, bias: dict[str, float | None]) -> list[tuple[str, str]]:
    return [
        (f"correlation of score and {quantity}", _number(bias["correlation"])),
        (f"correlation of the labelers' preference and {quantity}", _number(bias["labels"])),
        (f"correlation of score and {quantity}, after correction", _number(bias["corrected"])),
    ]


def _worst(rows: list[dict[str, Any]]) -> str:
    """The held-out pairs of the highest loss, the texts in one line each."""
    lines = [
        f"- {_shown(row['prompt'])}: {row['probability']:.0%} for {_shown(row['chosen'])}, but the model scores "
        f"{_shown(row['rejected'])} higher ({row['rejected_score']:.2f} to {row['chosen_score']:.2f})"
        for row in rows[:_SHOWN]
    ]
    return "\n".join(lines) or "No held-out pair stands in the wrong order."


def _shown(text: str) -> str:
    short = " ".join(text.split()).replace("`", "'")
    return f"`{short[:_LONGEST]}{'…' if len(short) > _LONGEST else ''}`" if short else "(empty)"


def _table(title: str, key: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [f"| {row[key]} | {row['accuracy']:.1%} |" for row in rows]
    return "\n".join([f"| {title} | |", "|---|---|", *lines, ""])


def _with_interval(row: dict[str, float] | None) -> str:
    return f"{row['mean']:.1%} ({row['low']:.1%} to {row['high']:.1%})" if row else ""


def _losses(row: dict[str, float]) -> str:
    return f"{row['after']:.3f} ({row['of_labels']:.3f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
