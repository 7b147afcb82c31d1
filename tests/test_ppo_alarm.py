"""The over-optimisation alarm sounds in a run that exploits its reward, and is heard in log, store and UI meanwhile."""

import json
import logging

import pytest
import torch

from alignment import pipeline
from alignment.config import Config, load_config
from alignment.errors import TrainingError
from alignment.feedback import runs
from alignment.files import read_json, write_jsonl
from alignment.models.demo_model import train_tokenizer
from alignment.workspace import RUN_FILE, Workspace
from tests.conftest import tiny_causal_lm
from tests.e2e.workspace import PLAIN, PROMPTS, make_workspace
from tests.ui.client import SECRET, client_of
from ui.app import create_app

KIND, RUDE = " kind friend", " stupid idiot"
OPTIONS = {
    "max_iterations": 8,
    "eval_every": 4,
    "batch_size": 32,
    "per_device_train_batch_size": 16,
    "num_mini_batches": 1,
    "learning_rate": 2e-2,
    "lora_rank": 4,
    "critic": "head",
    "kl_coef": 0.0,
    "response_length": 6,
    "share_lower_trunk": False,
}


@pytest.fixture(scope="module")
def mostly_kind(tmp_path_factory):
    """A tiny model that is rude in one of four completions."""
    folder = tmp_path_factory.mktemp("mostly-kind")
    tokenizer = train_tokenizer([f"You{KIND}", f"You{RUDE}"] * 3, 300)
    model = tiny_causal_lm("llama").train()
    rows = [[*tokenizer(f"You{word}")["input_ids"], 0] for word in [KIND, KIND, KIND, RUDE]]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job_of(workspace, base, prompts, progress, **options):
    write_jsonl(
        prompts,
        [
            {"prompt_id": f"p{n}", "prompt": "You", "split": "train" if n < 16 else "held-out"}
            for n in range(40)
        ],
    )
    assignments = [f"{key}={json.dumps(value)}" for key, value in {**OPTIONS, **options}.items()]
    reward = {"kind": "callable", "name": "tests.ppo_rewards:rude"}
    config = load_config(None, [*assignments, f"rewards={json.dumps([reward])}"], "ppo")
    files = {"prompts": prompts, "model": str(base)}
    return pipeline.Job(config, workspace, files, progress=progress)


def test_the_alarm_is_heard_while_a_run_learns_to_be_rude(mostly_kind, tmp_path, caplog):
    folder = make_workspace(tmp_path / "workspace", PROMPTS, PLAIN)
    heard = []
    with Workspace.open(folder) as workspace:
        engineer = client_of(create_app(folder, secret=SECRET), "engineer")

        def listen(label, done, total, note=""):
            run = runs.runs(workspace.store, "ppo")[0]
            shown = engineer.get(f"/api/runs/{run.run_id}/lines/warnings").json()["rows"]
            heard.append((run.status, run.metrics.get("warnings", []), shown))

        with caplog.at_level(logging.WARNING):
            job = job_of(workspace, mostly_kind, tmp_path / "prompts.jsonl", listen)
            result = pipeline.train_ppo(job)
    status, kept, shown = next(row for row in heard if row[1])
    assert status == "running"
    assert "toxicity rose from" in kept[0] and kept[0] in caplog.text
    assert [row["warning"] for row in shown] == kept
    assert result["warnings"][0] == kept[0]


def test_a_run_that_fails_keeps_the_alarm_on_record(mostly_kind, tmp_path):
    def fails(label, done, total, note=""):
        if done == total:
            raise TrainingError("the machine is wanted elsewhere")

    with Workspace.create(tmp_path / "workspace", Config()) as workspace:
        job = job_of(workspace, mostly_kind, tmp_path / "prompts.jsonl", fails)
        with pytest.raises(TrainingError, match="elsewhere"):
            pipeline.train_ppo(job)
        (run,) = runs.runs(workspace.store, "ppo")
    assert run.status == "failed" and "toxicity rose from" in run.metrics["warnings"][0]
    assert (
        read_json(tmp_path / "workspace" / "runs" / run.run_id / RUN_FILE)["metrics"] == run.metrics
    )
