// What goes to the server and comes back: drafts, answers, skips, answers taken back; and what other tabs and devices did.
"use strict";
window.concord = window.concord || {};

window.concord.boardSending = (board) => {
  const { part } = board;
  const { post } = window.concord;
  const SAVED = { saving: "Saving the draft …", saved: "Draft saved", device: "Saved on this device, sending again", "": "" };

  board.follow = (name) => {
    board.outbox = new window.concord.Outbox({
      name,
      onWait: () => board.notice("Saved on this device, sending again: the server cannot be reached.", { retry: true }),
    });
    board.drafts = new window.concord.Drafts({
      name,
      onState: (state) => { part("saved").textContent = SAVED[state]; part("saved").dataset.state = state; },
      onConflict: (theirs, mine) => board.dialogs.conflict(theirs, mine),
      onTheirs: (draft) => board.adopt(draft, "Changed in another tab or on another device: this is the newest."),
      onAnswered: () => { if (!board.busy) queued(refresh); },
      onGone: (error) => { if (!board.busy) queued(() => refused(error)); },
    });
  };

  board.adopt = (draft, words) => {
    board.ranking.restore(draft);
    board.fillWords();
    board.update();
    board.say(words, { show: true });
  };

  board.submit = async () => {
    const { ranking, task } = board;
    if (board.busy || !task) return;
    if (!ranking.complete) {
      const left = ranking.unranked();
      board.say(`Not yet: ${board.listed(left)} ${left.length > 1 ? "have" : "has"} no place.`, { show: true });
      return;
    }
    const { none_acceptable, flags, rationale, confidence } = ranking.draft();
    const answer = { token: task.token, ranks: ranking.ranks(), none_acceptable, flags, rationale, confidence };
    await leaving(async () => {
      const stored = await sent("/api/rankings", answer);
      board.pace.show(stored.progress);
      if (stored.practice) await board.dialogs.feedback(stored.practice, stored.ranks);
      else board.say("Saved.", { show: true });
      await board.load({ quiet: true });
    });
  };

  board.sendSkip = (reason) => leaving(async () => {
    const { progress } = await sent("/api/skips", { token: board.task.token, reason });
    board.pace.show(progress);
    board.say("Skipped. It waits under My answers.", { show: true });
    await board.load({ quiet: true });
  });

  async function sent(path, body) {
    const reply = await board.outbox.deliver(path, body);
    board.notice(null);
    board.drafts.answered();
    return reply;
  }

  board.undo = async () => {
    if (board.busy) return;
    if (board.ranking?.undo()) {
      board.changed();
      board.focus(board.ranking.unranked()[0] ?? board.current);
      board.say("Undone.");
    } else if (!board.task?.editing && (board.ranking?.blank ?? true) && board.pace.done) {
      await leaving(async () => board.open(await post("/api/undo")));
    }
  };

  // Leave an answer that was being changed as it was.
  board.leave = () => leaving(async () => {
    await post("/api/tasks/release", { token: board.task.token });
    board.drafts.close();
    await board.load({ quiet: true });
  });

  board.readMessage = () => leaving(async () => {
    await post("/api/me/messages/read");
    part("message").hidden = true;
  });

  // Whether the open task's draft stands on the server, or on this device where the server is out of reach. False: another
  // device has another one, and the labeler is being asked.
  board.settleDraft = () => board.drafts.flush();

  // One after the other: what opens a task waits until the one before has opened its own.
  let turn = Promise.resolve();
  function queued(action) {
    const mine = turn.then(action);
    turn = mine.catch(() => {});
    return mine;
  }

  board.inTurn = (action) => queued(async () => {
    board.busy = true;
    board.update();
    try {
      return await action();
    } finally {
      board.busy = false;
      board.update();
    }
  });

  function leaving(action) {
    board.busy = true; // at once: a second Enter finds it
    board.update();
    return board.inTurn(async () => {
      try {
        if (await board.settleDraft()) await action();
      } catch (error) {
        await refused(error);
      }
    });
  }

  async function refused(error) {
    if ([0, 401, 403].includes(error.status)) return board.trouble(error, null);
    await refresh();
    board.notice(error.message, { dismiss: true });
  }

  // What an earlier page could not send. False where nobody is signed in any more.
  board.sendKept = async () => {
    for (const { path, body } of board.outbox.items()) {
      board.notice("An answer kept on this device is being sent.");
      try {
        await board.outbox.deliver(path, body);
        board.notice(null);
        board.say("The answer kept on this device is saved.", { show: true });
      } catch (error) {
        if (error.status === 403) board.notice("Your answer is kept on this device. It is sent when your work goes on.");
        else await board.trouble(error, null);
        if (error.status === 401) return false;
      }
    }
    return true;
  };

  // A second tab may have answered this task, another device may have gone on with it, or a pause outlived it.
  async function refresh() {
    try {
      if (!board.task && board.outbox.items().length && !(await board.sendKept())) return;
      const next = await post("/api/tasks/next");
      if (board.task && next.task?.token === board.task.token) { board.drafts.seen(next.task); return; }
      const had = board.task;
      board.take(next);
      if (had) board.notice("The task that was open here has been answered or given to somebody else; this is the next one.", { dismiss: true });
    } catch { /* said when it matters: on saving */ }
  }

  async function look() {
    if (document.hidden && board.task) board.drafts.flush(); // perhaps the page is being closed
    if (document.hidden || board.busy || !["work", "done"].includes(board.root.dataset.state)) return;
    await queued(refresh);
  }

  document.addEventListener("visibilitychange", look);
  setInterval(() => { if (board.root.dataset.state === "done") look(); }, 30000);
};
