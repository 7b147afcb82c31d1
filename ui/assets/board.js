// The ranking board. The server decides which task is shown and whether a ranking stands; this only shows and sends.
// Prompts and completions are put in with textContent, never as markup.
"use strict";
window.concord = window.concord || {};

window.concord.board = (element) => {
  const { make, ApiError, Ranking } = window.concord;
  const root = element.querySelector(".b");
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const find = (selector) => root.querySelector(selector);
  const DRAFT = "concord-draft";
  const ROLES = { prompt: "Prompt", user: "User", assistant: "Assistant", system: "System" };
  const LONG_TEXT = 320; // characters, from which on cards stand side by side
  const RETRY_SECONDS = [1, 2, 4, 8, 15];

  let task = null, ranking = null, current = null, busy = false, wake = null;

  // Showing a task

  async function load({ quiet = false } = {}) {
    busy = true;
    if (!quiet) show("loading");
    try {
      const next = await window.concord.post("/api/tasks/next");
      showProgress(next.progress);
      if (next.task) open(next.task);
      else finish(next.progress);
    } catch (error) {
      trouble(error, () => load({ quiet }));
    } finally {
      busy = false;
      if (ranking) update();
    }
  }

  function open(shown) {
    task = shown;
    ranking = new Ranking(task.completions.map((completion) => completion.id));
    const draft = readDraft();
    if (draft?.token === task.token) ranking.restore(draft.places);
    const prompt = find(".b-prompt");
    prompt.replaceChildren(...task.prompt.map(turn));
    prompt.classList.toggle("chat", task.prompt.length > 1);
    const long = task.completions.some(({ text }) => text.length > LONG_TEXT || text.split("\n").length > 6);
    root.classList.toggle("long", long);
    find(".b-cards").replaceChildren(...task.completions.map(card));
    find(".b-places").replaceChildren(...ranking.ids.map((_, index) => place(index + 1)));
    current = ranking.unranked()[0] ?? ranking.ids[0];
    show("work");
    update();
    window.scrollTo({ top: 0 });
    focus(current);
    say(`New task. ${task.completions.length} completions to rank.`);
  }

  const turn = ({ role, content }) =>
    make("div", { class: "b-turn", "data-role": role },
      make("h2", { text: ROLES[role] ?? role }), make("p", { text: content, dir: "auto" }));

  function card({ id, text }) {
    const name = letter(id);
    const numbers = ranking.ids.map((_, index) =>
      make("button", { type: "button", tabindex: "-1", "data-number": index + 1, text: String(index + 1), "aria-label": `Place ${name} ${ordinal(index + 1)}` }));
    return make("article", { class: "b-card", role: "group", tabindex: "-1", "data-id": id },
      make("div", { class: "b-head" },
        make("span", { class: "b-letter", text: name, title: "Drag to a place", "aria-hidden": "true" }),
        make("span", { class: "b-state", "aria-hidden": "true" }),
        make("span", { class: "b-numbers", role: "group", "aria-label": `Place of completion ${name}` }, ...numbers)),
      make("p", { class: "b-text", text, dir: "auto", id: `b-text-${name}` }));
  }

  const place = (number) =>
    make("li", { class: "b-place", "data-place": number },
      make("button", { type: "button", class: "b-here", "data-here": number },
        make("b", { text: String(number) }),
        make("span", { text: number === 1 ? "best" : number === ranking.size ? "worst" : "" })),
      make("div", { class: "b-chips" }));

  const chip = (id) =>
    make("button", { type: "button", class: "b-chip", "data-chip": id, title: "Drag to another place" },
      make("b", { text: letter(id) }), make("span", { text: excerpt(id), dir: "auto" }));

  const letter = (id) => String.fromCharCode(65 + ranking.ids.indexOf(id));
  const textOf = (id) => task.completions.find((completion) => completion.id === id).text;
  const excerpt = (id) => textOf(id).trim().slice(0, 80);
  const cardOf = (id) => [...root.querySelectorAll(".b-card")].find((each) => each.dataset.id === id);
  const ordinal = (n) => n + ({ 1: "st", 2: "nd", 3: "rd" }[n] ?? "th");
  const listed = (ids) => ids.map(letter).join(", ").replace(/, ([^,]*)$/, " and $1");

  // The page after each change

  function update() {
    for (const each of root.querySelectorAll(".b-card")) {
      const id = each.dataset.id, at = ranking.places.get(id);
      const tied = at !== undefined && ranking.at(at).length > 1;
      const words = at === undefined ? "not ranked" : `${tied ? "tied " : ""}${ordinal(at)}`;
      each.classList.toggle("ranked", at !== undefined);
      each.classList.toggle("current", id === current);
      each.tabIndex = id === current ? 0 : -1;
      each.setAttribute("aria-label", `Completion ${letter(id)}, ${words}`);
      each.setAttribute("aria-describedby", `b-text-${letter(id)}`);
      each.querySelector(".b-state").textContent = words;
      for (const button of each.querySelectorAll("[data-number]")) button.setAttribute("aria-pressed", String(Number(button.dataset.number) === at));
    }
    for (const each of root.querySelectorAll(".b-place")) {
      const here = ranking.at(Number(each.dataset.place));
      each.classList.toggle("taken", here.length > 0);
      each.querySelector(".b-chips").replaceChildren(...here.map(chip));
      each.querySelector(".b-here").setAttribute("aria-label",
        `Put completion ${letter(current)} ${ordinal(Number(each.dataset.place))}${here.length ? `, with ${listed(here)}` : ""}`);
    }
    const left = ranking.unranked();
    find('[data-do="undo"]').disabled = busy || ranking.past.length === 0;
    find('[data-do="submit"]').disabled = busy || left.length > 0;
    root.classList.toggle("busy", busy);
    part("hint").textContent = left.length === 0 ? "Every completion has its place. Submit when you are content."
      : ranking.untouched ? `Choose a number, press a key, or drag. Now: ${letter(current)}.`
      : `${listed(left)} ${left.length > 1 ? "have" : "has"} no place yet.`;
    saveDraft();
  }

  function focus(id, { scroll = false } = {}) {
    current = id;
    update();
    const target = cardOf(id);
    target.focus({ preventScroll: true });
    if (scroll) target.scrollIntoView({ block: "nearest" });
  }

  // Changing the ranking

  function change(id, changed, { scroll = false } = {}) {
    if (busy) return;
    const at = ranking.places.get(id);
    const tied = at === undefined ? [] : ranking.at(at).filter((other) => other !== id);
    const left = ranking.unranked();
    const start = ranking.ids.indexOf(id);
    const following = [...ranking.ids.slice(start + 1), ...ranking.ids.slice(0, start)].find((other) => left.includes(other));
    focus(at === undefined ? id : following ?? id, { scroll });
    if (!changed) return;
    const where = at === undefined ? "out of the ranking" : ordinal(at) + (tied.length ? `, tied with ${listed(tied)}` : "");
    say(`${letter(id)} ${where}. ${left.length ? `Next: ${letter(current)}.` : "All ranked. Enter submits."}`);
  }

  const putAt = (id, number, how) => !busy && change(id, ranking.place(id, number), how);
  const squeezeIn = (id, before, how) => !busy && change(id, ranking.insert(id, before), how);
  const takeOut = (id, how) => !busy && change(id, ranking.remove(id), how);

  function tie(id) {
    if (busy) return;
    if (ranking.tie(id)) change(id, true, { scroll: true });
    else say(`There is nothing above ${letter(id)} to tie it with.`);
  }

  function undo() {
    if (busy || !ranking.undo()) return;
    focus(ranking.unranked()[0] ?? current);
    say("Undone.");
  }

  // Sending it

  async function submit() {
    if (busy || !task) return;
    if (!ranking.complete) {
      const left = ranking.unranked();
      say(`Not yet: ${listed(left)} ${left.length > 1 ? "have" : "has"} no place.`, { show: true });
      return;
    }
    busy = true;
    update();
    const answer = { token: task.token, ranks: ranking.ranks() };
    for (let attempt = 0; ; attempt += 1) {
      try {
        const stored = await window.concord.post("/api/rankings", answer);
        notice(null);
        forgetDraft();
        showProgress(stored.progress);
        say("Saved.", { show: true });
        break;
      } catch (error) {
        if (error instanceof ApiError && error.status === 0) {
          const seconds = RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)];
          notice("Not saved yet: the server cannot be reached. Your ranking is kept on this device and is sent again by itself.", { retry: true });
          await pause(seconds);
        } else if (error.status === 403 && attempt === 0) {
          continue; // a new session has another token: ask for it, once
        } else if (error.status === 401 || error.status === 403) {
          trouble(error, null);
          busy = false;
          update();
          return;
        } else {
          forgetDraft();
          notice(error.message, { dismiss: true });
          break;
        }
      }
    }
    await load({ quiet: true });
  }

  const pause = (seconds) => new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, seconds * 1000);
  });

  // A second tab may have answered this task, or a pause may have outlived it.
  async function refresh() {
    if (document.hidden || busy) return;
    if (root.dataset.state === "done") { await load({ quiet: true }); return; }
    if (root.dataset.state !== "work") return;
    try {
      const next = await window.concord.post("/api/tasks/next");
      if (busy || next.task?.token === task.token) return;
      showProgress(next.progress);
      if (next.task) open(next.task); else finish(next.progress);
      notice("The task that was open here has been answered or given to somebody else; this is the next one.", { dismiss: true });
    } catch { /* said when it matters: on submit */ }
  }

  // Messages

  function trouble(error, again) {
    if (error.status === 401) {
      notice("You are signed out. Your ranking is kept on this device.", { signIn: true });
    } else {
      notice(error.message || String(error), { retry: Boolean(again) });
      if (again) {
        const once = () => { if (wake === once) { wake = null; notice(null); again(); } };
        wake = once;
        setTimeout(once, 5000);
      }
    }
  }

  function notice(text, { retry = false, signIn = false, dismiss = false } = {}) {
    find(".b-notice").hidden = !text;
    part("notice").textContent = text ?? "";
    find('[data-do="retry"]').hidden = !retry;
    find('[data-do="dismiss"]').hidden = !dismiss;
    const link = part("sign-in");
    link.hidden = !signIn;
    link.href = window.concord.signInAddress();
  }

  let fading = 0;
  function say(text, { show: visible = false } = {}) {
    part("live").textContent = text;
    if (!visible) return;
    const toast = part("toast");
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(fading);
    fading = setTimeout(() => { toast.hidden = true; }, 2200);
  }

  function show(state) {
    root.dataset.state = state;
    find(".b-work").hidden = state !== "work";
    find(".b-done").hidden = state !== "done";
  }

  function showProgress({ done, left }) {
    part("progress").textContent = `${done} done, ${left} left`;
    const bar = find(".b-bar");
    bar.setAttribute("aria-valuemax", done + left || 1);
    bar.setAttribute("aria-valuenow", done);
    bar.firstElementChild.style.width = `${(100 * done) / (done + left || 1)}%`;
  }

  function finish({ done }) {
    task = ranking = null;
    part("done").textContent = done === 0 ? "There is nothing to rank for you at the moment. New tasks appear here by themselves."
      : `You have ranked ${done} ${done === 1 ? "task" : "tasks"}. New ones appear here by themselves; until then, rest your eyes.`;
    show("done");
    say("All done. Thank you!");
    find(".b-done h2").focus({ preventScroll: true });
  }

  async function openGuidelines() {
    const dialog = part("guidelines");
    if (dialog.open) return dialog.close();
    dialog.showModal();
    try {
      // The project's own guidelines, made on the server from Markdown with raw HTML shown as text.
      part("guidelines-text").innerHTML = (await window.concord.get("/api/guidelines")).html;
    } catch (error) {
      part("guidelines-text").textContent = error.message;
    }
  }

  // The draft survives a reload on this device. It holds ids and places only.

  function saveDraft() {
    try { localStorage.setItem(DRAFT, JSON.stringify({ token: task.token, places: ranking.draft() })); } catch { /* storage is off */ }
  }
  function readDraft() {
    try { return JSON.parse(localStorage.getItem(DRAFT)); } catch { return null; }
  }
  function forgetDraft() {
    try { localStorage.removeItem(DRAFT); } catch { /* storage is off */ }
  }

  // Mouse and finger

  const actions = {
    submit, undo,
    help: () => part("help").showModal(),
    guidelines: openGuidelines,
    retry: () => wake?.(),
    dismiss: () => notice(null),
    look: () => load({ quiet: true }),
  };

  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) return void actions[button.dataset.do]();
    if (event.target.matches("dialog")) return void event.target.close(); // its backdrop
    if (!ranking) return;
    const number = event.target.closest("[data-number]"), here = event.target.closest("[data-here], .b-place");
    const chosen = event.target.closest("[data-chip]"), shown = event.target.closest(".b-card");
    if (number) putAt(shown.dataset.id, Number(number.dataset.number));
    else if (chosen) focus(chosen.dataset.chip, { scroll: true });
    else if (here) putAt(current, Number(here.dataset.here ?? here.dataset.place));
    else if (shown && window.getSelection()?.isCollapsed !== false) focus(shown.dataset.id);
  });
  root.addEventListener("focusin", (event) => {
    const shown = event.target.matches(".b-card") ? event.target : null;
    if (shown && ranking && shown.dataset.id !== current) { current = shown.dataset.id; update(); }
  });

  window.concord.dragging(root, {
    grip(event) {
      if (busy || !ranking) return null;
      const held = event.target.closest("[data-chip], .b-card");
      if (!held || event.target.closest("[data-number]")) return null;
      // A finger scrolls the page on a card; its letter and the chips are the handles.
      if (event.pointerType === "touch" && !event.target.closest(".b-letter, [data-chip]")) return null;
      const id = held.dataset.chip ?? held.dataset.id;
      return { id, label: letter(id), text: excerpt(id) };
    },
    find(x, y) {
      const under = document.elementFromPoint(x, y);
      const row = under?.closest(".b-place");
      if (!row) return under?.closest(".b-cards") ? { mode: "out" } : null;
      const number = Number(row.dataset.place), box = row.getBoundingClientRect();
      const across = getComputedStyle(row.parentElement).flexDirection === "row";
      const share = across ? (x - box.left) / box.width : (y - box.top) / box.height;
      if (!row.classList.contains("taken") || (share > 0.28 && share < 0.72)) return { place: number, mode: "on" };
      return { place: share <= 0.28 ? number : number + 1, mode: "before" };
    },
    over(target, id) {
      for (const row of root.querySelectorAll(".b-place")) {
        const number = Number(row.dataset.place);
        row.classList.toggle("over", target?.mode === "on" && target.place === number);
        row.classList.toggle("gap", target?.mode === "before" && target.place === number);
        row.classList.toggle("gap-after", target?.mode === "before" && target.place === number + 1 && number === ranking?.size);
      }
      for (const each of root.querySelectorAll(".b-card")) each.classList.toggle("lifted", each.dataset.id === id);
    },
    drop(id, target) {
      if (target.mode === "out") takeOut(id);
      else if (target.mode === "on") putAt(id, target.place);
      else squeezeIn(id, target.place);
    },
  });

  // Keys

  function arrow(key) {
    const cards = [...root.querySelectorAll(".b-card")];
    const index = ranking.ids.indexOf(current);
    const columns = Math.max(1, cards.filter((each) => each.offsetTop === cards[0].offsetTop).length);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    const target = index + step;
    if (target >= 0 && target < cards.length) focus(ranking.ids[target], { scroll: true });
  }

  function digitOf(event) {
    if (/^[1-9]$/.test(event.key)) return { number: Number(event.key), squeeze: false };
    // Shift on most layouts; on those where digits need Shift, the bare key.
    const code = /^Digit([1-9])$/.exec(event.code);
    return code ? { number: Number(code[1]), squeeze: event.shiftKey } : null;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || root.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const onControl = event.target.closest?.("button, a, summary") && !event.target.closest("[data-number]");
    if (event.key === "Enter" && onControl) return;
    if (event.key === "g") { event.preventDefault(); openGuidelines(); return; }
    if (event.key === "?") { event.preventDefault(); part("help").showModal(); return; }
    if (!ranking || root.dataset.state !== "work") return;
    const digit = digitOf(event);
    const how = { scroll: true };
    if (event.key === "=") tie(current);
    else if (event.key === "u") undo();
    else if (event.key === "Enter") { if (!event.repeat) submit(); }
    else if (event.key === "Backspace" || event.key === "Delete") takeOut(current, how);
    else if (event.key.startsWith("Arrow")) arrow(event.key);
    else if (digit && !event.repeat && digit.number <= ranking.size) {
      if (digit.squeeze) squeezeIn(current, digit.number, how); else putAt(current, digit.number, how);
    } else return;
    event.preventDefault();
  });

  document.addEventListener("visibilitychange", refresh);
  setInterval(() => { if (root.dataset.state === "done") refresh(); }, 30000);
  load();
};
