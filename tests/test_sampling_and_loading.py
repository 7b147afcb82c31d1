import pytest
import torch

from alignment.config import GenerationConfig
from alignment.errors import ConfigError, InputError, ModelError
from alignment.models.likelihood import negative_log_likelihood
from alignment.models.loading import (
    encode_completion,
    encode_prompt,
    load_causal_lm,
    load_tokenizer,
)
from alignment.records import Prompt
from alignment.sampling import as_completions, sample_completions

PROMPTS = [Prompt("a", "You are"), Prompt("b", "What a lovely day, thank")]


def draw(folder, **options):
    per_prompt = options.pop("per_prompt", 3)
    attempts = options.pop("distinct_attempts", 1)
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    config = GenerationConfig(max_new_tokens=6, **options)
    return sample_completions(
        model, tokenizer, PROMPTS, config, per_prompt, distinct_attempts=attempts
    )


def test_sampling_is_seeded_batched_and_leaves_the_random_state_alone(tiny_model_folder):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draw(tiny_model_folder, seed=1, batch_size=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == draw(tiny_model_folder, seed=1, batch_size=2)
    assert first != draw(tiny_model_folder, seed=2, batch_size=2)
    assert [len(group) for group in first] == [3, 3]
    for generated in (g for group in first for g in group):
        assert len(generated.ids) <= 6
        assert generated.finished == (generated.ids[-1] == 0)


def test_greedy_padded_in_a_batch_equals_greedy_alone(tiny_model_folder):
    together = draw(tiny_model_folder, do_sample=False, per_prompt=1, batch_size=2)
    alone = draw(tiny_model_folder, do_sample=False, per_prompt=1, batch_size=1)
    assert together == alone


def test_greedy_of_several_completions_is_refused(llama_folder):
    with pytest.raises(ConfigError, match="Greedy"):
        draw(llama_folder, do_sample=False, per_prompt=2)


def test_equal_completions_are_drawn_again(llama_folder):
    flat = {"temperature": 0.02, "seed": 3}  # so cold that three draws agree
    repeated = draw(llama_folder, **flat)
    assert any(len({g.text for g in group}) < 3 for group in repeated)
    model, tokenizer = load_causal_lm(llama_folder), load_tokenizer(llama_folder)
    warm = GenerationConfig(max_new_tokens=3, top_k=40, seed=0)
    drawn = sample_completions(model, tokenizer, PROMPTS, warm, 5, distinct_attempts=40)
    assert all(len({g.text for g in group}) == 5 for group in drawn)


def test_stop_at_eos_can_be_turned_off(llama_folder):
    drawn = draw(llama_folder, stop_at_eos=False)
    assert all(len(g.ids) == 6 and not g.finished for group in drawn for g in group)


def test_a_prompt_beyond_the_context_window_is_named(llama_folder):
    model, tokenizer = load_causal_lm(llama_folder), load_tokenizer(llama_folder)
    long = [Prompt("fine", "You"), Prompt("endless", "rude kind " * 60)]
    with pytest.raises(InputError, match=r"1 prompt\(s\) do not fit .* 128 tokens .*'endless'"):
        sample_completions(model, tokenizer, long, GenerationConfig(), 1)


def test_records_tell_what_made_them(llama_folder):
    completions = as_completions(PROMPTS, draw(llama_folder), "run-1")
    assert {c.run_id for c in completions} == {"run-1"}
    assert len({c.completion_id for c in completions}) == len(completions) == 6


def test_likelihood_equals_a_plain_sum_over_tokens(tiny_model_folder):
    model, tokenizer = load_causal_lm(tiny_model_folder), load_tokenizer(tiny_model_folder)
    prompts = [encode_prompt(tokenizer, p.prompt) for p in PROMPTS]
    completions = [
        encode_completion(tokenizer, " kind"),
        encode_completion(tokenizer, " you are rude!", False),
    ]
    batched = negative_log_likelihood(model, prompts, completions)
    for prompt, completion, cost in zip(prompts, completions, batched, strict=True):
        logps = model(torch.tensor([prompt + completion])).logits[0].detach().log_softmax(-1)
        alone = -sum(logps[len(prompt) - 1 + k, token] for k, token in enumerate(completion))
        assert float(alone) == pytest.approx(cost, abs=1e-3)


def test_chat_prompts_need_and_use_a_chat_template(tokenizer):
    chat = [{"role": "user", "content": "You are kind."}]
    with pytest.raises(ModelError, match="no chat template"):
        encode_prompt(tokenizer, chat)
    templated = load_tokenizer_copy(tokenizer)
    templated.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert templated.decode(encode_prompt(templated, chat)) == "[You are kind.]"


def load_tokenizer_copy(tokenizer):
    import copy

    return copy.deepcopy(tokenizer)


def test_a_folder_that_is_missing_or_lacks_its_parts_says_so(tmp_path, llama_folder, tokenizer):
    with pytest.raises(ModelError, match="does not exist"):
        load_causal_lm(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="No causal language model"):
        load_causal_lm(tmp_path)
    load_causal_lm(llama_folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path / "bare")
    no_pad = load_tokenizer_copy(tokenizer)
    no_pad.pad_token = None
    no_pad.save_pretrained(tmp_path / "nopad")
    padding = load_tokenizer(tmp_path / "nopad")  # as GPT-2 is published
    assert padding.pad_token_id == padding.eos_token_id is not None
