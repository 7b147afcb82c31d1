"""The bodies of the labelling API: what goes over the wire, checked on the way in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignment.feedback.answers import FLAGS, MAX_RATIONALE, MAX_REASON, Answer
from alignment.feedback.drafts import Draft
from alignment.records import MAX_COMPLETIONS

Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Rank = Annotated[int, Field(strict=True, ge=1, le=MAX_COMPLETIONS)]
Flag = Literal["toxic", "hateful", "sexual", "violent", "personal-data", "false", "other"]
Confidence = Annotated[int, Field(strict=True, ge=1, le=5)]
assert set(FLAGS) == set(Flag.__args__)  # pyright: ignore[reportAttributeAccessIssue]


class Body(BaseModel):
    """A request's body; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


class Remarks(Body):
    """What goes with ranks: flags by completion id, a rationale, a confidence from 1 to 5."""

    none_acceptable: bool = False
    flags: Annotated[
        dict[str, Annotated[list[Flag], Field(max_length=len(FLAGS))]],
        Field(max_length=MAX_COMPLETIONS),
    ] = {}
    rationale: Annotated[str, Field(max_length=MAX_RATIONALE)] = ""
    confidence: Confidence | None = None

    def remarks(self) -> dict[str, Any]:
        """The remarks, each flag once, completions without a flag left out."""
        flags = {i: sorted(set(kinds)) for i, kinds in self.flags.items() if kinds}
        return {
            "none_acceptable": self.none_acceptable,
            "flags": flags,
            "rationale": self.rationale,
            "confidence": self.confidence,
        }


class DraftBody(Remarks):
    """An answer in the making: completions may lack a rank."""

    ranks: Annotated[dict[str, Rank], Field(max_length=MAX_COMPLETIONS)] = {}

    def draft(self) -> Draft:
        return Draft(ranks=self.ranks, **self.remarks())


class SaveDraft(Body):
    """A draft, and the version it follows on (0 where there was none)."""

    token: Token
    version: Annotated[int, Field(ge=0, le=10**9)]
    draft: DraftBody


class SavedDraft(BaseModel):
    version: int


class Submission(Remarks):
    """A ranking: completion id -> rank, 1 is best, equal ranks are ties. Every completion must be ranked."""

    token: Token
    ranks: Annotated[dict[str, Rank], Field(min_length=1, max_length=MAX_COMPLETIONS)]

    def answer(self) -> Answer:
        return Answer(ranks=self.ranks, **self.remarks())


class Skip(Body):
    """Why the caller cannot judge a task."""

    token: Token
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]


class TokenBody(Body):
    token: Token


class PreferenceChanges(Body):
    """The choices to change; what is left out stays."""

    blur_toxic: bool | None = None
    break_minutes: Annotated[int, Field(ge=5, le=240)] | None = None
    shortcuts: bool | None = None


class Turn(BaseModel):
    role: str
    content: str


class ShownCompletion(BaseModel):
    """A completion as a labeler sees it: nothing says which model wrote it. `toxicity`: by a scorer, in [0, 1]."""

    id: str
    text: str
    toxicity: float | None


class ShownDraft(BaseModel):
    ranks: dict[str, int]
    none_acceptable: bool
    flags: dict[str, list[str]]
    rationale: str
    confidence: int | None


class ShownTask(BaseModel):
    """A task on the board. `completions` are in the order to be shown; `token` makes submitting idempotent.

    `editing`: an earlier answer of the caller's is being changed; `draft` is then that answer. `shown_before` is always
    false: gold and repeated tasks look like any other.
    """

    token: str
    prompt: list[Turn]
    format: Literal["plain", "markdown", "code"]
    completions: list[ShownCompletion]
    draft: ShownDraft | None
    draft_version: int
    practice: bool = False
    editing: bool = False
    shown_before: bool = False


class Progress(BaseModel):
    """Answers of the caller and tasks still open to them; `today` by UTC; pace over the last 50 answers.

    `days_in_a_row`: days with an answer up to now. `minutes_since_break`: since the last 10 minutes without one.
    """

    done: int
    left: int
    today: int
    median_seconds: float | None
    days_in_a_row: int
    minutes_since_break: float


class PracticeProgress(BaseModel):
    """The practice round: tasks answered, tasks in all, answered right, needed right."""

    done: int
    total: int
    passed: int
    needed: int


State = Literal["ready", "practice", "not-qualified", "paused", "excluded"]


class Next(BaseModel):
    """The caller's task, or null when nothing is left to rank, or `standing` says why they may not."""

    task: ShownTask | None
    progress: Progress
    standing: State
    practice: PracticeProgress | None


class PracticeFeedback(BaseModel):
    """What a practice answer was worth. `passed`: the round is over and the caller has qualified."""

    correct: bool
    agreement: float
    expected: dict[str, int]
    explanation: str
    done: int
    total: int
    right: int
    needed: int
    passed: bool


class Stored(BaseModel):
    """What was committed to the store."""

    ranking_id: int | None
    ranks: dict[str, int]
    positions: dict[str, int]
    progress: Progress
    practice: PracticeFeedback | None = None


class ProgressOnly(BaseModel):
    progress: Progress


class SkippedTask(BaseModel):
    task_id: str
    excerpt: str
    reason: str
    created: str


class OwnAnswer(BaseModel):
    ranking_id: int
    task_id: str
    excerpt: str
    created: str
    edited: bool
    editable: bool


class Link(BaseModel):
    path: str
    title: str


class ShownPreferences(BaseModel):
    blur_toxic: bool
    break_minutes: int
    shortcuts: bool


class Me(BaseModel):
    """The caller. `csrf` goes into the `X-CSRF-Token` header of every state change made with a session cookie."""

    name: str
    role: str
    csrf: str | None
    pages: list[Link]
    preferences: ShownPreferences
    blur_threshold: float
    standing: State
    message: str | None


class ShownNext(BaseModel):
    """The caller's one next thing to do, and the page to do it on; null where there is nothing."""

    text: str
    page: Link | None


class ShownGuidelines(BaseModel):
    """The labelling guidelines as Markdown and as HTML (raw HTML in the Markdown is shown as text)."""

    version: int
    markdown: str
    html: str


class Nothing(BaseModel):
    """An empty object: it is done."""


class Problem(BaseModel):
    detail: str


class Conflict(Problem):
    """A newer draft is stored; it comes with its version."""

    version: int | None = None
    draft: ShownDraft | None = None
