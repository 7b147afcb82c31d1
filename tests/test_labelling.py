"""The rules behind the board, on the store: places, kinds of tasks, answers and their history, drafts, practice."""

import itertools
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from alignment.config import LabellingConfig
from alignment.errors import InputError, NotAllowedError, StoreError
from alignment.feedback import answers, assignment, drafts, pace, people, practice, standing
from alignment.feedback.answers import Answer
from alignment.feedback.assignment import Checks, close_tasks, next_lease
from alignment.feedback.drafts import Draft, DraftConflict
from alignment.feedback.guidelines import guidelines_version, keep_version
from alignment.feedback.known_orders import KnownOrder, set_known_order, withdraw_known_order
from alignment.feedback.live_consensus import LiveConsensus
from alignment.feedback.people import Labeler
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt

PLAIN = LabellingConfig(practice_tasks=0, gold_rate=0, repeat_rate=0)


def add_prompts(store, names, overlap=2):
    store.add_prompts([Prompt(name, f"Say {name}.") for name in names])
    return store.add_tasks(
        [Completion(f"{name}-{i}", name, f"text {i}") for name in names for i in range(3)], overlap
    )


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "feedback.db", create=True)
    names = [Labeler(name, name, simulated=False) for name in ("ann", "ben", "cy", "dan")]
    people.add_labelers(store, names)
    yield store
    store.close()


def ranked(lease, reverse=False):
    order = lease.order[::-1] if reverse else lease.order
    return {c: rank for rank, c in enumerate(order, start=1)}


def work(store, labeler, count, rules=PLAIN):
    """Answer up to `count` tasks; their leases."""
    done = []
    while len(done) < count and (lease := next_lease(store, labeler, rules)):
        answers.submit(store, labeler, lease.token, ranked(lease))
        done.append(lease)
    return done


def taken(store):
    """Each task's places taken, as counted anew and as kept by the triggers."""
    counted = store.rows(
        "SELECT t.taken, t.answered, (SELECT count(*) FROM rankings r JOIN labelers l USING (labeler_id) WHERE "
        "r.task_id = t.task_id AND r.kind = 'ranking' AND r.supersedes IS NULL AND l.excluded = 0) AS rankings, "
        "(SELECT count(*) FROM leases l WHERE l.task_id = t.task_id AND l.kind = 'ranking' AND l.lapsed = 0) AS leases "
        "FROM tasks t ORDER BY t.rowid"
    )
    for row in counted:
        assert row["taken"] == row["rankings"] + row["leases"]
        assert row["answered"] == row["rankings"]
    return [row["taken"] for row in counted]


# Places


def test_the_fewest_rankings_come_first_and_the_newest_among_equals(store):
    add_prompts(store, ["a", "b"])
    assert next_lease(store, "ann", PLAIN).task.prompt_id == "b"
    assert next_lease(store, "ben", PLAIN).task.prompt_id == "a"
    assert taken(store) == [1, 1]


