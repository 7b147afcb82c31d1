"""Bringing prompts and completions in (JSONL, CSV, a data set of the Hugging Face hub) and taking feedback out."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from alignment import labelling
from alignment.errors import InputError, StoreError
from alignment.feedback import people, run_queue
from alignment.feedback.store import Store
from alignment.files import read_jsonl
from alignment.records import MAX_COMPLETIONS, MIN_COMPLETIONS, Completion, Prompt, short_id

T = TypeVar("T")
FORMATS = ("jsonl", "csv")
HUB_SECONDS, MAX_HUB_ROWS = 600, 100_000
csv.field_size_limit(16 * 1024 * 1024)


def parse_rows(content: bytes, format_: str) -> list[dict[str, Any]]:
    """The rows of an uploaded file. `InputError` naming the line where it is no UTF-8, JSONL or CSV."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The file is not UTF-8 text (byte {error.start}). Convert it.") from None
    if format_ == "csv":
        return _csv_rows(text)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                raise InputError(f"Line {number}: not valid JSON ({reason}).") from None
            if not isinstance(row, dict):
                raise InputError(f"Line {number}: expected a JSON object, one a line.")
            rows.append(row)
    return rows


def _csv_rows(text: str) -> list[dict[str, Any]]:
    """Rows of a CSV with a header line. Empty cells are absent; `tokens` and `finished` become what they mean."""
    rows = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for number, row in enumerate(reader, start=2):
            if None in row:
                raise InputError(f"Row {number}: more cells than the header has columns.")
            rows.append({key: _cell(key, value, number) for key, value in row.items() if value})
    except csv.Error as error:
        raise InputError(f"The file is not valid CSV ({error}).") from None
    return rows


def _cell(column: str, value: str, number: int) -> Any:
    if column == "tokens":
        if not value.strip().isdecimal() or len(value) > 12:
            raise InputError(f"Row {number}: tokens is {value[:20]!r}; it must be a whole number.")
        return int(value)
    if column == "finished":
        known = {"true": True, "1": True, "false": False, "0": False}
        if value.strip().lower() not in known:
            raise InputError(f"Row {number}: finished is {value[:20]!r}; write true or false.")
        return known[value.strip().lower()]
    return value


