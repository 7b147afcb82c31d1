// Prompts and completions as they are shown. Everything becomes text nodes: nothing here ever parses markup.
"use strict";
window.concord = window.concord || {};

window.concord.text = (() => {
  const make = (...parts) => window.concord.make(...parts); // whichever script is loaded first

  // Characters that would be invisible, or would reorder the text around them, are shown as what they are. (Joiners and
  // single direction marks stay: emoji, Persian and Hebrew need them.)
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g;
  const NAMES = ("NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US").split(" ");
  const hexadecimal = (code) => "U+" + code.toString(16).toUpperCase().padStart(4, "0");

  function picture(char) {
    const code = char.charCodeAt(0);
    const shown = NAMES[code] ?? (code === 0x7f ? "DEL" : hexadecimal(code));
    return make("span", { class: "b-control", text: shown, title: `Control character ${hexadecimal(code)}` });
  }

  function plain(text) {
    const nodes = document.createDocumentFragment();
    const whole = text.replace(/\r\n/g, "\n");
    let start = 0;
    for (const match of whole.matchAll(CONTROL)) {
      nodes.append(whole.slice(start, match.index), picture(match[0]));
      start = match.index + 1;
    }
    nodes.append(whole.slice(start));
    return nodes;
  }

  // Markdown: markdown-it (raw HTML off) gives tokens, and these tags are built from them. Links show their address and
  // lead nowhere; images are named and not fetched.
  const TAGS = new Set(["p", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "em", "strong", "s", "hr", "br", "code", "pre"]);
  let parser = null;

  function markdown(text) {
    parser ??= window.markdownit({ html: false, linkify: false, breaks: true });
    const nodes = document.createDocumentFragment();
    build(nodes, parser.parse(text, {}));
    return nodes;
  }

  function build(parent, tokens) {
    const open = [parent];
    for (const token of tokens) {
      const top = open[open.length - 1];
      if (token.type === "inline") build(top, token.children);
      else if (token.nesting === 1) open.push(opened(token, top));
      else if (token.nesting === -1) closed(open.pop());
      else top.append(leaf(token));
    }
  }

  function opened(token, top) {
    if (token.hidden) return top; // the paragraph inside a tight list item
    let element;
    if (token.type === "link_open") {
      element = make("span", { class: "b-link" });
      element.address = token.attrGet("href") ?? "";
    } else if (token.type === "heading_open") {
      element = make("h" + Math.min(6, Number(token.tag.slice(1)) + 2), { dir: "auto" }); // below the board's own headings
    } else {
      const tag = TAGS.has(token.tag) ? token.tag : "span";
      element = make(tag, { dir: ["p", "li", "th", "td"].includes(tag) ? "auto" : null, start: tag === "ol" ? token.attrGet("start") : null });
    }
    top.append(element);
    return element;
  }

  function closed(element) {
    if (element.address && element.textContent !== element.address) element.append(make("span", { class: "b-address", dir: "ltr", text: ` (${element.address})` }));
  }

  function leaf(token) {
    switch (token.type) {
      case "text": return plain(token.content);
      case "softbreak": case "hardbreak": return make("br");
      case "hr": return make("hr");
      case "code_inline": return make("code", {}, plain(token.content));
      case "fence": case "code_block": return make("pre", { dir: "ltr" }, plain(token.content.replace(/\n$/, "")));
      case "image": return make("span", { class: "b-address", text: `[image: ${token.content || "no description"}] (${token.attrGet("src") ?? ""})` });
      default: return plain(token.content);
    }
  }

  // Which language a text is in, as far as its script tells: for the right glyphs, line breaks and voice.
  const SCRIPTS = [["ja", /[\u3040-\u30ff]/g], ["ko", /[\uac00-\ud7af\u1100-\u11ff]/g], ["zh", /[\u4e00-\u9fff\u3400-\u4dbf]/g],
    ["he", /[\u0590-\u05ff]/g], ["fa", /[\u067e\u0686\u0698\u06af\u06cc]/g], ["ar", /[\u0600-\u06ff\u0750-\u077f]/g],
    ["hi", /[\u0900-\u097f]/g], ["th", /[\u0e00-\u0e7f]/g], ["el", /[\u0370-\u03ff]/g]];

  function language(text) {
    const sample = text.slice(0, 4000);
    const letters = sample.match(/\p{L}/gu)?.length ?? 0;
    // Kana mark Japanese, four letters mark Persian, though most of the text is Han or Arabic.
    const enough = { ja: 0.05, fa: 0.02 };
    return SCRIPTS.find(([code, script]) => (sample.match(script)?.length ?? 0) > letters * (enough[code] ?? 0.3))?.[0] ?? null;
  }

  // Show `text` in a new element, in the task's format: "plain", "markdown" or "code".
  function shown(text, format, options = {}) {
    const element = make("div", { ...options, class: `b-text b-${format} ${options.class ?? ""}`.trim(), lang: format === "code" ? null : language(text), dir: format === "code" ? "ltr" : "auto" });
    element.append(format === "markdown" ? markdown(text) : plain(text));
    return element;
  }

  // The beginning of a text on one line.
  const excerpt = (text, length = 80) => text.replace(CONTROL, " ").trim().replace(/\s+/g, " ").slice(0, length).replace(/[\uD800-\uDBFF]$/, "");

  const LONG = 1600; // characters, from which on a text is folded; or this many lines
  const LINES = 22;
  const isLong = (text) => text.length > LONG || text.split("\n", LINES + 1).length > LINES;

  return { shown, plain, excerpt, isLong, language };
})();
