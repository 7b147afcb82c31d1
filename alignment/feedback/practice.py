"""The practice round: tasks of known order that a labeler answers, with feedback, before the first real one.

Practice answers are kept apart from rankings: they say something about the labeler, nothing about a completion.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from sqlite_utils import Database

from alignment.config import LabellingConfig
from alignment.errors import InputError, StoreError
from alignment.feedback import audit
from alignment.feedback.answers import Answer, check_answer
from alignment.feedback.drafts import drop_draft
from alignment.feedback.known_orders import known_orders
from alignment.feedback.standing import check_may_answer, needed
from alignment.feedback.store import Store, now
from alignment.files import data_folder
from alignment.records import PromptText, check_ranks

PRACTICE_FILE = "practice.yaml"


@dataclass(frozen=True, slots=True)
class PracticeItem:
    """A task of known order. `completions`: id -> text; `ranks`: id -> rank, 1 is best; `explanation`: why."""

    item_id: str
    prompt: PromptText
    completions: dict[str, str]
    ranks: dict[str, int]
    explanation: str


@dataclass(frozen=True, slots=True)
class PracticeTask:
    """A practice item shown to a labeler; `order` and `token` as in a lease."""

    item: PracticeItem
    token: str
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PracticeState:
    """A labeler's round: tasks answered, tasks in all, answered right, needed right."""

    done: int
    total: int
    passed: int
    needed: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a labeler learns from a practice answer. `agreement`: share of the known pairs in [0, 1]."""

    correct: bool
    agreement: float
    expected: dict[str, int]
    explanation: str
    state: PracticeState


def load_practice(store: Store, workspace: Path) -> list[PracticeItem]:
    """The workspace's own `practice.yaml`, or the one that ships. `InputError` naming the item that is wrong."""
    own = workspace / PRACTICE_FILE
    path = own if own.is_file() else data_folder() / PRACTICE_FILE
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} must hold a list of practice items.")
    gold = {order.order_id: order for order in known_orders(store, "gold")}
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(_item(store, row, gold))
        except (InputError, StoreError, KeyError, TypeError, AttributeError) as error:
            reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}, item {number}: {reason}") from None
    if len({item.item_id for item in items}) < len(items):
        raise InputError(f"{path}: two items have the same id.")
    return items


def _item(store: Store, row: Mapping[str, Any], gold: Mapping[Any, Any]) -> PracticeItem:
    explanation = str(row["explanation"])
    if "known_order" in row:
        order = gold.get(row["known_order"])
        if order is None:
            raise InputError(f"no gold order {row['known_order']!r} stands in the store.")
        completions = store.completions(order.ranks)
        texts = {completion_id: completions[completion_id].text for completion_id in order.ranks}
        prompt = store.prompt(order.prompt_id).prompt
        return PracticeItem(
            f"order-{order.order_id}", prompt, texts, dict(order.ranks), explanation
        )
    texts, ranks = {}, {}
    for rank, level in enumerate(row["completions"], start=1):
        for text in level if isinstance(level, list) else [level]:
            completion_id = f"practice-{row['id']}-{len(texts)}"
            texts[completion_id], ranks[completion_id] = str(text), rank
    return PracticeItem(str(row["id"]), row["prompt"], texts, check_ranks(ranks), explanation)


def agreement(ranks: Mapping[str, int], known: Mapping[str, int]) -> float:
    """Share of the pairs of `known` that `ranks` orders likewise, in [0, 1].

    A tie is an order too; a tie against a preference counts half.
    """
    scores = []
    for a, b in combinations(sorted(known), 2):
        given = (ranks[a] > ranks[b]) - (ranks[a] < ranks[b])
        true = (known[a] > known[b]) - (known[a] < known[b])
        scores.append(1.0 if given == true else 0.5 if 0 in (given, true) else 0.0)
    return sum(scores) / len(scores)


def next_practice(
    store: Store, labeler_id: str, items: Sequence[PracticeItem], rules: LabellingConfig
) -> PracticeTask | None:
    """The labeler's practice task at hand, or the next of the round; None where the round is done."""
    with store.writing() as db:
        round_ = _round(db, labeler_id)
        chosen = round_items(items, rules, round_)
        answered = _answered(db, labeler_id, round_)
        item = next((item for item in chosen if item.item_id not in answered), None)
        if item is None:
            return None
        row = db.execute(
            "SELECT token, positions FROM practice_tasks WHERE labeler_id = ? AND round = ? AND item_id = ?",
            [labeler_id, round_, item.item_id],
        ).fetchone()
        if row is None:
            order = list(item.completions)
            random.Random(f"{labeler_id}/{round_}/{item.item_id}").shuffle(order)
            positions = {completion_id: place for place, completion_id in enumerate(order)}
            row = secrets.token_urlsafe(16), json.dumps(positions)
            db.execute(
                "INSERT INTO practice_tasks (token, labeler_id, item_id, round, positions, shown) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [row[0], labeler_id, item.item_id, round_, row[1], time.time()],
            )
        positions = json.loads(row[1])
        return PracticeTask(item, row[0], tuple(sorted(positions, key=positions.__getitem__)))


