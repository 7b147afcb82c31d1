// Dragging with pointer events: one code for mouse, pen and finger.
"use strict";
window.concord = window.concord || {};

// `grip(event)` says what is taken hold of ({id, label}) or null; `over(target)` shows where it would fall;
// `drop(id, target)` ends it. A target is {place, mode: "on" | "before"}, {mode: "out"} or null.
window.concord.dragging = (root, { grip, find, over, drop }) => {
  const THRESHOLD = 6; // px of movement that make a press a drag
  const EDGE = 70; // px from the window's edge in which it scrolls
  let held = null;

  root.addEventListener("pointerdown", (event) => {
    if (held || event.button !== 0 || !event.isPrimary) return;
    const what = grip(event);
    if (what) held = { ...what, pointer: event.pointerId, x: event.clientX, y: event.clientY, ghost: null, scroll: 0, frame: 0 };
  });

  window.addEventListener("pointermove", (event) => {
    if (!held || event.pointerId !== held.pointer) return;
    if (!held.ghost) {
      if (Math.hypot(event.clientX - held.x, event.clientY - held.y) < THRESHOLD) return;
      start();
    }
    event.preventDefault();
    held.x = event.clientX;
    held.y = event.clientY;
    move();
  }, { passive: false });

  // Without this a quick drag ends as a fling, and the browser takes the next tap for the finger that stops it.
  root.addEventListener("touchmove", (event) => { if (held) event.preventDefault(); }, { passive: false });

  window.addEventListener("pointerup", (event) => {
    if (!held || event.pointerId !== held.pointer) return;
    const { id, ghost } = held;
    const target = ghost ? find(event.clientX, event.clientY) : null;
    end();
    if (!ghost) return;
    // The click that follows a drag is not meant as one.
    window.addEventListener("click", swallow, { capture: true, once: true });
    setTimeout(() => window.removeEventListener("click", swallow, { capture: true }), 0);
    if (target) drop(id, target);
  });
  window.addEventListener("pointercancel", (event) => { if (held && event.pointerId === held.pointer) end(); });
  window.addEventListener("keydown", (event) => {
    if (held?.ghost && event.key === "Escape") { event.stopPropagation(); end(); }
  }, { capture: true });
  window.addEventListener("blur", () => { if (held) end(); });

  function swallow(event) { event.stopPropagation(); event.preventDefault(); }

  function start() {
    held.ghost = window.concord.make("div", { class: "b-ghost", "aria-hidden": "true" },
      window.concord.make("b", { text: held.label }), window.concord.make("span", { text: held.text }));
    root.append(held.ghost);
    root.classList.add("dragging");
    root.dataset.dragged = held.id;
    window.getSelection()?.removeAllRanges();
  }

  function move() {
    held.ghost.style.transform = `translate(${held.x}px, ${held.y}px)`;
    over(find(held.x, held.y), held.id);
    held.scroll = held.y < EDGE ? held.y - EDGE : held.y > window.innerHeight - EDGE ? held.y - window.innerHeight + EDGE : 0;
    if (held.scroll && !held.frame) held.frame = requestAnimationFrame(roll);
  }

  function roll() {
    if (!held) return;
    held.frame = 0;
    if (!held.scroll) return;
    window.scrollBy(0, held.scroll / 5);
    move();
  }

  function end() {
    if (held.frame) cancelAnimationFrame(held.frame);
    held.ghost?.remove();
    root.classList.remove("dragging");
    delete root.dataset.dragged;
    held = null;
    over(null, null);
  }
};
