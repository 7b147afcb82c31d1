"""The options of PPO on a tiny model: critics, KL in the loss, warm-up, rewards from elsewhere, limits of an update."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.kernels import chunked_logprob

from alignment.config import PPOTrainingConfig, RewardSource
from alignment.errors import ConfigError, InputError, ModelError, TrainingError
from alignment.evaluation.toxicity import load_scorer
from alignment.models.loading import encode_completion, encode_prompt, load_tokenizer
from alignment.models.trunk import POLICY, RewardScale
from alignment.records import Prompt, text_of
from alignment.training import ppo, ppo_trainer
from alignment.training.ppo_invariants import GradientCheck, check_start
from alignment.training.ppo_reward import RewardMix, RewardTerm, load_callable, load_other_model
from alignment.training.ppo_watch import read_rows
from alignment.training.reward import train_reward
from tests.conftest import tiny_causal_lm
from tests.test_reward_and_trunk import TINY as TINY_REWARD
from tests.test_reward_and_trunk import pairs, trunk_on

TINY = {
    "num_ppo_epochs": 2,
    "learning_rate": 1e-3,
    "lora_rank": 4,
    "max_iterations": 2,
    "batch_size": 8,
    "per_device_train_batch_size": 2,
    "response_length": 6,
    "eval_every": 1,
    "lora_layers": "upper-half",
}
PROMPTS = [Prompt(f"p{i}", t) for i, t in enumerate(["You are", "What a lovely", "thank", "You"])]
CALLABLE = {"kind": "callable", "name": "tests.ppo_rewards:length", "std": 10.0}


@pytest.fixture(scope="module")
def reward_folder(llama_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward")
    quick = TINY_REWARD.model_copy(update={"num_train_epochs": 2, "lora_layers": "upper-half"})
    train_reward(llama_folder, load_tokenizer(llama_folder), pairs()[:15], pairs()[15:], quick, out)
    return out


@pytest.fixture
def train(llama_folder, reward_folder, tmp_path):
    def run(reward=reward_folder, prompts=PROMPTS, **options):
        config = PPOTrainingConfig.model_validate({**TINY, **options})
        tokenizer = load_tokenizer(llama_folder)
        result = ppo.train_ppo(
            llama_folder, tokenizer, reward, prompts, PROMPTS[:3], config, tmp_path
        )
        return result, read_rows(tmp_path / "metrics.jsonl")

    run.out = tmp_path
    return run


@pytest.mark.parametrize(
    "options",
    [
        {"critic": "adapter"},
        {"critic": "head"},
        {"value_init": "zero", "max_iterations": 3},
        {"kl_in": "loss", "entropy_coef": 0.01, "whiten_rewards": True},
        {"gradient_checkpointing": True},
        {"merge_for_generation": False, "critic_learning_rate": 1e-2},
    ],
    ids=lambda options: next(iter(options.items()))[0] + "-" + str(next(iter(options.values()))),
)
def test_every_kind_of_run_learns_and_shares_the_lower_trunk(train, options):
    result, rows = train(**options)
    assert result.stop_reason == "maximum iterations"
    assert result.lower_trunk == "shared"
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4) and rows[1]["kl"] != 0
    for figure in (
        "grad_norm",
        "learning_rate",
        "seconds_update",
        "memory_mb",
        "tokens_per_second",
    ):
        assert rows[-1][figure] > 0, figure
    assert rows[-1]["eval_cost"] > 0 and 0 <= rows[-1]["eval_toxicity"] <= 1
    kept = read_rows(train.out / "samples.jsonl")
    assert len(kept) == 4 * len(rows) and kept[0]["completion"]


def test_sharing_and_merging_change_speed_alone(train, tmp_path):
    plain, rows = train(share_lower_trunk=False, merge_for_generation=False)
    assert plain.lower_trunk == "share_lower_trunk is off"
    (tmp_path / "metrics.jsonl").unlink()
    _, lean = train()
    for before, after in zip(rows, lean, strict=True):
        for figure in ("reward", "policy_loss", "value_loss", "entropy", "eval_reward"):
            assert before[figure] == pytest.approx(after[figure], abs=1e-4), figure


def test_only_the_value_learns_while_the_critic_warms_up(train, monkeypatch):
    seen = []
    original = ppo_trainer.PPOTrainer.training_step

    def spy(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        trains = self.trunk.trainable()
        seen.append(
            {
                part: any(
                    p.grad is not None and bool(p.grad.any())
                    for n, p in trains.items()
                    if (f".{POLICY}." in n) == (part == "policy")
                )
                for part in ("policy", "value")
            }
        )
        return loss

    monkeypatch.setattr(ppo_trainer.PPOTrainer, "training_step", spy)
    for critic in ("adapter", "head"):
        seen.clear()
        _, rows = train(critic=critic, critic_warmup_iterations=1)
        half = len(seen) // 2
        assert any(step["value"] for step in seen[:half])
        assert not any(step["policy"] for step in seen[:half])
        assert any(step["policy"] for step in seen[half:])
        assert rows[1]["kl"] == pytest.approx(0, abs=1e-4), "the policy has not moved yet"
        (train.out / "metrics.jsonl").unlink()


def test_the_rest_of_a_rollout_is_skipped_once_the_policy_moved_too_far(train):
    _, rows = train(max_kl_update=1e-12, learning_rate=0.01, max_iterations=3)
    # the first update's own pass still gives KL 0; the second one sees the policy moved
    assert all(0 < row["skipped"] <= 0.75 for row in rows)
    _, rows = train(max_kl_update=100.0)
    assert all(row["skipped"] == 0 for row in rows[-2:])


def test_the_kl_coefficient_adapts_to_its_target(train):
    _, rows = train(kl_target=1.0, kl_horizon=16, kl_coef=0.1)
    # KL 0 lies 100% below the target: the error is clipped to -0.2, for 8 of 16 episodes
    assert rows[0]["kl_coef"] == pytest.approx(0.1)
    assert rows[1]["kl_coef"] == pytest.approx(0.09)


def test_a_reward_from_elsewhere_needs_no_reward_model(train):
    result, _ = train(reward=None, rewards=[CALLABLE], critic="head")
    texts = [row for row in read_rows(train.out / "samples.jsonl") if row["iteration"] == 1]
    for row in texts:
        expected = min(len(row["completion"]) / 10, 5.0) - (0.0 if row["finished"] else 1.0)
        assert row["reward"] == pytest.approx(expected, abs=1e-5)
    assert result.iterations == 2
    about = json.loads((train.out / "policy.json").read_text())
    assert about["reward_model"] is None


@pytest.fixture
def rollouts(monkeypatch):
    """The rollouts of a run, as they come."""
    kept = []
    original = ppo_trainer.PPOTrainer._generate_and_score_completions

    def keep(self, inputs):
        kept.append(original(self, inputs))
        return kept[-1]

    monkeypatch.setattr(ppo_trainer.PPOTrainer, "_generate_and_score_completions", keep)
    return kept


def own_tokens(rollout, part, row):
    """Ids of a prompt or completion without its padding."""
    return rollout[f"{part}_ids"][row][rollout[f"{part}_mask"][row].bool()]


def in_deviations(scores, scale):
    return (np.asarray(scores) - scale.mean) / scale.std


def likelihood_per_token(trunk, prompt, completion):
    """Mean log-probability of a completion's tokens under the base alone."""
    with torch.no_grad(), trunk.model.disable_adapter():
        logits = trunk.model(input_ids=torch.cat([prompt, completion])[None]).logits[0]
    told = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(told.gather(1, completion[:, None]).mean())


