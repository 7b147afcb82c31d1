"""What a user meets at the command line: help, and for each mistake one paragraph and exit code 2."""

import json
import shutil
import sqlite3
import subprocess
import sys

import pytest

from alignment.cli_shared import rows as rows_shown
from alignment.feedback import audit, people, runs
from alignment.feedback.people import Labeler
from alignment.records import Completion, Prompt, Ranking
from alignment.workspace import Workspace
from tests.test_loop import concord, last_json


@pytest.fixture
def workspace(tmp_path, capsys):
    code, _, err = concord(capsys, "init", tmp_path / "w")
    assert code == 0, err
    return tmp_path / "w"


def rows(path, *values):
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return path


def fill(workspace, ranks, *, simulated=False):
    """Two completions of one prompt, ranked by everyone in `ranks`: labeler -> (rank of a, rank of b)."""
    with Workspace.open(workspace) as opened:
        opened.store.add_prompts([Prompt("p", "Say hello")])
        opened.store.add_tasks(
            [Completion("a", "p", " hello"), Completion("b", "p", " go away")], 3
        )
        people.add_labelers(opened.store, [Labeler(n, n, simulated) for n in ranks])
        opened.store.add_rankings(
            [
                Ranking("p", name, {"a": x, "b": y}, simulated=simulated)
                for name, (x, y) in ranks.items()
            ]
        )


def refused(result, *words):
    code, out, err = result
    assert code == 2, (out, err)
    assert "Traceback" not in err
    flat = " ".join(err.split())
    for word in words:
        assert word in flat, flat


def test_help_answers_without_torch():
    script = "import sys; from alignment.cli import app; app(['--help'], standalone_mode=False); "
    script += "sys.exit(int('torch' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for command in (
        "init",
        "prompts",
        "sample",
        "labelers",
        "consensus",
        "export",
        "train",
        "evaluate",
        "report",
    ):
        assert command in done.stdout


def test_init_prompts_labelers_export(workspace, tmp_path, capsys):
    assert {p.name for p in workspace.iterdir()} >= {"concord.yaml", "feedback.db", "runs"}
    refused(concord(capsys, "init", workspace), "already holds a workspace")
    prompts = rows(
        tmp_path / "p.jsonl", {"prompt": "Say hello"}, {"prompt": "Say no", "split": "held-out"}
    )
    code, out, _ = concord(capsys, "prompts", "import", prompts, "-w", workspace, "--json")
    assert code == 0 and last_json(out) == {"read": 2, "added": 2, "held_out": 1}
    code, out, _ = concord(capsys, "labelers", "add", "ann", "-w", workspace, "--json")
    password = last_json(out)["password"]
    with Workspace.open(workspace) as opened:
        assert people.sign_in(opened.store, "ann", password)
        added, imported = audit.entries(opened.store)
    assert (added["action"], added["subject"]) == ("add account", "ann")
    assert (imported["action"], imported["detail"]["added"]) == ("import prompts", 2)
    code, out, _ = concord(capsys, "labelers", "list", "-w", workspace, "--json")
    assert [row["labeler_id"] for row in last_json(out)["labelers"]] == ["ann"]
    code, _, _ = concord(
        capsys, "export", "prompts", "-w", workspace, "--out", tmp_path / "out.jsonl"
    )
    assert code == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    refused(
        concord(capsys, "export", "prompts", "-w", workspace, "--out", tmp_path / "out.jsonl"),
        "exists already",
    )
    refused(
        concord(capsys, "export", "prmpts", "-w", workspace, "--out", tmp_path / "x"),
        "did you mean 'prompts'",
    )


def test_malformed_and_empty_files_name_the_line(workspace, tmp_path, capsys):
    bad = rows(tmp_path / "p.jsonl", {"prompt": "fine"}, "{oops")
    refused(concord(capsys, "prompts", "import", bad, "-w", workspace), "p.jsonl, line 2")
    empty = rows(tmp_path / "e.jsonl")
    refused(concord(capsys, "prompts", "import", empty, "-w", workspace), "is empty")
    with Workspace.open(workspace) as opened:
        assert opened.store.prompts() == []


def test_an_error_that_looks_like_markup_is_printed_as_it_is(workspace, tmp_path, capsys):
    (tmp_path / "[").mkdir()
    bad = rows(tmp_path / "[" / "pair.cc:537]", "{oops")
    result = concord(capsys, "prompts", "import", bad, "-w", workspace)
    refused(result, "[/pair.cc:537], line 1")


def test_a_table_shows_what_looks_like_markup_as_it_is(capsys):
    rows_shown([{"message": "[/pair.cc:537] closed [red]"}], ("message",), False, "runs")
    assert "[/pair.cc:537] closed [red]" in capsys.readouterr().out


def test_unknown_options_get_the_nearest(workspace, capsys):
    (workspace / "concord.yaml").write_text("ppo:\n  kl_cof: 0.1\n")
    refused(
        concord(capsys, "runs", "list", "-w", workspace), "concord.yaml", "did you mean 'kl_coef'"
    )


