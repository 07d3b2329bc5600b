"use strict";
// Reads the graph data beside it.  Builds no HTML from strings, fetches nothing, never recurses.
const { states, ops } = JSON.parse(document.getElementById("states").textContent);
const el = id => document.getElementById(id);
const views = new Map(states.map(s => [s.name, Object.assign(s, prepared(s))]));
const STEP = 350;                                        // milliseconds of one backward step
const MANY = 300;                                        // cards, of which only those in the window are drawn
const SMALL = 0.3;                                       // a scale at which no letter can be read
let now, timer = 0, kept = null, moved = false, travel = 0, area, waiting = false;

function prepared(s) {
  const frame = el("view-" + s.figure), cards = new Map(), up = new Map(), down = new Map();
  for (const c of s.cards) {
    const card = { path: "", about: [], inside: [], warnings: [], ...c, node: el(s.figure + "-" + c.id) };
    card.own = plain([card.title, card.about[0]].join(" "));
    card.text = plain([card.title, ...card.about, ...card.warnings, ...card.inside].join(" "));
    cards.set(c.id, card);
  }
  const edges = s.edges.map(([id, source, target, gradient, step]) =>
    ({ id, source, target, gradient, step, node: el(s.figure + "-" + id) }));
  for (const e of edges) {
    (up.get(e.target) || up.set(e.target, []).get(e.target)).push(e);
    (down.get(e.source) || down.set(e.source, []).get(e.source)).push(e);
  }
  const backward = edges.filter(e => e.step >= 0).sort((a, b) => a.step - b.step);
  return { frame, cards, edges, backward, up, down, svg: frame.querySelector("svg"), full: null };
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
  parts.push(...(states[0].loose || []).map(w => line("p", "! " + w, "warn")));
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
  const op = ops[c.op], parts = [line("h2", c.title), ...c.about.filter(t => t !== c.title).map(t => line("p", t)),
    ...c.warnings.map(w => line("p", "! " + w, "warn"))];
  const inside = c.path && views.has("open " + c.path);
  if (inside) parts.push(button("open " + c.path, () => show("open " + c.path)));
  if (now.opened) parts.push(button("fold " + now.opened, () => show(now.home)));
  if (op) {
    parts.push(line("p", op.what, "hint"));
    if (op.formula) parts.push(line("pre", op.formula));
    if (op.rules.length) parts.push(line("p", "Backward, with ct the gradient of its result:", "hint"));
    for (const [name, rule] of op.rules) parts.push(line("pre", "∂" + name + (rule.includes("\n") ? ":\n" : " = ") + rule));
  }
  el("facts").setAttribute("aria-live", timer ? "off" : "polite");
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
function set(x, y, w, h) { now.svg.setAttribute("viewBox", [x, y, w, h].join(" ")); settle(); }
function scale() { const b = box(); return Math.min(area.width / b.width, area.height / b.height); }
function shown() {                                        // the part of the picture that can be seen
  const b = box(), s = scale(), w = area.width / s, h = area.height / s;
  return [b.x + (b.width - w) / 2, b.y + (b.height - h) / 2, b.x + (b.width + w) / 2, b.y + (b.height + h) / 2];
}
function measure() {                                      // once for each picture, while all of it is drawn
  const f = now.svg.viewBox.baseVal;
  now.full = { x: f.x, y: f.y, width: f.width, height: f.height };
  for (const n of [...now.cards.values(), ...now.edges]) {
    const b = n.node.getBBox();
    n.box = [b.x, b.y, b.x + b.width, b.y + b.height];
  }
}
function settle() {                                       // at the next frame, however often it is asked for
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; cull(); chart(); });
}
function cull() {
  const [l, t, r, b] = shown(), dx = (r - l) / 2, dy = (b - t) / 2;
  now.svg.classList.toggle("small", now.cards.size > MANY && scale() < SMALL);
  if (now.cards.size > MANY) for (const n of [...now.cards.values(), ...now.edges]) {
    const [x0, y0, x1, y1] = n.box, far = x1 < l - dx || x0 > r + dx || y1 < t - dy || y0 > b + dy;
    if (far !== !!n.far) n.node.classList.toggle("far", n.far = far);
  }
}
function chart() {                                        // the small map, if there is more than can be seen
  const f = now.full, [l, t, r, b] = shown(), map = el("map"), k = Math.min(120 / f.width, 160 / f.height);
  map.toggleAttribute("hidden", l <= f.x + 1 && t <= f.y + 1 && r >= f.x + f.width - 1 && b >= f.y + f.height - 1);
  if (map.of !== now) {
    const size = { width: f.width * k, height: f.height * k, viewBox: [f.x, f.y, f.width, f.height].join(" ") };
    for (const key in size) map.setAttribute(key, size[key]);
    map.firstChild.setAttribute("d", [...now.cards.values()].map(c =>
      "M" + c.box[0] + " " + c.box[1] + "H" + c.box[2] + "V" + c.box[3] + "H" + c.box[0] + "Z").join(""));
    map.of = now;
  }
  const window = { x: l, y: t, width: r - l, height: b - t };
  for (const key in window) map.lastChild.setAttribute(key, window[key]);
}
function go(e) {                                          // to a place on the map
  if (!(e.buttons & 1)) return;
  moved = true;
  const m = el("map").getBoundingClientRect(), f = now.full, b = box();
  set(f.x + (e.clientX - m.x) / m.width * f.width - b.width / 2,
    f.y + (e.clientY - m.y) / m.height * f.height - b.height / 2, b.width, b.height);
}
function fit() { const f = now.full; set(f.x, f.y, f.width, f.height); }
function start() {                                        // all of it, or its top where that is unreadable
  fit();
  const f = now.full;
  if (!area.width || scale() > 0.75) return;
  const s = Math.min(Math.max(1, f.width / area.width), 1 / 0.75), w = area.width * s;
  const top = [...now.cards.values()].reduce((a, b) => a.box[1] <= b.box[1] ? a : b).box;
  set(w < f.width ? (top[0] + top[2] - w) / 2 : f.x + (f.width - w) / 2, f.y, w, area.height * s);
}
function zoom(k, cx, cy) {
  moved = true;
  const b = box(), full = now.full.width;
  k = Math.min(Math.max(k, full / 12 / b.width), full * 4 / b.width);
  const mx = b.x + b.width / 2 + (cx === undefined ? 0 : (cx - area.x - area.width / 2) / scale());
  const my = b.y + b.height / 2 + (cy === undefined ? 0 : (cy - area.y - area.height / 2) / scale());
  set(mx - (mx - b.x) * k, my - (my - b.y) * k, b.width * k, b.height * k);
}
function center(id, close = true) {                       // close: at the size of reading
  moved = true;
  const [x0, y0, x1, y1] = now.cards.get(id).box, { width: w, height: h } = close ? area : box();
  set((x0 + x1 - w) / 2, (y0 + y1 - h) / 2, w, h);
}
function follow(id) {                                     // a card that is out of the window comes into it
  const [x0, y0, x1, y1] = now.cards.get(id).box, [l, t, r, b] = shown();
  if (y0 < t || y1 > b || x0 < l || x1 > r) center(id, false);
}

