import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification

from alignment.config import RewardTrainingConfig
from alignment.errors import ModelError
from alignment.models.loading import (
    encode_completion,
    encode_prompt,
    load_causal_lm,
    load_tokenizer,
)
from alignment.models.trunk import POLICY, REWARD, VALUE, Trunk
from alignment.records import PreferencePair
from alignment.training.ppo_trainer import score_sequences
from alignment.training.reward import train_reward
from tests.conftest import tiny_causal_lm

KIND, RUDE = (
    [" thank you", " lovely day", " You are kind"],
    [" You are rude", " rude!", " rude, rude"],
)
TINY = RewardTrainingConfig(
    lora_rank=4,
    lora_alpha=8,
    num_train_epochs=12,
    per_device_train_batch_size=8,
    learning_rate=5e-3,
)


def pairs(prompts=6):
    return [
        PreferencePair(f"What a day {p}!", kind, rude, 0.9, 0.9, f"p{p}", f"{p}{i}k", f"{p}{i}r")
        for p in range(prompts)
        for i, (kind, rude) in enumerate(zip(KIND, RUDE, strict=True))
    ]


def trunk_on(folder):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    return Trunk(load_causal_lm(folder), lora)


@pytest.fixture(scope="module")
def reward_folder(tiny_model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward")
    everything = pairs()
    result = train_reward(
        tiny_model_folder,
        load_tokenizer(tiny_model_folder),
        everything[:15],
        everything[15:],
        TINY,
        out,
    )
    return out, result


def ids_of(tokenizer, pair):
    return [
        torch.tensor(encode_prompt(tokenizer, pair.prompt) + encode_completion(tokenizer, text))
        for text in (pair.chosen, pair.rejected)
    ]


def test_the_reward_model_learns_the_preference_and_keeps_its_figures(reward_folder):
    out, result = reward_folder
    assert result.accuracy == 1.0
    assert (result.train_pairs, result.validation_pairs, result.held_out_pairs) == (12, 3, 3)
    kept = json.loads((out / "reward.json").read_text())
    assert kept["accuracy"] == result.accuracy and kept["score_std"] > 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in steps if "eval_loss" in row]
    assert min(losses) < losses[0]
    assert not list(out.glob(".*partial"))


def test_scores_on_the_shared_trunk_equal_those_of_the_plain_classifier(
    reward_folder, tiny_model_folder
):
    out, _ = reward_folder
    tokenizer = load_tokenizer(tiny_model_folder)
    trunk = trunk_on(tiny_model_folder)
    trunk.load_reward(out)
    sequences = [ids for pair in pairs(2) for ids in ids_of(tokenizer, pair)]
    ours = score_sequences(trunk, sequences, batch_size=4).numpy()
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
    plain.config.pad_token_id = tokenizer.pad_token_id
    plain = PeftModel.from_pretrained(plain, out).eval()
    with torch.no_grad():
        theirs = [float(plain(input_ids=ids[None]).logits) for ids in sequences]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_each_role_leaves_the_others_alone(reward_folder, tiny_model_folder):
    out, _ = reward_folder
    base = load_causal_lm(tiny_model_folder)
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
    trunk = trunk_on(tiny_model_folder)
    trunk.load_reward(out)
    trunk.add_value()
    trains = {name for name, p in trunk.model.named_parameters() if p.requires_grad}
    assert trains and all(
        f".{POLICY}." in n or f".{VALUE}." in n or "value_head" in n for n in trains
    )
    with torch.no_grad():
        with trunk.role(None):
            assert torch.equal(trunk.model(input_ids=ids).logits, untouched)
        with trunk.role(REWARD):
            reward_hidden = trunk.hidden(input_ids=ids, attention_mask=mask)
        with trunk.role(VALUE):
            value_hidden = trunk.hidden(input_ids=ids, attention_mask=mask)
        assert torch.allclose(reward_hidden, value_hidden)
        with trunk.role(None):
            assert not torch.allclose(
                trunk.hidden(input_ids=ids, attention_mask=mask), reward_hidden
            )
        normalised = (trunk.base.reward_head(reward_hidden) - trunk.scale.mean) / trunk.scale.std
        assert torch.allclose(trunk.base.value_head(value_hidden), normalised, atol=1e-5)
    assert {name for name, p in trunk.model.named_parameters() if p.requires_grad} == trains


def test_scores_do_not_depend_on_the_batch(reward_folder, tiny_model_folder):
    out, _ = reward_folder
    trunk = trunk_on(tiny_model_folder)
    trunk.load_reward(out)
    sequences = [torch.arange(3, 3 + n) for n in (2, 9, 5)]
    together = score_sequences(trunk, sequences, 3)
    alone = torch.cat([score_sequences(trunk, [s], 1) for s in sequences])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_reward_model_of_another_base_is_refused(llama_folder, tokenizer, tmp_path):
    everything = pairs()
    quick = TINY.model_copy(update={"num_train_epochs": 1})
    train_reward(
        llama_folder,
        load_tokenizer(llama_folder),
        everything[:15],
        everything[15:],
        quick,
        tmp_path / "rm",
    )
    tiny_causal_lm("llama", seed=1).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="another base"):
        trunk_on(tmp_path / "other").load_reward(tmp_path / "rm")
    with pytest.raises(ModelError, match="no reward model"):
        trunk_on(llama_folder).load_reward(tmp_path)