def test_fewer_than_two_completions_are_refused(workspace, capsys):
    result = concord(capsys, "sample", "-w", workspace, "--set", "completions_per_prompt=1")
    refused(result, "completions_per_prompt", "greater than or equal to 2")


def test_rankings_of_unknown_completions_are_refused(tmp_path, capsys):
    files = {
        "--rankings": rows(
            tmp_path / "r.jsonl", {"prompt_id": "p", "labeler_id": "l", "ranks": {"a": 1, "zz": 2}}
        ),
        "--completions": rows(
            tmp_path / "c.jsonl",
            {"completion_id": "a", "prompt_id": "p", "text": "x"},
            {"completion_id": "b", "prompt_id": "p", "text": "y"},
        ),
        "--prompts": rows(tmp_path / "p.jsonl", {"prompt_id": "p", "prompt": "Say hello"}),
    }
    arguments = [part for pair in files.items() for part in pair]
    refused(concord(capsys, "consensus", *arguments, "--out", tmp_path / "out"), "zz")
    assert not (tmp_path / "out").exists()


def test_labelers_who_all_disagree_give_no_pairs_and_a_reason(workspace, capsys):
    fill(workspace, {"ann": (1, 2), "ben": (2, 1)})
    result = concord(capsys, "consensus", "-w", workspace, "--set", "min_confidence=0.8")
    refused(result, "pair")
    with Workspace.open(workspace) as opened:
        assert runs.runs(opened.store, "consensus") == []


def test_people_and_simulation_are_never_mixed_silently(workspace, capsys):
    fill(workspace, {"ann": (1, 2), "ben": (1, 2), "cy": (1, 2)})
    with Workspace.open(workspace) as opened:
        people.add_labelers(opened.store, [Labeler("bot", "bot", True)])
        opened.store.add_rankings([Ranking("p", "bot", {"a": 2, "b": 1}, simulated=True)])
    refused(concord(capsys, "consensus", "-w", workspace), "not mixed silently")
    code, out, err = concord(
        capsys, "consensus", "-w", workspace, "--set", "labelers=people", "--json"
    )
    assert code == 0, err
    assert last_json(out)["rankings"] == 3


