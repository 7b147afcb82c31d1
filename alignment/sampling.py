"""Completions from a causal LM: batched, seeded, distinct where possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig as HFGenerationConfig
from transformers import PreTrainedTokenizerBase

from alignment.config import GenerationConfig
from alignment.errors import ConfigError
from alignment.models.loading import check_prompt_lengths, context_window, encode_prompt, pad_id
from alignment.progress import Progress, silent
from alignment.records import Completion, Prompt, short_id


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled completion: its text, its ids (end-of-sequence included), and whether the model ended it."""

    text: str
    ids: tuple[int, ...]
    finished: bool


def sample_completions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    per_prompt: int,
    *,
    distinct_attempts: int = 1,
    label: str = "sampling",
    progress: Progress = silent,
) -> list[list[Generated]]:
    """`per_prompt` completions for each prompt, in the order of `prompts`.

    While a prompt has equal texts, the repeated ones are drawn again, at most `distinct_attempts` times in all. The
    random state of the caller is left as it was. Raises `ConfigError` on greedy decoding of several completions,
    `InputError` on prompts longer than the context window.
    """
    if not config.do_sample and per_prompt > 1:
        raise ConfigError(
            f"Greedy decoding gives the same completion {per_prompt} times. Set do_sample=true, or ask for "
            "one completion."
        )
    prompt_ids = [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts]
    window = context_window(model.config)
    check_prompt_lengths(prompt_ids, config.max_new_tokens, window, [p.prompt_id for p in prompts])
    drawn: list[list[Generated]] = [[] for _ in prompts]
    generation = hf_generation_config(config, tokenizer)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        for attempt in range(distinct_attempts if per_prompt > 1 else 1):
            for group in drawn:
                if attempt < distinct_attempts:
                    group[:] = _first_of_each(group)
            wanted = [i for i, group in enumerate(drawn) for _ in range(per_prompt - len(group))]
            if not wanted:
                break
            _draw(model, tokenizer, prompt_ids, wanted, drawn, generation, config, label, progress)
    return drawn


def _first_of_each(group: list[Generated]) -> list[Generated]:
    return list({generated.text: generated for generated in reversed(group)}.values())[::-1]


def _draw(model, tokenizer, prompt_ids, wanted, drawn, generation, config, label, progress) -> None:
    """Append one completion to `drawn[i]` for each i in `wanted`, longest prompts first to waste little padding."""
    wanted = sorted(wanted, key=lambda i: -len(prompt_ids[i]))
    for start in range(0, len(wanted), config.batch_size):
        batch = wanted[start : start + config.batch_size]
        for i, generated in zip(
            batch,
            generate(model, tokenizer, [prompt_ids[i] for i in batch], generation),
            strict=True,
        ):
            drawn[i].append(generated)
        progress(label, start + len(batch), len(wanted))


def hf_generation_config(
    config: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> HFGenerationConfig:
    """Our options as those of transformers. Nothing of the model's own generation defaults remains."""
    sampling = (
        {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
        if config.do_sample
        else {}
    )
    return HFGenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=config.do_sample,
        repetition_penalty=config.repetition_penalty,
        eos_token_id=tokenizer.eos_token_id if config.stop_at_eos else None,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    generation: HFGenerationConfig,
) -> list[Generated]:
    """One completion for each prompt; the prompts are padded on the left and masked by length."""
    width = max(len(ids) for ids in prompt_ids)
    device = next(model.parameters()).device
    input_ids = torch.full((len(prompt_ids), width), pad_id(tokenizer))
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(prompt_ids):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    output = model.generate(
        input_ids=input_ids.to(device), attention_mask=mask.to(device), generation_config=generation
    )
    stops = {generation.eos_token_id} if generation.eos_token_id is not None else set()
    return [_generated(tokenizer, row.tolist(), stops) for row in output[:, width:]]


def _generated(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: set[int]) -> Generated:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[: end + 1]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Generated(text, tuple(kept), end is not None)  # pyright: ignore[reportArgumentType]


def as_completions(
    prompts: Sequence[Prompt], drawn: Sequence[Sequence[Generated]], run_id: str
) -> list[Completion]:
    """The drawn completions as records; their ids tell run, prompt and place apart."""
    return [
        Completion(
            short_id("completion", run_id, prompt.prompt_id, place, generated.text),
            prompt.prompt_id,
            generated.text,
            generated.finished,
            len(generated.ids),
            run_id,
        )
        for prompt, group in zip(prompts, drawn, strict=True)
        for place, generated in enumerate(group)
    ]
