// The guidelines: a panel beside the board on wide screens, a dialog on narrow ones; and the labeler's settings.
"use strict";
window.concord = window.concord || {};

window.concord.boardGuide = (board) => {
  const { part, root } = board;
  const wide = window.matchMedia("(min-width: 90rem)");
  const HIDDEN = "concord-guidelines-hidden", READ = "concord-guidelines-read";
  const FRESH_MILLISECONDS = 60000;
  let guide = null, loaded = 0;

  async function load() {
    loaded = Date.now();
    try {
      const newest = await window.concord.get("/api/guidelines");
      if (newest.version === guide?.version) return;
      guide = newest;
      // The project's own guidelines, made on the server from Markdown with raw HTML shown as text.
      for (const name of ["panel-text", "guidelines-text"]) part(name).innerHTML = guide.html;
    } catch (error) {
      if (guide === null) for (const name of ["panel-text", "guidelines-text"]) part(name).textContent = error.message;
      return;
    }
    news();
    arrange();
  }

  // Guidelines may change while people work: an answer is stored under the newest version, so that is what is shown.
  const keepFresh = () => { if (Date.now() - loaded > FRESH_MILLISECONDS) load(); };

  // A mark where the guidelines are another version than the one last seen in this browser.
  function news() {
    const seen = read(READ);
    root.classList.toggle("guide-news", seen !== null && seen !== String(guide.version));
    if (seen === null || isShown()) write(READ, String(guide.version));
  }

  const isShown = () => wide.matches && read(HIDDEN) === null;
  function arrange() { root.classList.toggle("guided", isShown()); }

  async function toggle() {
    if (guide === null) await load();
    if (wide.matches) {
      write(HIDDEN, isShown() ? "1" : null);
      arrange();
      board.say(isShown() ? "Guidelines shown beside the board." : "Guidelines hidden.");
    } else if (part("guidelines").open) part("guidelines").close();
    else part("guidelines").showModal();
    if (guide !== null) write(READ, String(guide.version));
    root.classList.remove("guide-news");
  }

  wide.addEventListener("change", arrange);

  function read(key) { try { return localStorage.getItem(key); } catch { return null; } }
  function write(key, value) {
    try { if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value); } catch { /* storage is off */ }
  }

  // Settings: each is stored as soon as it is changed.
  const controls = [...part("settings").querySelectorAll("[data-preference]")];

  function settings() {
    fillSettings();
    part("settings-problem").textContent = "";
    part("settings").showModal();
  }

  function fillSettings() {
    for (const control of controls) {
      const value = board.me.preferences[control.dataset.preference];
      if (control.type === "checkbox") { control.checked = value; continue; }
      if (![...control.options].some((option) => option.value === String(value))) control.add(new Option(`${value} minutes`, value));
      control.value = String(value);
    }
  }

  for (const control of controls) {
    control.addEventListener("change", async () => {
      const value = control.type === "checkbox" ? control.checked : Number(control.value);
      try {
        Object.assign(board.me.preferences, await window.concord.send("PUT", "/api/me/preferences", { [control.dataset.preference]: value }));
        part("settings-problem").textContent = "";
      } catch (error) {
        part("settings-problem").textContent = `Not stored: ${error.message}`;
        fillSettings();
      }
      board.update();
    });
  }

  return { keepFresh, toggle, settings };
};
