"""The whole loop on a tiny setting, through the command line: in a workspace, and stage by stage on plain files."""

import json
import shutil
import socket
from dataclasses import asdict

import pytest
import torch

from alignment import cli, demo, processes
from alignment.config import Config
from alignment.demo_base import demo_quality, ensure_demo_model
from alignment.feedback import people, run_queue, runs
from alignment.feedback.store import Store
from alignment.files import read_jsonl, write_json
from alignment.models.demo_model import DemoRecipe
from alignment.models.loading import load_causal_lm
from alignment.processes import this_process
from alignment.records import PreferencePair, Ranking

pytestmark = pytest.mark.slow

RECIPE = DemoRecipe(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    sentences=4000,
    worst_excess=100.0,
)
TINY_PPO = {
    "max_iterations": 2,
    "batch_size": 16,
    "per_device_train_batch_size": 8,
    "lora_rank": 4,
    "response_length": 12,
    "eval_every": 2,
    "eval_prompts": 8,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = ensure_demo_model(recipe=RECIPE)
        assert ensure_demo_model(recipe=RECIPE) == folder
        quality = demo_quality(RECIPE)
    assert quality["entropy"] < quality["loss"] < quality["entropy"] + 100
    return folder


@pytest.fixture(scope="module")
def config(base):
    return Config.model_validate(
        {
            "base_model": str(base),
            "sample": {"max_new_tokens": 16},
            "reward": {"num_train_epochs": 1, "lora_rank": 4},
            "ppo": TINY_PPO,
            "evaluate": {"max_new_tokens": 16, "completions_per_prompt": 2, "resamples": 200},
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("demo") / "workspace"
    figures = demo.run_demo(folder, 0, config=config, sizes=(24, 12, 4))
    return folder, figures


def concord(capsys, *arguments):
    """Run the command in this process: exit code, standard output, error output."""
    capsys.readouterr()
    try:
        code = cli.run(lambda: cli.app([str(a) for a in arguments], standalone_mode=True))
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last_json(out):
    return json.loads(out.strip().splitlines()[-1])


def test_the_demo_gives_the_figures_that_programs_read(finished):
    _, figures = finished
    for side in ("toxicity_before", "toxicity_after"):
        assert figures[side]["low"] <= figures[side]["mean"] <= figures[side]["high"]
    expected = {
        "toxicity_reduction",
        "reward_accuracy",
        "labeler_agreement",
        "flagged_labelers",
        "kl",
        "perplexity_before",
        "perplexity_after",
        "distinct_before",
        "distinct_after",
        "stop_reason",
        "seconds",
    }
    assert expected <= figures.keys()
    assert set(figures["seconds"]) >= {
        "base_model",
        "sample",
        "consensus",
        "reward",
        "ppo",
        "evaluate",
        "total",
    }
    assert 0 <= figures["reward_accuracy"] <= 1
    json.dumps(figures, allow_nan=False)


def test_the_workspace_can_trace_its_figures(finished):
    folder, _ = finished
    store = Store(folder / "feedback.db")
    stages = [run.stage for run in reversed(runs.runs(store))]
    assert stages == ["sample", "simulate", "consensus", "reward", "ppo", "evaluate", "sample"]
    for run in runs.runs(store):
        assert run.status == "finished" and run.versions["trl"] and run.config and run.inputs
    completions = store.completions()
    made_by = {c.run_id for c in completions.values()}
    assert made_by <= {r.run_id for r in runs.runs(store, "sample")}
    assert all(ranking.simulated for ranking in store.rankings())
    assert len(store.rankings()) == 24 * 3
    kinds = {row["kind"] for row in people.labelers(store) if row["simulated"]}
    assert kinds == {"careful", "noisy", "random", "reversed", "position-biased"}
    judged = run_queue.latest_run(store, "evaluate").run_id
    policy = run_queue.request_of(store, judged).files["policy"]
    assert policy == str((folder / "runs" / run_queue.latest_run(store, "ppo").run_id).resolve())
    report = folder / "runs" / judged / "report.html"
    assert "<html" in report.read_text() and "http://" not in report.read_text().replace(
        "http://www.w3.org", ""
    )


def test_a_finished_demo_is_not_run_again(finished, config):
    folder, figures = finished
    assert demo.run_demo(folder, 0, config=config) == json.loads(json.dumps(figures))
    with pytest.raises(Exception, match="Choose another folder"):
        demo.run_demo(folder, 1, config=config)


def test_fresh_tasks_wait_for_a_person(finished):
    from alignment.feedback import assignment

    store = Store(finished[0] / "feedback.db")
    lease = assignment.next_lease(store, "labeler")
    run = runs.run(store, store.completions([lease.order[0]])[lease.order[0]].run_id)
    assert "ppo" in run.inputs["model"], "the newest tasks hold the aligned policy's completions"


def test_a_run_of_the_workspace_is_named_by_its_folder_too(finished, capsys):
    folder, _ = finished
    (trained,) = folder.glob("runs/ppo-*")
    code, _, err = concord(capsys, "runs", "stop", trained, "-w", folder)
    assert code == 2 and "is finished: there is nothing to stop" in " ".join(err.split())


def test_every_stage_works_on_plain_files(base, config, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    rows = [p.to_json() for p in demo.demo_prompts(24, 12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = ("--set", "max_new_tokens=16", "--json")

    def stage(*arguments):
        code, out, err = concord(capsys, *arguments)
        assert code == 0, err
        return last_json(out)

    stage("sample", "--prompts", prompts, "--model", base, "--out", tmp_path / "s", *short)
    completions = tmp_path / "s" / "completions.jsonl"
    stage("labelers", "simulate", "--completions", completions, "--out", tmp_path / "l", "--json")
    rankings = tmp_path / "l" / "rankings.jsonl"
    assert all(r.simulated for r in read_jsonl(rankings, Ranking.from_json))
    files = ("--rankings", rankings, "--completions", completions, "--prompts", prompts)
    found = stage("consensus", *files, "--out", tmp_path / "c", "--json")
    assert found["usable_pairs"] > 0
    pairs = tmp_path / "c" / "pairs.jsonl"
    assert len(read_jsonl(pairs, PreferencePair.from_json)) == found["usable_pairs"]
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(
        json.dumps({"ppo": TINY_PPO, "reward": {"lora_rank": 4, "num_train_epochs": 1}})
    )
    reward = ("train", "reward", "--pairs", pairs, "--model", base, "--out", tmp_path / "r")
    assert 0 <= stage(*reward, "--config", tiny, "--json")["accuracy"] <= 1
    policy = ("--model", base, "--reward-model", tmp_path / "r", "--out", tmp_path / "p")
    stage("train", "ppo", "--prompts", prompts, *policy, "--config", tiny, "--json")
    compared = ("--model", base, "--policy", tmp_path / "p", "--out", tmp_path / "e")
    figures = stage("evaluate", "toxicity", "--prompts", prompts, *compared, *short)
    comparison = tmp_path / "e" / "comparison.json"
    written = stage(
        "report", "--comparison", comparison, "--out", tmp_path / "report.html", "--json"
    )
    assert written["verdict"] == figures["verdict"] and (tmp_path / "report.html").exists()
    code, _, err = concord(capsys, *reward, "--config", tiny)
    assert code == 2 and "already holds a run" in err, "nothing is overwritten"
    own = tmp_path / "own"
    own.mkdir()
    (own / "README.md").write_text("mine")
    code, _, err = concord(capsys, *reward[:-1], own, "--config", tiny)
    assert code == 2 and "is not empty" in err and (own / "README.md").read_text() == "mine"
    (tmp_path / "p" / "run.json").write_text(
        (tmp_path / "p" / "run.json").read_text().replace('"finished"', '"running"')
    )
    here = {**asdict(this_process()), "host": socket.gethostname()}
    write_json(tmp_path / "p" / "process.json", here)
    code, _, err = concord(capsys, "runs", "resume", tmp_path / "p")
    assert code == 2 and "is still at work" in err
    code, _, err = concord(capsys, "runs", "stop", tmp_path / "p", "--json")
    assert code == 0 and (tmp_path / "p" / "stop").is_file(), err
    write_json(tmp_path / "p" / "process.json", {**here, "host": "elsewhere"})
    code, _, err = concord(capsys, "runs", "stop", tmp_path / "p", "--now")
    assert code == 2 and "at work on elsewhere" in err
    sleeper = processes.start(["sleep", "60"], tmp_path / "log", tmp_path)
    write_json(tmp_path / "p" / "process.json", {**here, **asdict(sleeper)})
    assert concord(capsys, "runs", "stop", tmp_path / "p", "--now")[0] == 0
    assert not processes.alive(sleeper)
    assert json.loads((tmp_path / "p" / "run.json").read_text())["status"] == "stopped"
    code, _, err = concord(capsys, "runs", "stop", tmp_path / "p")
    assert code == 2 and "nothing to stop" in err
    scored = ("--model", base, "--policy", tmp_path / "r", "--out", tmp_path / "e3")
    code, _, err = concord(capsys, "evaluate", "toxicity", "--prompts", prompts, *scored, *short)
    assert code == 2 and "holds a reward model" in " ".join(err.split())
    other = tmp_path / "other"
    shutil.copytree(base, other)
    twin = load_causal_lm(base)
    with torch.no_grad():
        twin.get_input_embeddings().weight.add_(0.1)
    twin.save_pretrained(other)
    wrong = ("--model", other, "--policy", tmp_path / "p", "--out", tmp_path / "e2")
    code, _, err = concord(capsys, "evaluate", "toxicity", "--prompts", prompts, *wrong, *short)
    assert code == 2 and "adapter of another base" in " ".join(err.split())


def test_the_exported_card_carries_the_evidence_of_the_whole_loop(finished, tmp_path, capsys):
    folder, figures = finished
    out = tmp_path / "model"
    code, printed, _ = concord(
        capsys, "export", "model", "--merge", "--out", out, "-w", folder, "--json"
    )
    assert code == 0 and last_json(printed)["what"] == "merged model"
    card = (out / "README.md").read_text()
    assert f"| rankings | {24 * 3} |" in card and "| labelers, people | 0 |" in card
    assert f"{100 * figures['reward_accuracy']:.1f}%" in card
    assert f"{figures['toxicity_after']['mean']:.3g} (95% interval" in card
    for stage in ("consensus", "reward", "ppo", "evaluate"):
        assert f"{stage} run: `{stage}-" in card
    trained = next(folder.glob("runs/ppo-*/README.md")).read_text()
    assert "No comparison with the base" in trained and "ppo run: `ppo-" in trained