// ---- the backward pass: gradients appear in the order in which the engine sent them
function backward(k) {
  const total = now.backward.length, last = now.backward[k - 1], source = last && now.cards.get(last.source);
  const target = last && now.cards.get(last.target);
  if (k > 1 && k === now.step + 1)                        // one step on: nothing else changes
    for (const n of [last, source, target]) n.node.classList.remove("waiting");
  else if (k || now.step) {
    const lit = new Set(now.backward.slice(0, k).flatMap(e => [e.id, e.source, e.target]));
    for (const n of [...now.edges, ...now.cards.values()])
      n.node.classList.toggle("waiting", k > 0 && !lit.has(n.id));
  }
  if (now.at) now.at.node.classList.remove("now");
  if (k || now.step) { if (source) facts(target); else overview(); }
  now.at = source;
  now.step = k;
  el("step").value = k;
  if (source) { source.node.classList.add("now"); follow(last.source); }
  el("where").textContent = last ? k + "/" + total + "  " + target.title + " → " + source.title +
    "  grad " + last.gradient : "";
}
function stop() {
  clearTimeout(timer);
  timer = 0;
  el("play").textContent = "▶ backward";
}
function play() {
  if (timer) return stop();
  let k = Number(el("step").value) % Math.max(1, now.backward.length);
  const next = () => {
    const began = performance.now();
    backward(++k);
    timer = setTimeout(k < now.backward.length ? next : stop, Math.max(0, STEP - performance.now() + began));
  };
  clear();
  el("play").textContent = "■ stop";
  timer = setTimeout(next);
}

