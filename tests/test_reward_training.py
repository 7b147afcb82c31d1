"""Training that people can live with: resume after SIGKILL, repeatable, best kept, and what goes wrong said clearly."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from alignment.config import RewardTrainingConfig
from alignment.errors import InputError, ModelError, TrainingError
from alignment.models.loading import (
    encode_completion,
    encode_prompt,
    load_causal_lm,
    load_tokenizer,
)
from alignment.models.reward_heads import load_heads
from alignment.models.trunk import VALUE
from alignment.records import PreferencePair
from alignment.training import reward_run, reward_trainer
from alignment.training.checkpoints import latest_checkpoint, mark_complete, remove_incomplete
from alignment.training.out_of_memory import memory_errors
from alignment.training.reward import train_reward
from tests.test_reward_and_trunk import pairs, trunk_on

QUICK = RewardTrainingConfig(
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.1,
    num_train_epochs=4,
    per_device_train_batch_size=8,
    learning_rate=5e-3,
    evaluations=6,
    early_stopping_patience=0,
)


def quick(**options):
    return QUICK.model_copy(update=options)


def train(folder, out, config=QUICK, data=None, **options):
    data = data or (pairs(14)[:36], pairs(14)[36:])
    return train_reward(folder, load_tokenizer(folder), *data, config, out, **options)


def logged(out):
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row or "eval_loss" in row]


CHILD = """
import sys, time
from tests.test_reward_training import train
train(sys.argv[1], __import__("pathlib").Path(sys.argv[2]), progress=lambda *_: time.sleep(0.15))
"""


def test_resuming_after_sigkill_gives_what_an_uninterrupted_run_gives(llama_folder, tmp_path):
    whole = train(llama_folder, tmp_path / "whole")
    killed = tmp_path / "killed"
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(llama_folder), str(killed)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while latest_checkpoint(killed / "checkpoints") is None and time.monotonic() < deadline:
        assert child.poll() is None, "the child ended by itself"
        time.sleep(0.02)
    time.sleep(0.2)  # in the middle of the steps that follow the checkpoint
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (killed / "reward.json").exists()
    (killed / "checkpoints" / "checkpoint-9999").mkdir()  # half-written: never counts
    resumed = train(llama_folder, killed, resume=True)
    assert logged(killed) == logged(tmp_path / "whole")
    assert resumed == whole
    for name in ("adapter_model.safetensors", "heads.safetensors", "trust.json"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_training_is_repeatable_and_the_seed_matters(llama_folder, tmp_path):
    results = [
        train(llama_folder, tmp_path / str(n), quick(num_train_epochs=1, seed=n // 2))
        for n in range(3)
    ]
    assert results[0] == results[1] != results[2]
    assert logged(tmp_path / "0") == logged(tmp_path / "1")


def test_checkpoints_of_other_data_are_refused(llama_folder, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            llama_folder,
            tmp_path,
            progress=lambda label, done, *_: stop() if done > 9 else None,
        )
    assert latest_checkpoint(tmp_path / "checkpoints") is not None
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(TrainingError, match="other data or options"):
        train(llama_folder, tmp_path, quick(learning_rate=1e-4), resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_run_that_is_asked_to_end_saves_what_it_has_and_can_go_on(llama_folder, tmp_path):
    whole = train(llama_folder, tmp_path / "whole")

    def ask(label, done, total, note=""):
        if done == 9:
            (tmp_path / "asked" / "stop").touch()

    early = train(llama_folder, tmp_path / "asked", progress=ask)
    assert early.steps == 9 and early.stopped_early and (tmp_path / "asked/reward.json").exists()
    assert train(llama_folder, tmp_path / "asked", resume=True).steps == whole.steps
    assert not (tmp_path / "asked" / "checkpoints").exists()


def test_a_checkpoint_counts_when_its_marker_is_there(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state.json").write_text("{}")
    assert latest_checkpoint(tmp_path) is None
    mark_complete(tmp_path / "checkpoint-5")
    mark_complete(tmp_path / "checkpoint-10")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    remove_incomplete(tmp_path)
    assert not (tmp_path / "checkpoint-100").exists()


def test_the_best_weights_are_kept_and_training_stops_early(llama_folder, tmp_path):
    hot = quick(learning_rate=0.3, num_train_epochs=20, evaluations=30, early_stopping_patience=2)
    result = train(llama_folder, tmp_path, hot)
    evaluated = {row["step"]: row["eval_loss"] for row in logged(tmp_path) if "eval_loss" in row}
    assert result.best_step == min(evaluated, key=evaluated.get)
    assert result.stopped_early and result.steps < 20 * 5
    assert not (tmp_path / "checkpoints").exists()


def test_accumulated_batches_give_the_update_of_one_large_batch(llama_folder, tmp_path):
    """Pairs weigh the same in an update, whichever micro-batch they fall into."""
    data = (
        [p for p in pairs(14)[:36] if p.prompt_id != "p3" or p.chosen != " thank you"],
        pairs(14)[36:],
    )
    options = {"num_train_epochs": 1, "lora_dropout": 0.0, "evaluations": 1}
    one = quick(per_device_train_batch_size=64, **options)
    parts = quick(per_device_train_batch_size=16, gradient_accumulation_steps=64, **options)
    results = [train(llama_folder, tmp_path / str(n), c, data) for n, c in enumerate((one, parts))]
    rows = [logged(tmp_path / str(n))[0] for n in range(2)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)
    assert results[0].score_mean == pytest.approx(results[1].score_mean, abs=1e-4)


def test_activation_checkpointing_and_bf16_train(llama_folder, tmp_path):
    plain = train(llama_folder, tmp_path / "a", quick(lora_dropout=0.0, num_train_epochs=1))
    again = quick(lora_dropout=0.0, num_train_epochs=1, gradient_checkpointing=True)
    assert train(llama_folder, tmp_path / "b", again).score_mean == pytest.approx(
        plain.score_mean, abs=1e-5
    )
    half = train(llama_folder, tmp_path / "c", quick(num_train_epochs=1, precision="bf16"))
    assert half.score_mean == pytest.approx(plain.score_mean, abs=0.3)
    assert logged(tmp_path / "c") != logged(tmp_path / "a")


def scores_by(model, sequences):
    with torch.no_grad():
        return np.array([model(input_ids=ids[None]).logits.item() for ids in sequences])


def sequences_of(folder):
    tokenizer = load_tokenizer(folder)
    return [
        torch.tensor(encode_prompt(tokenizer, p.prompt) + encode_completion(tokenizer, text))
        for p in pairs(2)
        for text in (p.chosen, p.rejected)
    ]


def plain_classifier(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.config.pad_token_id = 1
    return model.eval()


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_trunk_plain_classifier_and_merged_model_give_the_same_scores(
    tiny_model_folder, tmp_path, full
):
    out = tmp_path / "reward"
    rate = 1e-3 if full else 5e-3
    config = quick(num_train_epochs=1, full_finetuning=full, learning_rate=rate, evaluations=1)
    train(tiny_model_folder, out, config)
    sequences = sequences_of(tiny_model_folder)
    trunk = trunk_on(tiny_model_folder)
    trunk.load_reward(out)
    ours, spread = [], []
    for ids in sequences:
        score, sd = trunk.scores_and_deviation(ids[None], torch.ones_like(ids)[None])
        assert torch.equal(score, trunk.scores(ids[None], torch.ones_like(ids)[None]))
        ours.append(score.item())
        spread.append(sd.item())
    if full:
        plain = plain_classifier(out)
        assert not (out / "adapter_model.safetensors").exists()
    else:
        plain = PeftModel.from_pretrained(plain_classifier(tiny_model_folder), out).eval()
        merged = PeftModel.from_pretrained(plain_classifier(tiny_model_folder), out)
        merged = merged.merge_and_unload().eval()
        merged.save_pretrained(tmp_path / "merged")
        reloaded = plain_classifier(tmp_path / "merged")
        np.testing.assert_allclose(scores_by(merged, sequences), ours, atol=1e-5)
        np.testing.assert_allclose(scores_by(reloaded, sequences), ours, atol=1e-5)
    np.testing.assert_allclose(scores_by(plain, sequences), ours, atol=1e-5)
    heads = load_heads(out)
    assert heads is not None and heads.shape == (4, 32)
    weight = plain.score.weight if full else plain.base_model.model.score.weight
    torch.testing.assert_close(heads.mean(0, keepdim=True), weight.detach())
    assert np.std(ours) > 1e-3 and min(spread) > 0


def test_ppo_can_stand_on_a_reward_model_that_was_trained_in_full(llama_folder, tmp_path):
    train(
        llama_folder, tmp_path, quick(num_train_epochs=1, full_finetuning=True, learning_rate=1e-3)
    )
    trunk = trunk_on(llama_folder)
    trunk.load_reward(tmp_path)
    trunk.add_value()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), trunk.role(VALUE):
        assert (
            trunk.base.value_head(trunk.hidden(input_ids=ids, attention_mask=torch.ones_like(ids)))
            == 0
        ).all()
    with torch.no_grad(), trunk.role(None):
        untouched = load_causal_lm(llama_folder)(input_ids=ids).logits
        torch.testing.assert_close(trunk.model(input_ids=ids).logits, untouched)
    trains = [name for name, p in trunk.model.named_parameters() if p.requires_grad]
    assert trains and not any("reward" in name for name in trains)


def test_a_single_head_has_no_deviation(llama_folder, tmp_path):
    result = train(llama_folder, tmp_path, quick(num_train_epochs=1, ensemble_heads=1))
    assert result.sd_quantiles is None and load_heads(tmp_path) is None
    trunk = trunk_on(llama_folder)
    trunk.load_reward(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ModelError, match="ensemble_heads"):
        trunk.score_deviation(ids, torch.ones_like(ids))


def test_tasks_get_an_uncertainty(llama_folder, tmp_path):
    tasks = {
        "known": ("What a day 0!", [" thank you", " rude!", " lovely day"]),
        "same": ("What a day 1!", [" thank you", " thank you"]),
    }
    train(llama_folder, tmp_path, quick(num_train_epochs=1), tasks=tasks)
    rows = [json.loads(r) for r in (tmp_path / "uncertainty.jsonl").read_text().splitlines()]
    assert [row["prompt_id"] for row in rows] == ["known", "same"]
    assert rows[0]["sd"] > 0 and rows[1]["sd"] == 0


def test_out_of_memory_says_what_to_change(llama_folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(reward_trainer, "ensemble_loss", full)
    with pytest.raises(TrainingError) as caught:
        train(llama_folder, tmp_path)
    for advice in (
        "per_device_train_batch_size=4",
        "gradient_accumulation_steps=2",
        "gradient_checkpointing=true",
        "max_length",
    ):
        assert advice in str(caught.value)
    assert not (tmp_path / "reward.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_base_too_large_to_load_says_what_to_change(llama_folder, tmp_path, monkeypatch, error):
    """A large base fails while it is loaded, before any batch."""

    def full(*_, **__):
        raise error

    monkeypatch.setattr(reward_run.AutoModelForSequenceClassification, "from_pretrained", full)
    with pytest.raises(TrainingError, match=r"base_precision=bf16.*--fsdp"):
        train(llama_folder, tmp_path)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"), memory_errors(["less"]):
        raise RuntimeError("shape mismatch")


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoints(
    llama_folder, tmp_path, monkeypatch
):
    real, calls = reward_trainer.ensemble_loss, []

    def broken(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) > 9 else 1)

    monkeypatch.setattr(reward_trainer, "ensemble_loss", broken)
    with pytest.raises(TrainingError, match="became nan at step 10"):
        train(llama_folder, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") is not None
    assert all(np.isfinite(row.get("loss", 0)) for row in logged(tmp_path))


def test_a_prompt_on_both_sides_and_too_few_prompts_are_refused(llama_folder, tmp_path):
    with pytest.raises(InputError, match="both to train on and held out"):
        train(llama_folder, tmp_path, data=(pairs(4)[:8], pairs(4)[8:]))
    with pytest.raises(TrainingError, match="from 1 and 1 prompts"):
        train(llama_folder, tmp_path, data=(pairs(2)[:3], pairs(2)[3:]))
    ties = [PreferencePair("Hm?", " a", " b", 0.5, 0.5, "t", "a", "b")]
    with pytest.raises(TrainingError, match="Every held-out pair is a tie"):
        train(llama_folder, tmp_path, data=(pairs(4), ties))
    assert not (tmp_path / "reward.json").exists()


def test_odd_data_is_trained_on_and_told(llama_folder, tmp_path):
    odd = [
        PreferencePair("What a day 0!", " kind" * 90, " rude", 0.9, 0.9, "p0", "long", "r"),
        PreferencePair("What a day 1!", " same", " same", 0.9, 0.9, "p1", "s1", "s2"),
        PreferencePair("What a day 2!", " thank you", "", 0.9, 0.9, "p2", "k", "empty"),
        PreferencePair("What a day 3!", " rude!", " lovely day", 0.9, 0.9, "p3", "31r", "31k"),
    ]
    data = ([*pairs(14)[:36], *odd], pairs(14)[36:])
    result = train(llama_folder, tmp_path, quick(num_train_epochs=1, max_length=64), data)
    counts = result.warnings
    assert counts["cut_completions"] == counts["identical_pairs"] == 1
    assert counts["empty_completions"] == counts["contradictory_pairs"] == 1
    kept = json.loads((tmp_path / "reward.json").read_text())
    assert len(kept["messages"]) == 4
    assert all(message in (tmp_path / "README.md").read_text() for message in kept["messages"])


def coin_tosses(rows):
    return [replace(pair, confidence=0.5) for pair in rows]


def test_pairs_that_weigh_nothing_are_left_out(llama_folder, tmp_path):
    """A batch of them alone was 0/0, and a validation split of them a loss of 0 that picked any weights."""
    rows = pairs(14)[:36]
    sure, unsure = rows[:12], coin_tosses(rows[12:])
    weighted = quick(num_train_epochs=1, weight_by_confidence=True, validation_fraction=0.3)
    result = train(llama_folder, tmp_path, weighted, ([*sure, *unsure], pairs(14)[36:]))
    assert result.warnings["weightless_pairs"] == len(unsure)
    assert result.train_pairs + result.validation_pairs == len(sure)
    assert result.validation_pairs > 0
    assert all(row["eval_loss"] > 0 for row in logged(tmp_path) if "eval_loss" in row)
    with pytest.raises(TrainingError, match="Every training pair has the weight 0"):
        train(llama_folder, tmp_path / "none", weighted, (unsure, pairs(14)[36:]))
    with pytest.raises(TrainingError, match=r"from 1 and .* weigh nothing"):
        train(llama_folder, tmp_path / "one", weighted, ([*sure[:3], *unsure], pairs(14)[36:]))
