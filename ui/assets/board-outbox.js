// Answers on their way to the server. One is kept on this device until the server has confirmed it: neither a lost
// connection nor a reload nor a restart of the server loses it. Sending twice is harmless: the server knows the token.
"use strict";
window.concord = window.concord || {};

window.concord.Waiting = class Waiting {
  // Pauses that grow with the tries, and that `now()` or the return of the network cut short.
  constructor() {
    window.addEventListener("online", () => this.now());
  }
  pause(attempt) {
    const seconds = [1, 2, 4, 8, 15];
    return new Promise((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, 1000 * seconds[Math.min(attempt, seconds.length - 1)]);
    });
  }
  now() { this.wake?.(); }
};

window.concord.Outbox = class Outbox {
  // `onWait()` is called at each try that did not reach the server.
  constructor({ name, onWait }) {
    this.key = `concord-outbox/${name}`;
    this.onWait = onWait;
    this.waiting = new window.concord.Waiting();
    this.memory = []; // where the browser refuses storage
  }

  // What waits, oldest first: [{path, body}]; body.token tells them apart.
  items() {
    try { return JSON.parse(localStorage.getItem(this.key)) ?? []; } catch { return this.memory; }
  }

  // Send it until it is answered. Resolves with the server's reply; throws its refusal. Kept only while the server may
  // still take it: unreached (status 0), signed out or paused (401, 403).
  async deliver(path, body) {
    this.#store([...this.items().filter((item) => item.body.token !== body.token), { path, body }]);
    for (let attempt = 0; ; attempt += 1) {
      try {
        const reply = await window.concord.post(path, body);
        this.#forget(body.token);
        return reply;
      } catch (error) {
        if (error.status === 0) {
          this.onWait();
          await this.waiting.pause(attempt);
          continue;
        }
        if (![401, 403].includes(error.status)) this.#forget(body.token);
        throw error;
      }
    }
  }

  // The labeler goes on with the task: what was to be sent is not the answer any more.
  withdraw(token) { if (this.items().some((item) => item.body.token === token)) this.#forget(token); }

  #forget(token) { this.#store(this.items().filter((item) => item.body.token !== token)); }

  #store(items) {
    this.memory = items;
    try {
      if (items.length) localStorage.setItem(this.key, JSON.stringify(items));
      else localStorage.removeItem(this.key);
    } catch { /* storage is off or full: the memory of this page must do */ }
  }
};
