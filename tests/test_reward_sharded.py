"""The reward model on two sharded processes learns what one process learns."""

import json

import pytest
from safetensors.torch import load_file

from alignment.models.loading import load_tokenizer
from alignment.training import launch
from alignment.training.reward import train_reward
from tests.test_reward_and_trunk import pairs
from tests.test_reward_training import logged, quick


def test_two_sharded_processes_train_as_one_does(llama_folder, tmp_path):
    """Each update sees the same two batches: on two processes at once, on one after another."""
    train, held_out = (
        pairs(16)[:39],
        pairs(16)[39:],
    )  # 12 prompts to train on: an even number of batches
    options = {"num_train_epochs": 1, "lora_dropout": 0.0, "evaluations": 3}
    alone = quick(**options, gradient_accumulation_steps=2)
    tokenizer = load_tokenizer(llama_folder)
    one = train_reward(llama_folder, tokenizer, train, held_out, alone, tmp_path / "one")
    spec = launch.reward_spec(
        str(llama_folder), train, held_out, quick(**options), tasks={"t": ("Hm?", [" a", " b"])}
    )
    (tmp_path / "two").mkdir()
    sharded = launch.launch_of(fsdp=2)
    two = launch.train(spec, tmp_path / "two", sharded, lambda *_: None)
    for ours, theirs in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        for name in ("loss", "grad_norm", "eval_loss", "accuracy"):
            if name in ours:
                assert theirs[name] == pytest.approx(ours[name], abs=1e-4), (ours, theirs)
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        ours, theirs = (load_file(tmp_path / side / name) for side in ("one", "two"))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert (tensor - theirs[key]).abs().max() < 1e-4, key
    for name in ("score_mean", "score_std", "ece", "temperature"):
        assert two[name] == pytest.approx(getattr(one, name), abs=1e-3), name
    assert two["steps"] == one.steps == 6
    row = json.loads((tmp_path / "two" / "uncertainty.jsonl").read_text())
    assert row["prompt_id"] == "t" and row["sd"] > 0
