"""`concord evaluate compare`, `texts`, `train-scorer` and `report` on tiny models, through the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from alignment import cli, demo_base, evaluation_stage
from alignment.config import load_config
from alignment.evaluation import paired
from alignment.evaluation.evaluation import read_evaluation
from alignment.evaluation.reward_evidence import evidence_behind
from alignment.evaluation.trained_by import is_trainer, training_scorers
from alignment.evaluation_stage import background_of
from alignment.feedback import run_queue
from alignment.feedback.run_queue import Request
from alignment.feedback.runs import Run, save_run
from alignment.feedback.store import now
from alignment.files import read_json, write_json
from alignment.models.demo_model import train_tokenizer
from alignment.models.loading import load_causal_lm
from alignment.pipeline import Job
from alignment.workspace import Workspace
from tests.conftest import tiny_causal_lm
from tests.test_reward_trust import trust_of

SCORER_MODULE = """
import numpy as np

def letters(texts):
    return [min(1.0, text.count("e") / 5) for text in texts]

letters.blind_spots = "It counts the letter e."

def broken(texts):
    return ["many"] * len(texts)
"""


def concord(capsys, *arguments):
    capsys.readouterr()
    try:
        code = cli.run(lambda: cli.app([str(a) for a in arguments], standalone_mode=True))
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def done(capsys, *arguments):
    code, out, err = concord(capsys, *arguments)
    assert code == 0, err
    return json.loads(out.strip().splitlines()[-1])


def refused(capsys, *arguments):
    code, _, err = concord(capsys, *arguments)
    assert code == 2, err
    return " ".join(err.split())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, llama_folder):
    """A policy on the tiny Llama: a LoRA adapter whose weights are not zero, without a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(1)
    model = get_peft_model(
        tiny_causal_lm("llama"),
        LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
        ),
    )
    for place in (folder, folder / "checkpoint-10", folder / "checkpoint-2"):
        model.save_pretrained(place)
        config = read_json(place / "adapter_config.json")
        config["base_model_name_or_path"] = str(llama_folder)
        (place / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A model that reads other tokens."""
    folder = tmp_path_factory.mktemp("foreign")
    tiny_causal_lm("gpt2", seed=3).save_pretrained(folder)
    train_tokenizer(["Other words, other tokens; nothing in common."] * 3, 300).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with prompts, a probe and a scorer module, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"You are {i}",
            "split": "held-out" if i else "train",
            "category": "even" if i % 2 == 0 else "odd",
            "reference": "kind",
        }
        for i in range(13)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "probe.txt").write_text("What a lovely day.\nYou are kind, thank you!\n\n")
    (tmp_path / "letter_scorer.py").write_text(SCORER_MODULE)
    return tmp_path


SHORT = ("--prompts", "prompts.jsonl", "--n", "2", "--set", "max_new_tokens=8", "--json")
FEW = ("--set", "resamples=200", "--set", "permutations=200")
BOTH = ("--scorer", "profanity-check", "--scorer", "letter_scorer:letters")


def test_compare_ends_with_the_figures_that_programs_read(capsys, here, llama_folder, adapter):
    models = ("--model", f"base={llama_folder}", "--model", f"aligned={adapter}")
    options = (*BOTH, "--probe", "probe.txt", "--checkpoints", "--out", "out")
    found = done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, *options)
    assert list(found["models"]) == ["base", "aligned@2", "aligned@10", "aligned"]
    for model in found["models"].values():
        for scorer in ("profanity-check", "letter_scorer:letters"):
            assert {"mean", "low", "high", "over_threshold", "expected_max", "probability"} <= set(
                model["toxicity"][scorer]
            )
        assert {"perplexity", "distinct_1", "distinct_2", "length", "unfinished", "kl"} <= set(
            model
        )
        assert model["rouge"]["rouge1"] >= 0 and model["probe_loss"] > 0
    assert found["models"]["base"]["kl"] == 0 and found["models"]["aligned"]["kl"] != 0
    for change in found["paired"].values():
        assert {"difference", "low", "high", "p_value", "worst"} <= set(change)
    assert found["verdict"] == read_json(here / "out" / "comparison.json")["verdict"]
    # The checkpoints are copies of the policy: the same seed gives the same completions.
    stored, material = read_evaluation(here / "out")
    assert material.models[1].texts == material.models[3].texts
    assert stored.pairs["aligned@2"].scorers == stored.pairs["aligned"].scorers
    assert set(stored.pairs["aligned"].categories) == {"even", "odd"}
    assert len(material.prompts) == 12, "the prompt for training stays out"
    shown = done(capsys, "report", "--comparison", "out", "--verify", "--json")
    assert shown["verified"] and len(shown["files"]) == 3
    lines = (here / "out" / "completions_aligned.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["toxicity"]["profanity-check"] = 1.0
    (here / "out" / "completions_aligned.jsonl").write_text(
        "\n".join([json.dumps(row), *lines[1:]])
    )
    assert "models" in refused(capsys, "report", "--comparison", "out", "--verify")


def test_identical_models_are_exactly_equal(capsys, here, llama_folder):
    models = ("--model", f"base={llama_folder}", "--model", f"again={llama_folder}")
    found = done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, "--out", "out")
    change = found["paired"]["profanity-check"]
    assert (change["difference"], change["low"], change["high"], change["p_value"]) == (0, 0, 0, 1)
    assert found["models"]["again"]["kl"] == pytest.approx(0, abs=1e-4)
    assert found["verdict"] == "no clear difference"


def test_models_with_other_tokens_have_no_kl_and_it_says_so(capsys, here, llama_folder, foreign):
    models = ("--model", f"base={llama_folder}", "--model", f"other={foreign}")
    found = done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, "--out", "out")
    assert found["models"]["other"]["kl"] is None and found["models"]["base"]["kl"] == 0
    assert found["models"]["other"]["perplexity"] > 1
    stored = read_json(here / "out" / "comparison.json")
    assert stored["length_unit"] == "words" and "No KL for other" in stored["notes"][0]
    assert "No KL for other" in (here / "out" / "report.html").read_text()


def write_completions(path, texts):
    rows = [{"prompt_id": f"p{i % 12}", "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_made_elsewhere(capsys, here):
    before = write_completions(here / "a.jsonl", ["you stupid fool"] * 12 + ["", "  "])
    after = write_completions(here / "b.jsonl", ["you kind soul"] * 12)
    files = ("--before", before, "--after", after)
    found = done(capsys, "evaluate", "texts", *files, *FEW, "--out", "out", "--json")
    assert found["verdict"] == "better"
    assert found["models"]["before"]["empty"] == pytest.approx(2 / 14)
    assert found["models"]["before"]["perplexity"] is None
    assert found["models"]["before"]["toxicity"]["profanity-check"]["mean"] < 1, "empty scores 0"
    page = (here / "out" / "report.html").read_text()
    assert "<mark>stupid</mark>" in page or "<mark>stupid fool</mark>" in page
    assert "alone" in found["headline"]
    trained = (*files, *FEW, "--trained-by", "profanity-check", "--out", "out2", "--json")
    found = done(capsys, "evaluate", "texts", *trained)
    assert found["verdict"] == "no independent scorer"
    few = (
        write_completions(here / "c.jsonl", ["a", "b"]),
        write_completions(here / "d.jsonl", ["a", "b"]),
    )
    found = done(
        capsys,
        "evaluate",
        "texts",
        "--before",
        few[0],
        "--after",
        few[1],
        "--out",
        "out3",
        "--json",
    )
    assert found["verdict"] == "too few prompts" and "at least 10" in found["headline"]


def test_train_scorer_makes_a_second_judge(capsys, here):
    rows = [
        {"text": f"you {w} {i}", "toxic": w == "oaf"} for i in range(40) for w in ("oaf", "dear")
    ]
    (here / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = done(
        capsys,
        "evaluate",
        "train-scorer",
        "--texts",
        "labelled.jsonl",
        "--out",
        "oaf",
        "--name",
        "oafs",
        "--json",
    )
    assert made["held_out_accuracy"] > 0.9
    before = write_completions(here / "a.jsonl", ["you oaf"] * 12)
    after = write_completions(here / "b.jsonl", ["you dear"] * 12)
    files = ("--before", before, "--after", after, "--out", "out", "--json")
    found = done(
        capsys, "evaluate", "texts", *files, *FEW, "--scorer", "profanity-check", "--scorer", "oaf"
    )
    assert found["paired"]["oafs"]["verdict"] == "better"
    assert found["paired"]["profanity-check"]["verdict"] != "better"
    assert found["verdict"] == "scorers disagree"
    again = ("train-scorer", "--texts", "labelled.jsonl", "--out", "oaf")
    assert "already holds a scorer" in refused(capsys, "evaluate", *again)
    (here / "labelled.jsonl").write_text('{"text": "x"}\n')
    wrong = ("train-scorer", "--texts", "labelled.jsonl", "--out", "new")
    assert "line 1" in refused(capsys, "evaluate", *wrong)


def test_bad_input_is_refused_before_anything_is_generated(capsys, here, llama_folder):
    base = ("--model", f"base={llama_folder}")
    two = (*base, "--model", f"b={llama_folder}")

    def no(*options):
        message = refused(capsys, "evaluate", "compare", *options, *SHORT, "--out", "out")
        assert not (here / "out").exists(), "nothing is half-written"
        return message

    assert "at least two models" in no(*base)
    assert "NAME=DIR_OR_ID" in no(*base, "--model", "nameless")
    assert "Two models are called 'base'" in no(*base, *base)
    assert "cannot be called" in no(*base, "--model", f"../x={llama_folder}")
    assert "not a folder" in no(*two, "--scorer", "./missing")
    assert "cannot be imported" in no(*two, "--scorer", "no_such_module:score")
    assert "cannot be imported" in no(*two, "--scorer", "letter_scorer:missing")
    assert "probe" in no(*two, "--probe", "missing.txt")


def test_demo_names_the_demo_model_whatever_the_base_is(monkeypatch):
    monkeypatch.setattr(demo_base, "ensure_demo_model", lambda progress: Path("/cache/demo"))
    for base in ("demo", "org/model"):
        job = Job(load_config(None, [f"base_model={base}"]), files={"model": "org/other"})
        assert evaluation_stage._named_model(job, "x=demo", False) == [("x", "/cache/demo")]


def test_a_callable_that_returns_no_numbers_is_refused(capsys, here):
    before = write_completions(here / "a.jsonl", ["x"] * 12)
    options = ("--before", before, "--after", before, "--scorer", "letter_scorer:broken")
    message = refused(capsys, "evaluate", "texts", *options, "--out", "out")
    assert "one number per text" in message


def test_runs_of_another_workspace_are_refused(capsys, here, llama_folder, adapter):
    config = load_config(None, [f"base_model={llama_folder}"])
    Workspace.create(here / "mine", config).close()
    theirs = here / "theirs"
    shutil.copytree(adapter, theirs)
    (theirs / "run.json").write_text(json.dumps({"run_id": "ppo-elsewhere"}))
    options = ("-w", here / "mine", "--prompts", "prompts.jsonl", "--model", f"base={llama_folder}")
    message = refused(capsys, "evaluate", "compare", *options, "--model", f"x={theirs}")
    assert "another workspace" in message


def test_what_trained_a_policy_is_read_from_its_folder(tmp_path):
    reward = tmp_path / "reward"
    reward.mkdir()
    (reward / "reward.json").write_text(json.dumps({"labelled_by": ["org/judge"]}))
    policy = tmp_path / "policy"
    policy.mkdir()
    assert training_scorers(policy) == set()
    (policy / "policy.json").write_text(json.dumps({"reward_model": str(reward)}))
    trainers = training_scorers(policy)
    assert is_trainer("org/judge#hate", "org/judge", trainers)
    assert not is_trainer("profanity-check", "profanity-check", trainers)
    (policy / "policy.json").write_text(
        json.dumps({"config": {"reward": "scorer:profanity-check"}})
    )
    assert is_trainer("profanity-check", "profanity-check", training_scorers(policy))
    terms = [{"kind": "reward-model", "name": ""}, {"kind": "scorer", "name": "org/judge"}]
    (policy / "policy.json").write_text(json.dumps({"config": {"rewards": terms}}))
    assert training_scorers(policy) == {"org/judge"}
    (policy / "policy.json").write_text("{")
    assert training_scorers(policy) == set()


def test_what_trained_a_policy_is_known_of_its_best_one_and_its_checkpoints(tmp_path, monkeypatch):
    """Only the run's own folder records it; without it the trainer would count as an independent judge."""
    run = tmp_path / "ppo-1"
    places = [run, run / "best", run / "checkpoints" / "checkpoint-50"]
    for place in places:
        place.mkdir(parents=True)
    write_json(run / "best" / "policy.json", {"reward": 1.5, "kl": 2.0, "iteration": 3})
    config = {"rewards": [{"kind": "scorer", "name": "org/judge"}]}
    started = {"stage": "ppo", "inputs": {"reward_model": None}, "config": config}
    write_json(run / "run.json", started)
    assert [training_scorers(place) for place in places] == [{"org/judge"}] * 3, "not finished"
    config = {"rewards": [{"kind": "scorer", "name": "org/other"}]}
    write_json(run / "policy.json", {"reward_model": None, "config": config})
    assert [training_scorers(place) for place in places] == [{"org/other"}] * 3
    monkeypatch.chdir(run)
    assert training_scorers(Path("org/model")) == set(), "a hub id is no folder below this one"
    assert evidence_behind(Path("org/model")) is None


def test_checkpoints_of_ppo_are_compared(capsys, here, llama_folder, adapter):
    """PPO keeps the trainable tensors by name, value adapter included; the configuration lies with the run."""
    run = here / "policy"
    run.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, run / name)
    own = load_file(run / "adapter_model.safetensors")
    policy = {name.replace(".weight", ".default.weight"): tensor for name, tensor in own.items()}
    value = {name.replace(".default.", ".value."): tensor * 0 for name, tensor in policy.items()}
    for step, factor in ((4, 0.0), (8, 1.0)):
        folder = run / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        scaled = {name: tensor * factor for name, tensor in policy.items()}
        save_file(scaled | value, folder / "trainable.safetensors")
    models = ("--model", f"base={llama_folder}", "--model", f"p={run}", "--checkpoints")
    found = done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, "--out", "out")
    assert list(found["models"]) == ["base", "p@4", "p@8", "p"]
    kl = {name: model["kl"] for name, model in found["models"].items()}
    assert kl["p@4"] == pytest.approx(0, abs=1e-4), "an adapter of zeros is the base"
    assert kl["p@8"] == pytest.approx(kl["p"]) and abs(kl["p"]) > 1e-3
    (run / "adapter_config.json").unlink()
    models = ("--model", f"base={llama_folder}", "--model", f"p={run}/checkpoints/checkpoint-4")
    message = refused(capsys, "evaluate", "compare", *models, *SHORT, "--out", "out2")
    assert "below no finished policy" in message


