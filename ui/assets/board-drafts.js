// The draft of the open task: kept on this device at once and on the server soon after, so that any device goes on
// where this one stopped. The server numbers the versions; a save that does not build on the newest is a conflict,
// which the labeler settles. Tabs of one browser tell each other what they saved.
"use strict";
window.concord = window.concord || {};

window.concord.Drafts = class Drafts {
  // `onState("saving" | "saved" | "device" | "")`; `onConflict(draft, saved)`: another device saved `draft` as version
  // `saved`; `onTheirs(draft)`: another tab did, and nothing here is unsaved; `onGone(error)`: the server takes none.
  constructor({ name, onState, onConflict, onTheirs, onAnswered, onGone }) {
    Object.assign(this, { onState, onConflict, onTheirs, onAnswered, onGone });
    this.key = `concord-draft/${name}`;
    this.waiting = new window.concord.Waiting();
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel(`concord-board/${name}`) : null;
    this.channel?.addEventListener("message", ({ data }) => this.#heard(data));
    this.tab = Math.random().toString(36).slice(2); // tabs of one browser share its storage
    this.token = null;
  }

  // Follow a task. Returns the draft to start from: the server's, or this device's where it holds unsaved changes.
  open(task) {
    this.token = task.token;
    this.version = task.draft_version;
    this.draft = null;
    this.dirty = this.conflict = false;
    this.onState("");
    const kept = this.#kept();
    if (kept?.token !== task.token) return task.draft;
    this.draft = kept.draft;
    this.dirty = true;
    this.version = kept.version;
    this.#keep();
    if (kept.version === task.draft_version) this.#soon(0);
    else setTimeout(() => this.#conflicted(task.draft, task.draft_version), 0);
    return kept.draft;
  }

  // Stop following the task. `keep`: what is unsaved stays on this device.
  close({ keep = false } = {}) {
    this.token = null;
    this.dirty = false;
    clearTimeout(this.timer);
    this.waiting.now();
    if (!keep) this.#drop();
  }

  // The task was answered: other tabs need not go on with it.
  answered() {
    this.channel?.postMessage({ kind: "answered", token: this.token });
    this.close();
  }

  changed(draft) {
    this.draft = draft;
    this.dirty = true;
    this.#keep();
    this.onState("saving");
    if (!this.conflict) this.#soon(400);
  }

  // Settle a conflict for what stands here.
  keepMine() {
    this.version = this.conflict.version;
    this.conflict = false;
    this.#keep();
    return this.flush();
  }

  // Settle it for what the other device saved; returns that draft.
  takeTheirs() {
    const { draft, version } = this.conflict;
    this.#adopt(version);
    return draft;
  }

  // Save now what is unsaved. Resolves with whether what stands here may be submitted: saved, or out of reach.
  async flush() {
    clearTimeout(this.timer);
    if (this.sending) await this.sending;
    if (this.dirty && !this.conflict) await this.#save();
    return !this.conflict;
  }

  // The server's newest, after the page was out of sight.
  seen(task) {
    if (task.token !== this.token || task.draft_version <= this.version) return;
    if (this.dirty) this.#conflicted(task.draft, task.draft_version);
    else { this.#adopt(task.draft_version); this.onTheirs(task.draft); }
  }

  #soon(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#save(), milliseconds);
  }

  #save() {
    this.sending ??= this.#send().finally(() => { this.sending = null; });
    return this.sending;
  }

  async #send() {
    const { token, draft } = this;
    if (!token || !this.dirty || this.conflict) return;
    try {
      const { version } = await window.concord.send("PUT", "/api/drafts", { token, version: this.version, draft });
      if (this.token !== token) return;
      this.attempt = 0;
      this.version = version;
      this.channel?.postMessage({ kind: "draft", token, version, draft });
      if (this.draft === draft) {
        this.#adopt(version);
        this.onState("saved");
      } else {
        this.#keep();
        this.#soon(0);
      }
    } catch (error) {
      if (this.token === token) this.#failed(error);
    }
  }

  #failed(error) {
    if (error.status === 409 && error.body?.version !== undefined) {
      this.#conflicted(error.body.draft, error.body.version);
    } else if (error.status === 0) {
      this.onState("device");
      this.attempt = (this.attempt ?? 0) + 1;
      const token = this.token;
      this.waiting.pause(this.attempt).then(() => { if (this.token === token) this.#save(); });
    } else {
      this.onState("device");
      this.onGone(error);
    }
  }

  #conflicted(draft, version) {
    clearTimeout(this.timer);
    // The same on both sides is no conflict: this device had saved it, and the reply was lost.
    if (Drafts.same(draft, this.draft)) { this.#adopt(version); this.onState("saved"); return; }
    this.conflict = { draft, version };
    this.onConflict(draft, this.draft);
  }

  #adopt(version) {
    this.version = version;
    this.dirty = this.conflict = false;
    this.#drop();
  }

  #heard({ kind, token, version, draft }) {
    if (token !== this.token) return;
    if (kind === "answered") this.onAnswered();
    else if (version > this.version && !this.dirty) { this.#adopt(version); this.onTheirs(draft); }
  }

  #keep() {
    const { tab, token, version, draft } = this;
    try { localStorage.setItem(this.key, JSON.stringify({ tab, token, version, draft })); } catch { /* storage is off */ }
  }

  #drop() {
    try { if (this.#kept()?.tab === this.tab) localStorage.removeItem(this.key); } catch { /* storage is off */ }
  }

  #kept() {
    try { return JSON.parse(localStorage.getItem(this.key)); } catch { return null; }
  }

  // Whether two drafts say the same, in whatever order.
  static same(one, other) {
    const sorted = (value) => Array.isArray(value) ? [...value].sort() : value && typeof value === "object"
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, each]) => [key, sorted(each)])) : value;
    return JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
  }
};