def test_a_workspace_of_a_newer_schema_is_left_alone(workspace, capsys):
    with sqlite3.connect(workspace / "feedback.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    refused(concord(capsys, "runs", "list", "-w", workspace), "newer Concord")


def test_stages_out_of_order_say_what_to_run_first(workspace, tmp_path, capsys):
    refused(concord(capsys, "sample", "-w", workspace), "concord prompts import")
    refused(concord(capsys, "labelers", "simulate", "-w", workspace), "concord sample")
    refused(concord(capsys, "consensus", "-w", workspace), "concord sample")
    refused(concord(capsys, "train", "reward", "-w", workspace), "concord consensus")
    refused(concord(capsys, "report", "-w", workspace), "concord evaluate toxicity")
    refused(concord(capsys, "runs", "show", "nothing", "-w", workspace), "concord runs list")
    refused(concord(capsys, "runs", "list", "-w", tmp_path / "elsewhere"), "concord init")
    refused(concord(capsys, "runs", "list"), "--workspace")


def test_a_model_folder_without_its_parts_is_refused(workspace, tmp_path, capsys):
    prompts = rows(tmp_path / "p.jsonl", {"prompt": "Say hello"})
    (tmp_path / "model").mkdir()
    result = concord(
        capsys,
        "sample",
        "--prompts",
        prompts,
        "--model",
        tmp_path / "model",
        "--out",
        tmp_path / "o",
    )
    refused(result, "tokenizer")
    missing = concord(
        capsys,
        "sample",
        "--prompts",
        prompts,
        "--model",
        tmp_path / "none",
        "--out",
        tmp_path / "o",
    )
    refused(missing, "does not exist")
    assert not (tmp_path / "o").exists()


def test_a_prompt_longer_than_the_window_is_refused_and_the_run_marked_failed(
    workspace, tmp_path, llama_folder, capsys
):
    prompts = rows(tmp_path / "p.jsonl", {"prompt_id": "long", "prompt": "kind rude " * 100})
    concord(capsys, "prompts", "import", prompts, "-w", workspace)
    refused(
        concord(capsys, "sample", "-w", workspace, "--model", llama_folder),
        "'long'",
        "context window",
    )
    with Workspace.open(workspace) as opened:
        [run] = runs.runs(opened.store)
        assert (run.status, opened.store.completions()) == ("failed", {})
        assert "context window" in run.message
    code, out, _ = concord(capsys, "runs", "list", "-w", workspace)
    assert code == 0 and run.run_id in out, "the id can be copied whole"


def test_a_full_disk_ends_in_a_sentence(workspace, tmp_path, monkeypatch, capsys):
    import errno
    import os

    fill(workspace, {"ann": (1, 2), "ben": (1, 2), "cy": (1, 2)})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(
        concord(capsys, "consensus", "-w", workspace, "--out", tmp_path / "out"), "No space left"
    )
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_labelers_are_invited_judged_and_decided_about(workspace, capsys):
    fill(workspace, {"ann": (1, 2), "ben": (2, 1)})
    code, out, _ = concord(
        capsys, "labelers", "invite", "-w", workspace, "--url", "https://x.org/", "--json"
    )
    assert code == 0 and last_json(out)["link"].startswith("https://x.org/invite/")
    concord(capsys, "labelers", "add", "ida", "-w", workspace)
    code, out, _ = concord(capsys, "labelers", "password", "ida", "-w", workspace, "--json")
    assert code == 0 and last_json(out)["link"].startswith("http://127.0.0.1:7860/invite/")
    refused(concord(capsys, "labelers", "password", "zoe", "-w", workspace), "no account 'zoe'")
    decide = ("--reason", "Random clicks.", "--by", "eve", "-w", workspace)
    assert concord(capsys, "labelers", "exclude", "ann", *decide)[0] == 0
    refused(concord(capsys, "labelers", "exclude", "ann", *decide), "excluded already")
    refused(concord(capsys, "labelers", "pause", "zoe", *decide), "zoe")
    refused(concord(capsys, "labelers", "invite", "--role", "king", "-w", workspace), "'king'")
    with Workspace.open(workspace) as opened:
        assert [r.labeler_id for r in opened.store.rankings()] == ["ben"]
    code, out, _ = concord(capsys, "labelers", "quality", "-w", workspace, "--json")
    states = {row["labeler_id"]: row["state"] for row in last_json(out)["labelers"]}
    assert states == {name: "not yet practised" for name in ("ben", "ida")} | {"ann": "excluded"}
    assert concord(capsys, "labelers", "quality", "-w", workspace)[0] == 0
    assert concord(capsys, "labelers", "include", "ann", *decide)[0] == 0


def test_tokens_are_made_listed_and_revoked(workspace, capsys):
    concord(capsys, "labelers", "add", "ann", "-w", workspace)
    made = concord(capsys, "tokens", "create", "ann", "--name", "ci", "-w", workspace, "--json")
    number = str(last_json(made[1])["token_id"])
    _, out, _ = concord(capsys, "tokens", "list", "ann", "-w", workspace, "--json")
    assert [row["name"] for row in last_json(out)["tokens"]] == ["ci"]
    assert concord(capsys, "tokens", "revoke", "ann", number, "-w", workspace)[0] == 0
    refused(concord(capsys, "tokens", "revoke", "ann", number, "-w", workspace), "revoked")
    refused(concord(capsys, "tokens", "create", "zoe", "--name", "x", "-w", workspace), "zoe")


def test_a_base_model_is_found_from_wherever_one_works(tmp_path, llama_folder, capsys, monkeypatch):
    shutil.copytree(llama_folder, tmp_path / "base")
    prompts = rows(tmp_path / "p.jsonl", {"prompt": "You"})
    monkeypatch.chdir(tmp_path)
    assert concord(capsys, "init", "w", "--model", "base")[0] == 0
    monkeypatch.chdir(tmp_path / "w")
    assert concord(capsys, "prompts", "import", prompts)[0] == 0
    few = ("--set", "max_new_tokens=4", "--set", "completions_per_prompt=2", "--json")
    assert concord(capsys, "sample", *few)[0] == 0
    config = tmp_path / "w" / "concord.yaml"  # by hand: relative to the workspace
    config.write_text(config.read_text().replace(str(tmp_path / "base"), "../base"))
    monkeypatch.chdir(tmp_path)
    assert concord(capsys, "sample", "-w", "w", *few)[0] == 0


def test_a_completion_id_stands_for_one_text(tmp_path, capsys):
    prompts = rows(tmp_path / "p.jsonl", {"prompt_id": "p", "prompt": "Say hello"})
    one = {"completion_id": "a", "prompt_id": "p", "text": "Hello", "finished": True}
    files = rows(tmp_path / "c.jsonl", one, {**one, "completion_id": "b"}, {**one, "text": "Else"})
    ranked = rows(
        tmp_path / "r.jsonl", {"prompt_id": "p", "labeler_id": "ann", "ranks": {"a": 1, "b": 2}}
    )
    given = ("--rankings", ranked, "--completions", files, "--prompts", prompts)
    refused(concord(capsys, "consensus", *given, "--out", tmp_path / "out"), "two different texts")


def test_the_keyboard_stops_a_stage_with_a_word_on_how_to_go_on(tmp_path, capsys, monkeypatch):
    from alignment import pipeline

    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "consensus", interrupted)
    code, _, err = concord(capsys, "consensus", "--out", tmp_path / "out")
    assert code == 130 and "concord runs resume" in err