def hub_rows(dataset: str, split: str, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` rows of a data set of the hub (or of a folder that `datasets` reads), fetched by a process of its
    own. `InputError` where it cannot be had: no network, no such data set, no such split."""
    if not 1 <= limit <= MAX_HUB_ROWS:
        raise InputError(f"Between 1 and {MAX_HUB_ROWS} rows can be imported at once.")
    command = [sys.executable, "-m", "alignment.hub_rows", dataset, split, str(limit)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=HUB_SECONDS, check=False)
    except (subprocess.TimeoutExpired, ValueError, OSError) as error:
        raise InputError(f"The data set {dataset!r} could not be fetched ({error}).") from None
    if done.returncode:
        reason = (
            done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        )[-1]
        raise InputError(
            f"The data set {dataset!r} (split {split!r}) cannot be had: {reason[:300]}. Where there is no hub, import "
            "a JSONL or CSV file instead."
        )
    return parse_rows(done.stdout, "jsonl")


def renamed(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> list[dict[str, Any]]:
    """Rows with columns renamed: our name -> theirs. `InputError` where one of theirs is missing."""
    result = []
    for number, row in enumerate(rows, start=1):
        for own, theirs in columns.items():
            if theirs not in row:
                raise InputError(
                    f"Row {number} has no column {theirs!r}; its columns are {', '.join(map(repr, row))[:300]}."
                )
            row = {**row, own: row[theirs]}
        result.append(row)
    return result


def _parsed(rows: Sequence[dict[str, Any]], parse: Any) -> list[Any]:
    if not rows:
        raise InputError("There are no rows to import.")
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(parse(row))
        except InputError as error:
            raise InputError(f"Row {number}: {error}") from None
    return found


def import_prompts(store: Store, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Append prompts (keys `prompt`, and `prompt_id` and `split` where wanted); nothing if one row is wrong."""
    prompts = _parsed(rows, Prompt.from_json)
    return {"read": len(prompts), "added": store.add_prompts(prompts)}


def import_completions(
    store: Store, rows: Sequence[dict[str, Any]], overlap: int
) -> dict[str, int]:
    """Append completions as tasks to be ranked, one task for each prompt.

    A row is one completion (`prompt_id` of a known prompt, or `prompt`; and `text`), or a prompt with all of its
    `completions`. Raises `InputError` on a malformed row or a prompt with fewer than 2 or more than 9 completions,
    `StoreError` on an unknown prompt or a completion that is there already; then nothing is added.
    """
    prompts: dict[str, Prompt] = {}
    completions: list[Completion] = []
    for single, prompt in _parsed(rows, _completion_rows):
        completions += single
        if prompt is not None:
            prompts[prompt.prompt_id] = prompt
    _check_groups(completions)
    _check_new(store, completions, prompts)
    store.add_prompts(prompts.values())
    try:
        tasks = labelling.begin_round(store, completions, overlap)
    except sqlite3.IntegrityError:
        raise StoreError("The same completions were imported by somebody else just now.") from None
    return {"read": len(rows), "completions": len(completions), "tasks": len(tasks)}


def _completion_rows(row: dict[str, Any]) -> tuple[list[Completion], Prompt | None]:
    prompt = None
    if row.get("prompt") is not None:
        prompt = Prompt.from_json(row)
        row = {**row, "prompt_id": prompt.prompt_id}
    if "completions" not in row:
        return [Completion.from_json({k: v for k, v in row.items() if k != "run_id"})], prompt
    texts = row["completions"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError("'completions' must be a list of texts.")
    prompt_id = str(row.get("prompt_id") or "")
    return [
        Completion.from_json(
            {
                "completion_id": short_id("completion", prompt_id, place, text),
                "prompt_id": row.get("prompt_id"),
                "text": text,
            }
        )
        for place, text in enumerate(texts)
    ], prompt


def _check_groups(completions: Sequence[Completion]) -> None:
    count: dict[str, int] = {}
    for completion in completions:
        count[completion.prompt_id] = count.get(completion.prompt_id, 0) + 1
    for prompt_id, number in count.items():
        if not MIN_COMPLETIONS <= number <= MAX_COMPLETIONS:
            raise InputError(
                f"The prompt {prompt_id!r} comes with {number} completions; a task has {MIN_COMPLETIONS} to "
                f"{MAX_COMPLETIONS}."
            )
    ids = [completion.completion_id for completion in completions]
    twice = next((i for i in ids if ids.count(i) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise InputError(f"The completion {twice!r} is in the file twice.")


def _check_new(store: Store, completions: Sequence[Completion], prompts: dict[str, Prompt]) -> None:
    known = {prompt.prompt_id for prompt in store.prompts()} | prompts.keys()
    for completion in completions:
        if completion.prompt_id not in known:
            raise StoreError(
                f"The prompt {completion.prompt_id!r} is not in this workspace. Import the prompts first, or give each "
                "row its prompt."
            )
    there = store.completions(completion.completion_id for completion in completions)
    if there:
        raise StoreError(
            f"The completion {next(iter(there))!r} is in this workspace already. Give new completions new ids."
        )


def export_rows(store: Store, what: str, *, only_trl: bool = False) -> list[dict[str, Any]]:
    """`rankings`, `pairs` or `labelers` as rows.

    Pairs are those of the latest consensus, in TRL's preference format (prompt, chosen, rejected; DPO reads them as
    they are) with probability, confidence, ids and votes beside; `only_trl` leaves those out. Raises `StoreError` where
    there are no pairs yet.
    """
    if what == "rankings":
        return [ranking.to_json() for ranking in store.rankings()]
    if what == "labelers":
        return people.labelers(store)
    run = run_queue.latest_run(store, "consensus")
    path = None if run is None or run.folder is None else Path(run.folder) / "pairs.jsonl"
    if path is None or not path.exists():
        raise StoreError("There are no preference pairs yet. Run `concord consensus` first.")
    rows = read_jsonl(path, dict)
    if not only_trl:
        return rows
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
