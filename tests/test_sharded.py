"""Training on two processes equals training on one: sharded (FSDP2) and copied (DDP), on the CPU with gloo.

Each case starts real processes through accelerate's launcher, on a tiny model.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import Shard

from alignment.config import PPOTrainingConfig
from alignment.errors import ConfigError, InputError, ModelError
from alignment.feedback import runs
from alignment.models import distributed
from alignment.models.loading import load_causal_lm, load_tokenizer
from alignment.models.scalar_heads import ScalarHead, ValueHead
from alignment.records import Prompt
from alignment.training import launch, worker
from alignment.training.launch import launch_of
from alignment.training.reward import train_reward
from alignment.training.sharding import exact_outputs
from alignment.workspace import Workspace
from tests import sharded_worker
from tests.conftest import tiny_causal_lm
from tests.sharded_worker import GRADIENTS
from tests.test_loop import concord
from tests.test_reward_and_trunk import TINY as TINY_REWARD
from tests.test_reward_and_trunk import pairs

PPO = PPOTrainingConfig(
    num_ppo_epochs=2,
    num_mini_batches=1,  # so that an update is the whole rollout, however it is spread
    learning_rate=1e-3,
    lora_rank=4,
    lora_alpha=8,
    max_iterations=2,
    batch_size=8,
    per_device_train_batch_size=2,
    response_length=6,
    eval_every=1,
    save_every=1,
    max_grad_norm=1e6,  # gradients are compared as they are
)
PROMPTS = [
    Prompt(f"p{i}", text) for i, text in enumerate(["You are", "What a lovely", "thank", "You"])
]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """Folders of a tiny Llama and of a reward model on it."""
    base, reward = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("reward")
    tiny_causal_lm("llama").save_pretrained(base)
    tokenizer.save_pretrained(base)
    quick = TINY_REWARD.model_copy(update={"num_train_epochs": 2})
    train_reward(base, load_tokenizer(base), pairs()[:15], pairs()[15:], quick, reward)
    return base, reward


def ppo_spec(made, how, **options):
    base, reward = made
    config = PPO.model_copy(update=options)
    return launch.ppo_spec(str(base), reward, PROMPTS, PROMPTS[:3], config, how)


def silent(*_):
    pass


def reward_spec(made, processes):
    """Eight batches of one prompt each; an update is two of them, one after the other or one in each process."""
    config = TINY_REWARD.model_copy(
        update={
            "num_train_epochs": 1,
            "per_device_train_batch_size": 6,
            "gradient_accumulation_steps": 2 // processes,
            "evaluations": 1,
        }
    )
    everything = pairs(10)
    return launch.reward_spec(str(made[0]), everything[:27], everything[27:], config)


def parts(made, processes):
    """PPO; the same that breaks off after its first checkpoint, and goes on; with a head on upper layers; and the
    reward model."""
    ppo = ppo_spec(made, launch_of(nproc=processes))
    # Given completions do not pass through the model, so sampling leaves no lower states to take over.
    upper = {"critic": "head", "lora_layers": "upper-half", "merge_for_generation": False}
    head = ppo_spec(made, launch_of(nproc=processes), **upper)
    broken = {**ppo, "folder": "broken", "stop_after": PPO.num_ppo_epochs}
    resumed = {**broken, "stop_after": None, "resume": True}
    reward = reward_spec(made, processes)
    named = {"ppo": ppo, "broken": broken, "resumed": resumed, "head": head, "reward": reward}
    return {"stage": "several", "parts": named}


@pytest.fixture(scope="module")
def one(made, tmp_path_factory):
    """Every part in this process, with the completions that the workers are given too."""
    out = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        sharded_worker.install(patch.setattr)
        return out, worker.run(parts(made, 1), out, silent)


@pytest.fixture(scope="module", params=["fsdp", "nproc"])
def two(request, made, tmp_path_factory):
    """Every part on two processes, sharded and copied."""
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "WORKER", "tests.sharded_worker")
        figures = launch.train(parts(made, 2), out, launch_of(**{request.param: 2}), silent)
    return request.param, out, figures


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_training(one, two, tolerance, figures):
    """Losses, gradients and the saved adapter of two runs."""
    for ours, theirs in zip(rows(one), rows(two), strict=True):
        for key in figures:
            if key in ours or key in theirs:  # rows of evaluations have others
                expected = pytest.approx(theirs[key], abs=tolerance, rel=tolerance)
                assert ours[key] == expected, key
    first, second = torch.load(one / GRADIENTS), torch.load(two / GRADIENTS)
    assert len(first["steps"]) == len(second["steps"]) > 0
    for ours, theirs in zip(first["steps"], second["steps"], strict=True):
        assert set(ours) == set(theirs) == set(first["trains"]) == set(second["trains"])
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=tolerance)
    ours, theirs = (load_file(out / "adapter_model.safetensors") for out in (one, two))
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=tolerance)


def assert_all_train(out, head):
    """Over the run, every trainable tensor has a gradient that is not 0, `head` among them."""
    kept = torch.load(out / GRADIENTS)
    moved = {name for step in kept["steps"] for name, grad in step.items() if grad.any()}
    assert moved == set(kept["trains"])
    assert any(head in name for name in moved)


@pytest.mark.parametrize(("name", "lower"), [("ppo", None), ("head", "shared")])
def test_ppo_on_two_processes_equals_one(name, lower, one, two):
    """An adapter as critic on all layers, and a head with adapters on the upper ones, whose lower trunk is shared."""
    how, out, figures = two
    assert figures[name].keys() == one[1][name].keys()
    assert lower is None or figures[name]["lower_trunk"] == one[1][name]["lower_trunk"] == lower
    kept = torch.load(out / name / GRADIENTS)
    assert (kept["sharded"] > 0) == (how == "fsdp"), "FSDP must not be ignored, as accelerate does"
    assert_all_train(out / name, "value_head.inner.weight")
    compared = ("reward", "kl", "policy_loss", "value_loss", "grad_norm")
    assert_same_training(one[0] / name, out / name, 1e-5, compared)


def test_a_run_that_broke_off_goes_on_as_if_it_had_not(two):
    """From the checkpoint that both processes wrote, to the same adapter."""
    _, out, figures = two
    first, second = (out / name for name in ("ppo", "broken"))
    assert figures["broken"]["iterations"] == 1 and figures["resumed"]["iterations"] == 2
    for ours, theirs in zip(rows(first), rows(second), strict=True):
        for key in ("reward", "kl", "policy_loss", "value_loss", "grad_norm", "eval_reward"):
            assert ours[key] == theirs[key], key
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_reward_model_on_two_processes_equals_one(one, two):
    how, out, figures = two
    kept = torch.load(out / "reward" / GRADIENTS)
    assert (kept["sharded"] > 0) == (how == "fsdp")
    assert_all_train(out / "reward", "score")
    assert_same_training(one[0] / "reward", out / "reward", 1e-4, ("loss", "grad_norm"))
    expected = one[1]["reward"]
    for name in ("score_mean", "score_std", "log_loss", "accuracy"):
        assert figures["reward"][name] == pytest.approx(expected[name], abs=1e-4), name


def files(made, folder):
    base, reward = made
    prompts = folder / "prompts.jsonl"
    held_out = [
        {**p.to_json(), "prompt_id": f"h{p.prompt_id}", "split": "held-out"} for p in PROMPTS
    ]
    rows = [*(p.to_json() for p in PROMPTS), *held_out]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        k: v for k, v in PPO.model_dump().items() if v != PPOTrainingConfig().model_dump()[k]
    }
    return [
        *("--prompts", prompts, "--model", base, "--reward-model", reward),
        *(part for key, value in options.items() for part in ("--set", f"{key}={value}")),
    ]


def test_a_sharded_run_goes_on_through_the_command_line(made, tmp_path, capsys):
    """Stopped after its first iteration; it goes on as sharded as it began."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "stop").touch()
    args = ("--out", out, "--fsdp", 2, *files(made, tmp_path))
    code, _, err = concord(capsys, "train", "ppo", *args)
    assert code == 0, err
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    shutil.rmtree(out / "launch")
    code, _, err = concord(capsys, "runs", "resume", out)
    assert code == 0, err
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["metrics"]["iterations"]) == ("finished", 2)
    assert [row["iteration"] for row in rows(out)] == [1, 2]
    assert json.loads((out / "launch" / "spec.json").read_text())["resume"] is True
    assert (out / "launch" / "rank-1.log").is_file(), "two processes went on"