// ---- states: a level, or a level with one module open
function show(name) {
  stop();
  for (const v of views.values()) v.frame.hidden = v.name !== name;
  now = views.get(name);
  area = now.frame.getBoundingClientRect();
  if (now.full) settle(); else { measure(); start(); }
  for (const b of document.querySelectorAll("[data-state]"))
    b.setAttribute("aria-pressed", String(b.dataset.state === name || b.dataset.state === now.home));
  el("step").max = now.backward.length;
  el("play").disabled = el("step").disabled = !now.backward.length;
  kept = null;
  backward(0);
  search();
}

for (const v of views.values()) {
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
    else set(b.x + e.deltaY, b.y, b.width, b.height);
  }, { passive: false });
  let drag = null;
  v.svg.addEventListener("pointerdown", e => { drag = [e.clientX, e.clientY]; travel = 0; });
  addEventListener("pointerup", () => { drag = null; });
  v.svg.addEventListener("pointermove", e => {
    if (!drag) return;
    moved = true;
    const b = box(), s = scale();
    set(b.x - (e.clientX - drag[0]) / s, b.y - (e.clientY - drag[1]) / s, b.width, b.height);
    travel += Math.abs(e.clientX - drag[0]) + Math.abs(e.clientY - drag[1]);
    drag = [e.clientX, e.clientY];
  });
}

for (const b of document.querySelectorAll("[data-state]")) b.addEventListener("click", () => show(b.dataset.state));
el("find").addEventListener("input", () => { kept = null; search(); });
el("find").addEventListener("keydown", e => {
  const found = e.key === "Enter" ? search() : [];
  if (!found.length) return;
  // The smallest picture in which it has a card of its own.
  const words = plain(el("find").value.trim()), has = v => [...v.cards.values()].find(c => c.own.includes(words));
  const view = [now, ...[...views.values()].sort((a, b) => a.cards.size - b.cards.size)].find(has);
  if (view && view !== now) show(view.name);
  center((view ? has(view) : found[0]).id);
});
el("play").addEventListener("click", play);
el("step").addEventListener("input", () => { stop(); backward(Number(el("step").value)); });
el("in").addEventListener("click", () => zoom(1 / 1.25));
el("out").addEventListener("click", () => zoom(1.25));
el("fit").addEventListener("click", () => { moved = true; fit(); });
new ResizeObserver(() => {
  area = now.frame.getBoundingClientRect();
  if (moved) settle(); else start();
}).observe(document.querySelector("main"));
for (const kind of ["pointerdown", "pointermove"]) el("map").addEventListener(kind, go);
let before = null;
addEventListener("beforeprint", () => {                   // all of it, on white
  const b = box();
  before = [document.documentElement.dataset.theme, b.x, b.y, b.width, b.height];
  document.documentElement.dataset.theme = "light";
  fit();
});
addEventListener("afterprint", () => {
  const [theme, ...at] = before;
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  set(...at);
});
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
