// What all Gradio pages share: calls to the API, and the navigation bar.
"use strict";
window.concord = window.concord || {};

(() => {
  const concord = window.concord;

  // Build an element. Text goes in as text: nothing here ever parses markup.
  concord.make = (tag, options = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") element.textContent = value;
      else if (name === "class") element.className = value;
      else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  };

  class ApiError extends Error {
    constructor(status, message, body = null) {
      super(message);
      this.status = status; // 0: the server could not be reached
      this.body = body;
    }
  }
  concord.ApiError = ApiError;

  // Make the children of `element` those given, touching only what differs: focus, selection and a click under way stay.
  // What stands for another run or another action is another element: nobody's second Enter may do something else.
  const MEANT = ["data-run", "data-tick", "data-act", "href"];
  concord.renew = (element, ...fresh) => {
    const had = [...element.childNodes];
    fresh.forEach((node, index) => {
      const old = had[index];
      if (typeof node === "string") node = document.createTextNode(node);
      if (!old) element.append(node);
      else if (old.nodeType !== node.nodeType || old.tagName !== node.tagName || MEANT.some((name) => old.getAttribute?.(name) !== node.getAttribute?.(name))) old.replaceWith(node);
      else if (node.nodeType === Node.TEXT_NODE) { if (old.nodeValue !== node.nodeValue) old.nodeValue = node.nodeValue; }
      else {
        for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
        for (const { name, value } of node.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
        if (node.tagName === "INPUT") old.checked = node.checked;
        concord.renew(old, ...node.childNodes);
      }
    });
    for (const old of had.slice(fresh.length)) old.remove();
  };

  let me = null, owner = null; // whose page this is: whoever was signed in when it was loaded
  concord.me = () => (me = me || concord.get("/api/me").then((found) => { owner ??= found.name; return found; }, (error) => { me = null; throw error; }));
  concord.get = (path) => call(path, {});
  concord.post = (path, body) => concord.send("POST", path, body);

  // A request that changes something. A new session has another CSRF token: it is asked for again, once. While the
  // session is another person's, nothing is sent: what this page holds is not theirs.
  concord.send = async (method, path, body) => {
    const own = async () => {
      const now = await concord.me();
      if (now.name !== owner) { me = null; throw new ApiError(401, `${now.name} is signed in in this browser now. Sign in again as ${owner} to go on; nothing was sent.`); }
      return now;
    };
    const { csrf } = await own();
    const request = (token) => call(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": token },
      body: JSON.stringify(body ?? {}),
      keepalive: true, // a last change is sent though the page is being closed
    });
    try {
      return await request(csrf);
    } catch (error) {
      if (error.status !== 403) throw error;
      const now = await own();
      if (now.csrf === csrf) throw error;
      return request(now.csrf);
    }
  };

  async function call(path, options) {
    let response;
    try {
      response = await fetch(path, { ...options, credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(30000) });
    } catch {
      throw new ApiError(0, "The server cannot be reached.");
    }
    let body; // stays undefined where it is not JSON: a proxy's page, say
    try { body = await response.json(); } catch { /* said below */ }
    if (!response.ok || body === undefined) {
      if (response.status === 401 || response.status === 403) me = null;
      const status = response.ok || response.status >= 500 ? 0 : response.status;
      throw new ApiError(status, body?.detail || `The server answered ${response.status}.`, body);
    }
    return body;
  }

  concord.signInAddress = () => "/sign-in?next=" + encodeURIComponent(location.pathname + location.search);

  // When the session ends, Gradio's pages go to the sign-in page. The board says so instead, and keeps the ranking.
  if (!location.pathname.startsWith("/board")) {
    const fetched = window.fetch;
    window.fetch = async (...call) => {
      const response = await fetched(...call);
      if (response.status === 401) location.assign(concord.signInAddress());
      return response;
    };
  }

  concord.navigation = async (element) => {
    const bar = element.querySelector(".c-nav");
    const { make } = concord;
    let who;
    try { who = await concord.me(); } catch (error) {
      if (error.status === 401) location.assign(concord.signInAddress());
      else setTimeout(concord.navigation, 3000, element);
      return;
    }
    const icon = document.querySelector('link[rel="icon"][type="image/svg+xml"]');
    const links = who.pages.map((page) =>
      make("a", { href: page.path, text: page.title, "aria-current": location.pathname.startsWith(page.path) ? "page" : null }));
    bar.replaceChildren(
      make("a", { class: "brand", href: "/", "aria-label": "Concord, home" }, make("img", { src: icon ? icon.getAttribute("href") : "", alt: "" }), make("span", { text: "Concord" })),
      make("nav", { "aria-label": "Pages" }, ...(links.length > 1 ? links : [])),
      make("div", { class: "who" },
        make("a", { class: "account", href: "/account", "aria-label": `Account of ${who.name}`, "aria-current": location.pathname === "/account" ? "page" : null },
          make("i", { text: who.name.slice(0, 1).toUpperCase(), "aria-hidden": "true" }), make("span", {}, make("b", { text: who.name }), ` · ${who.role}`)),
        make("form", { method: "post", action: "/sign-out" },
          make("input", { type: "hidden", name: "token", value: who.csrf }),
          make("button", { text: "Sign out" }))));
    bar.querySelector("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" }); // on a phone the strip scrolls
  };
})();