def test_a_weighted_sum_of_all_kinds_of_reward(train, rollouts, llama_folder, reward_folder):
    rewards = [
        {"kind": "reward-model", "weight": 0.75},
        {**CALLABLE, "weight": 0.5},
        {"kind": "scorer", "name": "profanity-check", "weight": 2.0, "mean": -0.5},
        {"kind": "model", "name": str(reward_folder), "weight": -0.25},
        {"kind": "fluency", "weight": 0.125, "mean": -3.0, "std": 2.0},
    ]
    train(
        rewards=rewards,
        judge=None,
        length_penalty=0.25,
        max_iterations=1,
        num_sample_completions=8,
    )
    rows = read_rows(train.out / "samples.jsonl")
    parts = [
        [own_tokens(rollouts[0], part, n) for part in ("prompt", "completion")] for n in range(8)
    ]
    trunk = trunk_on(llama_folder)
    trunk.load_reward(reward_folder)
    own = ppo_trainer.score_sequences(trunk, [torch.cat(pair) for pair in parts], 4)
    other, scale = load_other_model(str(reward_folder))
    texts = [row["completion"] for row in rows]
    mixed = 0.75 * in_deviations(own, trunk.scale)
    mixed += 0.5 * np.array([len(text) for text in texts]) / 10
    mixed += 2 * (0.5 - np.asarray(load_scorer("profanity-check")(texts)))
    fluent = [likelihood_per_token(trunk, *pair) for pair in parts]
    mixed += 0.125 * (np.array(fluent) + 3) / 2
    mixed -= 0.25 * in_deviations(other([row["prompt"] for row in rows], texts), scale)
    expected = np.clip(mixed, -5, 5) - 0.25 * np.array([len(ids) for _, ids in parts])
    expected -= [0.0 if row["finished"] else 1.0 for row in rows]
    np.testing.assert_allclose([row["reward"] for row in rows], expected, atol=1e-4)
    assert np.std(own.numpy()) > 1e-3


