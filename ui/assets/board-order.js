// Changing the ranking: what digits, arrows, drops and buttons do to it, and what is said about it.
"use strict";
window.concord = window.concord || {};

window.concord.boardOrder = (board) => {
  // After a placement the focus goes on to the next completion without a place; after a move it stays.
  function moved(id, happened, { scroll = false, stay = false } = {}) {
    const { ranking } = board, at = ranking.places.get(id);
    const left = ranking.unranked(), start = ranking.ids.indexOf(id);
    const following = [...ranking.ids.slice(start + 1), ...ranking.ids.slice(0, start)].find((other) => left.includes(other));
    if (happened) board.changed();
    board.focus(stay || at === undefined ? id : following ?? id, { scroll });
    if (!happened) return;
    const tied = at === undefined ? [] : ranking.at(at).filter((other) => other !== id);
    const where = at === undefined ? "out of the ranking" : board.ordinal(at) + (tied.length ? `, tied with ${board.listed(tied)}` : "");
    const next = left.length === 0 ? " All ranked. Enter submits." : stay ? "" : ` Next: ${board.letter(board.current)}.`;
    board.say(`${board.letter(id)} ${where}.${next}`);
  }

  board.putAt = (id, number, how) => { if (!board.busy) moved(id, board.ranking.place(id, number), how); };
  board.squeezeIn = (id, before, how) => { if (!board.busy) moved(id, board.ranking.insert(id, before), how); };
  board.takeOut = (id, how) => { if (!board.busy) moved(id, board.ranking.remove(id), how); };
  board.move = (id, step) => {
    if (board.busy) return;
    if (board.ranking.move(id, step)) moved(id, true, { stay: true, scroll: true });
    else board.say(`${board.letter(id)} is ${step < 0 ? "at the top" : "at the bottom"} already.`);
  };
  board.tie = (id) => {
    if (board.busy) return;
    if (board.ranking.tie(id)) moved(id, true, { scroll: true });
    else board.say(`There is nothing above ${board.letter(id)} to tie it with.`, { show: true });
  };

  board.toggleNone = () => {
    if (board.busy) return;
    const none = board.ranking.toggleNone();
    board.changed();
    board.say(none ? "None is acceptable. Enter submits; you may rank them from the least bad." : "No longer marked as none acceptable.");
  };
};
