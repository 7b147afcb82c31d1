"""The consensus page: how far the labelers agree, who can be trusted, and the disputed prompts for an expert to settle.

For engineers: it shows who said what. Labelers never reach it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import gradio as gr

from alignment.errors import ConcordError
from alignment.evaluation.plots import labeler_reliability
from alignment.feedback.known_orders import (
    KnownOrder,
    known_orders,
    set_known_order,
    withdraw_known_order,
)
from alignment.feedback.live_consensus import Live, LiveConsensus, disputed, who_said_what
from alignment.feedback.store import Store
from alignment.records import text_of
from ui.access import Access
from ui.agreement_chart import agreement_chart
from ui.exports import WHAT
from ui.guard import ENGINEERS
from ui.look import QUIET, SPOKEN, page_blocks, told
from ui.shell import fragment
from ui.times import ago

REFRESH_SECONDS = 5
QUEUE = 12  # disputed prompts shown
MOST_PICTURED = 40  # labelers in the picture
MAX_COMMENT = 1000

# The queue and the dispute are HTML with events of their own; listeners sit on the element, which outlives its content.
_QUEUE_SCRIPT = """
element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-prompt]");
  if (!row || event.ctrlKey || event.metaKey || event.button !== 0) return;
  event.preventDefault();
  const address = new URL(location);
  address.searchParams.set("prompt", row.dataset.prompt);
  history.replaceState(null, "", address);
  trigger("choose", { prompt_id: row.dataset.prompt });
  const shown = document.querySelector("#dispute [data-shown]"); // it comes into view by itself where it is another one
  if (shown?.dataset.shown === row.dataset.prompt) shown.scrollIntoView({ behavior: "smooth", block: "start" });
});
"""
_IN_THE_ADDRESS = """(kind, prompt) => {
  const address = new URL(location);
  address.searchParams.set("kind", kind);
  history.replaceState(null, "", address);
  return [kind, prompt];
}"""
_DISPUTE_SCRIPT = """
let last = null;
new MutationObserver(() => {
  const panel = element.querySelector("[data-shown]"), shown = panel?.dataset.shown ?? null;
  if (shown !== null && shown !== last) {
    panel.scrollIntoView({ behavior: "smooth", block: "start" });
    panel.querySelector("h2")?.focus({ preventScroll: true });
  }
  last = shown;
}).observe(element, { childList: true, subtree: true });
element.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  const ranks = {};
  for (const select of form.querySelectorAll("select[data-completion]")) {
    if (select.value) ranks[select.dataset.completion] = Number(select.value);
  }
  trigger("settle", { prompt_id: form.dataset.prompt, ranks, comment: form.comment.value });
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-order]");
  if (button) trigger("withdraw", { prompt_id: button.dataset.prompt, order_id: Number(button.dataset.order) });
});
"""


def consensus_page(access: Access, store: Store, live: LiveConsensus) -> gr.Blocks:
    """The page at `/consensus`."""

    def now(kind: str | None) -> tuple[list[str], Live | None]:
        kinds = live.kinds()
        chosen = kind if kind in kinds else next(iter(kinds), None)
        return kinds, None if chosen is None else live.current(chosen)

    def overview(kind: str | None, seen: int) -> list[Any]:
        """Values for the kind, what is seen, the head and the queue; nothing for parts that would look as they do."""
        kinds, at = now(kind)
        shown = head(at, live), queue(at, store)
        parts = [gr.skip()] * 2 if hash(shown) == seen else list(shown)
        choice = gr.Radio(
            choices=[(name.capitalize(), name) for name in kinds],
            value=at.kind if at else None,
            visible=len(kinds) > 1,
        )
        return [choice if len(kinds) > 1 or not seen else gr.skip(), hash(shown), *parts]

    def dispute(kind: str | None, prompt_id: str | None) -> str:
        return dispute_of(prompt_id, now(kind)[1], store)

    def first(request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        kind, prompt_id = (request.query_params.get(name) for name in ("kind", "prompt"))
        return [*overview(kind, 0), prompt_id, dispute(kind, prompt_id)]

    def choose_kind(kind: str | None, prompt_id: str | None, request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        return [*overview(kind, 0), prompt_id, dispute(kind, prompt_id)]

    def refresh(kind: str | None, seen: int, request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        return overview(kind, seen)

    def choose(kind: str | None, event: gr.EventData, request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        prompt_id = str(_of(event).get("prompt_id") or "")
        return [prompt_id, dispute(kind, prompt_id)]

    def settle(kind: str | None, event: gr.EventData, request: gr.Request) -> list[Any]:
        who = access.require(request, ENGINEERS)
        prompt_id, ranks, comment = adjudication_of(_of(event))
        order = KnownOrder(prompt_id, ranks, "adjudication", who.account_id, comment)
        with told():
            set_known_order(store, order)
        gr.Info("The prompt is settled.")
        return [*overview(kind, 0), prompt_id, dispute(kind, prompt_id)]

    def withdraw(kind: str | None, event: gr.EventData, request: gr.Request) -> list[Any]:
        who = access.require(request, ENGINEERS)
        order_id, prompt_id = _of(event).get("order_id"), str(_of(event).get("prompt_id") or "")
        if not isinstance(order_id, int) or isinstance(order_id, bool):
            raise gr.Error("Choose an order to withdraw.", print_exception=False)
        with told():
            withdraw_known_order(store, order_id, who.account_id)
        gr.Info("The order is withdrawn.")
        return [*overview(kind, 0), prompt_id, dispute(kind, prompt_id)]

    with page_blocks("Consensus") as blocks, gr.Column(elem_classes="c-body"):
        seen, prompt = gr.State(0), gr.State(None)
        kind = gr.Radio(choices=[], label="Whose rankings", visible=False, elem_classes="c-kind")
        summary = gr.HTML(apply_default_css=False)
        disputes = gr.HTML(js_on_load=_QUEUE_SCRIPT, apply_default_css=False, elem_id="disputes")
        one = gr.HTML(js_on_load=_DISPUTE_SCRIPT, apply_default_css=False, elem_id="dispute")
        look = [kind, seen, summary, disputes]
        blocks.load(first, outputs=[*look, prompt, one], **QUIET)
        kind.input(choose_kind, [kind, prompt], [*look, prompt, one], js=_IN_THE_ADDRESS, **QUIET)
        disputes.choose(choose, kind, [prompt, one], **QUIET)
        one.settle(settle, kind, [*look, prompt, one], **SPOKEN)
        one.withdraw(withdraw, kind, [*look, prompt, one], **SPOKEN)
        gr.Timer(REFRESH_SECONDS).tick(refresh, [kind, seen], look, **QUIET)
    return blocks


def _of(event: gr.EventData | None) -> dict[str, Any]:
    data = None if event is None else event._data
    return data if isinstance(data, dict) else {}


def adjudication_of(sent: dict[str, Any]) -> tuple[str, dict[str, int], str]:
    """Prompt id, ranks and comment of what a browser sent; an error shown to the caller where it is no adjudication.

    Whether the ranks rank completions of that prompt is for the store to say.
    """
    prompt_id, ranks = sent.get("prompt_id"), sent.get("ranks")
    comment = sent.get("comment") or ""
    if (
        not isinstance(prompt_id, str)
        or not isinstance(ranks, dict)
        or not isinstance(comment, str)
    ):
        raise gr.Error("This is no adjudication. Reload the page.", print_exception=False)
    if len(ranks) < 2:
        raise gr.Error("Rank at least two completions.", print_exception=False)
    if len(comment) > MAX_COMMENT:
        raise gr.Error(
            f"The comment is longer than {MAX_COMMENT} characters.", print_exception=False
        )
    return prompt_id, ranks, comment.strip()


def head(at: Live | None, live: LiveConsensus) -> str:
    """What all rankings together say, agreement over time, and the labelers."""
    if at is None:
        return fragment("consensus_head.html", at=None)
    rows = [row.to_json() for row in at.consensus.labelers]
    rows.sort(key=lambda row: (not row["flagged"], row["labeler_id"]))
    return fragment(
        "consensus_head.html",
        at=at,
        summary=at.consensus.summary,
        rows=rows,
        picture=reliability_picture(json.dumps([pictured(row) for row in rows[:MOST_PICTURED]])),
        pictured=min(len(rows), MOST_PICTURED),
        chart=agreement_chart(live.history(at)),
        exports=WHAT,
    )


def pictured(row: dict[str, Any]) -> dict[str, Any]:
    """What the picture shows of a labeler, as finely as one can see it: most new rankings do not change it."""
    figures = {key: round(row[key], 2) for key in ("reliability", "low", "high")}
    return figures | {key: row[key] for key in ("labeler_id", "kind", "flagged")}


@lru_cache(maxsize=4)
def reliability_picture(rows: str) -> str:
    """The picture of labelers given as JSON; drawing takes a tenth of a second, so the last ones are kept."""
    return labeler_reliability(json.loads(rows))


def queue(at: Live | None, store: Store) -> str:
    """The most disputed prompts, and those that an expert settled."""
    if at is None:
        return ""
    rows = [(found, _text(store, found.prompt_id)) for found in disputed(at.consensus, QUEUE)]
    settled = [
        {"order": order, "text": _text(store, order.prompt_id), "ago": ago(order.created or "")}
        for order in reversed(known_orders(store, "adjudication"))
    ]
    return fragment("disputes.html", rows=rows, settled=settled)


def _text(store: Store, prompt_id: str) -> str:
    return text_of(store.prompt(prompt_id).prompt)


def dispute_of(prompt_id: str | None, at: Live | None, store: Store) -> str:
    """One prompt: its completions, who said what, the consensus, and the form by which an expert settles it."""
    if at is None or not prompt_id:
        return ""
    try:
        text = _text(store, prompt_id)
    except ConcordError:
        return fragment("dispute.html", prompt_id=prompt_id, text=None)
    said = who_said_what(store, prompt_id, at.kind)
    orders = [order for order in known_orders(store) if order.prompt_id == prompt_id]
    ranked = {name for row in said for name in row["ranks"]}
    ranked.update(name for order in orders for name in order.ranks)
    texts = {name: c.text for name, c in store.completions(sorted(ranked)).items()}
    found = at.consensus.prompt(prompt_id)
    ranks = found.ranks if found else {}
    names = sorted(texts, key=lambda name: (ranks.get(name, 99), name))
    standing = {name: rank for order in orders for name, rank in order.ranks.items()}
    return fragment(
        "dispute.html",
        prompt_id=prompt_id,
        text=text,
        found=found,
        names=names,
        texts=texts,
        ranks=ranks,
        said=[{**row, "ago": ago(row["created"])} for row in said],
        kinds={row.labeler_id: row for row in at.consensus.labelers},
        orders=[{"order": order, "ago": ago(order.created or "")} for order in orders],
        standing=standing,
        max_comment=MAX_COMMENT,
    )