def test_another_model_gives_the_scores_of_the_trunks_reward_role(reward_folder, llama_folder):
    function, scale = load_other_model(str(reward_folder))
    trunk, tokenizer = trunk_on(llama_folder), load_tokenizer(llama_folder)
    trunk.load_reward(reward_folder)
    assert scale == trunk.scale
    prompts, completions = (
        ["You are", "What a lovely", "You are"],
        [" kind", " day, thank you!", ""],
    )
    scores = function(prompts, completions)
    sequences = [
        torch.tensor(encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, text))
        for prompt, text in zip(prompts, completions, strict=True)
    ]
    own = ppo_trainer.score_sequences(trunk, sequences, 2)
    np.testing.assert_allclose(scores, own, atol=1e-5)
    assert np.std(scores) > 1e-3


def test_chat_prompts_are_rolled_out_as_they_are_encoded(
    rollouts, llama_folder, reward_folder, tmp_path
):
    tokenizer = load_tokenizer(llama_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    texts = ["You are", "What a lovely day", "thank you", "You"]
    system = {"role": "system", "content": "kind"}
    prompts = [
        Prompt(f"c{n}", [*([system] if n % 2 else []), {"role": "user", "content": text}])
        for n, text in enumerate(texts)
    ]
    config = PPOTrainingConfig.model_validate({**TINY, "max_iterations": 1})
    ppo.train_ppo(llama_folder, tokenizer, reward_folder, prompts, prompts[:3], config, tmp_path)
    encoded = sorted(2 * [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts])
    assert sorted(own_tokens(rollouts[0], "prompt", n).tolist() for n in range(8)) == encoded
    told = {row["prompt"] for row in read_rows(tmp_path / "samples.jsonl")}
    assert told <= {text_of(prompt.prompt) for prompt in prompts}


class Logits(TorchDispatchMode):
    """Notes every tensor that has the vocabulary as a dimension and `rows` of it or more, in memory of its own size."""

    def __init__(self, vocabulary, rows):
        super().__init__()
        self.vocabulary, self.rows, self.seen = vocabulary, rows, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for made in found if isinstance(found, tuple | list) else [found]:
            if not isinstance(made, torch.Tensor) or self.vocabulary not in made.shape:
                continue
            held = (
                made.untyped_storage().nbytes() // made.element_size()
            )  # an expanded view holds less
            if min(made.numel(), held) >= self.rows * self.vocabulary:
                self.seen.append((str(func), tuple(made.shape)))
        return found


def test_no_tensor_of_batch_by_length_by_vocabulary_is_ever_made(train, monkeypatch):
    """Neither in a rollout's passes nor in an update: log-probabilities come tile by tile."""
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 4)
    with Logits(300, 4 * 12) as logits:
        _, rows = train(max_iterations=1, per_device_train_batch_size=4, response_length=12)
    assert rows[0]["max_length"] == 12
    assert not logits.seen
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 4096)
    with Logits(300, 4 * 12) as logits:
        train(max_iterations=1, per_device_train_batch_size=4, response_length=12)
    assert logits.seen, "a tile of the whole micro-batch would have been noted"


