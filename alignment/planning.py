"""`concord plan`: what SFT, the reward model and PPO need in memory and roughly in time, before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from alignment.config import Config
from alignment.errors import InputError

STAGES = ("sft", "reward", "ppo")


@dataclass(frozen=True)
class PlanOptions:
    """What may differ from the configuration; None takes the configuration's value."""

    model: str | None = None
    precision: str | None = None
    lora_rank: int | None = None
    full: bool = False
    batch_size: int | None = None
    prompt_length: int = 256
    completion_length: int | None = None
    rollout: int | None = None
    devices: int = 1
    fsdp: bool = False
    activation_checkpointing: bool | None = None
    machine: str | None = None


def plan(config: Config, options: PlanOptions) -> dict[str, Any]:
    """Memory per device and time of each stage, and whether it fits the machine.

    A full training is planned for SFT only, beside LoRA for the other stages. Raises `ModelError` on a model without a
    configuration, `InputError` on sizes that cannot be.
    """
    from alignment.models.machines import machine
    from alignment.models.shapes import model_shape

    name = options.model or config.base_model
    shape = model_shape(name)
    held_against = machine(options.machine)
    settings = [stage_setting(stage, config, options, held_against.accelerator) for stage in STAGES]
    longest = max(setting.length for setting in settings)
    if shape.max_length is not None and longest > shape.max_length:
        raise InputError(
            f"A prompt and a completion of {longest} tokens do not fit the context window of {name}, "
            f"{shape.max_length} tokens. Lower --prompt-length or --completion-length."
        )
    stages = {
        setting.stage: stage_plan(name, shape, setting, held_against, config)
        for setting in settings
    }
    return {
        "model": asdict(shape),
        "machine": {**asdict(held_against), "room": held_against.room},
        "stages": stages,
        "fits": all(stage["fits"] for stage in stages.values()),
    }


def stage_setting(stage: str, config: Config, options: PlanOptions, accelerator: bool) -> Any:
    """What is planned of a stage: the options, else the configuration."""
    from alignment.models.memory import Setting

    section: Any = config.reward if stage == "reward" else config.ppo
    rank = options.lora_rank or section.lora_rank
    full = options.full if stage == "sft" else stage == "reward" and config.reward.full_finetuning
    batch = options.batch_size or section.per_device_train_batch_size
    # `ppo.batch_size` counts the episodes of all devices, a `Setting` those of one.
    rollout = max(options.rollout or config.ppo.batch_size // options.devices, batch)
    precision = options.precision or config.base_precision
    if stage == "reward" and full and precision in ("fp16", "bf16"):
        precision = "fp32"  # what is trained is held in float32
    checkpointing = options.activation_checkpointing
    if checkpointing is None:
        checkpointing = getattr(section, "gradient_checkpointing", False)
    return Setting(
        stage=stage,  # pyright: ignore[reportArgumentType]
        precision=precision,  # pyright: ignore[reportArgumentType]
        lora_rank=None if full else rank,
        batch_size=batch,
        prompt_length=options.prompt_length,
        completion_length=options.completion_length or config.ppo.response_length,
        rollout=rollout,
        accumulation=_accumulation(stage, config, rollout, batch),
        devices=options.devices,
        sharding="fsdp" if options.fsdp else "ddp",
        activation_checkpointing=checkpointing,
        critic=config.ppo.critic,
        value_init=config.ppo.value_init,
        lora_layers=_hashable(section.lora_layers),
        reward_layers=_hashable(config.reward.lora_layers),
        share_lower_trunk=config.ppo.share_lower_trunk,
        merge_for_generation=config.ppo.merge_for_generation,
        accelerator=accelerator,
    )


def _hashable(names: str | list[Any]) -> Any:
    return names if isinstance(names, str) else tuple(names)


def _accumulation(stage: str, config: Config, rollout: int, batch: int) -> int:
    """Passes before each update."""
    if stage == "ppo":
        return max(1, rollout // (batch * config.ppo.num_mini_batches))
    return config.reward.gradient_accumulation_steps if stage == "reward" else 1


def stage_plan(name: str, shape: Any, setting: Any, machine: Any, config: Config) -> dict[str, Any]:
    """Memory by moment, the room, whether it fits, what would, and seconds per step or phase."""
    memory = _memory(name, shape, setting, config)
    fits = memory.peak.total <= machine.room
    return {
        **memory.to_json(),
        "room_bytes": machine.room,
        "fits": fits,
        "what_would_fit": [] if fits else _what_would_fit(name, shape, setting, machine, config),
        "seconds": _seconds(shape, setting, machine, config),
    }


def _memory(name: str, shape: Any, setting: Any, config: Config) -> Any:
    from alignment.models.memory import plan_memory

    section = config.reward if setting.stage == "reward" else config.ppo
    targets = _hashable(section.lora_target_modules)
    kept = _counted(name, setting.precision, setting.accelerator, setting.lora_rank, targets)
    return plan_memory(shape, kept, setting)


@lru_cache(maxsize=32)
def _counted(
    name: str, precision: str, accelerator: bool, rank: int | None, targets: str | tuple[str, ...]
) -> Any:
    """Activations of the model; the same count serves several stages and settings."""
    from alignment.models.activations import count_activations
    from alignment.models.quantization import training_dtypes
    from alignment.models.shapes import model_config

    dtype, autocast = training_dtypes(precision, accelerator)
    return count_activations(
        model_config(name),
        dtype=dtype,
        autocast=autocast,
        lora_rank=rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


def _seconds(shape: Any, setting: Any, machine: Any, config: Config) -> Any:
    """Per step, or for PPO per iteration by phase; None where the machine's speed is not known."""
    from alignment.models.duration import iteration_seconds, step_seconds

    if setting.stage != "ppo":
        seconds = step_seconds(shape, setting, machine)
        return None if seconds is None else {"step": seconds}
    return iteration_seconds(shape, setting, machine, config.ppo.num_ppo_epochs)


def _what_would_fit(name: str, shape: Any, setting: Any, machine: Any, config: Config) -> list[str]:
    """Single changes, and checkpointing with a batch of 1, after which the stage fits; the mildest first."""
    from alignment.models.quantization import QUANTISED

    lean = {"activation_checkpointing": True, "batch_size": 1}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("activation checkpointing", {"activation_checkpointing": True}),
        ("a batch of 1 per device, accumulated", {"batch_size": 1}),
        ("activation checkpointing and a batch of 1", lean),
    ]
    if setting.lora_rank is None:
        changes.append(("LoRA of rank 16, lean", {**lean, "lora_rank": 16}))
    else:
        changes += [
            (f"{p}, activation checkpointing and a batch of 1", {**lean, "precision": p})
            for p in ("bf16", "int8", "int4")
            if (p != setting.precision and setting.sharding == "ddp") or p == "bf16"
        ]
    changes += [
        (
            f"FSDP over {n} devices, activation checkpointing and a batch of 1",
            {**lean, "devices": n, "sharding": "fsdp"},
        )
        for n in (2, 4, 8)
        if n > setting.devices and setting.accelerator and setting.precision not in QUANTISED
    ]
    found = []
    for words, change in changes:
        other = replace(setting, **change)
        if other != setting and _memory(name, shape, other, config).peak.total <= machine.room:
            found.append(words)
    return found[:3]
