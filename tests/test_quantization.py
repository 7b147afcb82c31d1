"""In which precision the frozen base is held while adapters train."""

import importlib.util

import pytest
import torch

from alignment.config import Config, PPOTrainingConfig, RewardTrainingConfig, load_config
from alignment.errors import ConfigError, ModelError, TrainingError
from alignment.models import quantization
from alignment.models.loading import load_causal_lm, load_tokenizer
from alignment.models.quantization import keep_trained_in_float32, load_options, training_dtypes
from alignment.records import PreferencePair, Prompt
from alignment.training import vllm
from alignment.training.ppo import train_ppo
from alignment.training.reward import train_reward
from alignment.training.vllm import vllm_arguments

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
PAIRS = [
    PreferencePair(
        f"What a day {p}!", " You are kind", " rude!", 0.9, 0.9, f"p{p}", f"{p}k", f"{p}r"
    )
    for p in range(6)
]


def train_both(folder, out, precision):
    """Reward model and one PPO iteration on a base in this precision; the losses are numbers or it raises."""
    tokenizer = load_tokenizer(folder)
    small = {"lora_rank": 4, "per_device_train_batch_size": 2}
    reward = RewardTrainingConfig(num_train_epochs=1, **small)
    train_reward(
        folder, tokenizer, PAIRS[:4], PAIRS[4:], reward, out / "rm", base_precision=precision
    )
    ppo = PPOTrainingConfig(
        max_iterations=1, batch_size=4, num_mini_batches=1, response_length=8, **small
    )
    prompts = [Prompt(f"p{n}", f"What a day {n}!") for n in range(4)]
    result = train_ppo(
        folder, tokenizer, out / "rm", prompts, [], ppo, out / "policy", base_precision=precision
    )
    assert result.iterations == 1
    return out / "policy"


@pytest.mark.parametrize("precision", ["bf16"])
def test_adapters_train_on_a_base_in_half_precision(llama_folder, tmp_path, precision):
    from safetensors.torch import load_file

    policy = train_both(llama_folder, tmp_path, precision)
    adapter = load_file(policy / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_a_base_is_held_in_the_precision_asked_for(llama_folder):
    for precision, dtype in {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
    }.items():
        assert next(load_causal_lm(llama_folder, precision).parameters()).dtype == dtype


@pytest.mark.skipif(
    not HAS_BITSANDBYTES, reason="bitsandbytes is an extra; without it the error is tested"
)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_adapters_train_on_a_quantised_base(tokenizer, tmp_path, precision):
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "base"  # wider than the tiny models: 4-bit blocks are of 64 weights
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=300, num_attention_heads=2, **sizes, **ids)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    quantised, whole = load_causal_lm(folder, precision), load_causal_lm(folder)
    linear = quantised.model.layers[0].mlp.up_proj.weight
    assert linear.dtype == {"int8": torch.int8, "int4": torch.uint8}[precision]
    ids = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (quantised(ids).logits - whole(ids).logits).norm() / whole(ids).logits.norm()
    assert error < {"int8": 0.05, "int4": 0.3}[precision]
    policy = train_both(folder, tmp_path, precision)
    adapter = load_file(policy / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_without_bitsandbytes_the_error_says_what_to_install(precision, monkeypatch, llama_folder):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'concord-rlhf\[quantization\]'"):
        load_causal_lm(llama_folder, precision)


def test_types_by_precision():
    assert training_dtypes("fp32", False) == (torch.float32, None)
    assert training_dtypes("fp32", True) == (torch.float32, torch.bfloat16)
    assert training_dtypes("fp16", True) == (torch.float16, torch.float16)
    assert training_dtypes("int4", True) == (torch.bfloat16, torch.bfloat16)
    assert training_dtypes("int4", False) == (torch.float32, None)
    assert load_options("bf16") == {"dtype": torch.bfloat16}


def test_only_what_trains_is_put_into_float32():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).bfloat16()
    model[0].requires_grad_(False)
    keep_trained_in_float32(model)
    assert model[0].weight.dtype == torch.bfloat16 and model[1].weight.dtype == torch.float32


def test_an_unknown_precision_is_refused():
    assert load_config(None, ["base_precision=int4"]).base_precision == "int4"
    assert Config().base_precision == "fp32"
    with pytest.raises(ConfigError, match="base_precision"):
        load_config(None, ["base_precision=int3"])


def test_vllm_is_handed_on_or_the_error_says_what_to_install(monkeypatch):
    assert vllm_arguments(PPOTrainingConfig()) == {}
    config = PPOTrainingConfig(use_vllm=True, vllm_mode="server", vllm_server_base_url="http://h:1")
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"pip install 'concord-rlhf\[vllm\]'"):
        vllm_arguments(config)
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: object())
    assert vllm_arguments(config) == {
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_server_base_url": "http://h:1",
    }
