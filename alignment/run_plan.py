"""The plan of one run as the form of the control room has it: memory per process, time, and what would fit instead."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.config import Config
from alignment.errors import InputError, ModelError
from alignment.models.machines import Machine, machine
from alignment.models.shapes import SIZES, model_shape
from alignment.planning import PlanOptions, stage_plan, stage_setting

USUAL_PROMPT = 256  # tokens, where nothing can be counted
HUB_SECONDS = 4.0


def plan_run(
    config: Config, stage: str, devices: int, fsdp: bool, texts: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan of one run of `reward` or `ppo` on this machine, for the configuration as it is.

    `texts`: the longest `prompt` and `completion`, and the number of `completions` read (`run_data.longest_texts`).
    They are counted in tokens where the base has its tokenizer here, else taken as the usual lengths. Raises
    `ModelError` where the base cannot be reached, `InputError` on sizes or processes that cannot be.
    """
    name = config.base_model
    check_reachable(name)
    shape, held_against = model_shape(name), _shared(machine(None), devices)
    prompt, completion, counted = _lengths(config, stage, texts)
    if not counted and shape.max_length is not None:  # a guess is no reason to refuse
        prompt = max(1, min(prompt, shape.max_length - completion))
    if shape.max_length is not None and prompt + completion > shape.max_length:
        raise InputError(
            f"A prompt of {prompt} and a completion of {completion} tokens do not fit the context window of {name}, "
            f"{shape.max_length} tokens. Lower {'response_length' if stage == 'ppo' else 'max_length'}, or take "
            "shorter prompts."
        )
    options = PlanOptions(
        batch_size=_batch_size(config, stage, prompt + completion),
        prompt_length=prompt,
        completion_length=completion,
        devices=devices,
        fsdp=fsdp,
    )
    setting = stage_setting(stage, config, options, held_against.accelerator)
    planned = stage_plan(name, shape, setting, held_against, config)
    return {
        **planned,
        "machine": held_against.name,
        "total_seconds": _total_seconds(config, stage, planned, texts["completions"]),
        "tokens": {"prompt": prompt, "completion": completion, "counted": counted},
    }


def _shared(one: Machine, devices: int) -> Machine:
    """The part of this machine that each process has. Processes on a processor share its memory and its cores."""
    import torch

    if one.accelerator:
        found = torch.accelerator.device_count()
        if devices > found:
            raise InputError(
                f"This machine has {found} accelerator{'s' if found > 1 else ''}, too few for {devices} processes. "
                "Lower the number of processes, or start the run on several machines with --launch-config."
            )
        return one
    speed = {"flops": one.flops, "bandwidth": one.bandwidth}
    shared = {key: None if rate is None else rate / devices for key, rate in speed.items()}
    return replace(one, memory=one.memory // devices, **shared)


def _lengths(config: Config, stage: str, texts: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Tokens of the longest prompt and completion, and whether they were counted."""
    from alignment.models.loading import encode_completion, encode_prompt, load_tokenizer

    prompt, completion, counted = USUAL_PROMPT, config.ppo.response_length, False
    if texts["prompt"] is not None:
        with contextlib.suppress(ModelError):  # only the configuration is here, say
            tokenizer = load_tokenizer(_tokenizer_name(config.base_model))
            prompt, counted = len(encode_prompt(tokenizer, texts["prompt"])), True
            if stage == "reward" and texts["completion"] is not None:
                completion = len(encode_completion(tokenizer, texts["completion"]))
    if stage == "reward":  # what is longer is cut
        completion = min(completion, config.reward.max_length - 1)
        prompt = min(prompt, config.reward.max_length - completion)
    return prompt, completion, counted


def _tokenizer_name(name: str) -> str:
    from alignment.models.demo_model import DemoRecipe, demo_model_folder

    return str(demo_model_folder(DemoRecipe())) if name == "demo" else name


def _batch_size(config: Config, stage: str, length: int) -> int | None:
    """Of the reward model, as its limit in tokens allows."""
    most = config.reward.max_batch_tokens
    if stage != "reward" or most is None:
        return None
    return min(config.reward.per_device_train_batch_size, max(2, most // length))


def _total_seconds(
    config: Config, stage: str, planned: dict[str, Any], completions: int | None
) -> float | None:
    """Of the whole run, by the speed of this machine; None where that or the number of completions is not known."""
    if planned["seconds"] is None:
        return None
    once = sum(planned["seconds"].values())
    if stage == "ppo":
        return once * config.ppo.max_iterations
    if completions is None:
        return None
    setting, reward = planned["setting"], config.reward
    per_update = setting["batch_size"] * setting["accumulation"] * setting["devices"]
    trained = completions * (1 - reward.held_out_fraction) * (1 - reward.validation_fraction)
    return once * math.ceil(trained / per_update) * reward.num_train_epochs


def check_reachable(name: str) -> None:
    """`ModelError` where a hub id is neither kept on this machine nor answered for by the hub within a few seconds."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if name == "demo" or name.upper() in SIZES or Path(name).is_dir():
        return
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # no network, no such model, no permission: each has its own type
        raise ModelError(
            f"The base model {name!r} is neither kept on this machine nor can it be had from the hub now "
            f"({type(error).__name__}). Check the id and the network, or name a folder."
        ) from None
