"use strict";
// Reads the graph data beside it.  Builds no HTML from strings, fetches nothing, never recurses.
const states = JSON.parse(document.getElementById("states").textContent);
const el = id => document.getElementById(id);
const views = new Map(states.map(s => [s.name, Object.assign(s, prepared(s))]));
const STEP = 350;                                        // milliseconds of one backward step
let now, timer = 0, kept = null, moved = false, travel = 0;

function prepared(s) {
  const frame = el("view-" + s.figure), cards = new Map(), up = new Map(), down = new Map();
  for (const c of s.cards) {
    const text = plain([c.title, ...c.about, ...c.warnings, ...c.inside].join(" "));
    cards.set(c.id, { ...c, text, node: el(s.figure + "-" + c.id) });
  }
  for (const e of s.edges) {
    e.node = el(s.figure + "-" + e.id);
    (up.get(e.target) || up.set(e.target, []).get(e.target)).push(e);
    (down.get(e.source) || down.set(e.source, []).get(e.source)).push(e);
  }
  return { frame, cards, up, down, svg: frame.querySelector("svg"), full: null };
}

function plain(words) {                                  // one spelling of a path
  return words.toLowerCase().replaceAll("[", ".").replaceAll("]", "");
}

function reach(start, links, end) {                       // a walk with a stack of its own
  const seen = new Set([start]), stack = [start];
  while (stack.length) for (const e of links.get(stack.pop()) || [])
    if (!seen.has(e[end])) { seen.add(e[end]); stack.push(e[end]); }
  return seen;
}

function dim(keepCard, keepEdge) {
  for (const c of now.cards.values()) c.node.classList.toggle("dim", !keepCard(c));
  for (const e of now.edges) e.node.classList.toggle("dim", !keepEdge(e));
}

// ---- the panel of facts
function line(tag, text, kind) {
  const p = document.createElement(tag);
  p.textContent = text;
  if (kind) p.className = kind;
  return p;
}
function button(text, action) {
  const b = line("button", text);
  b.type = "button";
  b.addEventListener("click", action);
  return b;
}
function overview() {
  const parts = [line("h2", now.title), ...now.subtitle.split(" · ").map(t => line("p", t))];
  for (const c of now.cards.values())
    for (const w of c.warnings) {
      const link = button("! " + c.title + ": " + w, () => { kept = c.id; rest(); center(c.id); });
      link.className = "warn";
      parts.push(link);
    }
  parts.push(line("p", "Hover or focus a card to light its paths; click keeps them. " +
    "Enter opens a module. Keys: / search, + − 0 zoom, Esc clear.", "hint"));
  el("facts").replaceChildren(...parts);
}
function facts(c) {
  const parts = [line("h2", c.title), ...(c.what ? [line("p", c.what, "hint")] : []), ...c.about.map(t => line("p", t)),
    ...c.warnings.map(w => line("p", "! " + w, "warn"))];
  const inside = c.path && views.has("open " + c.path);
  if (inside) parts.push(button("open " + c.path, () => show("open " + c.path)));
  if (now.opened) parts.push(button("fold " + now.opened, () => show(now.home)));
  el("facts").replaceChildren(...parts);
}

// ---- paths and search
function trace(id) {                                      // all that feeds a card or is fed by it
  const above = reach(id, now.up, "source"), below = reach(id, now.down, "target");
  dim(c => above.has(c.id) || below.has(c.id),
      e => (above.has(e.source) && above.has(e.target)) || (below.has(e.source) && below.has(e.target)));
  facts(now.cards.get(id));
}
function clear() {
  dim(() => true, () => true);
  for (const c of now.cards.values()) c.node.classList.remove("hit", "kept");
  overview();
}
function rest() {                                         // what shows when nothing is hovered
  if (kept) { clear(); now.cards.get(kept).node.classList.add("kept"); trace(kept); }
  else search();
}
function search() {
  clear();
  const words = plain(el("find").value.trim());
  el("hits").textContent = "";
  if (!words) return [];
  const found = [...now.cards.values()].filter(c => c.text.includes(words));
  const ids = new Set(found.map(c => c.id));
  dim(c => ids.has(c.id), () => false);
  for (const c of found) c.node.classList.add("hit");
  el("hits").textContent = found.length + " of " + now.cards.size + " cards";
  return found;
}