@pytest.fixture(scope="module")
def full_reward_folder(llama_folder, tmp_path_factory):
    """A reward model of which every weight was trained. It is wrong about its held-out pairs, which are turned."""
    out = tmp_path_factory.mktemp("full")
    quick = {"full_finetuning": True, "num_train_epochs": 1, "learning_rate": 1e-3}
    config = TINY_REWARD.model_copy(update=quick)
    turned = [
        replace(p, chosen=p.rejected, rejected=p.chosen, chosen_id="r", rejected_id="c")
        for p in pairs()[15:]
    ]
    train_reward(llama_folder, load_tokenizer(llama_folder), pairs()[:15], turned, config, out)
    return out


def test_a_reward_model_that_was_trained_in_full_scores_after_loading_as_before_saving(
    full_reward_folder,
):
    function, scale = load_other_model(str(full_reward_folder))
    about, trust = (
        json.loads((full_reward_folder / name).read_text())
        for name in ("reward.json", "trust.json")
    )
    assert scale == RewardScale(about["score_mean"], about["score_std"])
    worst = trust["worst"]
    assert len(worst) == 3
    for side in ("chosen", "rejected"):
        scores = function([row["prompt"] for row in worst], [row[side] for row in worst])
        before = [row[f"{side}_score"] for row in worst]
        np.testing.assert_allclose(scores, before, atol=1e-5)


def test_a_reward_model_that_was_trained_in_full_rewards_ppo(train, full_reward_folder):
    """As the reward role, and as a term of a sum that reads texts."""
    other = {"kind": "model", "name": str(full_reward_folder)}
    rewards = [{"kind": "reward-model", "weight": 0.0}, {**other, "weight": 0.5}]
    result, _ = train(reward=full_reward_folder, judge=None, max_iterations=1)
    assert result.iterations == 1
    (train.out / "samples.jsonl").unlink()
    train(reward=full_reward_folder, rewards=rewards, judge=None, max_iterations=1)
    function, scale = load_other_model(str(full_reward_folder))
    rows = read_rows(train.out / "samples.jsonl")
    raw = np.array(function([r["prompt"] for r in rows], [r["completion"] for r in rows]))
    expected = np.clip(0.5 * (raw - scale.mean) / scale.std, -5, 5)
    expected -= [0.0 if row["finished"] else 1.0 for row in rows]
    np.testing.assert_allclose([row["reward"] for row in rows], expected, atol=1e-5)
    assert np.std(raw) > 1e-3


def test_fluency_alone_is_the_held_out_cost_with_its_sign_turned(train):
    reward = [{"kind": "fluency", "mean": -5.0}]
    train(
        rewards=reward,
        judge=None,
        missing_eos_penalty=0,
        reward_clip=1e3,
        eval_every=1,
        max_iterations=1,
    )
    found = [row for row in read_rows(train.out / "metrics.jsonl") if "eval_reward" in row]
    assert found
    for row in found:
        assert row["eval_reward"] == pytest.approx(5 - row["eval_cost"], abs=1e-4)


def test_the_mix_is_the_weighted_sum_and_names_what_is_broken():
    mix = RewardMix(
        [
            RewardTerm("a", 1.0, RewardScale(1.0, 2.0), lambda p, c: [3.0, 5.0]),
            RewardTerm("b", -2.0, RewardScale(0.0, 1.0), lambda p, c: np.array([0.5, np.nan])),
        ]
    )
    raw = mix.from_texts(["x", "y"], ["1", "2"])
    assert torch.allclose(mix.combined(raw[:1]), torch.tensor([0.0]))
    with pytest.raises(TrainingError, match=r"not a number \(b\)"):
        mix.combined(raw)