def workers():
    """The processes of ours that train at the moment, by rank."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "alignment.training.worker" in process.cmdline() and "RANK" in process.environ():
                found[int(process.environ()["RANK"])] = process
    return found


def test_two_machines_train_one_policy_that_loads_and_merges(made, tmp_path, capsys):
    """Two launchers of one process each, sharded over both, as on two machines; completions are drawn for real."""
    settings = yaml.safe_load((launch.CONFIGS / "two_nodes.yaml").read_text())
    address = {"main_process_ip": "127.0.0.1", "main_process_port": launch.free_port()}
    nodes, out = tmp_path / "nodes.yaml", tmp_path / "policy"
    nodes.write_text(yaml.safe_dump({**settings, **address, "num_processes": 2}))
    code, _, err = concord(capsys, "init", tmp_path / "w")
    assert code == 0, err
    join = f"-m alignment.cli train join {out} --launch-config {nodes} --machine-rank 1"
    second = subprocess.Popen([sys.executable, *join.split()])
    args = ("-w", tmp_path / "w", "--out", out, "--launch-config", nodes, *files(made, tmp_path))
    code, _, err = concord(capsys, "train", "ppo", *args)
    assert code == 0, err
    assert "PPO: 2/2" in err, "the progress of the main process reaches the screen"
    assert second.wait(timeout=30) == 0
    with Workspace.open(tmp_path / "w") as opened:
        (run,) = runs.runs(opened.store)
    assert run.status == "finished" and run.metrics["iterations"] == 2
    assert len(rows(out)) == 2 and all(np.isfinite(row["policy_loss"]) for row in rows(out))
    ids = torch.tensor([[5, 6, 7, 8]])
    policy = PeftModel.from_pretrained(load_causal_lm(made[0]), out)
    with torch.no_grad():
        logits = policy(input_ids=ids).logits
        assert not torch.equal(logits, load_causal_lm(made[0])(input_ids=ids).logits)
        merged = policy.merge_and_unload()(input_ids=ids).logits
    torch.testing.assert_close(merged, logits, atol=1e-4, rtol=1e-4)
    assert workers() == {}


def test_a_process_that_dies_fails_the_run_with_its_log_and_leaves_none_behind(
    made, tmp_path, capsys
):
    code, _, err = concord(capsys, "init", tmp_path / "w")
    assert code == 0, err
    killed = []

    def kill_rank_1():
        for _ in range(600):
            time.sleep(0.1)
            if list(tmp_path.glob("w/runs/*/metrics.jsonl")) and 1 in (found := workers()):
                killed.extend(found.values())
                return found[1].kill()

    thread = threading.Thread(target=kill_rank_1)
    thread.start()
    args = ("-w", tmp_path / "w", "--nproc", 2, *files(made, tmp_path))
    code, _, err = concord(capsys, "train", "ppo", *args, "--set", "max_iterations=100000")
    thread.join()
    flat = " ".join(err.split())
    assert code == 2 and "Traceback" not in err, err
    assert "Process 1 of 2 was ended by SIGKILL" in flat and "rank-1.log" in flat
    with Workspace.open(tmp_path / "w") as opened:
        (run,) = runs.runs(opened.store)
    assert run.status == "failed" and "Process 1 of 2" in (run.message or "")
    assert len(killed) == 2 and not any(process.is_running() for process in killed)


def test_a_mistake_that_a_process_meets_reaches_the_screen_as_it_is(made, tmp_path):
    how = launch_of(nproc=1)
    spec = {**ppo_spec(made, how), "base": str(tmp_path / "nothing")}
    with pytest.raises(ModelError, match="nothing"):
        launch.train(spec, tmp_path / "run", how, silent)


def test_workers_end_with_the_command_that_started_them(tmp_path):
    """Killed, the command cannot clean up: the workers notice."""
    code = {
        "worker": "import os, time; from alignment.training.worker import end_with; "
        "end_with(int(os.environ['CONCORD_STARTER'])); print(os.getpid(), flush=True); time.sleep(60)",
        "launcher": "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])",
        "starter": "import os, subprocess, sys; os.environ['CONCORD_STARTER'] = str(os.getpid()); "
        "subprocess.run([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)",
    }
    starter = subprocess.Popen(
        [sys.executable, "-c", code["starter"], code["launcher"], code["worker"]],
        stdout=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait()
    process.wait(timeout=10)


def test_a_port_in_use_is_named_and_on_one_machine_a_free_one_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of this machine is in use"):
            launch.check_port(port)
        assert launch.free_port() != port
    launch.check_port(port)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((2, 2, None), "exclude each other"),
        ((2, None, launch.CONFIGS / "copies.yaml"), "goes with --nproc"),
        ((None, 2, launch.CONFIGS / "two_nodes.yaml"), "goes with --fsdp"),
        ((None, None, launch.CONFIGS / "missing.yaml"), "cannot be read"),
        (
            (None, None, Path(__file__).parent.parent / ".pre-commit-config.yaml"),
            "distributed_type",
        ),
    ],
)
def test_contradictory_launch_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        launch_of(*options)


def test_options_choose_the_launch():
    assert launch_of(None, None, None) is None
    sharded, copied = launch_of(3, None, None), launch_of(None, 3, None)
    assert (sharded.processes, sharded.settings["distributed_type"]) == (3, "FSDP")
    assert (copied.processes, copied.settings["distributed_type"]) == (3, "MULTI_GPU")
    nodes = launch_of(None, None, launch.CONFIGS / "two_nodes.yaml")
    assert (nodes.processes, nodes.machines) == (16, 2)


def test_a_batch_that_does_not_divide_is_refused_before_anything_starts():
    with pytest.raises(InputError, match="must be a multiple of 6"):
        launch.ppo_spec("base", Path("reward"), PROMPTS, [], PPO, launch_of(3, None, None))


def test_under_bf16_outputs_and_sums_stay_in_float32():
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    exact = exact_outputs(policy)
    assert (exact.param_dtype, exact.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert exact.output_dtype is None and exact_outputs(None) is None
    for head in (ScalarHead(torch.ones(1, 4) / 3), ValueHead(torch.ones(1, 4) / 3)):
        with torch.autocast("cpu", torch.bfloat16):
            assert head(torch.ones(2, 4)).dtype == torch.float32


def test_shards_are_filled_from_whole_tensors_and_read_back():
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    sharded = torch.distributed.tensor.zeros(4, 3, device_mesh=mesh, placements=[Shard(0)])
    whole = torch.arange(12.0).reshape(4, 3)
    distributed.fill(sharded, whole)
    assert torch.equal(distributed.whole(sharded), whole)
    torch.distributed.destroy_process_group()
