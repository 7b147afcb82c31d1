import json
import threading

import pytest

from alignment.errors import InputError, StoreError
from alignment.feedback import answers, assignment, pace, people, runs
from alignment.feedback.migrations import MIGRATIONS
from alignment.feedback.people import Labeler
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt, Ranking


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "feedback.db", create=True)
    yield store
    store.close()


@pytest.fixture
def filled(store):
    store.add_prompts(
        [Prompt("p1", "Say hello."), Prompt("p2", [{"role": "user", "content": "Hi"}])]
    )
    completions = [Completion(f"{p}-{i}", p, f"text {i}") for p in ("p1", "p2") for i in range(3)]
    store.add_tasks(completions, overlap=2)
    people.add_labelers(
        store, [Labeler(name, name, simulated=False) for name in ("ann", "ben", "cy")]
    )
    return store


def test_prompts_come_back_as_they_went_in(filled):
    assert [p.prompt for p in filled.prompts()] == [
        "Say hello.",
        [{"role": "user", "content": "Hi"}],
    ]
    assert filled.add_prompts([Prompt("p1", "Say hello.")]) == 0
    with pytest.raises(StoreError, match="append-only"):
        filled.add_prompts([Prompt("p1", "Something else")])
    assert filled.counts()["prompts"] == 2


def test_a_failed_batch_leaves_nothing(filled):
    good = Ranking("p1", "ann", {"p1-0": 1, "p1-1": 2})
    bad = Ranking("p1", "ann", {"p1-0": 1, "p2-1": 2})
    with pytest.raises(StoreError, match="p2-1"):
        filled.add_rankings([good, bad])
    assert filled.rankings() == []


def test_simulated_rankings_never_pass_for_people(filled):
    people.add_labelers(filled, [Labeler("bot", "bot", simulated=True)])
    with pytest.raises(StoreError, match="kept apart"):
        filled.add_rankings([Ranking("p1", "bot", {"p1-0": 1, "p1-1": 2})])
    filled.add_rankings([Ranking("p1", "bot", {"p1-0": 1, "p1-1": 2}, simulated=True)])
    assert len(filled.rankings("simulated")) == 1 and filled.rankings("people") == []
    with pytest.raises(StoreError, match="simulation"):
        people.add_account(filled, "bot")


def test_rankings_cannot_be_changed_or_deleted(filled):
    filled.add_rankings([Ranking("p1", "ann", {"p1-0": 1, "p1-1": 2})])
    for statement in ("UPDATE rankings SET ranks = '{}'", "DELETE FROM rankings"):
        with pytest.raises(Exception, match="append-only"):
            filled.db.execute(statement)
    assert filled.rankings()[0].ranks == {"p1-0": 1, "p1-1": 2}


def test_superseded_rankings_do_not_stand(filled):
    filled.add_rankings([Ranking("p1", "ann", {"p1-0": 1, "p1-1": 2})])
    from alignment.feedback.store import ranking_row

    newer = Ranking("p1", "ann", {"p1-0": 2, "p1-1": 1})
    with filled.writing() as db:
        db["rankings"].insert(ranking_row(newer, task_id=None, supersedes=1))
    assert [r.ranks for r in filled.rankings()] == [{"p1-0": 2, "p1-1": 1}]


def test_store_of_a_newer_schema_is_refused_and_untouched(tmp_path):
    path = tmp_path / "feedback.db"
    Store(path, create=True).close()
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="newer Concord"):
        Store(path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "feedback.db"
    path.write_text("this is not a database, it only looks long enough to be one" * 40)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(path)


def test_a_task_is_leased_ranked_and_counted_once(filled):
    lease = assignment.next_lease(filled, "ann")
    again = assignment.next_lease(filled, "ann")
    assert lease == again, "a reload shows the same board"
    ranks = {c: place + 1 for place, c in enumerate(lease.order)}
    first = answers.submit(filled, "ann", lease.token, ranks)
    assert answers.submit(filled, "ann", lease.token, ranks) == first
    assert len(filled.rankings("people")) == 1
    assert first.positions == {c: place for place, c in enumerate(lease.order)}
    other = assignment.next_lease(filled, "ann")
    assert other.task.task_id != lease.task.task_id
    with pytest.raises(StoreError, match="already answered"):
        answers.submit(filled, "ann", lease.token, {c: 1 for c in lease.order})
    counted = pace.progress(filled, "ann")
    assert (counted.done, counted.left) == (1, 1)


def test_submit_refuses_what_is_not_this_tasks_ranking(filled):
    lease = assignment.next_lease(filled, "ann")
    with pytest.raises(InputError, match="every completion"):
        answers.submit(filled, "ann", lease.token, {c: 1 for c in lease.order[:2]})
    with pytest.raises(StoreError, match="no longer open"):
        answers.submit(filled, "ben", lease.token, {c: 1 for c in lease.order})
    assert filled.rankings() == []


def test_racing_labelers_never_exceed_the_overlap(filled):
    taken: list[str] = []

    def work(name: str) -> None:
        while lease := assignment.next_lease(filled, name):
            answers.submit(filled, name, lease.token, {c: i + 1 for i, c in enumerate(lease.order)})
            taken.append(f"{lease.task.task_id}/{name}")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "ben", "cy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 4
    assert {t.task_id: 2 for t in filled.tasks()} == {
        task: sum(t.startswith(task) for t in taken) for task in {t.split("/")[0] for t in taken}
    }


def test_an_expired_lease_frees_its_place_and_says_so(filled):
    slow = assignment.next_lease(filled, "ann", lease_seconds=-1)
    for name in ("ben", "cy"):
        while lease := assignment.next_lease(filled, name):
            answers.submit(filled, name, lease.token, {c: 1 for c in lease.order})
    with pytest.raises(StoreError, match="run out"):
        answers.submit(filled, "ann", slow.token, {c: 1 for c in slow.order})


def test_accounts_sign_in_with_their_password_only(store):
    password = people.add_account(store, "dora", "reviewer")
    assert people.sign_in(store, "dora", password).role == "reviewer"
    assert people.sign_in(store, "dora", password + "x") is None
    assert people.sign_in(store, "nobody", password) is None
    assert password not in json.dumps(store.rows("SELECT * FROM accounts"))
    with pytest.raises(StoreError, match="exists already"):
        people.add_account(store, "dora")
    with pytest.raises(InputError, match="role"):
        people.add_account(store, "emil", "king")


def test_runs_and_reviews_round_trip(store):
    run = runs.Run("ppo-1", "ppo", {"seed": 1}, metrics={"kl": 1.5})
    runs.save_run(store, run)
    assert runs.run(store, "ppo-1") == run
    runs.add_review(store, runs.Review("ppo-1", "dora", "accept", "fine"))
    assert [r.verdict for r in runs.reviews(store, "ppo-1")] == ["accept"]
    with pytest.raises(StoreError, match="no run"):
        runs.run(store, "ppo-2")
    with pytest.raises(InputError, match="verdict"):
        runs.add_review(store, runs.Review("ppo-1", "dora", "meh", ""))
