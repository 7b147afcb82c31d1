// A ranking under construction: every completion has a place from 1 (best) or none yet. No DOM here.
"use strict";
window.concord = window.concord || {};

window.concord.Ranking = class Ranking {
  constructor(ids) {
    this.ids = ids;
    this.size = ids.length;
    this.places = new Map(); // completion id -> place, 1..size; places in between may be empty
    this.past = [];
  }

  at(place) { return this.ids.filter((id) => this.places.get(id) === place); }
  unranked() { return this.ids.filter((id) => !this.places.has(id)); }
  get complete() { return this.places.size === this.size; }
  get untouched() { return this.places.size === 0; }

  // Put a completion in a place; whoever is there already is tied with it. Nobody else moves.
  place(id, place) {
    if (place < 1 || place > this.size || this.places.get(id) === place) return false;
    this.#remember();
    this.places.set(id, place);
    return true;
  }

  // Put a completion alone between the places `before - 1` and `before`; others move on as far as they must.
  insert(id, before) {
    if (before < 1 || before > this.size + 1) return false;
    this.#remember();
    this.places.delete(id);
    const taken = new Set(this.places.values());
    const free = (place) => place >= 1 && place <= this.size && !taken.has(place);
    let down = before;
    while (down <= this.size && !free(down)) down += 1;
    if (down <= this.size) {
      this.#shift(before, down - 1, 1);
      this.places.set(id, before);
      return true;
    }
    let up = before - 1; // size - 1 others cannot fill size places: there is a free one above
    while (!free(up)) up -= 1;
    this.#shift(up + 1, before - 1, -1);
    this.places.set(id, before - 1);
    return true;
  }

  // Tie a completion with the nearest one ranked above it; one not ranked yet joins the last of the ranking.
  tie(id) {
    const own = this.places.get(id) ?? Infinity;
    const above = [...this.places.entries()].filter(([other, place]) => other !== id && place < own).map(([, place]) => place);
    return above.length ? this.place(id, Math.max(...above)) : false;
  }

  remove(id) {
    if (!this.places.has(id)) return false;
    this.#remember();
    this.places.delete(id);
    return true;
  }

  undo() {
    const before = this.past.pop();
    if (before) this.places = before;
    return Boolean(before);
  }

  // What is submitted: ranks without gaps, 1 is best, ties equal.
  ranks() {
    const used = [...new Set(this.places.values())].sort((a, b) => a - b);
    return Object.fromEntries(this.ids.filter((id) => this.places.has(id)).map((id) => [id, used.indexOf(this.places.get(id)) + 1]));
  }

  draft() { return Object.fromEntries(this.places); }
  restore(draft) {
    for (const [id, place] of Object.entries(draft ?? {})) {
      if (this.ids.includes(id) && Number.isInteger(place) && place >= 1 && place <= this.size) this.places.set(id, place);
    }
  }

  #remember() {
    this.past.push(new Map(this.places));
    if (this.past.length > 200) this.past.shift();
  }

  #shift(first, last, by) {
    for (const [id, place] of this.places) if (place >= first && place <= last) this.places.set(id, place + by);
  }
};