def test_settings_of_a_compare_are_recorded(capsys, here, llama_folder):
    models = ("--model", f"base={llama_folder}", "--model", f"b={llama_folder}")
    done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, *BOTH, "--out", "out")
    run = read_json(here / "out" / "run.json")
    assert run["config"]["more_scorers"] == ["letter_scorer:letters"]
    assert run["config"]["completions_per_prompt"] == 2
    assert run["inputs"]["models"]["base"] == str(llama_folder)
    assert np.isfinite(run["metrics"]["toxicity_after"]["mean"])


def test_every_model_is_held_in_the_precision_of_the_configuration(
    capsys, here, llama_folder, adapter, monkeypatch
):
    held = []

    def seen(*arguments):
        model = load_causal_lm(*arguments)
        held.append({p.dtype for n, p in model.named_parameters() if "lora" not in n})
        return model

    monkeypatch.setattr(paired, "load_causal_lm", seen)
    models = ("--model", f"base={llama_folder}", "--model", f"aligned={adapter}")
    half = ("--set", "base_precision=bf16", "--out", "half")
    done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, *half)
    done(capsys, "evaluate", "compare", *models, *SHORT, *FEW, "--out", "full")
    assert held == [{torch.bfloat16}] * 2 + [{torch.float32}] * 2
    runs = [read_json(here / name / "run.json")["inputs"] for name in ("half", "full")]
    assert [run["base_precision"] for run in runs] == ["bf16", "fp32"]