def round_items(
    items: Sequence[PracticeItem], rules: LabellingConfig, round_: int
) -> list[PracticeItem]:
    """The items of a round: others than in the round before, where there are enough."""
    total = min(rules.practice_tasks, len(items))
    return [items[(round_ * total + i) % len(items)] for i in range(total)]


def practice_state(
    store: Store, labeler_id: str, items: Sequence[PracticeItem], rules: LabellingConfig
) -> PracticeState:
    """How far the labeler is in the present round."""
    with store.reading() as db:
        return _state(db, labeler_id, items, rules, _round(db, labeler_id))


def submit_practice(
    store: Store,
    labeler_id: str,
    token: str,
    answer: Answer,
    items: Sequence[PracticeItem],
    rules: LabellingConfig,
) -> Feedback | None:
    """Store a practice answer and say how good it was; None where the token is not that of a practice task.

    The last answer of a round decides: qualified, another round, or not qualified. Sending the same again gives the
    same feedback. Raises `InputError` and `StoreError` as `answers.submit` does.
    """
    content = json.dumps(answer.to_json(), ensure_ascii=False, sort_keys=True)
    with store.writing() as db:
        row = next(iter(db.query("SELECT * FROM practice_tasks WHERE token = ?", [token])), None)
        if row is None:
            return None
        if row["labeler_id"] != labeler_id:
            raise StoreError(
                "This task is not open for you. Load the next one; nothing was stored."
            )
        item = next((item for item in items if item.item_id == row["item_id"]), None)
        if item is None:
            raise StoreError("This practice task is no longer in use. Load the next one.")
        known = db.execute(
            "SELECT content FROM practice_answers WHERE token = ?", [token]
        ).fetchone()
        if known and known[0] != content:
            raise StoreError("This practice task was already answered. The stored answer stands.")
        check_answer(answer, tuple(item.completions))
        share = agreement(answer.ranks, item.ranks)
        correct = share >= rules.gold_agreement
        if not known:
            check_may_answer(db, labeler_id)
            seconds = round(max(0.0, time.time() - row["shown"]), 3)
            db.execute(
                "INSERT INTO practice_answers (token, labeler_id, item_id, round, content, agreement, correct, "
                "seconds, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [token, labeler_id, item.item_id, row["round"], content, share, int(correct), seconds, now()],
            )  # fmt: skip
            drop_draft(db, token)
        state = _state(db, labeler_id, items, rules, row["round"])
        if not known and state.done >= state.total:
            _finish_round(db, labeler_id, row["round"], state, rules)
        return Feedback(correct, share, item.ranks, item.explanation, state)


def _finish_round(
    db: Database, labeler_id: str, round_: int, state: PracticeState, rules: LabellingConfig
) -> None:
    first = db.execute(
        "SELECT practice_first FROM labelers WHERE labeler_id = ?", [labeler_id]
    ).fetchone()[0]
    passed = state.passed >= state.needed
    if passed or round_ - first + 1 >= rules.practice_attempts:
        change, values = "qualified = ?", [int(passed)]
    else:
        change, values = "practice_round = ?", [round_ + 1]
    db.execute(f"UPDATE labelers SET {change} WHERE labeler_id = ?", [*values, labeler_id])
    result = "qualified" if passed else "failed practice"
    audit.note(db, labeler_id, result, f"round {round_}", right=state.passed, of=state.total)


def _round(db: Database, labeler_id: str) -> int:
    row = db.execute(
        "SELECT practice_round FROM labelers WHERE labeler_id = ?", [labeler_id]
    ).fetchone()
    return int(row[0])


def _answered(db: Database, labeler_id: str, round_: int) -> dict[str, bool]:
    rows = db.execute(
        "SELECT item_id, correct FROM practice_answers WHERE labeler_id = ? AND round = ?",
        [labeler_id, round_],
    )
    return {item_id: bool(correct) for item_id, correct in rows}


def _state(
    db: Database,
    labeler_id: str,
    items: Sequence[PracticeItem],
    rules: LabellingConfig,
    round_: int,
) -> PracticeState:
    answered = _answered(db, labeler_id, round_)
    chosen = round_items(items, rules, round_)
    right = [answered[item.item_id] for item in chosen if item.item_id in answered]
    return PracticeState(len(right), len(chosen), sum(right), needed(rules, len(chosen)))
