"""The labelling routes: what the board's script calls, and what a program may call under the same rules."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from markdown_it import MarkdownIt

from alignment.errors import NotAllowedError
from alignment.feedback import answers, assignment, drafts, pace, practice
from alignment.feedback.answers import Answer
from alignment.feedback.people import Account
from alignment.feedback.standing import Standing, standing
from alignment.records import PromptText, text_of
from ui.api_models import (
    Next,
    Nothing,
    OwnAnswer,
    PracticeFeedback,
    PracticeProgress,
    Progress,
    ProgressOnly,
    SavedDraft,
    SaveDraft,
    ShownCompletion,
    ShownDraft,
    ShownGuidelines,
    ShownTask,
    Skip,
    SkippedTask,
    Stored,
    Submission,
    TokenBody,
    Turn,
)
from ui.callers import CSRF, Caller
from ui.desk import Desk

RowId = Annotated[int, Path(ge=1, le=2**53)]
_MARKDOWN = re.compile(
    r"^\s*(#{1,6} |```|[-*] |\d+\. |> |\|.+\|\s*$)|\*\*[^*\n]+\*\*|`[^`\n]+`", re.M
)
_CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(def|class|import|from|return|if|for|while|#include|function|const|let|var)\b"
)


def labelling_routes(desk: Desk) -> APIRouter:
    """Everything a labeler does."""
    router = APIRouter(tags=["labelling"])
    router.include_router(task_routes(desk))
    router.include_router(own_answer_routes(desk))
    router.include_router(knowing_routes(desk))
    return router


def task_routes(desk: Desk) -> APIRouter:
    """The next task, its draft, its ranking, or a skip."""
    router = APIRouter()
    store = desk.store

    @router.post("/tasks/next", dependencies=[CSRF])
    def next_task(who: Caller) -> Next:
        """Take a task, or get the open one again with the same order and token. Practice comes first."""
        stands = standing(store, who.labeler_id, desk.rules)
        task, practised = None, None
        if stands.state == "practice":
            task, practised = _practice_task(desk, who)
        elif stands.state == "ready":
            lease = assignment.next_lease(store, who.labeler_id, desk.rules)
            task = None if lease is None else shown(desk, lease)
        return Next(
            task=task,
            progress=progress_of(desk, who),
            standing=stands.state,  # pyright: ignore[reportArgumentType]
            practice=practised,
        )

    @router.put("/drafts", dependencies=[CSRF])
    def save_draft(body: SaveDraft, who: Caller) -> SavedDraft:
        """Keep what is done so far. 409 brings the newer draft where another tab or device has saved one."""
        draft = body.draft.draft()
        return SavedDraft(
            version=drafts.save_draft(store, who.labeler_id, body.token, body.version, draft)
        )

    @router.post("/rankings", dependencies=[CSRF])
    def submit(body: Submission, who: Caller) -> Stored:
        """Store the ranking. Sending the same again is one answer. The reply comes after the commit."""
        answer = body.answer()
        feedback = practice.submit_practice(
            store, who.labeler_id, body.token, answer, desk.practice, desk.rules
        )
        if feedback is not None:
            return _practised(desk, who, answer, feedback)
        stored = answers.submit(
            store,
            who.labeler_id,
            body.token,
            answer,
            guidelines_version=desk.guidelines().version,
            by=who.account_id,
        )
        return Stored(
            ranking_id=stored.ranking_id,
            ranks=stored.answer.ranks,
            positions=stored.positions,
            progress=progress_of(desk, who),
        )

    @router.post("/skips", dependencies=[CSRF])
    def skip(body: Skip, who: Caller) -> ProgressOnly:
        """Say that one cannot judge the task, and why."""
        answers.skip(store, who.labeler_id, body.token, body.reason, who.account_id)
        return ProgressOnly(progress=progress_of(desk, who))

    @router.post("/tasks/release", dependencies=[CSRF])
    def release(body: TokenBody, who: Caller) -> Nothing:
        """Leave an edit without change, or give a task back; its draft is kept."""
        answers.release(store, who.labeler_id, body.token)
        return Nothing()

    return router


def own_answer_routes(desk: Desk) -> APIRouter:
    """What the caller answered and skipped, and taking it up again."""
    router = APIRouter()
    store = desk.store

    @router.get("/skips")
    def skips(who: Caller) -> list[SkippedTask]:
        """What the caller skipped, newest first."""
        return [SkippedTask(**row) for row in answers.skips(store, who.labeler_id)]

    @router.post("/skips/{task_id}/reopen", dependencies=[CSRF])
    def reopen(task_id: str, who: Caller) -> Nothing:
        """Take a skipped task up again: it is the next one. 409 where no place is left."""
        _check_ready(desk, who)
        answers.reopen(store, who.labeler_id, task_id, desk.rules)
        return Nothing()

    @router.post("/undo", dependencies=[CSRF])
    def undo(who: Caller) -> ShownTask:
        """Open the caller's last answer again. 409 where there is none, or it is too old, or its round is over."""
        return shown(desk, *answers.undo(store, who.labeler_id, desk.rules))

    @router.get("/answers")
    def own_answers(
        who: Caller, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> list[OwnAnswer]:
        """The caller's own standing answers, newest first."""
        rows = answers.answers(store, who.labeler_id, limit, desk.rules)
        return [OwnAnswer(**row) for row in rows]

    @router.post("/answers/{ranking_id}/edit", dependencies=[CSRF])
    def edit(ranking_id: RowId, who: Caller) -> ShownTask:
        """Open an own earlier answer; submitting it supersedes, the history is kept."""
        return shown(desk, *answers.edit(store, who.labeler_id, ranking_id, desk.rules))

    return router


def knowing_routes(desk: Desk) -> APIRouter:
    """Progress and guidelines."""
    router = APIRouter()

    @router.get("/progress")
    def progress(who: Caller) -> Progress:
        """How far the caller is, and at what pace."""
        return progress_of(desk, who)

    @router.get("/guidelines")
    def guidelines(who: Caller) -> ShownGuidelines:
        """The guidelines in force; each answer keeps the version it was given under."""
        found = desk.guidelines()
        html = MarkdownIt("commonmark", {"html": False}).render(found.text)
        return ShownGuidelines(version=found.version, markdown=found.text, html=html)

    return router


def shown(desk: Desk, lease: assignment.Lease, answer: Answer | None = None) -> ShownTask:
    """A lease as the board shows it. `answer`: the one that is being edited, where it is known already."""
    texts = {i: c.text for i, c in desk.store.completions(lease.order).items()}
    prompt = desk.store.prompt(lease.task.prompt_id).prompt
    draft, version = drafts.draft_of(desk.store, lease.token)
    before: Any = draft
    if draft is None and lease.supersedes is not None:
        before = answer or answers.superseded_answer(desk.store, lease.supersedes)
    return _task(
        desk,
        lease.token,
        prompt,
        {i: texts[i] for i in lease.order},
        desk.toxicity.of(texts),
        before,
        version,
        editing=lease.kind == "edit",
    )


def _task(
    desk: Desk,
    token: str,
    prompt: PromptText,
    texts: dict[str, str],
    toxicity: dict[str, float],
    draft: Any,
    version: int,
    **more: bool,
) -> ShownTask:
    return ShownTask(
        token=token,
        prompt=turns(prompt),
        format=prompt_format(prompt, desk.rules.prompt_format),
        completions=[
            ShownCompletion(id=i, text=text, toxicity=toxicity.get(i)) for i, text in texts.items()
        ],
        draft=None if draft is None else ShownDraft(**draft.to_json()),
        draft_version=version,
        **more,
    )


def _practice_task(desk: Desk, who: Account) -> tuple[ShownTask | None, PracticeProgress]:
    found = practice.next_practice(desk.store, who.labeler_id, desk.practice, desk.rules)
    state = practice.practice_state(desk.store, who.labeler_id, desk.practice, desk.rules)
    practised = PracticeProgress(**asdict(state))
    if found is None:
        return None, practised
    texts = {i: found.item.completions[i] for i in found.order}
    draft, version = drafts.draft_of(desk.store, found.token)
    toxicity = desk.toxicity.of_practice(texts)
    task = _task(
        desk, found.token, found.item.prompt, texts, toxicity, draft, version, practice=True
    )
    return task, practised


def _practised(desk: Desk, who: Account, answer: Answer, given: practice.Feedback) -> Stored:
    state = given.state
    return Stored(
        ranking_id=None,
        ranks=answer.ranks,
        positions={},
        progress=progress_of(desk, who),
        practice=PracticeFeedback(
            correct=given.correct,
            agreement=given.agreement,
            expected=given.expected,
            explanation=given.explanation,
            done=state.done,
            total=state.total,
            right=state.passed,
            needed=state.needed,
            passed=state.done >= state.total and state.passed >= state.needed,
        ),
    )


def _check_ready(desk: Desk, who: Account) -> Standing:
    found = standing(desk.store, who.labeler_id, desk.rules)
    if found.state != "ready":
        raise NotAllowedError(
            found.message or f"You cannot rank at the moment ({found.state}). Load the next task."
        )
    return found


def progress_of(desk: Desk, who: Account) -> Progress:
    """How far the caller is."""
    return Progress(**asdict(pace.progress(desk.store, who.labeler_id, desk.rules)))


def turns(prompt: PromptText) -> list[Turn]:
    """A prompt as chat turns; a plain text is one turn of the role `prompt`."""
    messages = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    return [Turn(role=message["role"], content=message["content"]) for message in messages]


def prompt_format(prompt: PromptText, setting: str) -> Literal["plain", "markdown", "code"]:
    """How to show a prompt: as the project sets it, or by what its text looks like."""
    if setting != "auto":
        return setting  # pyright: ignore[reportReturnType]
    text = prompt if isinstance(prompt, str) else text_of(prompt)
    # Code first: its comments and lists look like Markdown, which would take its indentation.
    lines = [line for line in text.splitlines() if line.strip()]
    code = sum(bool(_CODE_LINE.search(line)) for line in lines)
    if len(lines) >= 3 and code > len(lines) / 2:
        return "code"
    return "markdown" if _MARKDOWN.search(text) else "plain"