def test_toxicity_in_a_workspace_gives_the_figures_of_the_demo(capsys, here, llama_folder, adapter):
    """`concord demo` and its goals read these names; the run, its reviews and its reports can be found again."""
    settings = ["evaluate.max_new_tokens=8", "evaluate.completions_per_prompt=2"]
    config = load_config(None, [f"base_model={llama_folder}", "evaluate.resamples=200", *settings])
    Workspace.create(here / "mine", config).close()
    mine = ("-w", here / "mine")
    done(capsys, "prompts", "import", "prompts.jsonl", *mine, "--json")
    figures = done(capsys, "evaluate", "toxicity", *mine, "--policy", adapter, "--json")
    wanted = {
        "toxicity_before",
        "toxicity_after",
        "toxicity_reduction",
        "toxicity_difference",
        "kl",
    }
    wanted |= {
        f"{f}_{s}" for f in ("perplexity", "distinct", "unfinished") for s in ("before", "after")
    }
    assert wanted | {"verdict", "headline", "scorer"} <= set(figures)
    for side in ("toxicity_before", "toxicity_after"):
        assert figures[side]["low"] <= figures[side]["mean"] <= figures[side]["high"]
    folder = here / "mine" / "runs" / figures["run_id"]
    stored, material = read_evaluation(folder)
    assert [m.name for m in stored.models] == ["before", "after"]
    assert {p.category for p in material.prompts} == {"even", "odd"}, "kept by the store"
    assert material.prompts[0].references == ("kind",)
    (folder / "report.html").unlink()
    again = done(capsys, "report", *mine, "--json")
    assert again["verdict"] == figures["verdict"] and (folder / "report.html").exists()
    shown = done(capsys, "evaluate", "compare", *mine, "--model", f"base={llama_folder}", "--model",
                 f"aligned={adapter}", *FEW, "--json")  # fmt: skip
    assert shown["paired"]["profanity-check"]["difference"] == pytest.approx(
        figures["toxicity_difference"]["mean"]
    ), "the same seed and settings give the same completions"
    message = refused(capsys, "evaluate", "compare", *mine, "--model", f"base={llama_folder}",
                      "--model", f"x={figures['run_id']}")  # fmt: skip
    assert "holds no model" in message


