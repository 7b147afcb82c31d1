// What the board says: aloud, in passing, and until it is settled.
"use strict";
window.concord = window.concord || {};

window.concord.boardMessages = (board) => {
  const { part, find } = board;

  board.trouble = async (error, again) => {
    if (error.status === 401) {
      board.notice(`${error.message} Your ranking is kept on this device.`, { signIn: true });
    } else if (error.status === 403 && again) {
      board.finish({ progress: { done: 0 }, standing: (await window.concord.get("/api/me")).standing });
    } else {
      board.notice(error.message || String(error), { retry: Boolean(again), dismiss: !again });
      if (again) board.outbox.waiting.pause(3).then(() => { board.notice(null); again(); });
    }
  };

  board.notice = (text, { retry = false, signIn = false, dismiss = false } = {}) => {
    find(".b-notice").hidden = !text;
    part("notice").textContent = text ?? "";
    find('[data-do="retry"]').hidden = !retry;
    find('[data-do="dismiss"]').hidden = !dismiss;
    const link = part("sign-in");
    link.hidden = !signIn;
    link.href = window.concord.signInAddress();
  };

  let fading = 0;
  board.say = (text, { show: visible = false } = {}) => {
    part("live").textContent = text;
    if (!visible) return;
    const toast = part("toast");
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(fading);
    fading = setTimeout(() => { toast.hidden = true; }, 2200);
  };
};
