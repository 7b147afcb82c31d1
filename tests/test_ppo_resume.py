"""A run that is killed goes on from its last whole checkpoint as if nothing had happened."""

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from alignment import control, pipeline, run_folders
from alignment.config import load_config
from alignment.errors import InputError, TrainingError
from alignment.feedback import run_queue, runs
from alignment.feedback.runs import Run
from alignment.files import write_jsonl
from alignment.models.loading import load_tokenizer
from alignment.records import Prompt
from alignment.training import ppo
from alignment.training.checkpoints import COMPLETE, could_not_write, latest_checkpoint
from alignment.training.ppo_stops import STOP_FILE
from alignment.training.ppo_watch import Watch, read_rows
from alignment.training.reward import train_reward
from alignment.workspace import Workspace
from tests.test_loop import concord
from tests.test_reward_and_trunk import TINY as TINY_REWARD
from tests.test_reward_and_trunk import pairs

OPTIONS = {
    "max_iterations": 6,
    "batch_size": 8,
    "per_device_train_batch_size": 2,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "response_length": 6,
    "learning_rate": 1e-3,
    "lora_rank": 4,
    "kl_target": 0.5,
    "kl_horizon": 20,
    "save_every": 2,
    "eval_every": 2,
}
TEXTS = ["You are", "What a lovely", "thank", "You", "kind", "rude", "day"]
NOT_REPEATABLE = ("seconds", "tokens_per_second", "memory_mb")


def job_of(out: Path, model, reward, **options):
    prompts = out.parent / "prompts.jsonl"
    split = ["train"] * 5 + ["held-out"] * 2
    rows = [{"prompt_id": t, "prompt": t, "split": s} for t, s in zip(TEXTS, split, strict=True)]
    write_jsonl(prompts, rows)
    assignments = [f"{key}={value}" for key, value in {**OPTIONS, **options}.items()]
    config = load_config(None, assignments, "ppo")
    files = {"prompts": prompts, "model": str(model), "reward_model": str(reward)}
    return pipeline.Job(config, None, files, out)


def reward_on(base, out, **options):
    """A reward model on `base` in the folder `out`, trained for a moment."""
    quick = {"num_train_epochs": 2, "lora_layers": "upper-half", **options}
    config = TINY_REWARD.model_copy(update=quick)
    train_reward(base, load_tokenizer(base), pairs()[:15], pairs()[15:], config, out)
    return out


