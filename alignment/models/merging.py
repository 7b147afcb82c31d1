"""The policy out of the door: its adapter alone, or merged into the base as one model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from alignment.errors import ModelError
from alignment.files import read_json
from alignment.models.loading import load_causal_lm, load_tokenizer
from alignment.models.quantization import DTYPES
from alignment.models.trunk import BASE_FILE, describe, fingerprint, same_base

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_base(policy: Path) -> str:
    """The base model that a policy adapter was trained on.

    Raises `ModelError` where the folder holds no adapter, or does not name its base.
    """
    missing = [name for name in ADAPTER_FILES if not (policy / name).is_file()]
    if missing:
        raise ModelError(
            f"{policy} holds no policy adapter ({missing[0]} is missing). Give the folder of a finished "
            "`concord train ppo`."
        )
    name = read_json(policy / ADAPTER_FILES[0]).get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"The adapter in {policy} does not name its base model. Give it with --model."
        )
    return str(name)


def save_adapter(policy: Path, out: Path) -> None:
    """Copy the adapter with its tokenizer to `out`: what PEFT loads, and nothing of how it was trained."""
    for name in ADAPTER_FILES:
        shutil.copyfile(policy / name, out / name)
    load_tokenizer(policy).save_pretrained(str(out))


def save_merged(base: str | Path, policy: Path, out: Path, precision: str = "fp32") -> None:
    """Write base plus adapter as one model with its tokenizer: W + (alpha / r) B A (Hu et al. 2021, arXiv:2106.09685).

    Merged in float32, so that its logits are those of base plus adapter; saving in bf16 or fp16 rounds the weights.
    Raises `ModelError` where base and adapter do not belong together.
    """
    merged = merge(load_causal_lm(base), policy)
    merged.to(DTYPES[precision]).save_pretrained(str(out))
    load_tokenizer(policy).save_pretrained(str(out))


def merge(base: Any, policy: Path) -> Any:
    """`base` with the adapter of `policy` added to its weights; `base` itself is changed.

    Raises `ModelError` where the adapter was trained on another base.
    """
    from peft import PeftModel

    if (policy / BASE_FILE).is_file() and not same_base(base, read_json(policy / BASE_FILE)):
        raise ModelError(
            f"The policy in {policy} was trained on another base ({describe(read_json(policy / BASE_FILE))}) than this "
            f"one ({describe(fingerprint(base))}). Give the base that it was trained on with --model."
        )
    try:
        model: Any = PeftModel.from_pretrained(base, str(policy))
        return model.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The adapter in {policy} does not fit this base: {reason} Give the base that it was trained on "
            "with --model."
        ) from error
