"""PPO's options bear the names of TRL 1.12's PPOConfig, the last that TRL had, where they mean the same."""

from dataclasses import fields
from pathlib import Path

from transformers import TrainingArguments

from alignment.config import LoraSection, PPOTrainingConfig

FIXTURE = Path(__file__).parent / "data" / "trl_1_12_ppo_config.txt"
TRL = {line for line in FIXTURE.read_text().splitlines() if not line.startswith("#")}
INHERITED = {field.name for field in fields(TrainingArguments)}
OURS = set(PPOTrainingConfig.model_fields) - set(LoraSection.model_fields)

SAME = {
    "batch_size",
    "cliprange",
    "cliprange_value",
    "gamma",
    "gradient_checkpointing",
    "kl_coef",
    "lam",
    "learning_rate",
    "max_grad_norm",
    "missing_eos_penalty",
    "num_mini_batches",
    "num_ppo_epochs",
    "per_device_train_batch_size",
    "report_to",
    "response_length",
    "save_total_limit",
    "seed",
    "temperature",
    "vf_coef",
    "whiten_rewards",
}
# TRL's option -> ours, and why it bears another name.
RENAMED = {
    "total_episodes": ("max_iterations", "stops, evaluations and records count rollouts"),
    "num_sample_generations": ("num_sample_completions", "how many of each rollout, not how often"),
    "kl_estimator": ("kl_in", "the place decides the estimator: k1 in the reward, k3 in the loss"),
    "reward_model_path": ("rewards", "one term or several, of several kinds"),
    "save_steps": ("save_every", "counts iterations, not updates"),
    "eval_steps": ("eval_every", "counts iterations, not updates"),
}
LEFT_OUT = {
    "dataset_num_proc": "prompts are encoded as they are used",
    "ds3_gather_for_generation": "GRPOTrainer's own; FSDP is what is offered",
    "local_batch_size": "computed",
    "local_mini_batch_size": "computed",
    "local_rollout_forward_batch_size": "per_device_train_batch_size serves both",
    "micro_batch_size": "computed",
    "mini_batch_size": "computed",
    "model_adapter_name": "the roles have fixed adapters",
    "num_total_batches": "computed",
    "push_to_hub": "nothing leaves the machine by itself",
    "ref_adapter_name": "the reference is the base without adapters",
    "sft_model_path": "the base model is named once for all stages",
    "stop_token": "a completion ends at the tokenizer's end-of-sequence",
    "stop_token_id": "a completion ends at the tokenizer's end-of-sequence",
    "world_size": "computed",
}


def test_options_of_the_same_meaning_bear_trls_name():
    assert OURS >= SAME
    assert TRL | INHERITED >= SAME, "the fixture and transformers know them"
    assert {name for name in OURS if name in TRL} <= SAME, "no name of TRL's means something else"


def test_every_option_of_trl_is_there_renamed_or_left_out_for_a_reason():
    assert TRL - SAME - RENAMED.keys() == LEFT_OUT.keys()
    assert {ours for ours, _ in RENAMED.values()} <= OURS
    assert not OURS & (RENAMED.keys() | LEFT_OUT.keys())
    assert RENAMED.keys() <= TRL | INHERITED


def test_no_option_of_ours_bears_a_name_of_transformers_by_accident():
    assert (OURS & INHERITED) == SAME & INHERITED
