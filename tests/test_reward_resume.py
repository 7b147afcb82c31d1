"""A reward run that was killed goes on through the command line, and ends with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignment import pipeline
from alignment.config import load_config
from alignment.feedback import runs, snapshot
from alignment.feedback.runs import Run
from alignment.feedback.snapshot import Snapshot
from alignment.files import write_json, write_jsonl
from alignment.records import Ranking
from alignment.training.checkpoints import latest_checkpoint
from alignment.workspace import Workspace
from tests.test_loop import concord
from tests.test_reward_and_trunk import pairs

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {
    "lora_rank": 4,
    "lora_dropout": 0.1,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-3,
    "evaluations": 6,
    "early_stopping_patience": 0,
    "held_out_fraction": 0.3,
}
SETTINGS = [part for key, value in OPTIONS.items() for part in ("--set", f"{key}={value}")]
KILLED = """
import os, signal, sys
from alignment import cli
from alignment.training.reward_trainer import GroupRewardTrainer

step, calls = GroupRewardTrainer.training_step, []

def counted(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **kwargs)

GroupRewardTrainer.training_step = counted
cli.app(sys.argv[1:])
"""


def train_until_killed(*arguments):
    command = [sys.executable, "-c", KILLED, "train", "reward", *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


def rows_of(prompts):
    return [pair.to_json() for pair in pairs(prompts)]


@pytest.fixture(scope="module")
def whole(llama_folder, tmp_path_factory):
    """The folder of a run that nothing broke off."""
    folder = tmp_path_factory.mktemp("whole")
    write_jsonl(folder / "pairs.jsonl", rows_of(12))
    config = load_config(None, [f"{key}={value}" for key, value in OPTIONS.items()], "reward")
    files = {"pairs": folder / "pairs.jsonl", "model": str(llama_folder)}
    pipeline.train_reward(pipeline.Job(config, files=files, out=folder / "run"))
    return folder / "run"


def assert_same(out, whole):
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_of_a_folder(llama_folder, whole, tmp_path, monkeypatch, capsys):
    """The paths were given relative to a folder that is not the one in which it goes on."""
    write_jsonl(tmp_path / "pairs.jsonl", rows_of(12))
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    train_until_killed("--pairs", "pairs.jsonl", "--model", llama_folder, "--out", "run", *SETTINGS)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is not None
    monkeypatch.chdir(here)
    code, _, err = concord(capsys, "runs", "resume", tmp_path / "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert_same(tmp_path / "run", whole)
    code, _, err = concord(capsys, "runs", "resume", tmp_path / "run")
    assert code == 2 and "has finished" in err


def consensus(workspace, run_id, prompts):
    """A finished consensus run with the pairs of so many prompts."""
    folder = workspace.folder / "runs" / run_id
    write_jsonl(folder / "pairs.jsonl", rows_of(prompts))
    write_json(folder / "labelers.json", [])
    snapshot.write(Snapshot([Ranking("p0", "ann", {"00k": 1, "00r": 2})], []), folder)
    run = Run(run_id, "consensus", {}, status="finished", folder=str(folder))
    runs.save_run(workspace.store, run)


def test_a_run_of_a_workspace_keeps_its_pairs(llama_folder, whole, tmp_path, capsys):
    """Killed, then asked to go on once a newer consensus is there."""
    assignments = [f"reward.{key}={value}" for key, value in OPTIONS.items()]
    config = load_config(None, [f"base_model={llama_folder}", *assignments])
    out = tmp_path / "reward"
    with Workspace.create(tmp_path / "w", config) as workspace:
        consensus(workspace, "consensus-1", 12)
        train_until_killed("-w", workspace.folder, "--out", out)
        consensus(workspace, "consensus-2", 9)
        (run,) = runs.runs(workspace.store, "reward")
        code, _, err = concord(capsys, "runs", "resume", run.run_id, "-w", workspace.folder)
        assert code == 0, err
        done = runs.run(workspace.store, run.run_id)
        assert (done.status, done.folder) == ("finished", str(out)), done.message
        assert done.inputs["pairs"] == len(rows_of(12))
    assert_same(out, whole)