def test_the_reports_hold_the_reward_model_that_the_policy_was_trained_on(
    capsys, here, llama_folder, adapter, tokenizer
):
    """Not the workspace's latest; and it stays in the reports when its folder is gone."""
    trust, result = trust_of(tokenizer)
    config = load_config(None, [f"base_model={llama_folder}", "evaluate.resamples=200"])
    space = Workspace.create(here / "mine", config)
    for name, accuracy in (("reward-1", 0.61), ("reward-2", 0.99)):
        folder = here / "mine" / "runs" / name
        folder.mkdir(parents=True)
        write_json(folder / "trust.json", trust)
        write_json(folder / "reward.json", result)
        metrics = {"accuracy": accuracy}
        save_run(
            space.store, Run(name, "reward", {}, "finished", metrics=metrics, folder=str(folder))
        )
    space.close()
    policy = here / "policy"
    shutil.copytree(adapter, policy)
    used = here / "mine" / "runs" / "reward-1"
    write_json(policy / "policy.json", {"reward_model": str(used), "config": {"rewards": []}})
    mine = ("-w", here / "mine")
    done(capsys, "prompts", "import", "prompts.jsonl", *mine, "--json")
    options = ("--set", "evaluate.max_new_tokens=8", "--set", "evaluate.completions_per_prompt=2")
    done(capsys, "evaluate", "toxicity", *mine, "--policy", policy, *options, "--json")
    shutil.rmtree(used)
    found = done(capsys, "report", *mine, "--json")
    kept = read_json(Path(found["report"]).parent / "reward_model.json")
    assert [model["name"] for model in kept["models"]] == ["reward-1"]
    assert kept["models"][0]["trust"] == json.loads(json.dumps(trust))
    page = Path(found["report"]).read_text()
    assert 'id="reward-model"' in page and "accuracy <code>0.61</code>" in page
    assert "0.99</code>" not in page


