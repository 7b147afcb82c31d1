// The rail: the ordered places, what stands in them, and dragging into them.
"use strict";
window.concord = window.concord || {};

window.concord.boardPlaces = (board) => {
  const { make } = window.concord;
  const { root } = board;

  function show() {
    board.find(".b-places").replaceChildren(...board.ranking.ids.map((_, index) => placeOf(index + 1)));
    board.find(".b-rail").classList.toggle("many", board.ranking.size > 5);
  }

  const placeOf = (number) =>
    make("li", { class: "b-place", "data-place": number },
      make("button", { type: "button", class: "b-here", "data-here": number },
        make("b", { text: String(number) }),
        make("span", { text: number === 1 ? "best" : number === board.ranking.size ? "worst" : "" })),
      make("div", { class: "b-chips" }));

  const chip = (id) =>
    make("button", { type: "button", class: "b-chip", "data-chip": id, title: "Drag to another place" },
      make("b", { text: board.letter(id) }), make("span", { text: board.cards.excerpt(id), dir: "auto" }));

  function update() {
    const { ranking } = board;
    for (const each of root.querySelectorAll(".b-place")) {
      const number = Number(each.dataset.place), here = ranking.at(number);
      each.classList.toggle("taken", here.length > 0);
      each.querySelector(".b-chips").replaceChildren(...here.map(chip));
      each.querySelector(".b-here").setAttribute("aria-label",
        `Put completion ${board.letter(board.current)} ${board.ordinal(number)}${here.length ? `, with ${board.listed(here)}` : ""}`);
    }
  }

  window.concord.dragging(root, {
    grip(event) {
      if (board.busy || !board.ranking) return null;
      const held = event.target.closest("[data-chip], .b-card");
      if (!held || event.target.closest("button:not([data-chip])")) return null;
      // A finger scrolls the page on a card; its letter and the chips are the handles.
      if (event.pointerType === "touch" && !event.target.closest(".b-letter, [data-chip]")) return null;
      const id = held.dataset.chip ?? held.dataset.id;
      return { id, label: board.letter(id), text: board.cards.excerpt(id) };
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
        row.classList.toggle("gap-after", target?.mode === "before" && target.place === number + 1 && number === board.ranking?.size);
      }
      for (const each of root.querySelectorAll(".b-card")) each.classList.toggle("lifted", each.dataset.id === id);
    },
    drop(id, target) {
      if (target.mode === "out") board.takeOut(id);
      else if (target.mode === "on") board.putAt(id, target.place);
      else board.squeezeIn(id, target.place);
    },
  });

  return { show, update };
};
