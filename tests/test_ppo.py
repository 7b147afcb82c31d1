"""The PPO trainer on tiny models, and the private hooks of TRL that it stands on."""

import inspect
import json
from typing import ClassVar

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from alignment.config import PPOTrainingConfig, RewardSource
from alignment.errors import InputError, TrainingError
from alignment.models.loading import load_tokenizer
from alignment.models.trunk import POLICY, VALUE, Trunk
from alignment.records import Prompt
from alignment.training import ppo, ppo_trainer
from alignment.training.reward import train_reward
from tests.test_reward_and_trunk import TINY as TINY_REWARD
from tests.test_reward_and_trunk import pairs

TINY = PPOTrainingConfig(
    num_ppo_epochs=2,
    learning_rate=1e-3,
    lora_rank=4,
    lora_alpha=8,
    max_iterations=2,
    batch_size=8,
    per_device_train_batch_size=2,
    response_length=6,
    eval_every=1,
)
PROMPTS = [
    Prompt(f"p{i}", text) for i, text in enumerate(["You are", "What a lovely", "thank", "You"])
]


@pytest.fixture(scope="module")
def reward_folder(tiny_model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward")
    quick = TINY_REWARD.model_copy(update={"num_train_epochs": 2})
    train_reward(
        tiny_model_folder, load_tokenizer(tiny_model_folder), pairs()[:15], pairs()[15:], quick, out
    )
    return out


def train(folder, reward, out, **options):
    config = TINY.model_copy(update=options)
    return ppo.train_ppo(folder, load_tokenizer(folder), reward, PROMPTS, PROMPTS[:3], config, out)


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        (
            "_generate_single_turn",
            [
                "self",
                "prompt_ids",
                "images",
                "multimodal_fields",
                "num_generations",
                "has_tool_images",
            ],
        ),
        ("log", ["self", "logs", "start_time"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("_save", ["self", "output_dir", "state_dict"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
    ],
)
def test_trl_still_has_the_hooks_that_ppo_overrides(hook, parameters):
    found = getattr(GRPOTrainer, hook, None)
    assert found is not None, (
        f"TRL no longer has GRPOTrainer.{hook}: see docs/decisions before changing the pin"
    )
    assert list(inspect.signature(found).parameters) == parameters, (
        f"GRPOTrainer.{hook} takes other arguments now"
    )


def test_trl_still_calls_the_log_probability_hook_as_ppo_expects():
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    source = inspect.getsource(GRPOTrainer)
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source


class Spy(ppo_trainer.PPOTrainer):
    """Keeps what the trainer computes, and the trainable parameters with their gradients."""

    rollouts: ClassVar[list] = []
    gradients: ClassVar[dict] = {}
    orders: ClassVar[list] = []

    def _generate_and_score_completions(self, inputs):
        rollout = super()._generate_and_score_completions(inputs)
        Spy.rollouts.append(
            {k: v.clone() for k, v in rollout.items() if isinstance(v, torch.Tensor)}
        )
        return rollout

    def _compute_loss(self, model, inputs):
        Spy.orders.append(inputs["returns"][:, 0].tolist())
        return super()._compute_loss(model, inputs)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().sum() > 0:
                Spy.gradients[name] = True
        return loss


@pytest.fixture
def spy(monkeypatch):
    Spy.rollouts, Spy.gradients, Spy.orders = [], {}, []
    monkeypatch.setattr(ppo, "PPOTrainer", Spy)
    return Spy


def test_policy_and_value_train_and_nothing_else_moves(
    tiny_model_folder, reward_folder, tmp_path, spy, monkeypatch
):
    kept = {}
    original = Trunk.add_value

    def remember(self):
        original(self)
        kept["trunk"] = self
        kept["before"] = {n: p.detach().clone() for n, p in self.model.named_parameters()}

    monkeypatch.setattr(Trunk, "add_value", remember)
    result = train(tiny_model_folder, reward_folder, tmp_path)
    after = dict(kept["trunk"].model.named_parameters())
    moved = {n for n, before in kept["before"].items() if not torch.equal(before, after[n])}
    trains = {n for n in after if f".{POLICY}." in n or f".{VALUE}." in n or "value_head" in n}
    assert moved == trains, "every adapter tensor of policy and value moves, and nothing else"
    assert set(spy.gradients) == trains
    assert result.stop_reason == "maximum iterations" and result.iterations == 2
    assert (tmp_path / "adapter_config.json").exists()
    assert not any(
        "value" in p.name or "reward" in p.name for p in tmp_path.iterdir() if p.is_dir()
    )


def test_the_first_rollout_starts_at_the_reference_and_the_advantages_are_white(
    llama_folder, reward_folder_llama, tmp_path, spy
):
    train(llama_folder, reward_folder_llama, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[1]["kl"] != 0
    for key in (
        "reward",
        "policy_loss",
        "value_loss",
        "entropy",
        "clip_fraction",
        "eval_reward",
        "learning_rate",
    ):
        assert key in rows[0], key
    rollout = spy.rollouts[0]
    mask = rollout["completion_mask"].bool()
    advantages = rollout["advantages"]
    assert float(advantages[mask].mean()) == pytest.approx(0, abs=1e-4)
    assert float(advantages[mask].std(unbiased=False)) == pytest.approx(1, abs=1e-2)
    assert float(advantages[~mask].abs().sum()) == 0


def test_each_epoch_sees_the_whole_rollout_in_a_new_order(
    llama_folder, reward_folder_llama, tmp_path, spy
):
    train(llama_folder, reward_folder_llama, tmp_path, max_iterations=1, num_ppo_epochs=3)
    flat = [value for order in spy.orders for value in order]
    epochs = [flat[i : i + 8] for i in range(0, 24, 8)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2]


@pytest.fixture(scope="module")
def reward_folder_llama(llama_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward-llama")
    quick = TINY_REWARD.model_copy(update={"num_train_epochs": 2})
    train_reward(llama_folder, load_tokenizer(llama_folder), pairs()[:15], pairs()[15:], quick, out)
    return out


def test_training_is_repeatable(llama_folder, reward_folder_llama, tmp_path):
    results = [train(llama_folder, reward_folder_llama, tmp_path / str(i)) for i in range(2)]
    assert results[0] == results[1]


def test_it_stops_at_the_reward_threshold_and_at_the_kl_limit(
    llama_folder, reward_folder_llama, tmp_path
):
    early = train(
        llama_folder, reward_folder_llama, tmp_path / "a", reward_threshold=-10.0, max_iterations=5
    )
    assert (early.stop_reason, early.iterations) == ("reward threshold", 1)
    limited = train(
        llama_folder,
        reward_folder_llama,
        tmp_path / "b",
        max_kl=1e-9,
        learning_rate=0.05,
        max_iterations=5,
    )
    assert limited.stop_reason == "KL limit" and limited.iterations < 5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("not_a_number", "not a number"),
        ("one_too_few", "7 scores for 8 completions"),
        ("fails", "ZeroDivisionError: no luck"),
    ],
)
def test_a_reward_that_is_broken_stops_the_run(
    llama_folder, reward_folder_llama, tmp_path, function, message
):
    rewards = [RewardSource(kind="callable", name=f"tests.ppo_rewards:{function}")]
    with pytest.raises(TrainingError, match=message):
        ppo.train_ppo(
            llama_folder,
            load_tokenizer(llama_folder),
            reward_folder_llama,
            PROMPTS,
            [],
            TINY.model_copy(update={"rewards": rewards}),
            tmp_path,
        )
    assert not (tmp_path / "adapter_config.json").exists()


def test_too_few_and_too_long_prompts_are_refused(llama_folder, reward_folder_llama, tmp_path):
    with pytest.raises(InputError, match="takes 8 prompts"):
        train(llama_folder, reward_folder_llama, tmp_path, batch_size=16)
    with pytest.raises(InputError, match="context window of 128"):
        train(llama_folder, reward_folder_llama, tmp_path, response_length=126)