def test_rewards_that_cannot_be_had_are_refused(tmp_path, llama_folder):
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError"):
        load_callable("no_such_module:f")
    with pytest.raises(ConfigError, match="has no function 'nothing'"):
        load_callable("tests.ppo_rewards:nothing")
    with pytest.raises(ModelError, match="No reward model can be loaded"):
        load_other_model(str(tmp_path))
    tiny_causal_lm("llama").save_pretrained(tmp_path / "lost")
    lost = {"base_model": str(tmp_path / "moved away"), "score_mean": 0.0, "score_std": 1.0}
    (tmp_path / "lost" / "reward.json").write_text(json.dumps(lost))
    (tmp_path / "lost" / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match="No reward model can be loaded"):
        load_other_model(str(tmp_path / "lost"))
    with pytest.raises(ValueError, match="needs a name"):
        RewardSource(kind="scorer")
    with pytest.raises(ValueError, match="module:function"):
        RewardSource(kind="callable", name="f")
    with pytest.raises(ValueError, match="is also a reward"):
        PPOTrainingConfig(rewards=[RewardSource(kind="scorer", name="profanity-check")])


def test_bad_input_is_refused_before_anything_starts(train, llama_folder, tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"takes 4 prompts .* but there are 1"):
        train(prompts=PROMPTS[:1])
    with pytest.raises(ConfigError, match="value_init=zero"):
        train(reward=None, rewards=[CALLABLE])
    with pytest.raises(InputError, match="needs a reward model"):
        train(reward=None)
    with pytest.raises(ConfigError, match="trackio, which is not installed"):
        train(report_to=["trackio"])
    with pytest.raises(ValueError, match="must be a multiple of num_mini_batches"):
        train(batch_size=10)
    long = [Prompt(f"l{i}", "You are kind. " * 60) for i in range(4)]
    with pytest.raises(InputError, match="context window of 128"):
        train(prompts=long)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_reward_model_of_another_tokenizer_or_base_is_refused(
    train, reward_folder, llama_folder, tmp_path
):
    import shutil

    from alignment.models.demo_model import train_tokenizer

    other = tmp_path / "other"
    shutil.copytree(reward_folder, other)
    train_tokenizer(["completely different words here, nothing alike"] * 3, 290).save_pretrained(
        other
    )
    with pytest.raises(InputError, match="another tokenizer"):
        train(reward=other)
    base = tmp_path / "base"
    tiny_causal_lm("llama", seed=3).save_pretrained(base)
    load_tokenizer(llama_folder).save_pretrained(base)
    config = PPOTrainingConfig.model_validate(TINY)
    with pytest.raises(ModelError, match="another base"):
        ppo.train_ppo(
            base, load_tokenizer(base), reward_folder, PROMPTS, [], config, tmp_path / "x"
        )


def test_a_warning_of_the_alarm_reaches_record_and_result(train, monkeypatch):
    from alignment.training import ppo_watch

    monkeypatch.setattr(
        ppo_watch, "over_optimised", lambda history: ["too good"] if len(history) == 2 else []
    )
    result, _ = train()
    assert result.warnings == ["too good"]
    assert read_rows(train.out / "warnings.jsonl") == [{"iteration": 1, "warning": "too good"}]


def test_the_start_must_be_at_the_reference():
    check_start(1e-4, 1e-3, 6, torch.float32)
    with pytest.raises(TrainingError, match=r"off by 0\.02"):
        check_start(0.02, 0.0, 6, torch.float32)
    with pytest.raises(TrainingError, match=r"KL is 0\.1"):
        check_start(0.0, 0.1, 6, torch.float32)


def test_a_tensor_without_a_gradient_is_noticed():
    moved, still = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    moved.grad = torch.ones(2)
    with pytest.raises(TrainingError, match="get no gradient, among them still"):
        GradientCheck().see({"moved": moved, "still": still}, True)
    still.grad = torch.zeros(2)
    check = GradientCheck()
    for _ in range(4):
        check.see({"moved": moved, "still": still}, True)
    assert not check.done
    with pytest.raises(TrainingError, match="no gradient but 0, among them still"):
        check.see({"moved": moved, "still": still}, True)


def test_a_run_in_which_nothing_moves_is_noticed():
    """All gradients 0 were taken for a run that had not begun to learn."""
    still = torch.nn.Parameter(torch.ones(2))
    still.grad = torch.zeros(2)
    check = GradientCheck()
    assert check.at_end() is None, "no update was made"
    for _ in range(4):
        check.see({"still": still}, True)
    with pytest.raises(TrainingError, match="nothing was trained"):
        check.at_end()
    with pytest.raises(TrainingError, match="no gradient but 0, among them still"):
        check.see({"still": still}, True)


