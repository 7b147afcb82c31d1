"""Loading base models, tokenizers and adapters, and turning prompts and completions into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from alignment.errors import InputError, ModelError
from alignment.files import read_json
from alignment.models.distributed import is_sharded
from alignment.models.quantization import is_quantised, load_options
from alignment.records import PromptText, text_of


def device() -> torch.device:
    """The accelerator where there is one, the processor otherwise."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id, padding on the left (for generation).

    One without a padding token pads with end-of-sequence. Raises `ModelError` where there is no tokenizer, or where it
    has no end-of-sequence token.
    """
    _check_exists(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), padding_side="left")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"No tokenizer can be loaded from {name}. A model folder needs its tokenizer's files beside the weights "
            f"(tokenizer.json or the like): save it there with `tokenizer.save_pretrained`. ({_first_line(error)})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {name} has no end-of-sequence token, so no completion could end. Set `eos_token` in its "
            "tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, never from tokens
    return tokenizer


def load_causal_lm(name: str | Path, precision: str = "fp32") -> Any:
    """A causal language model from a folder or the hub, in evaluation mode, on the accelerator where there is one.

    A folder that holds a PEFT adapter gives its base model with the adapter applied. Raises `ModelError` where nothing
    can be loaded, or not in this precision.
    """
    _check_exists(name)
    options = load_options(precision)
    adapter = Path(name) / "adapter_config.json"
    try:
        if adapter.is_file():
            if read_json(adapter).get("task_type") == "SEQ_CLS":
                raise ModelError(
                    f"{name} holds a reward model, which scores and writes nothing. Name a policy: the folder of "
                    "`concord train ppo`."
                )
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(str(name), **options)
        else:
            model = AutoModelForCausalLM.from_pretrained(str(name), **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"No causal language model can be loaded from {name}: {_first_line(error)} Give the folder of a model "
            "saved with `save_pretrained`, or a hub id that this machine can reach."
        ) from error
    return placed(model).eval()


def placed(model: Any) -> Any:
    """The model on the accelerator where there is one, unless it is there already or FSDP will move its shards.

    A quantised model is there since it was loaded.
    """
    return model if is_sharded() or is_quantised(model) else model.to(device())


def turn_off_dropout(model: torch.nn.Module) -> None:
    """Set every dropout of the model to 0, also where a module keeps it as a plain number (OPT, GPT-Neo and others).

    PPO's probability ratio is 1 before the first update only where two forward passes agree.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and (name.endswith("dropout") or name == "layerdrop"):
                setattr(module, name, 0.0)


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end-of-sequence token; `load_tokenizer` has made sure of one."""
    return tokenizer.eos_token_id  # pyright: ignore[reportReturnType]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the padding token; `load_tokenizer` has made sure of one."""
    return tokenizer.pad_token_id  # pyright: ignore[reportReturnType]


def context_window(name_or_config: Any) -> int | None:
    """The longest sequence in tokens that the model takes, or None where its config does not say."""
    config = name_or_config
    if isinstance(name_or_config, str | Path):
        config = AutoConfig.from_pretrained(str(name_or_config))
    text_config = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        if isinstance(getattr(text_config, key, None), int):
            return getattr(text_config, key)
    return None


def encode_prompt(tokenizer: Any, prompt: PromptText) -> list[int]:
    """Token ids of a prompt: plain text as it is, chat messages through the tokenizer's chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise ModelError(
            f"The prompt {text_of(prompt)[:60]!r} is a chat, but the tokenizer has no chat template. Use a chat model, "
            "set `chat_template` in its tokenizer_config.json, or give the prompt as plain text."
        )
    encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def encode_completion(tokenizer: Any, text: str, finished: bool = True) -> list[int]:
    """Token ids of a completion, ending with end-of-sequence where the model ended it by itself."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if finished else ids


def check_prompt_lengths(
    prompt_ids: Sequence[Sequence[int]], room: int, window: int | None, names: Sequence[str]
) -> None:
    """`InputError` naming the prompts that leave less than `room` tokens of the context window."""
    if window is None:
        return
    long = [
        (name, len(ids))
        for name, ids in zip(names, prompt_ids, strict=True)
        if len(ids) + room > window
    ]
    if long:
        name, length = max(long, key=lambda pair: pair[1])
        raise InputError(
            f"{len(long)} prompt(s) do not fit the model's context window of {window} tokens together with {room} new "
            f"tokens; the longest is {name!r} with {length} tokens. Shorten them, or lower max_new_tokens (in PPO "
            "response_length)."
        )


def _check_exists(name: str | Path) -> None:
    """A path that does not exist would be taken for a hub id; say so instead."""
    path = Path(name)
    looks_like_a_path = (
        path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2
    )
    if looks_like_a_path and not path.is_dir():
        raise ModelError(
            f"The model folder {name} does not exist. Check the path, or give a hub id."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
