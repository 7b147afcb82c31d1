// The labeler's own earlier answers, to look up and change, and the tasks they skipped, to take back.
"use strict";
window.concord = window.concord || {};

window.concord.boardAnswers = (board) => {
  const { make, get, post } = window.concord;
  const { part } = board;

  async function open() {
    if (part("answers").open) return void part("answers").close();
    part("answers-problem").textContent = "";
    part("answers").showModal();
    try {
      const [answers, skips] = await Promise.all([get("/api/answers?limit=50"), get("/api/skips")]);
      fill("answers-list", answers.map(answerOf), "You have not answered anything yet.");
      fill("skips-list", skips.map(skipOf), "You have skipped nothing.");
    } catch (error) {
      problem(error);
    }
  }

  const fill = (name, items, empty) => part(name).replaceChildren(...(items.length ? items : [make("li", { class: "empty", text: empty })]));
  const problem = (error) => { part("answers-problem").textContent = error.message; };

  const answerOf = ({ ranking_id, excerpt, created, edited, editable }) => item(excerpt, `${when(created)}${edited ? ", changed" : ""}`,
    editable ? ["Change", () => post(`/api/answers/${ranking_id}/edit`).then((task) => board.open(task))] : null);

  const skipOf = ({ task_id, excerpt, reason, created }) => item(excerpt, `${when(created)}: ${reason}`,
    ["Rank it after all", async () => { await post(`/api/skips/${task_id}/reopen`); await board.load({ quiet: true }); }]);

  function item(excerpt, words, action) {
    const row = make("li", {}, make("span", {}, make("span", { class: "what", text: excerpt, dir: "auto" }), make("small", { text: words, dir: "auto" })));
    if (action) {
      const button = make("button", { type: "button", text: action[0], "aria-label": `${action[0]}: ${excerpt}` });
      button.addEventListener("click", async () => {
        button.disabled = true;
        try {
          const opened = await board.inTurn(async () => {
            if (!(await board.settleDraft())) return false;
            await action[1]();
            return true;
          });
          if (!opened) return;
          part("answers").close();
          board.refocus();
        } catch (error) {
          problem(error);
        }
        button.disabled = false;
      });
      row.append(button);
    }
    return row;
  }

  // The store's times are seconds since 1970 or ISO 8601.
  function when(created) {
    const moment = new Date(typeof created === "number" ? 1000 * created : created);
    const today = moment.toDateString() === new Date().toDateString();
    return moment.toLocaleString(undefined, today ? { hour: "2-digit", minute: "2-digit" } : { dateStyle: "medium", timeStyle: "short" });
  }

  return { open };
};
