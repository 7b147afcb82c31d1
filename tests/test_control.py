"""Runs in processes of their own: the queue, ending, dying, cloning, deleting, comparing."""

import csv
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from alignment import comparing, control, pipeline, processes
from alignment.config import Config
from alignment.errors import ConfigError, InputError, StoreError
from alignment.feedback import people, run_queue, runs, snapshot
from alignment.feedback.known_orders import KnownOrder, set_known_order
from alignment.feedback.people import Labeler
from alignment.feedback.run_queue import Mark, Request
from alignment.feedback.runs import Review, Run
from alignment.feedback.store import Store
from alignment.files import write_json
from alignment.pipeline import Job
from alignment.records import Completion, Prompt, Ranking
from alignment.workspace import Workspace, new_run_id
from tests.test_loop import concord


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a few rankings, so that the consensus stage (quick, and free of torch) can run."""
    with Workspace.create(tmp_path / "w", Config()) as made:
        prompts = [Prompt(f"p{n}", f"prompt {n}") for n in range(6)]
        made.store.add_prompts(prompts)
        completions = [
            Completion(f"{p.prompt_id}-{c}", p.prompt_id, f"text {c}")
            for p in prompts
            for c in "ab"
        ]
        made.store.add_tasks(completions, 3)
        people.add_labelers(made.store, [Labeler(name, name, False) for name in ("ann", "bob")])
        made.store.add_rankings(
            [
                Ranking(p.prompt_id, name, {f"{p.prompt_id}-a": 1, f"{p.prompt_id}-b": 2})
                for p in prompts
                for name in ("ann", "bob")
            ]
        )
        yield made


def finished(workspace, run_id, seconds=60):
    """The run once it has ended."""
    until = time.monotonic() + seconds
    while (run := runs.run(workspace.store, run_id)).status not in run_queue.ENDED:
        assert time.monotonic() < until, f"{run_id} is still {run.status}"
        time.sleep(0.1)
    return run


def pretend(workspace, stage="ppo", command=None, **metrics):
    """A finished run of the store without its work; with `command`, a run on which that process works."""
    run_id = new_run_id(stage)
    folder = workspace.folder / "runs" / run_id
    folder.mkdir()
    config = getattr(Config(), stage).model_dump()
    run = Run(run_id, stage, config, folder=str(folder), metrics=metrics)
    request = Request(run_id, stage, Config().model_dump(), {"reward_model": "x"})
    run_queue.enqueue(workspace.store, run, request)
    if command is not None:
        assert run_queue.claim_next(workspace.store, 99) == run_id
        process = processes.start(command, folder / control.LOG_FILE, folder)
        run_queue.set_process(workspace.store, run_id, process)
    else:
        runs.save_run(workspace.store, replace(run, status="finished"))
    return run_id


def test_two_runs_start_in_order_in_processes_of_their_own_and_the_second_needs_nobody(workspace):
    first = control.submit(workspace, "consensus", Config(), by="eve")
    second = control.submit(workspace, "consensus", Config(), by="bob")
    assert control.dispatch(workspace) == [first]
    assert control.dispatch(workspace) == []  # one at a time
    one, two = finished(workspace, first), finished(workspace, second)
    assert (one.status, two.status) == ("finished", "finished"), (one.message, two.message)
    assert one.ended <= two.started
    assert one.metrics["rankings"] == 12
    assert (workspace.folder / "runs" / first / "pairs.jsonl").is_file()
    assert run_queue.request_of(workspace.store, second).created_by == "bob"


def rank(workspace, name, *, simulated=False, worst_first=False):
    """One more labeler ranks everything."""
    people.add_labelers(workspace.store, [Labeler(name, name, simulated)])
    best, worst = (2, 1) if worst_first else (1, 2)
    workspace.store.add_rankings(
        [
            Ranking(f"p{n}", name, {f"p{n}-a": best, f"p{n}-b": worst}, simulated=simulated)
            for n in range(6)
        ]
    )


def test_a_ranking_or_known_order_after_the_click_does_not_enter_the_run(workspace):
    run_id = control.submit(workspace, "consensus", Config(), by="eve")
    rank(workspace, "late", worst_first=True)
    rank(workspace, "simulated-late", simulated=True)
    set_known_order(workspace.store, KnownOrder("p0", {"p0-b": 1, "p0-a": 2}, "gold", "eve"))
    control.dispatch(workspace)
    done = finished(workspace, run_id)
    assert done.status == "finished", done.message
    assert done.metrics["rankings"] == 12
    assert done.inputs["labelers"] == ["ann", "bob"]
    assert done.inputs["simulated_rankings"] == 0
    assert done.inputs["known_orders"] == []
    kept = snapshot.read(workspace.folder / "runs" / run_id)
    assert len(kept.rankings) == 12
    cloned = control.clone(workspace, run_id, [], by="bob")
    again = snapshot.read(workspace.folder / "runs" / cloned)
    assert again == kept


def test_a_known_order_of_the_snapshot_keeps_its_source(workspace):
    set_known_order(
        workspace.store, KnownOrder("p0", {"p0-b": 1, "p0-a": 2}, "adjudication", "eve")
    )
    run_id = control.submit(workspace, "consensus", Config(), by="eve")
    [order] = snapshot.read(workspace.folder / "runs" / run_id).known_orders
    assert (order.source, order.set_by) == ("adjudication", "eve")


def test_a_consensus_of_nothing_or_of_a_silent_mixture_is_refused_at_the_click(workspace):
    config = control.new_config(workspace, ["consensus.labelers=simulated"], None)
    with pytest.raises(InputError, match="no rankings"):
        control.submit(workspace, "consensus", config, by="eve")
    rank(workspace, "simulated-1", simulated=True)
    with pytest.raises(InputError, match="not mixed silently"):
        control.submit(workspace, "consensus", Config(), by="eve")
    assert runs.runs(workspace.store) == []


def test_evidence_about_labelers_comes_from_the_frozen_rankings(workspace):
    consensus = control.submit(workspace, "consensus", Config(), by="eve")
    control.dispatch(workspace)
    folder = finished(workspace, consensus).folder
    rank(workspace, "late", worst_first=True)
    job = Job(Config(), workspace, {"pairs": f"{folder}/pairs.jsonl"})
    agreed = runs.run(workspace.store, consensus)
    evidence = pipeline._labeler_evidence(job, agreed, {f"p{n}" for n in range(6)})
    assert {vote.labeler_id for vote in evidence.votes} == {"ann", "bob"}


def test_two_who_claim_at_once_get_one_run_each(workspace):
    asked = [control.submit(workspace, "consensus", Config(), by=str(n)) for n in range(6)]
    claimed, stores = [], [Store(workspace.store.path) for _ in range(6)]
    threads = [
        threading.Thread(target=lambda s=s: claimed.append(run_queue.claim_next(s, 99)))
        for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert sorted(claimed) == sorted(asked)


def test_a_claim_whose_process_never_came_goes_back(workspace, monkeypatch):
    run_id = control.submit(workspace, "consensus", Config(), by="eve")
    assert run_queue.claim_next(workspace.store, 1) == run_id
    assert run_queue.claim_next(workspace.store, 1) is None
    monkeypatch.setattr(run_queue, "CLAIM_SECONDS", -1)
    assert run_queue.claim_next(workspace.store, 1) == run_id


def test_a_run_whose_process_was_killed_is_marked_with_the_end_of_its_log(workspace):
    command = [sys.executable, "-c", "import time; print('half way', flush=True); time.sleep(60)"]
    run_id = pretend(workspace, command=command)
    process = run_queue.processes(workspace.store)[run_id]
    log = workspace.folder / "runs" / run_id / control.LOG_FILE
    while "half way" not in log.read_text():
        time.sleep(0.05)
    assert control.reap(workspace) == []
    psutil.Process(process.pid).kill()
    while processes.alive(process):
        time.sleep(0.05)
    with pytest.raises(StoreError, match="is failed: there is nothing to stop"):
        control.stop(workspace, run_id, by="eve")
    run = runs.run(workspace.store, run_id)
    assert run.status == "failed"
    assert "half way" in run.message


def test_stopping_at_once_leaves_no_process_of_the_tree(workspace):
    tree = (
        "import subprocess, time; subprocess.Popen(['sleep', '61']); "
        "subprocess.Popen(['sleep', '62'], process_group=0); time.sleep(60)"
    )
    run_id = pretend(workspace, command=[sys.executable, "-c", tree])
    process = run_queue.processes(workspace.store)[run_id]
    while len(psutil.Process(process.pid).children()) < 2:
        time.sleep(0.05)
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    control.stop(workspace, run_id, by="eve", at_once=True)
    assert not [m for m in members if m.is_running() and m.status() != psutil.STATUS_ZOMBIE]
    run = runs.run(workspace.store, run_id)
    assert (run.status, run.message) == ("stopped", "Stopped by eve.")
    with pytest.raises(StoreError, match="nothing to stop"):
        control.stop(workspace, run_id, by="eve")


def test_training_is_asked_to_end_after_a_checkpoint(workspace):
    run_id = pretend(workspace, command=["sleep", "30"])
    process = run_queue.processes(workspace.store)[run_id]
    assert "checkpoint" in control.stop(workspace, run_id, by="eve")
    asked = json.loads((workspace.folder / "runs" / run_id / "stop").read_text())
    assert asked == {"by": "eve", "at_once": False}
    assert processes.alive(process)
    processes.end_tree(process)
    control.reap(workspace)
    assert runs.run(workspace.store, run_id).status == "stopped"
    control.resume(workspace, run_id, by="bob")
    assert runs.run(workspace.store, run_id).status == "queued"
    assert run_queue.request_of(workspace.store, run_id).resume
    with pytest.raises(StoreError, match="queued"):
        control.resume(workspace, run_id, by="bob")


def test_what_waits_for_a_failed_run_fails_with_the_reason(workspace):
    chain = control.submit_round(workspace, Config(), by="eve")
    assert [runs.run(workspace.store, r).stage for r in chain] == [
        "consensus",
        "reward",
        "ppo",
        "evaluate",
    ]
    reads = run_queue.request_of(workspace.store, chain[1]).files["pairs"]
    assert reads.endswith(f"{chain[0]}/pairs.jsonl")
    assert "queue" in control.stop(workspace, chain[0], by="eve")
    assert run_queue.claim_next(workspace.store, 1) is None
    lost = runs.run(workspace.store, chain[1])
    assert (lost.status, lost.message) == ("failed", f"It waited for {chain[0]}, which is stopped.")


def test_a_stage_whose_input_is_not_there_is_refused_before_anything_starts(workspace):
    with pytest.raises(InputError, match="no consensus run has finished"):
        control.submit(workspace, "reward", Config(), by="eve")
    with pytest.raises(InputError, match="no stage 'rewards'"):
        control.submit(workspace, "rewards", Config(), by="eve")
    assert runs.runs(workspace.store) == []


def test_a_clone_takes_the_changes_and_refuses_nonsense(workspace):
    run_id = pretend(workspace, "ppo")
    cloned = control.clone(workspace, run_id, ["kl_coef=0.2"], by="bob")
    assert runs.run(workspace.store, cloned).config["kl_coef"] == 0.2
    assert run_queue.request_of(workspace.store, cloned).files["reward_model"] == "x"
    with pytest.raises(ConfigError, match="kl_coef"):
        control.clone(workspace, run_id, ["kl_coeff=0.2"], by="bob")


def test_deleting_moves_to_the_bin_and_restoring_brings_back(workspace):
    run_id = pretend(workspace, "consensus")
    folder = workspace.folder / "runs" / run_id
    (folder / "pairs.jsonl").write_text("kept")
    where = control.delete(workspace, run_id, by="eve")
    assert (where / "pairs.jsonl").read_text() == "kept"
    assert not folder.exists()
    assert run_queue.deleted(workspace.store) == {run_id}
    with pytest.raises(StoreError, match="already"):
        control.delete(workspace, run_id, by="eve")
    control.restore(workspace, run_id, by="eve")
    assert (folder / "pairs.jsonl").read_text() == "kept"
    assert run_queue.deleted(workspace.store) == set()


def test_what_is_in_the_bin_is_not_read_by_the_next_run(workspace):
    older, newer = pretend(workspace, "reward"), pretend(workspace, "reward")
    control.delete(workspace, newer, by="eve")
    asked = control.submit(workspace, "ppo", Config(), by="eve")
    reads = run_queue.request_of(workspace.store, asked).files["reward_model"]
    assert reads == str((workspace.folder / "runs" / older).resolve())
    with pytest.raises(InputError, match="in the bin"):
        control.reading(workspace, "ppo", newer)


def test_what_no_run_could_do_is_refused_wherever_it_is_queued(workspace):
    config = Config()
    with pytest.raises(InputError, match=r"no config\.json"):
        (workspace.folder / "empty").mkdir()
        base = config.model_copy(update={"base_model": "empty"})
        control.submit(workspace, "sample", base, by="eve")
    pretend(workspace, "reward")
    with pytest.raises(InputError, match="multiple of"):
        control.submit(workspace, "ppo", config, by="eve", launch={"nproc": 3})
    with pytest.raises(InputError, match="multiple of"):
        control.submit_round(workspace, config, by="eve", launch={"nproc": 3})
    assert run_queue.queue(workspace.store) == [], "a round is refused as a whole"
    with pytest.raises(InputError, match="reads no earlier run"):
        control.reading(workspace, "sample", pretend(workspace))


def test_what_a_waiting_run_reads_is_not_deleted(workspace):
    source = pretend(workspace, "consensus")
    reader = control.submit(workspace, "reward", Config(), by="eve")
    with pytest.raises(StoreError, match=reader):
        control.delete(workspace, source, by="eve")
    with pytest.raises(StoreError, match="Stop it before"):
        control.delete(workspace, reader, by="eve")


def test_marks_stay_and_the_current_policy_is_the_last_promoted_that_is_there(workspace):
    first, second = pretend(workspace), pretend(workspace)
    for kind, value in (("tag", "good"), ("tag", "odd"), ("untag", "odd"), ("note", "look here")):
        run_queue.add_mark(workspace.store, Mark(first, kind, value, "eve"))
    marks = run_queue.marks(workspace.store, first)
    assert run_queue.tags(marks) == ["good"]
    with pytest.raises(InputError, match="Write something"):
        run_queue.add_mark(workspace.store, Mark(first, "note", " ", "eve"))
    control.promote(workspace, first, by="eve")
    control.promote(workspace, second, by="eve")
    assert run_queue.current_policy(workspace.store).run_id == second
    control.delete(workspace, second, by="eve")
    assert run_queue.current_policy(workspace.store).run_id == first
    with pytest.raises(InputError, match="consensus run"):
        control.promote(workspace, pretend(workspace, "consensus"), by="eve")


def test_the_best_policy_of_a_run_is_promoted_where_one_was_kept(workspace, capsys):
    run_id = pretend(workspace)
    with pytest.raises(InputError, match="keeps no best policy"):
        control.promote(workspace, run_id, by="eve", best=True)
    folder = workspace.folder / "runs" / run_id
    write_json(folder / "best" / "adapter_config.json", {})
    code, _, err = concord(capsys, "runs", "promote", run_id, "--best", "-w", workspace.folder)
    assert code == 0, err
    job = Job(Config(), workspace)
    assert job.current_policy() == folder / "best"
    control.promote(workspace, run_id, by="eve")
    assert job.current_policy() == folder


def test_runs_are_compared_by_what_differs_and_what_came_out(workspace):
    first = pretend(workspace, reward_last=0.4, kl=1.0)
    clone = control.clone(workspace, first, ["kl_coef=0.2"], by="eve")
    policy = runs.run(workspace.store, first).folder
    evaluation = Run(
        "evaluate-x",
        "evaluate",
        {},
        "finished",
        inputs={"policy": policy},
        metrics={
            "toxicity_reduction": 0.9,
            "toxicity_after": {"mean": 0.1, "low": 0.05, "high": 0.15},
        },
        folder=str(workspace.folder / "runs" / "evaluate-x"),
    )
    runs.save_run(workspace.store, evaluation)
    runs.add_review(workspace.store, Review("evaluate-x", "eve", "accept", "fine"))
    found = comparing.compare(workspace, [first, clone])
    assert found["differences"] == {"kl_coef": [0.05, 0.2]}
    assert found["outcomes"][0]["toxicity_reduction"] == 0.9
    assert found["outcomes"][0]["verdict"] == "accept"
    assert "toxicity_reduction" not in found["outcomes"][1]
    one, two = csv.DictReader(io.StringIO(comparing.compare_csv(found)))
    assert (one["run_id"], one["reward_last"], one["kl"], one["verdict"]) == (
        first,
        "0.4",
        "1.0",
        "accept",
    )
    assert [one[f"toxicity_after{end}"] for end in ("", "_low", "_high")] == ["0.1", "0.05", "0.15"]
    assert (one["config.kl_coef"], two["config.kl_coef"]) == ("0.05", "0.2")
    assert (two["kl"], two["toxicity_after"]) == ("", ""), "what was not measured is empty"


def test_progress_is_written_with_the_time_left(tmp_path, monkeypatch):
    clock = 1000.0
    monkeypatch.setattr(control.time, "time", lambda: clock)
    report, path = control.ProgressFile(tmp_path / "progress.json"), tmp_path / "progress.json"
    report("PPO", 0, 10)
    assert json.loads(path.read_text())["seconds_left"] is None, "nothing tells the pace yet"
    clock += 30
    report("PPO", 3, 10, "kl 1")
    row = json.loads(path.read_text())
    assert (row["done"], row["note"], row["seconds_left"]) == (3, "kl 1", 70.0)
    clock += 50
    report("PPO", 10, 10)
    assert json.loads(path.read_text())["seconds_left"] == 0.0


def test_the_time_left_of_a_resumed_run_counts_what_it_did_itself(tmp_path, monkeypatch):
    """Iterations made before were taken for ones made in no time."""
    clock = 1000.0
    monkeypatch.setattr(control.time, "time", lambda: clock)
    report, path = control.ProgressFile(tmp_path / "progress.json"), tmp_path / "progress.json"
    report("PPO", 51, 100)
    clock += 20
    report("PPO", 53, 100)
    assert json.loads(path.read_text())["seconds_left"] == 470.0


def test_the_command_line_asks_follows_and_lists(workspace):
    def concord(*words):
        command = [sys.executable, "-m", "alignment.cli", "runs", *words]
        done = subprocess.run(
            [*command, "-w", str(workspace.folder), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = concord("start", "consensus", "--watch")
    assert code == 0, said
    run_id = json.loads(said.strip().splitlines()[-1])["run_id"]
    listed = json.loads(concord("list")[1].strip().splitlines()[-1])["runs"]
    assert [(row["run_id"], row["status"]) for row in listed] == [(run_id, "finished")]
    code, said = concord("stop", run_id)
    assert code == 2
    assert "nothing to stop" in said


def test_the_launch_is_kept_with_the_run_and_only_training_has_one(workspace):
    launch = {"nproc": 2}
    chain = control.submit_round(workspace, Config(), by="eve", launch=launch)
    kept = {
        request.stage: request.launch
        for request in (run_queue.request_of(workspace.store, run_id) for run_id in chain)
    }
    assert kept == {"consensus": {}, "reward": launch, "ppo": launch, "evaluate": {}}
    with pytest.raises(InputError, match="Only training"):
        control.submit(workspace, "sample", Config(), by="eve", launch=launch)


def test_a_workspace_that_was_copied_works_on_its_own_files(workspace, tmp_path):
    run_id = control.submit(workspace, "consensus", Config(), by="ann")
    control.execute(workspace, run_id)
    control.clone(workspace, run_id, [], by="ann")
    pairs = str(workspace.folder / "runs" / run_id / "pairs.jsonl")
    section = Config().reward.model_dump(mode="json")
    reward = Run("reward-1", "reward", section, "finished", folder=str(tmp_path / "elsewhere"))
    request = Request("reward-1", "reward", {}, {"pairs": pairs}, {}, created_by="ann")
    run_queue.enqueue(workspace.store, reward, request)
    new = tmp_path / "b\u00fccher" / "w"
    shutil.copytree(workspace.folder, new)
    for opening in range(2):
        with Workspace.open(new) as copy:
            assert runs.run(copy.store, run_id).folder == str(new / "runs" / run_id), opening
            assert runs.run(copy.store, "reward-1").folder == str(tmp_path / "elsewhere")
            asked = run_queue.request_of(copy.store, "reward-1")
            assert asked is not None
            assert asked.files == {"pairs": str(new / "runs" / run_id / "pairs.jsonl")}
            clone = runs.runs(copy.store, "consensus")[0]
            asked = run_queue.request_of(copy.store, clone.run_id)
            assert asked is not None and asked.files["snapshot"].startswith(str(new))
    assert runs.run(workspace.store, run_id).folder == str(workspace.folder / "runs" / run_id)
    with Workspace.open(new) as copy:
        control.stop(copy, "reward-1", by="ann")
        control.stop(copy, clone.run_id, by="ann")
        control.delete(copy, run_id, by="ann")
    assert (workspace.folder / "runs" / run_id / "pairs.jsonl").is_file()
    with Workspace.open(new.rename(tmp_path / "moved")) as moved:
        control.restore(moved, run_id, by="ann")
        assert (tmp_path / "moved" / "runs" / run_id / "pairs.jsonl").is_file()


def test_who_stands_in_the_queue_first_is_first_however_early_another_was_thought_of(workspace):
    section = Config().consensus.model_dump(mode="json")
    early, late = (Request(f"run-{n}", "consensus", {}, {}, {}, created_by="ann") for n in "ab")
    for request in (late, early):
        run_queue.enqueue(workspace.store, Run(request.run_id, "consensus", section), request)
    assert run_queue.claim_next(workspace.store, 1) == late.run_id
