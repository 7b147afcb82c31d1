"""The plan of one run as the form has it, and the process that makes it."""

import os
import signal
from dataclasses import replace

import pytest

from alignment import run_plan
from alignment.config import Config, load_config
from alignment.errors import InputError, ModelError
from alignment.models.machines import GIB, Machine
from alignment.planner import NotYet, Planner
from alignment.run_plan import plan_run

UNKNOWN = {"prompt": None, "completion": None, "completions": None}
PROCESSOR = Machine("processor", 64 * GIB, False, 1e11, 1e10, GIB)


def configured(base, *assignments):
    return load_config(None, [f"base_model={base}", *assignments])


@pytest.fixture
def processor(monkeypatch):
    monkeypatch.setattr(run_plan, "machine", lambda _: PROCESSOR)


def test_lengths_are_counted_in_tokens_of_the_longest_texts(llama_folder, tokenizer, processor):
    texts = {"prompt": "You are kind.", "completion": "Thank you.", "completions": 100}
    config = configured(llama_folder, "ppo.response_length=9", "reward.max_length=64")
    of_ppo = plan_run(config, "ppo", 1, False, texts)
    prompt = len(tokenizer("You are kind.")["input_ids"])
    assert of_ppo["tokens"] == {"prompt": prompt, "completion": 9, "counted": True}
    assert of_ppo["setting"]["prompt_length"] == prompt
    of_reward = plan_run(config, "reward", 1, False, texts)
    assert of_reward["tokens"]["completion"] == len(tokenizer("Thank you.")["input_ids"]) + 1
    cut = plan_run(configured(llama_folder, "reward.max_length=8"), "reward", 1, False, texts)
    assert cut["tokens"]["prompt"] + cut["tokens"]["completion"] <= 8
    unknown = plan_run(config, "ppo", 1, False, UNKNOWN)
    window = 128
    assert unknown["tokens"] == {"prompt": window - 9, "completion": 9, "counted": False}


def test_every_choice_of_the_form_counts(llama_folder, processor):
    texts = {"prompt": "You are kind.", "completion": "Thank you.", "completions": 100}

    def peak(*assignments, stage="ppo", devices=1, fsdp=False):
        config = configured(llama_folder, "ppo.batch_size=64", *assignments)
        return plan_run(config, stage, devices, fsdp, texts)["peak_bytes"]

    plain = peak()
    assert peak("ppo.lora_rank=64") > plain
    assert peak("ppo.response_length=100") > plain
    assert peak("ppo.per_device_train_batch_size=32") > plain
    assert peak("base_precision=bf16") != plain
    assert peak(devices=4, fsdp=True) != peak(devices=4)
    reward = peak(stage="reward")
    assert peak("reward.full_finetuning=true", stage="reward") != reward
    assert peak("reward.max_batch_tokens=32", stage="reward") < reward


def test_time_is_that_of_the_whole_run(llama_folder, processor):
    texts = {"prompt": "You are kind.", "completion": "Thank you.", "completions": 100}
    config = configured(llama_folder, "ppo.max_iterations=50", "reward.num_train_epochs=3")
    of_ppo = plan_run(config, "ppo", 1, False, texts)
    assert of_ppo["total_seconds"] == pytest.approx(50 * sum(of_ppo["seconds"].values()))
    of_reward = plan_run(config, "reward", 1, False, texts)
    updates = 3  # of 32: 100 completions, less the fifth held out, less a tenth for validation
    assert of_reward["total_seconds"] == pytest.approx(3 * updates * of_reward["seconds"]["step"])


def test_processes_on_a_processor_share_its_memory(llama_folder, processor, monkeypatch):
    one = plan_run(configured(llama_folder), "ppo", 1, False, UNKNOWN | {"prompt": "You."})
    four = plan_run(configured(llama_folder), "ppo", 4, False, UNKNOWN | {"prompt": "You."})
    assert (one["room_bytes"], four["room_bytes"]) == (63 * GIB, 15 * GIB)
    few = replace(PROCESSOR, accelerator=True)
    monkeypatch.setattr(run_plan, "machine", lambda _: few)
    with pytest.raises(InputError, match="too few for 400 processes"):
        plan_run(configured(llama_folder), "ppo", 400, False, UNKNOWN)


def test_what_does_not_fit_says_what_would(processor, llama_folder, monkeypatch):
    config = configured(llama_folder, "ppo.per_device_train_batch_size=32", "ppo.batch_size=64")
    needed = plan_run(config, "ppo", 1, False, UNKNOWN)["peak_bytes"]
    small = replace(PROCESSOR, memory=GIB + needed - 1)
    monkeypatch.setattr(run_plan, "machine", lambda _: small)
    found = plan_run(config, "ppo", 1, False, UNKNOWN)
    assert not found["fits"] and found["room_bytes"] == needed - 1
    assert "a batch of 1 per device, accumulated" in found["what_would_fit"]


def test_a_context_window_that_is_too_small_names_the_option(llama_folder, processor):
    config = configured(llama_folder, "ppo.response_length=100000")
    with pytest.raises(InputError, match="Lower response_length"):
        plan_run(config, "ppo", 1, False, UNKNOWN)


def test_a_base_that_cannot_be_reached_is_said_in_a_sentence(monkeypatch):
    class Offline:
        def model_info(self, name, timeout):
            raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi", Offline)
    with pytest.raises(ModelError, match="nor can it be had from the hub now"):
        plan_run(Config(base_model="nobody/nothing"), "ppo", 1, False, UNKNOWN)


@pytest.mark.slow
def test_the_planner_answers_from_another_process_and_goes_on_after_an_error(
    tmp_path, llama_folder
):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(llama_folder)
    planner = Planner(tmp_path, wait=0.01)
    try:
        with pytest.raises(NotYet):  # its imports take longer
            planner.plan_run(configured("models/base"), "ppo", 1, False, UNKNOWN)
        planner._wait = 200
        found = planner.plan_run(configured("models/base"), "ppo", 1, False, UNKNOWN)
        assert found["fits"] and found["room_bytes"] > 0
        first = planner._process.pid
        with pytest.raises(ModelError, match="Lower response_length"):
            long = configured("models/base", "ppo.response_length=100000")
            planner.plan_run(long, "ppo", 1, False, UNKNOWN)
        assert planner._process.pid == first
        os.kill(first, signal.SIGSTOP)  # it cannot answer, however fast the machine is
        planner._patience = 0.1
        with pytest.raises(ModelError, match="Change something to try again"):
            planner.plan_run(configured("models/base"), "ppo", 1, False, UNKNOWN)
        planner._patience = 200
        assert planner.plan_run(configured("models/base"), "ppo", 1, False, UNKNOWN)["fits"]
    finally:
        planner.close()
