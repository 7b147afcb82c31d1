// An answer under construction: every completion has a place from 1 (best) or none yet; with it go "none is
// acceptable", harm flags, rationale and confidence. No DOM here.
"use strict";
window.concord = window.concord || {};

window.concord.Ranking = class Ranking {
  constructor(ids) {
    this.ids = ids;
    this.size = ids.length;
    this.places = new Map(); // completion id -> place, 1..size; places in between may be empty
    this.none = false;
    this.flags = new Map(); // completion id -> harm categories
    this.rationale = "";
    this.confidence = null;
    this.past = [];
  }

  at(place) { return this.ids.filter((id) => this.places.get(id) === place); }
  unranked() { return this.ids.filter((id) => !this.places.has(id)); }
  get untouched() { return this.places.size === 0; }
  get blank() { return this.untouched && !this.none && this.flags.size === 0 && !this.rationale && this.confidence === null; }
  // Where no completion is acceptable, an order is welcome, but not asked for: all are then equal.
  get complete() { return this.places.size === this.size || (this.none && this.untouched); }

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

  // Move a completion one step up (-1) or down (1): out of a tie, into an empty place, or past its neighbour.
  // One that has no place yet comes in behind the last.
  move(id, step) {
    const own = this.places.get(id);
    if (own === undefined) return this.place(id, this.#behindTheLast());
    const target = own + step;
    if (this.at(own).length > 1) {
      if (target >= 1 && target <= this.size && !this.at(target).length) return this.place(id, target);
      return this.insert(id, step < 0 ? own : own + 1);
    }
    if (target < 1 || target > this.size) return false;
    this.#remember();
    for (const other of this.at(target)) this.places.set(other, own);
    this.places.set(id, target);
    return true;
  }

  remove(id) {
    if (!this.places.has(id)) return false;
    this.#remember();
    this.places.delete(id);
    return true;
  }

  toggleNone() {
    this.#remember();
    this.none = !this.none;
    return this.none;
  }

  flag(id, harms) {
    this.#remember();
    if (harms.length) this.flags.set(id, harms); else this.flags.delete(id);
  }

  undo() {
    const before = this.past.pop();
    if (before) Object.assign(this, before);
    return Boolean(before);
  }

  // What is submitted: ranks without gaps, 1 is best, ties equal.
  ranks() {
    if (this.none && this.untouched) return Object.fromEntries(this.ids.map((id) => [id, 1]));
    const used = [...new Set(this.places.values())].sort((a, b) => a - b);
    return Object.fromEntries(this.ids.filter((id) => this.places.has(id)).map((id) => [id, used.indexOf(this.places.get(id)) + 1]));
  }

  // What is kept until then: the places as they are.
  draft() {
    const { none, rationale, confidence } = this;
    return { ranks: Object.fromEntries(this.places), none_acceptable: none, flags: Object.fromEntries(this.flags), rationale, confidence };
  }

  restore(draft) {
    this.places = new Map(Object.entries(draft?.ranks ?? {}).filter(([id, place]) =>
      this.ids.includes(id) && Number.isInteger(place) && place >= 1 && place <= this.size));
    this.flags = new Map(Object.entries(draft?.flags ?? {}).filter(([id, harms]) => this.ids.includes(id) && harms.length));
    this.none = Boolean(draft?.none_acceptable);
    this.rationale = draft?.rationale ?? "";
    this.confidence = draft?.confidence ?? null;
    this.past = [];
  }

  #behindTheLast() {
    const last = Math.max(0, ...this.places.values());
    if (last < this.size) return last + 1;
    return [...Array(this.size)].map((_, index) => this.size - index).find((place) => !this.at(place).length);
  }

  #remember() {
    this.past.push({ places: new Map(this.places), flags: new Map(this.flags), none: this.none });
    if (this.past.length > 200) this.past.shift();
  }

  #shift(first, last, by) {
    for (const [id, place] of this.places) if (place >= first && place <= last) this.places.set(id, place + by);
  }
};