def test_a_run_too_short_to_see_all_tensors_move_says_so(train):
    """After one update an adapter's A has had no gradient: its B was 0."""
    result, _ = train(max_iterations=1, num_ppo_epochs=1, num_mini_batches=1)
    (warning,) = result.warnings
    assert "too short to tell" in warning and "lora_A" in warning
    assert read_rows(train.out / "warnings.jsonl")[-1] == {"iteration": 1, "warning": warning}
    result, _ = train()
    assert not result.warnings


def test_a_run_without_any_gradient_fails_at_its_end(train, monkeypatch):
    def nothing(*args, **kwargs):
        return original(*args, **kwargs) * 0.0

    original = ppo_trainer.ppo_math.loss_per_token
    monkeypatch.setattr(ppo_trainer.ppo_math, "loss_per_token", nothing)
    with pytest.raises(TrainingError, match="nothing was trained"):
        train(max_iterations=1)
    assert not (train.out / "policy.json").exists()


def test_a_base_that_changes_is_noticed(train, monkeypatch):
    original = ppo_trainer.PPOTrainer._compute_loss

    def tampering(self, model, inputs):
        with torch.no_grad():
            self.trunk.base.get_input_embeddings().weight[0, 0] += 1e-6
        return original(self, model, inputs)

    monkeypatch.setattr(ppo_trainer.PPOTrainer, "_compute_loss", tampering)
    with pytest.raises(TrainingError, match="changed during training"):
        train(max_iterations=1)


def test_a_loss_that_is_not_a_number_stops_the_run(train, monkeypatch):
    original = ppo_trainer.ppo_math.value_losses

    def broken(*args):
        losses, clipped = original(*args)
        return losses * float("nan"), clipped

    monkeypatch.setattr(ppo_trainer.ppo_math, "value_losses", broken)
    with pytest.raises(TrainingError, match="loss of iteration 1 is not a number"):
        train()


def test_report_to_gets_our_row(train, tmp_path, monkeypatch):
    """TRL's own figures told reporters a reward of 0, and what the watch measures never reached them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _, rows = train(report_to=["tensorboard"])
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    seen = {
        tag.removeprefix("train/").replace("eval/", "eval_"): [e.value for e in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    for name in ("reward", "kl", "tokens_per_second", "seconds", "eval_reward", "eval_toxicity"):
        assert name in rows[0] and len(seen[name]) == 2, name
    for name in rows[0]:
        assert seen[name] == pytest.approx([row[name] for row in rows], rel=1e-5), name
    assert any(seen["reward"]) and not {"reward_std", "reward_score"} & seen.keys()
    assert not any(name.startswith("rewards/") for name in seen)
    (tag,) = (tag for tag in board.Tags()["tensors"] if "samples" in tag)
    told = [event.tensor_proto.string_val[0].decode() for event in board.Tensors(tag)]
    samples = read_rows(tmp_path / "samples.jsonl")
    assert len(told) == 2 and samples[0]["completion"] in told[0]
    assert samples[-1]["completion"] in told[1]
    state = max(tmp_path.glob("checkpoints/checkpoint-*/trainer_state.json"))
    history = json.loads(state.read_text())["log_history"]
    assert history[0]["reward"] == rows[0]["reward"] and "samples" not in history[0]


@pytest.mark.parametrize(
    ("where", "what"), [(ppo, "load_causal_lm"), (ppo_trainer.ppo_math, "policy_losses")]
)
def test_out_of_memory_says_what_to_change(train, monkeypatch, where, what):
    """While the base is loaded, where a large one fails first, and in an update."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB")

    monkeypatch.setattr(where, what, full)
    with pytest.raises(TrainingError) as caught:
        train()
    for advice in (
        "ppo.per_device_train_batch_size=1",
        "ppo.gradient_checkpointing=true",
        "ppo.critic=head",
        "base_precision=bf16",
    ):
        assert advice in str(caught.value)