// ---- the window on the picture
const box = () => now.svg.viewBox.baseVal;
function set(x, y, w, h) { const b = box(); b.x = x; b.y = y; b.width = w; b.height = h; }
function fit() { const f = now.full; set(f.x, f.y, f.width, f.height); }
function start() {                                        // all of it, or its top where that is unreadable
  fit();
  const f = now.full, r = now.svg.getBoundingClientRect();
  if (!r.width || Math.min(r.width / f.width, r.height / f.height) > 0.75) return;
  const s = Math.max(1, f.width / r.width);
  set(f.x + (f.width - r.width * s) / 2, f.y, r.width * s, r.height * s);
}
function zoom(k, cx, cy) {
  moved = true;
  const b = box(), full = now.full.width;
  k = Math.min(Math.max(k, full / 12 / b.width), full * 4 / b.width);
  const r = now.svg.getBoundingClientRect(), s = Math.max(b.width / r.width, b.height / r.height);
  const mx = b.x + b.width / 2 + (cx === undefined ? 0 : (cx - r.x - r.width / 2) * s);
  const my = b.y + b.height / 2 + (cy === undefined ? 0 : (cy - r.y - r.height / 2) * s);
  set(mx - (mx - b.x) * k, my - (my - b.y) * k, b.width * k, b.height * k);
}
function center(id, close = true) {                       // close: at the size of reading
  moved = true;
  const n = now.cards.get(id).node.getBoundingClientRect(), inverse = now.svg.getScreenCTM().inverse();
  const p = new DOMPoint(n.x + n.width / 2, n.y + n.height / 2).matrixTransform(inverse);
  const { width: w, height: h } = close ? now.svg.getBoundingClientRect() : box();
  set(p.x - w / 2, p.y - h / 2, w, h);
}
function follow(id) {                                     // a card that is out of the window comes into it
  const n = now.cards.get(id).node.getBoundingClientRect(), r = now.svg.getBoundingClientRect();
  if (n.top < r.top || n.bottom > r.bottom || n.left < r.left || n.right > r.right) center(id, false);
}

// ---- the backward pass: gradients appear in the order in which the engine sent them
function backward(k) {
  const total = now.backward.length, last = now.backward[k - 1];
  if (k > 1 && k === now.shown + 1)                       // one step on: nothing else changes
    for (const node of [last.node, now.cards.get(last.source).node, now.cards.get(last.target).node])
      node.classList.remove("waiting");
  else if (k || now.shown) {
    const lit = new Set(now.backward.slice(0, k).flatMap(e => [e.id, e.source, e.target]));
    for (const e of now.edges) e.node.classList.toggle("waiting", k > 0 && !lit.has(e.id));
    for (const c of now.cards.values()) c.node.classList.toggle("waiting", k > 0 && !lit.has(c.id));
  }
  now.shown = k;
  el("step").value = k;
  if (last) follow(last.source);
  el("where").textContent = last ? k + "/" + total + "  " + now.cards.get(last.target).title + " → " +
    now.cards.get(last.source).title + "  grad " + last.gradient : "";
}
function stop() {
  clearInterval(timer);
  timer = 0;
  el("play").textContent = "▶ backward";
}
function play() {
  if (timer) return stop();
  let k = Number(el("step").value) % Math.max(1, now.backward.length);
  el("play").textContent = "■ stop";
  timer = setInterval(() => { backward(++k); if (k >= now.backward.length) stop(); }, STEP);
}

// ---- states: a level, or a level with one module open
function show(name) {
  stop();
  for (const v of views.values()) v.frame.hidden = v.name !== name;
  now = views.get(name);
  if (!now.full) { const b = box(); now.full = { x: b.x, y: b.y, width: b.width, height: b.height }; start(); }
  for (const b of document.querySelectorAll("[data-state]"))
    b.setAttribute("aria-pressed", String(b.dataset.state === name || b.dataset.state === now.home));
  el("step").max = now.backward.length;
  el("play").disabled = el("step").disabled = !now.backward.length;
  kept = null;
  backward(0);
  search();
}

