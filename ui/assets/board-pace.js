// How far the labeler is, at which pace, and when a break would do them good.
"use strict";
window.concord = window.concord || {};

window.concord.boardPace = (board) => {
  const { part } = board;
  const LATER_MINUTES = 15;
  let quietUntil = 0, clock = 0;

  function show({ done, left, today, median_seconds: median, days_in_a_row: days, minutes_since_break: minutes }) {
    pace.done = done;
    part("progress").textContent = `${done} done, ${left} left`;
    const words = [];
    if (today) words.push(`${today} today`);
    if (median) words.push(`about ${duration(median)} each`);
    if (days > 1) words.push(`${days} days in a row`);
    part("pace").textContent = words.join(" · ");
    const bar = board.find(".b-bar");
    bar.setAttribute("aria-valuemax", done + left || 1);
    bar.setAttribute("aria-valuenow", done);
    bar.setAttribute("aria-valuetext", `${done} done, ${left} left`);
    bar.firstElementChild.style.width = `${(100 * done) / (done + left || 1)}%`;
    const due = minutes >= board.me.preferences.break_minutes && Date.now() > quietUntil;
    part("rest").hidden = !due;
    if (due) part("rest-text").textContent = `You have been ranking for ${Math.round(minutes)} minutes. Ten minutes off keep the judgement fresh; nothing is lost.`;
  }

  const duration = (seconds) => seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;

  function later() {
    quietUntil = Date.now() + 60000 * LATER_MINUTES;
    part("rest").hidden = true;
    board.refocus();
  }

  function rest() {
    later();
    const started = Date.now();
    const tick = () => {
      const seconds = Math.floor((Date.now() - started) / 1000);
      part("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    };
    tick();
    clock = setInterval(tick, 1000);
    part("resting").showModal();
  }

  part("resting").addEventListener("close", () => { clearInterval(clock); board.refocus(); });

  const pace = { done: 0, show, later, rest };
  return pace;
};
