"""The model card in the reward model's folder: what it is, how far to trust it, how to load it."""

from __future__ import annotations

from typing import Any

from alignment.evaluation import reward_table

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

{figures}

{warnings}
The texts of the examples it gets most wrong are in `trust.json` and `reward.html` beside this file.

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
        figures="\n".join(reward_table.markdown(trust)),
        warnings="".join(f"- {sentence}\n" for sentence in result["messages"]),
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
