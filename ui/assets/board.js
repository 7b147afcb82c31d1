// The ranking board. The server decides which task is shown and whether an answer stands; this shows and sends.
// The parts (cards, places, dialogs, ...) lie in files of their own and meet in the object `board`.
"use strict";
window.concord = window.concord || {};

window.concord.board = async (element) => {
  const { post } = window.concord;
  const root = element.querySelector(".b");
  const board = { root, me: null, task: null, ranking: null, current: null, busy: true };
  const part = (board.part = (name) => root.querySelector(`[data-part="${name}"]`));
  const find = (board.find = (selector) => root.querySelector(selector));
  let practice = null;

  board.letter = (id) => String.fromCharCode(65 + board.ranking.ids.indexOf(id));
  board.ordinal = (n) => n + ({ 1: "st", 2: "nd", 3: "rd" }[n] ?? "th");
  board.listed = (ids) => ids.map(board.letter).join(", ").replace(/, ([^,]*)$/, " and $1");

  // Showing a task

  board.load = async ({ quiet = false } = {}) => {
    board.busy = true;
    if (!quiet) show("loading");
    try {
      if (!(await board.sendKept())) return;
      board.take(await post("/api/tasks/next"));
    } catch (error) {
      show("loading"); // what was open is answered
      await board.trouble(error, () => board.load({ quiet }));
    } finally {
      board.busy = false;
      board.update();
    }
  };

  board.take = (next) => {
    board.guide.keepFresh();
    board.pace.show(next.progress);
    practice = next.practice;
    if (next.task && find(".b-done").classList.contains("stopped")) window.concord.get("/api/me").then(showMessage, () => {}); // the pause is over
    find(".b-done").classList.remove("stopped");
    if (next.task) board.open(next.task); else board.finish(next);
  };

  board.open = (task) => {
    board.task = task;
    board.ranking = new window.concord.Ranking(task.completions.map((completion) => completion.id));
    board.ranking.restore(board.drafts.open(task));
    board.current = board.ranking.unranked()[0] ?? board.ranking.ids[0];
    board.cards.show(task);
    board.places.show();
    showMode(task);
    board.fillWords();
    show("work");
    board.toggleMore(false);
    window.scrollTo({ top: 0 });
    board.focus(board.current);
    board.say(`${task.editing ? "Your answer, to change" : task.practice ? "Practice task" : "New task"}. ${task.completions.length} completions to rank.`);
  };

  function showMode({ editing, practice: practising }) {
    part("mode").hidden = !editing && !practising;
    find('[data-do="leave"]').hidden = !editing;
    part("mode-title").textContent = editing ? "You are changing an answer of yours" : practice ? `Practice ${Math.min(practice.done + 1, practice.total)} of ${practice.total}` : "Practice";
    part("mode-text").textContent = editing ? "Submitting it again replaces the answer; the earlier one stays in the history." : `After each task you see what was expected and why. Practice does not count; ${practice?.needed ?? "enough"} right answers open the real tasks.`;
  }

  board.fillWords = () => {
    part("rationale").value = board.ranking.rationale;
    for (const radio of root.querySelectorAll("[name=b-confidence]")) radio.checked = Number(radio.value) === board.ranking.confidence;
  };

  const STANDINGS = {
    paused: ["Your work is paused", "The people who run this project have paused it. Nothing you did is lost."],
    excluded: ["There are no more tasks for you here", "Thank you for your time. The people who run this project can tell you more."],
    "not-qualified": ["The practice round is over", "This time it was not enough to start ranking. The people who run this project can let you practise again."],
  };

  board.finish = ({ progress: { done }, standing }) => {
    board.task = board.ranking = null;
    board.drafts.close({ keep: standing in STANDINGS });
    part("mode").hidden = true;
    const rest = done === 0 ? "There is nothing to rank for you at the moment. New tasks appear here by themselves."
      : `You have ranked ${done} ${done === 1 ? "task" : "tasks"}. New ones appear here by themselves; until then, rest your eyes.`;
    const [title, words] = STANDINGS[standing] ?? ["All done. Thank you!", rest];
    part("done-title").textContent = title;
    part("done").textContent = words;
    part("next").hidden = true;
    if (standing in STANDINGS) window.concord.get("/api/me").then(showMessage, () => {});
    else window.concord.get("/api/next").then(showNext, () => {});
    find(".b-done").classList.toggle("stopped", standing in STANDINGS);
    show("done");
    board.say(title);
    part("done-title").focus({ preventScroll: true });
  };

  // Where the round stands, and what else there is to do.
  function showNext({ text, page }) {
    const line = part("next"), elsewhere = page && !location.pathname.startsWith(page.path);
    line.replaceChildren(text, ...(elsewhere ? [" ", window.concord.make("a", { href: page.path, text: page.title })] : []));
    line.hidden = page !== null && !elsewhere; // a new task has come meanwhile
  }

  // What the people who run the project wrote: a message to be read once, or the reason of a pause, which stays.
  function showMessage({ message, standing }) {
    part("message").hidden = !message;
    part("message-text").textContent = message ?? "";
    find('[data-do="read"]').hidden = standing in STANDINGS;
  }

  // The page after each change

  board.update = () => {
    const { ranking } = board;
    root.classList.toggle("busy", board.busy);
    root.classList.toggle("keyless", board.me?.preferences.shortcuts === false);
    if (!ranking) return;
    board.cards.update();
    board.places.update();
    part("rationale").readOnly = board.busy;
    const undo = find('[data-do="undo"]');
    const takesBack = ranking.past.length === 0 && ranking.blank && !board.task.editing; // nothing to undo here: the last answer, then
    undo.disabled = board.busy || (ranking.past.length === 0 && !(takesBack && board.pace.done));
    undo.firstChild.textContent = takesBack && board.pace.done ? "Take back " : "Undo ";
    undo.title = takesBack ? "Take your last answer back" : "";
    find('[data-do="submit"]').disabled = board.busy || !ranking.complete;
    find('[data-do="skip"]').disabled = board.task.editing || board.task.practice;
    find('[data-do="none"]').setAttribute("aria-pressed", String(ranking.none));
    part("hint").textContent = hint();
  };

  function hint() {
    const { ranking } = board, left = ranking.unranked();
    if (left.length === 0) return "Every completion has its place. Submit when you are content.";
    if (ranking.none && ranking.untouched) return "None is acceptable: submit as it is, or rank them from the least bad.";
    if (ranking.untouched) return `Choose a number, press a key, or drag. Now: ${board.letter(board.current)}.`;
    return `${board.listed(left)} ${left.length > 1 ? "have" : "has"} no place yet.`;
  }

  board.changed = () => {
    board.outbox.withdraw(board.task.token);
    board.drafts.changed(board.ranking.draft());
    board.update();
  };

  board.focus = (id, { scroll = false } = {}) => {
    board.current = id;
    board.update();
    const target = board.cards.element(id);
    target.focus({ preventScroll: true });
    if (scroll) target.scrollIntoView({ block: "nearest" });
  };
  board.refocus = () => { if (root.dataset.state === "work") board.focus(board.current); };

  board.flags = (id) => { if (!board.busy) board.dialogs.flags(id); };
  board.skip = () => {
    if (board.busy) return;
    if (board.task.editing || board.task.practice) board.say(board.task.editing ? "You are changing an answer: submit it, or leave it as it was." : "In practice every task wants an answer.", { show: true });
    else board.dialogs.skip();
  };
  board.write = () => { board.toggleMore(true); part("rationale").focus(); };

  function show(state) {
    root.dataset.state = state;
    find(".b-work").hidden = state !== "work";
    find(".b-done").hidden = state !== "done";
  }

  board.toggleMore = (open = !find(".b-rail").classList.contains("open")) => {
    find(".b-rail").classList.toggle("open", open);
    find('[data-do="more"]').setAttribute("aria-expanded", String(open));
  };

  // Start

  async function start() {
    try {
      board.me = await window.concord.me();
    } catch (error) {
      if (error.status === 401) return void board.notice("You are signed out.", { signIn: true });
      board.notice(error.message);
      return void setTimeout(start, 3000);
    }
    board.notice(null);
    board.follow(board.me.name);
    showMessage(board.me);
    await board.load();
  }

  for (const part of ["boardMessages", "boardOrder", "boardSending", "boardClicks"]) window.concord[part](board);
  for (const [name, make] of Object.entries({
    cards: "boardCards", places: "boardPlaces", dialogs: "boardDialogs", answers: "boardAnswers",
    guide: "boardGuide", pace: "boardPace", keys: "boardKeys",
  })) board[name] = window.concord[make](board);
  await start();
};