def test_labelers_racing_for_places_never_exceed_the_overlap_nor_rank_twice(store, tmp_path):
    add_prompts(store, "abcdef", overlap=2)
    own = [Store(tmp_path / "feedback.db") for _ in range(4)]  # as many processes would
    threads = [
        threading.Thread(target=work, args=(each, name, 99))
        for each, name in zip(own, ("ann", "ben", "cy", "dan"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken(store) == [2] * 6
    given = [(r.prompt_id, r.labeler_id) for r in store.rankings()]
    assert len(given) == len(set(given)) == 12


def test_the_store_itself_refuses_a_second_first_answer(store):
    add_prompts(store, "a")
    work(store, "ann", 1)
    columns = "task_id, prompt_id, labeler_id, ranks, simulated, created, kind"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.db.execute(f"INSERT INTO rankings ({columns}) SELECT {columns} FROM rankings")


def test_a_lease_that_ran_out_gives_its_place_away_and_keeps_its_draft(store):
    add_prompts(store, "a", overlap=1)
    slow = next_lease(store, "ann", PLAIN, lease_seconds=-1)
    drafts.save_draft(store, "ann", slow.token, 0, Draft({"a-0": 1}))
    quick = next_lease(store, "ben", PLAIN)
    assert quick is not None and next_lease(store, "ann", PLAIN) is None
    answers.release(store, "ben", quick.token)
    back = next_lease(store, "ann", PLAIN)
    assert back.token == slow.token
    assert drafts.draft_of(store, back.token) == (Draft({"a-0": 1}), 1)
    assert taken(store) == [1]


def test_a_submit_after_the_place_went_is_refused_and_the_draft_stays(store):
    add_prompts(store, "a", overlap=1)
    slow = next_lease(store, "ann", PLAIN, lease_seconds=-1)
    drafts.save_draft(store, "ann", slow.token, 0, Draft({"a-0": 1}))
    work(store, "ben", 1)
    with pytest.raises(StoreError, match="run out"):
        answers.submit(store, "ann", slow.token, ranked(slow))
    assert drafts.draft_of(store, slow.token)[1] == 1
    assert taken(store) == [1]


def test_a_late_submit_counts_while_the_place_is_free(store):
    add_prompts(store, "a", overlap=1)
    slow = next_lease(store, "ann", PLAIN, lease_seconds=-1)
    next_lease(store, "ben", PLAIN, lease_seconds=-1)
    answers.submit(store, "ann", slow.token, ranked(slow))
    assert taken(store) == [1] and next_lease(store, "ben", PLAIN) is None


@pytest.mark.parametrize("strategy", ["disputed", "uncertain"])
def test_priorities_decide_where_the_strategy_says_so(store, strategy):
    add_prompts(store, "abc")
    assert assignment.set_priorities(store, {"a": 0.1, "b": 0.7, "z": 9.0}, "run-1") == 2
    rules = PLAIN.model_copy(update={"strategy": strategy})
    order = [lease.task.prompt_id for lease in work(store, "ann", 9, rules)]
    assert order == ["b", "a", "c"], "a task without a figure comes last"
    assert assignment.priorities_source(store) == "run-1"
    assert [x.task.prompt_id for x in work(store, "ben", 9)] == ["c", "b", "a"], "fewest first"


def test_closed_tasks_are_neither_given_nor_edited(store):
    old = add_prompts(store, "ab")
    work(store, "ann", 1)
    lease = next_lease(store, "ann", PLAIN)
    new = store.add_tasks([Completion(f"a2-{i}", "a", f"new {i}") for i in range(3)], 2)
    assert close_tasks(store, ["a", "b"], except_tasks=[t.task_id for t in new]) == len(old)
    assert next_lease(store, "ann", PLAIN).task == new[0]
    assert lease.task in old
    with pytest.raises(StoreError, match="round is over"):
        answers.undo(store, "ann", PLAIN)


# Gold and repeats


def gold(store, prompt_id):
    ranks = {f"{prompt_id}-{i}": i + 1 for i in range(3)}
    return set_known_order(store, KnownOrder(prompt_id, ranks, "gold", "eve"))


def test_gold_tasks_leave_the_queue_and_come_back_when_the_order_is_withdrawn(store):
    add_prompts(store, "abg")
    order = gold(store, "g")
    assert [x.task.prompt_id for x in work(store, "ann", 9)] == ["b", "a"]
    withdraw_known_order(store, order.order_id, "eve")
    assert [x.task.prompt_id for x in work(store, "ann", 9)] == ["g"]


def test_checks_come_at_the_set_rate_take_no_place_and_repeats_are_no_votes(store):
    names = [f"p{i:03}" for i in range(200)]
    add_prompts(store, names, overlap=1)
    add_prompts(store, [f"g{i}" for i in range(9)], overlap=1)
    for i in range(9):
        gold(store, f"g{i}")
    rules = LabellingConfig(practice_tasks=0, gold_rate=0.05, repeat_rate=0.05, repeat_distance=10)
    left, kinds = [], []
    while lease := next_lease(store, "ann", rules):
        left.append(assignment.left_for(store, "ann", rules))
        answers.submit(store, "ann", lease.token, ranked(lease))
        kinds.append(lease.kind)
    assert kinds.count("ranking") == 200
    checks = len(kinds) - 200
    assert checks == pytest.approx(22, abs=2), "a tenth of what is given"
    assert kinds.count("gold") >= 4 and kinds.count("repeat") >= 4
    assert not {"gold", "repeat"} & set(kinds[:5]) or kinds.index("repeat") > 10
    steps = {earlier - later for earlier, later in itertools.pairwise(left)}
    assert steps <= {0, 1, 2} and sum(x - y == 1 for x, y in itertools.pairwise(left)) > (
        len(left) * 0.95
    ), "what is left does not tell a check"
    assert max(taken(store)[:200]) == 1
    rankings = store.rankings()
    assert len(rankings) == 200 + kinds.count("gold"), "a repeat is no second vote"


def test_a_repeat_stands_in_another_order_and_far_from_the_first(store):
    add_prompts(store, "abcdefghijkl", overlap=1)
    rules = LabellingConfig(practice_tasks=0, gold_rate=0, repeat_rate=0.5, repeat_distance=4)
    leases = work(store, "ann", 99, rules)
    first = {}
    for number, lease in enumerate(leases):
        if lease.kind == "repeat":
            earlier, order = first[lease.task.task_id]
            assert number - earlier >= 4 and lease.order != order
        else:
            first[lease.task.task_id] = number, lease.order
    assert any(lease.kind == "repeat" for lease in leases)


def test_how_many_checks_lie_ahead_is_what_comes():
    rules = LabellingConfig(gold_rate=0.07, repeat_rate=0.06)
    checks = Checks("salt", "ann", rules)
    at = [bool(checks.kinds(turn)) for turn in range(400)]
    for first, count in ((0, 400), (3, 17), (55, 8), (200, 1)):
        assert checks.among(first, count) == sum(at[first : first + count])
    other = Checks("salt", "ben", rules)
    assert at != [bool(other.kinds(turn)) for turn in range(400)]
    assert sum(at) / 400 == pytest.approx(0.13, abs=0.01)


# Answers


def test_everything_said_is_stored_with_the_version_of_the_guidelines(store):
    add_prompts(store, "a")
    lease = next_lease(store, "ann", PLAIN)
    given = Answer(ranked(lease), True, {lease.order[0]: ["toxic", "false"]}, "All bad.", 4)
    first = answers.submit(store, "ann", lease.token, given, guidelines_version=7)
    assert answers.submit(store, "ann", lease.token, given) == first, "sent again is one answer"
    (row,) = store.rows("SELECT * FROM rankings")
    assert Answer.from_row(row) == given and row["guidelines_version"] == 7
    assert store.rankings()[0].none_acceptable
    with pytest.raises(StoreError, match="already answered"):
        answers.submit(store, "ann", lease.token, Answer(given.ranks, confidence=1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"flags": {"zzz": ["toxic"]}}, "not of this task"),
        ({"flags": {"a-0": ["rude"]}}, "'rude'"),
        ({"rationale": "x" * 4001}, "longer than"),
        ({"confidence": 6}, "from 1"),
        ({"ranks": {"a-0": 1}}, "every completion"),
    ],
)
def test_what_makes_no_sense_is_refused(store, change, says):
    add_prompts(store, "a")
    lease = next_lease(store, "ann", PLAIN)
    with pytest.raises(InputError, match=says):
        answers.submit(store, "ann", lease.token, Answer(**{"ranks": ranked(lease), **change}))
    assert store.rankings() == []


def test_an_edit_supersedes_and_the_history_stays(store):
    add_prompts(store, "ab")
    first, _ = work(store, "ann", 2)
    row = answers.answers(store, "ann")[1]
    assert row["editable"] and not row["edited"]
    lease, before = answers.edit(store, "ann", row["ranking_id"], PLAIN)
    assert lease.order == first.order and before.ranks == ranked(first)
    assert next_lease(store, "ann", PLAIN).token == lease.token, "a reload shows the edit"
    changed = answers.submit(store, "ann", lease.token, ranked(first, reverse=True))
    assert answers.submit(store, "ann", lease.token, ranked(first, reverse=True)) == changed
    standing_ = [r.ranks for r in store.rankings() if r.prompt_id == first.task.prompt_id]
    assert standing_ == [ranked(first, reverse=True)]
    assert len(store.rows("SELECT * FROM rankings")) == 3 and taken(store) == [1, 1]
    assert answers.answers(store, "ann")[0]["edited"]
    with pytest.raises(StoreError, match="stands"):
        answers.edit(store, "ann", row["ranking_id"], PLAIN)
    with pytest.raises(StoreError, match="stands"):
        answers.edit(store, "ben", changed.ranking_id, PLAIN)
    assert pace.progress(store, "ann").done == 2, "an edit is no further answer"


def test_undo_opens_the_last_answer_once_and_can_be_left(store):
    add_prompts(store, "ab")
    with pytest.raises(StoreError, match="nothing to undo"):
        answers.undo(store, "ann", PLAIN)
    (first,) = work(store, "ann", 1)
    waiting = next_lease(store, "ann", PLAIN)
    lease, before = answers.undo(store, "ann", PLAIN)
    assert lease.task == first.task and before.ranks == ranked(first)
    assert answers.undo(store, "ann", PLAIN)[0].token == lease.token
    answers.release(store, "ann", lease.token)
    assert next_lease(store, "ann", PLAIN).token == waiting.token
    assert len(store.rankings()) == 1
    old = PLAIN.model_copy(update={"edit_days": 1e-9})
    time.sleep(0.01)
    with pytest.raises(StoreError, match="too old"):
        answers.undo(store, "ann", old)


def test_of_two_edits_at_once_the_second_is_refused(store):
    add_prompts(store, "a")
    work(store, "ann", 1)
    lease, _ = answers.undo(store, "ann", PLAIN)
    answers.submit(store, "ann", lease.token, ranked(lease, reverse=True))
    with pytest.raises(StoreError, match="already answered"):
        answers.submit(store, "ann", lease.token, ranked(lease))
    assert [r.ranks for r in store.rankings()] == [ranked(lease, reverse=True)]


def test_seconds_count_only_while_a_task_is_in_front(store, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    add_prompts(store, "ab")
    work(store, "ann", 1)
    waiting = next_lease(store, "ann", PLAIN)
    clock[0] += 5
    lease, _ = answers.undo(store, "ann", PLAIN)
    clock[0] += 60
    answers.submit(store, "ann", lease.token, ranked(lease, reverse=True))
    assert next_lease(store, "ann", PLAIN).token == waiting.token
    clock[0] += 3
    answers.submit(store, "ann", waiting.token, ranked(waiting))
    seconds = [r["seconds"] for r in store.rows("SELECT seconds FROM rankings ORDER BY 1")]
    assert seconds == [0.0, 8.0, 60.0]


# Skips


def test_a_skipped_task_comes_back_only_when_reopened_with_its_draft(store):
    add_prompts(store, "ab", overlap=1)
    lease = next_lease(store, "ann", PLAIN)
    drafts.save_draft(store, "ann", lease.token, 0, Draft(rationale="hm"))
    with pytest.raises(InputError, match="why"):
        answers.skip(store, "ann", lease.token, "  ")
    answers.skip(store, "ann", lease.token, "It is in Welsh.")
    answers.skip(store, "ann", lease.token, "It is in Welsh.")  # sent again
    assert taken(store) == [0, 0]
    assert [x.task.prompt_id for x in work(store, "ann", 9)] == ["a"]
    (row,) = answers.skips(store, "ann")
    assert (row["excerpt"], row["reason"]) == ("Say b.", "It is in Welsh.")
    with pytest.raises(StoreError, match="skipped"):
        answers.submit(store, "ann", lease.token, ranked(lease))
    answers.reopen(store, "ann", row["task_id"], PLAIN)
    again = next_lease(store, "ann", PLAIN)
    assert again.task == lease.task and drafts.draft_of(store, again.token)[0].rationale == "hm"
    assert answers.skips(store, "ann") == [] and taken(store) == [1, 1]
    answers.skip(store, "ann", again.token, "Still.")
    work(store, "ben", 9)
    with pytest.raises(StoreError, match="Others"):
        answers.reopen(store, "ann", row["task_id"], PLAIN)


# Drafts


def test_two_tabs_cannot_overwrite_each_other_silently(store):
    add_prompts(store, "a")
    token = next_lease(store, "ann", PLAIN).token
    assert drafts.save_draft(store, "ann", token, 0, Draft({"a-0": 1})) == 1
    assert drafts.save_draft(store, "ann", token, 1, Draft({"a-0": 2})) == 2
    assert drafts.save_draft(store, "ann", token, 1, Draft({"a-0": 2})) == 2, "sent again"
    with pytest.raises(DraftConflict) as conflict:
        drafts.save_draft(store, "ann", token, 1, Draft({"a-0": 3}))
    assert (conflict.value.version, conflict.value.draft) == (2, Draft({"a-0": 2}))
    with pytest.raises(StoreError, match="no longer open"):
        drafts.save_draft(store, "ben", token, 2, Draft())


# Practice


def items(count=4):
    return [
        practice.PracticeItem(
            f"i{n}", "Say.", {f"{n}-{k}": k for k in "abc"}, {f"{n}-{k}": i for i, k in enumerate("abc", 1)}, "Why."
        )
        for n in range(count)
    ]  # fmt: skip


def practise(store, labeler, rules, right):
    """One practice task, answered right or wrong."""
    task = practice.next_practice(store, labeler, items(), rules)
    ranks = dict(task.item.ranks)
    if not right:
        ranks = {k: 4 - rank for k, rank in ranks.items()}
    answer = Answer(ranks)
    given = practice.submit_practice(store, labeler, task.token, answer, items(), rules)
    again = practice.submit_practice(store, labeler, task.token, answer, items(), rules)
    assert again == given, "sent again"
    return given


def test_practice_comes_first_and_qualifies(store):
    rules = LabellingConfig(practice_tasks=3, qualification_threshold=0.6)
    assert standing.standing(store, "ann", rules).state == "practice"
    assert practise(store, "ann", rules, True).correct
    wrong = practise(store, "ann", rules, False)
    assert (wrong.correct, wrong.agreement) == (False, 0.0)
    assert standing.standing(store, "ann", rules).state == "practice"
    last = practise(store, "ann", rules, True)
    assert last.state == practice.PracticeState(3, 3, 2, 2)
    assert standing.standing(store, "ann", rules).state == "ready"
    assert store.rows("SELECT * FROM rankings") == [], "practice is no ranking"


def test_failing_every_round_leaves_a_labeler_not_qualified_until_requalified(store):
    rules = LabellingConfig(practice_tasks=2, practice_attempts=2)
    seen = []
    for _ in range(2):
        for _ in range(2):
            assert standing.standing(store, "ann", rules).state == "practice"
            seen.append(practice.next_practice(store, "ann", items(), rules).item.item_id)
            practise(store, "ann", rules, False)
    assert seen == ["i0", "i1", "i2", "i3"], "the second round brings other tasks"
    assert standing.standing(store, "ann", rules).state == "not-qualified"
    standing.decide(store, "ann", "requalify", "Please read the guidelines again.", "eve")
    stands = standing.standing(store, "ann", rules)
    assert (stands.state, stands.message) == ("practice", "Please read the guidelines again.")
    for _ in range(2):
        practise(store, "ann", rules, True)
    assert standing.standing(store, "ann", rules).state == "ready"


def test_who_ranked_before_there_was_practice_need_not_practise(store):
    add_prompts(store, "a")
    work(store, "ann", 1)
    rules = LabellingConfig(practice_tasks=3)
    assert standing.standing(store, "ann", rules).state == "ready"
    assert standing.standing(store, "ben", rules).state == "practice"


def test_agreement_counts_pairs_and_halves_ties():
    known = {"a": 1, "b": 2, "c": 3}
    assert practice.agreement({"a": 1, "b": 1, "c": 2}, known) == pytest.approx(2.5 / 3)
    assert practice.agreement({"a": 1, "b": 3, "c": 2}, known) == pytest.approx(2 / 3)
    assert practice.agreement({"a": 2, "b": 1}, {"a": 1, "b": 1}) == 0.5


def test_the_shipped_practice_loads_and_gold_orders_can_be_used(store, tmp_path):
    shipped = practice.load_practice(store, tmp_path)
    assert 4 <= len(shipped) <= 6 and all(i.explanation for i in shipped)
    assert any(len(set(i.ranks.values())) < len(i.ranks) for i in shipped), "one teaches ties"
    add_prompts(store, "g")
    order = gold(store, "g")
    own = tmp_path / "practice.yaml"
    own.write_text(f"- known_order: {order.order_id}\n  explanation: Because.\n")
    (item,) = practice.load_practice(store, tmp_path)
    assert item.prompt == "Say g." and item.ranks == order.ranks and item.explanation == "Because."
    for text, says in (
        ("- known_order: 99\n  explanation: x\n", "item 1"),
        ("- id: x\n  prompt: y\n  completions: [a, b]\n", "'explanation' is missing"),
        ("- id: x\n  prompt: y\n  completions: [a]\n  explanation: z\n", "2 to 9"),
        ("nothing", "list"),
        ("a: [", "not valid YAML"),
    ):
        own.write_text(text)
        with pytest.raises(InputError, match=says):
            practice.load_practice(store, tmp_path)


# Decisions


def test_a_paused_labeler_keeps_the_draft_and_is_told_why(store):
    add_prompts(store, "a")
    lease = next_lease(store, "ann", PLAIN)
    standing.decide(store, "ann", "pause", "Too fast.", "eve")
    stands = standing.standing(store, "ann", PLAIN)
    assert (stands.state, stands.message) == ("paused", "Too fast.")
    assert drafts.save_draft(store, "ann", lease.token, 0, Draft({"a-0": 1})) == 1
    with pytest.raises(NotAllowedError, match=r"Too fast\..*draft is kept"):
        answers.submit(store, "ann", lease.token, ranked(lease))
    with pytest.raises(StoreError, match="paused already"):
        standing.decide(store, "ann", "pause", "Again.", "eve")
    standing.decide(store, "ann", "resume", "Talked.", "eve")
    answers.submit(store, "ann", lease.token, ranked(lease))
    assert len(store.rankings()) == 1


def test_exclusion_takes_rankings_out_frees_their_places_and_is_reversible(store):
    add_prompts(store, "ab", overlap=1)
    work(store, "ann", 2)
    assert next_lease(store, "ben", PLAIN) is None
    standing.decide(store, "ann", "exclude", "Random clicks.", "eve")
    assert store.rankings() == [] and len(store.rows("SELECT * FROM standing_rankings")) == 2
    assert taken(store) == [0, 0] and len(work(store, "ben", 9)) == 2
    standing.decide(store, "ann", "include", "A mistake of mine.", "eve")
    assert len(store.rankings()) == 4 and taken(store) == [2, 2]
    reasons = [(d["action"], d["reason"]) for d in standing.decisions(store, "ann")]
    assert reasons == [("include", "A mistake of mine."), ("exclude", "Random clicks.")]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.db.execute("DELETE FROM decisions")


def test_the_consensus_of_the_moment_follows_exclusions_and_counts_no_repeat(store):
    add_prompts(store, "abcdef", overlap=3)
    rules = LabellingConfig(practice_tasks=0, gold_rate=0, repeat_rate=0.5, repeat_distance=1)
    kinds = [lease.kind for lease in work(store, "ann", 99, rules)]
    work(store, "ben", 99)
    assert "repeat" in kinds
    live = LiveConsensus(store)
    both = live.current("people")
    assert both.consensus.summary.rankings == 12, "repeats are no votes"
    standing.decide(store, "ben", "exclude", "Random clicks.", "eve")
    without = live.current("people")
    assert without.consensus.summary.rankings == 6 and without.version != both.version
    standing.decide(store, "ben", "include", "A mistake.", "eve")
    assert live.current("people").consensus.summary.rankings == 12


def test_a_message_is_shown_until_read(store):
    standing.decide(store, "ann", "message", "Well done.", "eve")
    assert standing.standing(store, "ann", PLAIN).message == "Well done."
    standing.read_messages(store, "ann")
    assert standing.standing(store, "ann", PLAIN).message is None
    for action, reason, says in (("praise", "x", "not known"), ("pause", " ", "reason")):
        with pytest.raises(InputError, match=says):
            standing.decide(store, "ann", action, reason, "eve")
    with pytest.raises(StoreError, match="no labeler"):
        standing.decide(store, "zoe", "pause", "x", "eve")


# Guidelines, pace


def test_guidelines_get_a_version_whenever_their_text_changed(store):
    assert keep_version(store, "one").version == 1
    assert keep_version(store, "one").version == 1
    assert keep_version(store, "two").version == 2
    assert keep_version(store, "one").version == 3
    assert guidelines_version(store, 2).text == "two"


def test_pace_counts_days_in_a_row_and_the_time_since_a_break(store):
    moment = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
    midnight = moment.replace(hour=0)
    worked = {midnight - timedelta(days=d) for d in (0, 1, 2, 4)}
    assert pace.days_in_a_row(midnight, worked.__contains__) == 3
    assert pace.days_in_a_row(midnight + timedelta(days=1), worked.__contains__) == 3
    assert pace.days_in_a_row(midnight + timedelta(days=2), worked.__contains__) == 0
    minutes = [timedelta(minutes=m) for m in (1, 5, 12, 30)]
    times = [moment - m for m in minutes]
    assert pace.minutes_since_break(times, moment) == 12
    assert pace.minutes_since_break(times, moment + timedelta(minutes=10)) == 0
    assert pace.minutes_since_break([], moment) == 0