def test_a_report_names_the_runs_behind_its_policy_and_not_the_newest(tmp_path, monkeypatch):
    """Also when a verdict rewrites the report of an older evaluation, for a best policy, and for a hub id."""
    space = Workspace.create(tmp_path / "mine", load_config(None, []))
    store, place = space.store, tmp_path / "mine" / "runs"
    for n in "12":
        for stage in ("consensus", "reward", "ppo"):
            folder = place / f"{stage}-{n}"
            folder.mkdir(parents=True)
            named = {"reward_model": str(place / f"reward-{n}")} if stage == "ppo" else {}
            run = Run(f"{stage}-{n}", stage, {}, "finished", named, {"accuracy": float(n)},
                      folder=str(folder), ended=now())  # fmt: skip
            save_run(store, run)
            write_json(folder / "labelers.json", [{"labeler_id": f"labeler-{n}"}])
            (folder / "metrics.jsonl").write_text(json.dumps({"iteration": int(n)}) + "\n")
        (folder / "best").mkdir()
    # The second reward model was trained again on the first consensus.
    pairs = str(place / "consensus-1" / "pairs.jsonl")
    run_queue.keep_request(store, Request("reward-2", "reward", {}, {"pairs": pairs}))

    def behind(policy):
        found = background_of(store, Path(policy), None, tmp_path)
        return [run["run_id"] for run in found.runs], found

    for policy in (place / "ppo-1", place / "ppo-1" / "best", place / "ppo-1" / "checkpoints"):
        names, found = behind(policy)
        assert names == ["consensus-1", "reward-1", "ppo-1"]
        assert found.training == [{"iteration": 1}], "a best policy has the curves of its run"
        assert found.reward == {"accuracy": 1.0}
        assert found.consensus["labelers"] == [{"labeler_id": "labeler-1"}]
    assert behind(place / "ppo-2")[0] == ["consensus-1", "reward-2", "ppo-2"]
    monkeypatch.chdir(place / "ppo-2")
    names, found = behind("org/model")
    assert names == [] and found.training is None and found.reward is None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "metrics.jsonl").write_text('{"iteration": 7}\n')
    assert behind(elsewhere)[1].training == [{"iteration": 7}], "no run of this workspace"
    space.close()
