"""What goes wrong in a PPO run: told on the screen, on record as failed, the last checkpoint kept, nothing left."""

import json
import shutil
import socket
from pathlib import Path

import psutil
import pytest
import yaml

from alignment.feedback import runs
from alignment.files import write_jsonl
from alignment.models.demo_model import train_tokenizer
from alignment.models.loading import load_tokenizer
from alignment.training import launch
from alignment.training.checkpoints import latest_checkpoint
from alignment.workspace import Workspace
from tests import ppo_rewards
from tests.conftest import tiny_causal_lm
from tests.test_loop import concord
from tests.test_ppo_resume import OPTIONS, reward_on

TEXTS = ["You are", "What a lovely", "thank", "You"]


@pytest.fixture(scope="module")
def reward_folder(llama_folder, tmp_path_factory):
    return reward_on(llama_folder, tmp_path_factory.mktemp("reward"), num_train_epochs=1)


def prompts(folder, texts=TEXTS):
    write_jsonl(folder / "prompts.jsonl", [{"prompt_id": t, "prompt": t} for t in texts])
    return ["--prompts", folder / "prompts.jsonl"]


def by_callable(name):
    source = {"kind": "callable", "name": f"tests.ppo_rewards:{name}"}
    return ["--set", f"rewards={json.dumps([source])}", "--set", "value_init=zero"]


def not_a_number(**_):
    return [*by_callable("not_a_number_from_the_third"), "--set", "save_every=1"]


def raises(**_):
    return by_callable("fails")


def one_too_few(**_):
    return by_callable("one_too_few")


def another_base(folder, reward, base):
    other = folder / "base"
    tiny_causal_lm("llama", seed=3).save_pretrained(other)
    load_tokenizer(base).save_pretrained(other)
    return ["--reward-model", reward, "--model", other]


def another_tokenizer(folder, reward, **_):
    other = folder / "reward"
    shutil.copytree(reward, other)
    words = ["completely different words here, nothing alike"] * 3
    train_tokenizer(words, 290).save_pretrained(other)
    return ["--reward-model", other]


def too_long(folder, reward, **_):
    long = [f"{n} {'You are kind. ' * 60}" for n in range(4)]
    return [*prompts(folder, long), "--reward-model", reward]


def one_prompt(folder, reward, **_):
    return [*prompts(folder, TEXTS[:1]), "--reward-model", reward]


def port_taken(folder, reward, **_):
    settings = yaml.safe_load((launch.CONFIGS / "two_nodes.yaml").read_text())
    address = {"main_process_ip": "127.0.0.1", "main_process_port": port_taken.port}
    file = folder / "nodes.yaml"
    file.write_text(yaml.safe_dump({**settings, **address, "num_processes": 2}))
    return ["--reward-model", reward, "--launch-config", file]


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("mistake", "words", "kept"),
    [
        (not_a_number, "reward of a completion is not a number", "checkpoint-8"),
        (raises, "ZeroDivisionError: no luck", None),
        (one_too_few, "returned 7 scores for 8 completions", None),
        (another_base, "another base", None),
        (another_tokenizer, "another tokenizer", None),
        (too_long, "context window of 128", None),
        (one_prompt, "takes 4 prompts", None),
        (port_taken, "is in use", None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_ends_the_run_with_its_reason(
    mistake, words, kept, llama_folder, reward_folder, tmp_path, taken_port, monkeypatch, capsys
):
    monkeypatch.setattr(ppo_rewards, "calls", [])
    monkeypatch.setattr(port_taken, "port", taken_port, raising=False)
    before = set(psutil.Process().children(recursive=True))
    workspace = tmp_path / "w"
    assert concord(capsys, "init", workspace, "--model", llama_folder)[0] == 0
    options = [part for key, value in OPTIONS.items() for part in ("--set", f"{key}={value}")]
    wrong = mistake(folder=tmp_path, reward=reward_folder, base=llama_folder)
    if "--prompts" not in wrong:
        wrong = [*wrong, *prompts(tmp_path)]
    code, _, err = concord(capsys, "train", "ppo", "-w", workspace, *options, *wrong)
    told = " ".join(err.split())
    assert code == 2 and "Traceback" not in err, err
    assert words in told
    with Workspace.open(workspace) as opened:
        (run,) = runs.runs(opened.store)
    record = json.loads((Path(run.folder) / "run.json").read_text())
    assert (run.status, record["status"]) == ("failed", "failed")
    assert words in " ".join(run.message.split()) and record["message"] == run.message
    checkpoint = latest_checkpoint(Path(run.folder) / "checkpoints")
    assert (checkpoint and checkpoint.name) == kept
    left = set(psutil.Process().children(recursive=True)) - before  # an earlier test's may end
    assert not left