@pytest.fixture(scope="module")
def reward_folder(llama_folder, tmp_path_factory):
    return reward_on(llama_folder, tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def uninterrupted(llama_folder, reward_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    pipeline.train_ppo(job_of(out, llama_folder, reward_folder))
    return out


def figures(out):
    return [
        {k: v for k, v in row.items() if not k.startswith(NOT_REPEATABLE)}
        for row in read_rows(out / "metrics.jsonl")
    ]


def samples(out):
    return read_rows(out / "samples.jsonl")


@pytest.mark.parametrize("moment", ["rollout", "update", "save"])
def test_a_killed_run_resumes_exactly(moment, llama_folder, reward_folder, uninterrupted, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tests.ppo_killed", moment, out, llama_folder, reward_folder]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    picked = latest_checkpoint(out / "checkpoints")
    assert picked is not None and picked.name == (
        "checkpoint-8" if moment == "save" else "checkpoint-16"
    )
    if moment == "save":
        half = out / "checkpoints" / "checkpoint-16"
        assert half.is_dir() and not (half / COMPLETE).exists()
    result = run_folders.resume_folder(out)
    assert result["stop_reason"] == "maximum iterations"
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    assert figures(out) == figures(uninterrupted)
    assert samples(out) == samples(uninterrupted)
    mine, theirs = (load_file(o / "adapter_model.safetensors") for o in (out, uninterrupted))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_run_without_a_checkpoint_starts_again(
    llama_folder, reward_folder, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    original = ppo.PPOTrainer.train

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ppo.PPOTrainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_ppo(job_of(out, llama_folder, reward_folder, max_iterations=1))
    monkeypatch.setattr(ppo.PPOTrainer, "train", original)
    assert run_folders.resume_folder(out)["iterations"] == 1
    with pytest.raises(InputError, match="has finished"):
        run_folders.resume_folder(out)


def test_a_stop_file_ends_the_run_with_a_checkpoint_and_a_policy(
    llama_folder, reward_folder, tmp_path
):
    out = tmp_path / "run"
    job = job_of(out, llama_folder, reward_folder)

    def stop_after_two(label, done, total, note=""):
        if label == "PPO" and done == 2:
            (out / STOP_FILE).touch()

    job = pipeline.Job(job.config, None, job.files, out, stop_after_two)
    result = pipeline.train_ppo(job)
    assert (result["stop_reason"], result["iterations"]) == ("stopped by hand", 2)
    assert (out / "adapter_config.json").exists()
    assert latest_checkpoint(out / "checkpoints").name == "checkpoint-8"
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    resumed = run_folders.resume_folder(out)
    assert (resumed["stop_reason"], resumed["iterations"]) == ("maximum iterations", 6)


def test_a_run_of_a_workspace_goes_on_through_the_queue(
    llama_folder, reward_folder, uninterrupted, tmp_path
):
    """Stopped after its first iteration by the control room, then put back into the queue."""
    config = job_of(tmp_path / "x", llama_folder, reward_folder).config
    files = {"model": str(llama_folder), "reward_model": str(reward_folder)}
    with Workspace.create(tmp_path / "workspace", config) as workspace:
        rows = read_rows(tmp_path / "prompts.jsonl")
        workspace.store.add_prompts([Prompt(**row) for row in rows])
        run_id = control.submit(workspace, "ppo", config, by="me", files=files)
        run_queue.claim_next(workspace.store, 1)
        out = Path(runs.run(workspace.store, run_id).folder)
        (out / STOP_FILE).touch()
        control.execute(workspace, run_id)
        assert runs.run(workspace.store, run_id).status == "stopped"
        workspace.store.add_prompts([Prompt("new", "not there when the run began")])
        control.resume(workspace, run_id, by="me")
        (out / STOP_FILE).unlink()  # as the queue does when it starts a run
        run_queue.claim_next(workspace.store, 1)
        control.execute(workspace, run_id)
        assert runs.run(workspace.store, run_id).status == "finished"
    assert figures(out) == figures(uninterrupted)


def interrupted_at(count):
    """A progress at which the run is broken off after `count` iterations."""

    def progress(label, done, total, note=""):
        if label == "PPO" and done == count:
            raise KeyboardInterrupt

    return progress


def go_on(workspace, run_id):
    """What `runs resume` asks for, in this process."""
    control.resume(workspace, run_id, by="me")
    assert run_queue.claim_next(workspace.store, 1) == run_id
    control.execute(workspace, run_id)
    return runs.run(workspace.store, run_id)


def test_resume_keeps_the_reward_model_it_began_with(
    llama_folder, reward_folder, uninterrupted, tmp_path
):
    """A run that the command line started names no reward model; a newer one must not take its place."""
    asked = job_of(tmp_path / "x", llama_folder, reward_folder)
    with Workspace.create(tmp_path / "workspace", asked.config) as workspace:
        first = Run("reward-1", "reward", {}, status="finished", folder=str(reward_folder))
        runs.save_run(workspace.store, first)
        files = {name: asked.files[name] for name in ("prompts", "model")}
        job = pipeline.Job(asked.config, workspace, files, progress=interrupted_at(4))
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_ppo(job)
        (run_id,) = (run.run_id for run in runs.runs(workspace.store, "ppo"))
        other = tmp_path / "other"
        reward_on(llama_folder, other, seed=7)
        runs.save_run(workspace.store, replace(first, run_id="reward-2", folder=str(other)))
        done = go_on(workspace, run_id)
    assert done.inputs["reward_model"] == str(reward_folder)
    assert figures(Path(done.folder)) == figures(uninterrupted)


@pytest.mark.parametrize("launch", [{}, {"nproc": 2}], ids=["one process", "two"])
def test_a_run_of_a_folder_goes_on_in_its_precision_and_on_as_many_processes(
    launch, llama_folder, reward_folder, tmp_path, monkeypatch, capsys
):
    """Everything that was asked for, not the options of PPO alone; and through the command line."""
    told = {}

    def in_this_process(*args, resume, base_precision):
        told[resume] = base_precision, 1
        raise TrainingError("enough")

    def on_several(spec, folder, how, progress):
        assert folder == tmp_path / "run"
        told[spec["resume"]] = spec["base_precision"], how.processes
        raise TrainingError("enough")

    monkeypatch.setattr(ppo, "train_ppo", in_this_process)
    monkeypatch.setattr(pipeline.launcher, "train", on_several)
    job = job_of(tmp_path / "run", llama_folder, reward_folder)
    config = job.config.model_copy(update={"base_precision": "bf16"})
    with pytest.raises(TrainingError, match="enough"):
        pipeline.train_ppo(replace(job, config=config, launch=launch))
    code, _, err = concord(capsys, "runs", "resume", job.out)
    assert (code, "enough" in err) == (2, True)
    assert told == dict.fromkeys((False, True), ("bf16", launch.get("nproc", 1)))


@pytest.mark.parametrize("broken_off", [None, 2, 3])
def test_the_best_policy_by_the_judge_is_kept_beside_the_last(
    broken_off, llama_folder, reward_folder, tmp_path, monkeypatch
):
    """The judge likes the second of three iterations best, before or after the run was broken off."""
    toxicity, original = [0.5, 0.4, 0.1, 0.3], Watch.evaluate

    def judged(self, iteration):
        self.trunk.save_policy(tmp_path / f"policy-{iteration}")
        found = original(self, iteration)
        return replace(found, toxicity=[toxicity[iteration]] * len(found.reward))

    monkeypatch.setattr(Watch, "evaluate", judged)
    out = tmp_path / "run"
    job = job_of(out, llama_folder, reward_folder, max_iterations=3, save_every=1, eval_every=1)
    if broken_off is None:
        result = pipeline.train_ppo(job)
    else:
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_ppo(replace(job, progress=interrupted_at(broken_off)))
        result = run_folders.resume_folder(out)
    assert (result["best_iteration"], result["iterations"]) == (2, 3)
    assert json.loads((out / "best" / "policy.json").read_text())["eval_toxicity"] == 0.1
    best, second, last = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (out / "best", tmp_path / "policy-2", out)
    )
    assert all(torch.equal(best[name], second[name]) for name in second)
    assert not all(torch.equal(best[name], last[name]) for name in last)


def test_a_checkpoint_of_other_data_or_options_is_refused(llama_folder, reward_folder, tmp_path):
    out, other = tmp_path / "run", tmp_path / "other"
    job = job_of(out, llama_folder, reward_folder)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_ppo(replace(job, progress=interrupted_at(3)))
    before = (out / "metrics.jsonl").read_text()
    reward_on(llama_folder, other, seed=7)
    again = replace(job, run_id="ppo-again", resume=True)
    for changed in (
        replace(again, files={**job.files, "reward_model": str(other)}),
        replace(again, config=job_of(out, "", "", kl_coef=0.3).config),
    ):
        with pytest.raises(TrainingError, match="other data or options"):
            pipeline.train_ppo(changed)
        assert (out / "metrics.jsonl").read_text() == before
    rows = read_rows(out / "prompts.jsonl")
    write_jsonl(out / "prompts.jsonl", [{**rows[0], "prompt": "kind"}, *rows[1:]])
    with pytest.raises(TrainingError, match="other data or options"):
        pipeline.train_ppo(again)


@pytest.mark.parametrize(
    ("error", "of_the_disk"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device"), True),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            True,
        ),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:537] Connection closed by peer"), False),
        (ConnectionResetError("Connection reset by peer"), False),
    ],
)
def test_a_lost_connection_is_not_taken_for_a_full_disk(error, of_the_disk):
    assert could_not_write(error) is of_the_disk


def test_a_full_disk_fails_the_run_and_keeps_the_last_good_checkpoint(
    llama_folder, reward_folder, tmp_path, monkeypatch
):
    out, saved = tmp_path / "run", []
    original = torch.save

    def full_at_the_second(value, path, *args, **kwargs):
        if "optimizer" in str(path):
            saved.append(path)
            if len(saved) == 2:
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full_at_the_second)
    with pytest.raises(InputError, match="No space left on device"):
        pipeline.train_ppo(job_of(out, llama_folder, reward_folder))
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "failed" and "runs resume" in record["message"]
    assert [p.name for p in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-8"]
    assert latest_checkpoint(out / "checkpoints").name == "checkpoint-8"
