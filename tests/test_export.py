"""`concord export model` and the model card."""

import json

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from alignment.cli import app
from alignment.config import Config
from alignment.errors import InputError, ModelError
from alignment.evaluation.model_card import figure, model_card
from alignment.exporting import export_model, policy_card
from alignment.feedback.people import Labeler, add_labelers
from alignment.feedback.runs import Review, Run, add_review, save_run
from alignment.feedback.store import now
from alignment.files import write_json
from alignment.models.loading import load_causal_lm
from alignment.models.trunk import BASE_FILE, fingerprint, same_base
from alignment.pipeline import Job
from alignment.records import Prompt
from alignment.workspace import Workspace
from tests.conftest import tiny_causal_lm

runner = CliRunner()


def make_policy(base, tokenizer, folder, seed=0):
    """An adapter whose two factors are random, so that it changes every logit."""
    model = get_peft_model(
        load_causal_lm(base),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"),
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def policy(llama_folder, tokenizer, tmp_path):
    return make_policy(llama_folder, tokenizer, tmp_path / "policy")


def test_logits_of_the_merged_model_equal_base_plus_adapter(tiny_model_folder, tokenizer, tmp_path):
    policy = make_policy(tiny_model_folder, tokenizer, tmp_path / "policy")
    out = tmp_path / "merged"
    job = Job(Config(), files={"policy": policy}, out=out)
    export_model(job, merge=True)
    ids = torch.randint(2, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = load_causal_lm(tiny_model_folder)(ids).logits
        together = AutoPeftModelForCausalLM.from_pretrained(str(policy)).eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
    assert (merged - together).abs().max() < 1e-4
    assert (merged - plain).abs().max() > 1e-2  # the adapter does something
    assert not (out / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(out)("kind")["input_ids"] == tokenizer("kind")["input_ids"]


def test_the_command_exports_the_adapter_with_tokenizer_and_card(policy, tmp_path):
    (policy / "metrics.jsonl").write_text("{}\n")
    out = tmp_path / "out"
    done = runner.invoke(
        app, ["export", "model", "--policy", str(policy), "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["what"] == "adapter"
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        one, other = (
            AutoPeftModelForCausalLM.from_pretrained(str(p)).eval()(ids).logits
            for p in (policy, out)
        )
    assert torch.equal(one, other)
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "tokenizer.json", "adapter_model.safetensors"} <= names
    assert "metrics.jsonl" not in names


def test_the_best_policy_of_a_run_is_exported_with_a_card_that_says_so(
    policy, llama_folder, tokenizer, tmp_path
):
    out = tmp_path / "out"
    command = ["export", "model", "--policy", str(policy), "--best", "--out", str(out)]
    refused = runner.invoke(app, command)
    assert isinstance(refused.exception, InputError) and not out.exists()
    best = make_policy(llama_folder, tokenizer, policy / "best", seed=1)
    metrics = {"iterations": 9, "best_iteration": 4}
    write_json(policy / "run.json", {"run_id": "ppo-9", "stage": "ppo", "metrics": metrics})
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (best / name).read_bytes()
    card = (out / "README.md").read_text()
    assert "| policy of iteration | 4, the best on held-out prompts |" in card and "ppo-9" in card


def test_a_merged_model_in_bf16_is_half_as_large(policy, tmp_path):
    for dtype in ("fp32", "bf16"):
        export_model(Job(Config(), files={"policy": policy}, out=tmp_path / dtype), True, dtype)
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("fp32", "bf16")]
    assert 0.45 < sizes[1] / sizes[0] < 0.65


def test_bad_input_leaves_nothing_behind(policy, tokenizer, tmp_path):
    out = tmp_path / "out"
    wrong = tmp_path / "wrong"
    tiny_causal_lm("gpt2").save_pretrained(wrong)
    tokenizer.save_pretrained(wrong)
    with pytest.raises(ModelError, match="does not fit this base"):
        export_model(Job(Config(), files={"policy": policy, "model": str(wrong)}, out=out), True)
    assert not list(out.glob("*"))
    write_json(policy / BASE_FILE, fingerprint(tiny_causal_lm("llama")))
    other = tmp_path / "other"  # of the same shapes
    tiny_causal_lm("llama", seed=1).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(ModelError, match="was trained on another base"):
        export_model(Job(Config(), files={"policy": policy, "model": str(other)}, out=out), True)
    half = tiny_causal_lm("llama").bfloat16()
    assert same_base(half, fingerprint(tiny_causal_lm("llama"))), "rounding is no other base"
    assert not list(out.glob("*"))
    with pytest.raises(ModelError, match="holds no policy adapter"):
        export_model(Job(Config(), files={"policy": wrong}, out=out), False)
    with pytest.raises(InputError, match="exists already"):
        export_model(Job(Config(), files={"policy": policy}, out=policy), False)
    with pytest.raises(InputError, match="dtype"):
        export_model(Job(Config(), files={"policy": policy}, out=out), True, "int4")
    Workspace.create(tmp_path / "w", Config()).close()
    arguments = ["export", "prompts", "--merge", "--out", str(out), "-w", str(tmp_path / "w")]
    assert isinstance(runner.invoke(app, arguments).exception, InputError)


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_without_evidence_says_so_and_invents_nothing():
    card = model_card("policy", "/home/somebody/models/base")
    assert metadata(card)["library_name"] == "peft" and "base_model" not in metadata(card)
    assert "/home/somebody" not in card
    assert card.count("not measured") > 25
    assert "No reviewer has given a verdict" in card and "No comparison with the base" in card


def test_a_card_shows_the_figures_given():
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    card = model_card(
        "kind",
        "Qwen/Qwen3-0.6B",
        merged=True,
        data={"train_prompts": 1200, "people": 3, "simulated": 0},
        reward={"accuracy": 0.873, "labeler_agreement": 0.9},
        ppo={"kl": 12.345, "stop_reason": "KL limit"},
        evaluation={"toxicity_before": interval, "scorer": "a|b\n<script>", "kl": None},
        reviews=[{"verdict": "accept", "comment": "kinder\nthan before"}],
    )
    about = metadata(card)
    assert about["base_model"] == "Qwen/Qwen3-0.6B" and about["library_name"] == "transformers"
    assert "model-index" not in about  # no toxicity after alignment, no result
    for words in ("1,200", "87.3%", "90.0%", "12.3", "KL limit", "accept: kinder than before"):
        assert words in card
    assert "0.5 (95% interval 0.4 to 0.6)" in card
    assert "<script>" not in card and "a\\|b" in card
    after = model_card("kind", "a/b", evaluation={"toxicity_after": interval, "scorer": "x"})
    result = metadata(after)["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 0.5


def test_figures_in_words():
    assert figure(None) == figure(None, "share") == "not measured"
    assert (
        figure(0.0) == "0" and figure(0.25, "share") == "25.0%" and figure(1234, "count") == "1,234"
    )


def test_the_card_follows_the_policy_back_to_the_rankings(policy, tmp_path):
    """Of several runs it takes those behind this policy, not the newest ones."""
    with Workspace.create(tmp_path / "w", Config()) as workspace:
        store = workspace.store
        store.add_prompts([Prompt("p1", "a"), Prompt("p2", "b", split="held-out")])
        add_labelers(store, [Labeler("ann", "Ann", False), Labeler("sim", "sim", True, "careful")])

        def record(run_id, stage, folder, inputs, metrics):
            run = Run(
                run_id, stage, {}, "finished", inputs, metrics, folder=str(folder), ended=now()
            )
            folder.mkdir(exist_ok=True)
            write_json(folder / "run.json", run.to_json())
            save_run(store, run)

        read = {"rankings": 7, "labelers": ["ann", "sim"]}
        record("c1", "consensus", tmp_path / "c1", read, {"method": "factor", "flagged": ["sim"]})
        record("r1", "reward", tmp_path / "r1", {}, {"accuracy": 0.75})
        record(
            "c2",
            "consensus",
            tmp_path / "c2",
            {"rankings": 99, "labelers": []},
            {"method": "borda"},
        )
        record("r2", "reward", tmp_path / "r2", {}, {"accuracy": 0.11})
        record("p1", "ppo", policy, {"reward_model": str(tmp_path / "r1")}, {"kl": 3.21})
        toxicity = {"toxicity_after": {"mean": 0.07, "low": 0.05, "high": 0.09}, "scorer": "s"}
        record("e1", "evaluate", tmp_path / "e1", {"policy": str(policy)}, toxicity)
        other = {"policy": str(tmp_path / "another")}
        record("e2", "evaluate", tmp_path / "e2", other, {"headline": "another policy"})
        add_review(store, Review("e1", "Rita", "needs work", "still curt"))
        card = policy_card(store, policy, "a/b", merged=False, name="n")
    for words in ("| rankings | 7 |", "factor", "75.0%", "3.21", "0.07", "needs work: still curt"):
        assert words in card
    for words in ("borda", "11.0%", "another policy", "Rita", "Ann", "ann"):
        assert words not in card.replace("planned", "")
    assert "| labelers, people | 1 |" in card and "| labelers, simulated | 1 |" in card
    assert "1 labeler(s) were flagged" in card and "`r1`" in card