for (const v of views.values()) {
  v.backward = v.edges.filter(e => e.step >= 0).sort((a, b) => a.step - b.step);
  for (const c of v.cards.values()) {
    const open = () => { if (c.path && views.has("open " + c.path)) show("open " + c.path); };
    c.node.setAttribute("tabindex", "0");
    c.node.setAttribute("role", "button");
    c.node.setAttribute("aria-label", [...c.node.querySelectorAll("text")].map(t => t.textContent).join(" "));
    c.node.addEventListener("pointerenter", () => { if (!timer && !kept) trace(c.id); });
    c.node.addEventListener("pointerleave", () => { if (!timer && !kept) rest(); });
    c.node.addEventListener("focus", () => { if (c.node.matches(":focus-visible")) follow(c.id); if (!timer && !kept) trace(c.id); });
    c.node.addEventListener("blur", () => { if (!timer && !kept) rest(); });
    c.node.addEventListener("click", () => { if (travel > 4) return; kept = kept === c.id ? null : c.id; rest(); });
    c.node.addEventListener("dblclick", open);
    c.node.addEventListener("keydown", e => {
      if (e.key === "Enter") open();
      if (e.key === " ") { e.preventDefault(); kept = kept === c.id ? null : c.id; rest(); }
    });
  }
  v.svg.addEventListener("wheel", e => {
    e.preventDefault();
    const b = box();
    if (e.ctrlKey || e.metaKey || !e.shiftKey) zoom(e.deltaY > 0 ? 1.12 : 1 / 1.12, e.clientX, e.clientY);
    else b.x += e.deltaY;
  }, { passive: false });
  let drag = null;
  v.svg.addEventListener("pointerdown", e => { drag = [e.clientX, e.clientY]; travel = 0; });
  addEventListener("pointerup", () => { drag = null; });
  v.svg.addEventListener("pointermove", e => {
    if (!drag) return;
    moved = true;
    const b = box(), r = v.svg.getBoundingClientRect(), s = Math.max(b.width / r.width, b.height / r.height);
    b.x -= (e.clientX - drag[0]) * s;
    b.y -= (e.clientY - drag[1]) * s;
    travel += Math.abs(e.clientX - drag[0]) + Math.abs(e.clientY - drag[1]);
    drag = [e.clientX, e.clientY];
  });
}

for (const b of document.querySelectorAll("[data-state]")) b.addEventListener("click", () => show(b.dataset.state));
el("find").addEventListener("input", () => { kept = null; search(); });
el("find").addEventListener("keydown", e => {
  const found = e.key === "Enter" ? search() : [];
  if (!found.length) return;
  const c = found[0], folded = !plain(c.title).includes(plain(el("find").value.trim())) && "open " + c.path;
  if (folded && views.has(folded)) { show(folded); return search().slice(0, 1).forEach(f => center(f.id)); }
  center(c.id);
});
el("play").addEventListener("click", play);
el("step").addEventListener("input", () => { stop(); backward(Number(el("step").value)); });
el("in").addEventListener("click", () => zoom(1 / 1.25));
el("out").addEventListener("click", () => zoom(1.25));
el("fit").addEventListener("click", () => { moved = true; fit(); });
addEventListener("resize", () => { if (!moved) start(); });
el("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = dark === "dark" ? "light" : "dark";
});
addEventListener("keydown", e => {
  if (e.key === "Escape") { el("find").value = ""; kept = null; stop(); backward(0); search(); }
  if (e.target === el("find") || e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "+" || e.key === "=") zoom(1 / 1.25);
  if (e.key === "-") zoom(1.25);
  if (e.key === "0") fit();
  if (e.key === "/") { e.preventDefault(); el("find").focus(); }
});
show(states[0].name);
