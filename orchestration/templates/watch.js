"use strict";
/* Asks for the picture of a study or sweep again and again, and changes of the page what has
   changed. All texts are set as texts, so that none of them is markup. */

const VISIBLE_MS = 2000, HIDDEN_MS = 15000, COLOURS = 6;
const KEY = "cola-watch-token";
const TONES = { "ended early": "early" };
const SVG = "http://www.w3.org/2000/svg";
const place = (id) => document.getElementById(id);

let token = taken(), picture = null, digest = null, timer = null;
let answered = null; // when the last answer came, by this machine's clock
let picked = null; // id of the row whose curve stands out

/* The token behind the address's #, which is then taken out of the address and the history. */
function taken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", location.pathname);
    keep(given);
    return given;
  }
  try { return sessionStorage.getItem(KEY); } catch { return null; }
}

function keep(given) {
  try { sessionStorage.setItem(KEY, given); } catch { /* then a reload asks again */ }
}

function ask(refusal) {
  place("ask").hidden = false;
  place("refused").textContent = refusal;
  place("shown").hidden = true;
  place("connection").hidden = true;
  place("token").focus();
}

place("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = place("token").value.trim();
  keep(token);
  place("ask").hidden = true;
  place("connection").hidden = false;
  poll();
});

async function poll() {
  clearTimeout(timer);
  if (!token) { ask(""); return; }
  try {
    const headers = { Authorization: `Bearer ${token}` };
    if (digest) headers["If-None-Match"] = digest;
    const answer = await fetch("/picture.json", { headers, cache: "no-store" });
    if (answer.status === 401) { ask("This is not the token of this page."); return; }
    if (answer.status === 200) {
      digest = answer.headers.get("ETag");
      picture = await answer.json();
      show();
    } else if (answer.status !== 304) {
      lost((await answer.json()).error);
      again();
      return;
    }
    answered = Date.now();
    setText(place("connection"), `Read from the files at ${clock(answered)}.`);
    place("connection").classList.remove("lost");
  } catch {
    lost("No answer: has `cola watch` ended?");
  }
  showEnd();
  again();
}

function again() {
  timer = setTimeout(poll, document.hidden ? HIDDEN_MS : VISIBLE_MS);
}

function lost(why) {
  const since = answered ? ` The page shows what was at ${clock(answered)}.` : "";
  setText(place("connection"), why + since);
  place("connection").classList.add("lost");
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

/* ---- text and tables ---- */

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function clock(ms) {
  const time = new Date(ms), today = time.toDateString() === new Date().toDateString();
  const of = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  return time.toLocaleString("en-GB", today ? of : { day: "numeric", month: "short", ...of });
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/* As many children as there are items, each changed in place, so that focus and scroll stay. */
function fill(parent, items, make, change) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    if (index === parent.children.length) parent.append(make(item));
    change(parent.children[index], item);
  });
}

function tone(of) { return TONES[of] || of; }

function showState(at, of, text) {
  setText(at, text);
  at.className = `state ${tone(of)}`;
}

function show() {
  const first = place("shown").hidden;
  place("shown").hidden = false;
  document.title = `${picture.name}: ${picture.state}`;
  setText(place("kind"), picture.kind);
  setText(place("folder"), picture.folder);
  setText(place("name"), picture.name);
  showState(place("state"), picture.tone, picture.state);
  setText(place("headline"), picture.headline);
  showFacts();
  showRows();
  showReasons();
  fill(place("notes"), picture.notes, () => element("li"), setText);
  place("notes-section").hidden = picture.notes.length === 0;
  fill(place("events"), picture.events, makeEvent, changeEvent);
  const more = picture.events_left_out;
  setText(place("more-events"), more ? `${more} earlier events are in events.jsonl.` : "");
  if (first) new ResizeObserver(draw).observe(place("losses"));
  draw();
}

function showFacts() {
  const pairs = [["expected end", ""], ...picture.facts];
  fill(place("facts"), pairs.flat(), () => element("dt"), () => {});
  pairs.forEach(([label, text], index) => {
    const at = place("facts").children;
    if (at[2 * index + 1].tagName !== "DD") at[2 * index + 1].replaceWith(element("dd"));
    setText(at[2 * index], label);
    if (index) setText(at[2 * index + 1], text);
  });
  showEnd();
}

/* When it is expected to end; without a rate that is not known, and of what has ended none is. */
function showEnd() {
  const at = place("facts").children[1];
  if (!at || !picture) return;
  if (picture.tone === "done") setText(at, "–");
  else if (picture.ends === null) setText(at, picture.tone === "active" ? "not known" : "not known while nothing trains");
  else setText(at, `about ${clock(1000 * picture.ends)}, if what is to come trains as fast`);
}

function showRows() {
  const sweep = picture.kind === "sweep";
  setText(place("rows-title"), sweep ? "Trials" : "Runs");
  const heads = [{ name: sweep ? "trial" : "run", kind: "text" }, { name: "state", kind: "text" },
    ...picture.columns];
  if (!place("heads").firstChild) place("heads").append(element("tr"));
  fill(place("heads").firstChild, heads, () => element("th"), (cell, head) => {
    cell.scope = "col";
    setText(cell, head.name);
    cell.className = head.kind === "number" ? "number" : "";
  });
  fill(place("rows"), picture.rows, makeRow, changeRow);
}

function makeRow() {
  const row = element("tr"), head = element("th"), button = element("button");
  head.scope = "row";
  button.type = "button";
  button.addEventListener("click", () => {
    picked = picked === row.dataset.id ? null : row.dataset.id;
    showRows();
    draw();
  });
  head.append(button);
  row.append(head);
  const state = element("td");
  state.append(element("span"));
  row.append(state);
  picture.columns.forEach((column) => {
    const cell = element("td", undefined, column.kind === "number" ? "number" : "");
    if (column.kind === "share") cell.append(element("progress"), element("span"));
    row.append(cell);
  });
  return row;
}

function changeRow(row, item) {
  row.dataset.id = item.id;
  const button = row.firstElementChild.firstElementChild;
  setText(button, item.name);
  button.setAttribute("aria-pressed", String(picked === item.id));
  showState(row.children[1].firstElementChild, item.tone, item.state);
  picture.columns.forEach((column, index) => {
    const cell = row.children[index + 2], value = item.cells[index];
    if (column.kind === "share") {
      const bar = cell.firstElementChild;
      bar.value = value || 0;
      bar.setAttribute("aria-label", `progress of ${item.name}`);
      setText(cell.lastElementChild, ` ${Math.floor(100 * (value || 0))}%`);
    } else {
      setText(cell, value === null ? "–" : String(value));
    }
  });
}

/* Rows by their reason, which many that wait have in common. */
function showReasons() {
  const names = new Map();
  for (const row of picture.rows) {
    if (row.why) names.set(row.why, [...(names.get(row.why) || []), row.name]);
  }
  place("reasons-section").hidden = names.size === 0;
  fill(place("reasons"), [...names], () => {
    const item = element("li");
    item.append(element("span"), element("span", "", "names"));
    return item;
  }, (item, [why, of]) => {
    setText(item.firstElementChild, why);
    setText(item.lastElementChild, ` (${of.join(", ")})`);
  });
}

function makeEvent() {
  const row = element("tr");
  for (let i = 0; i < 4; i++) row.append(element("td", "", i === 3 ? "clause" : ""));
  return row;
}

function changeEvent(row, event) {
  const texts = [clock(1000 * event.time), event.event, event.run || "", event.reason || ""];
  texts.forEach((text, index) => setText(row.children[index], text));
}

/* ---- charts ---- */

function svg(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function look(group) {
  const index = groups().indexOf(group);
  return `g${index % COLOURS} dash${Math.floor(index / COLOURS) % 3}`;
}

function groups() {
  return [...new Set(picture.curves.map((curve) => curve.group))];
}

function axis() {
  return document.querySelector("input[name=axis]:checked").value;
}

document.querySelectorAll("input[name=axis]").forEach((input) => {
  input.addEventListener("change", draw);
});

function draw() {
  if (!picture) return;
  const names = groups();
  fill(place("groups"), names.length > 1 ? names : [], () => {
    const item = element("li"), line = svg("svg", { "aria-hidden": "true", viewBox: "0 0 32 12" });
    svg("path", { d: "M0 6H32" }, line);
    item.append(line, element("span"));
    return item;
  }, (item, name) => {
    item.querySelector("path").setAttribute("class", `curve ${look(name)}`);
    setText(item.lastElementChild, name);
  });
  const x = axis();
  const against = x === "flops" ? `training FLOPs (${picture.compute})` : "steps";
  const unit = picture.metric.endsWith("NLL") ? ", nats a token," : "";
  setText(place("evaluations-title"), `${picture.metric}${unit} against ${against}`);
  setText(place("losses-title"), `training loss against ${against}, a curve for each stage`);
  chart("evaluations", picture.curves.map((c) => ({ ...c, lines: [c.evaluations] })), x, true);
  chart("losses", picture.curves.map((c) => ({ ...c, lines: c.losses })), x, false);
  const chosen = picture.curves.find((curve) => curve.id === picked);
  setText(place("picked"), chosen ? chosen.name : "");
}

const LEFT = 58, RIGHT = 12, TOP = 8, BOTTOM = 30;
const ACROSS = 46, UP = 26; // pixels between two ticks, at least

function chart(id, curves, x, points) {
  const at = place(id), width = at.clientWidth, height = at.clientHeight;
  if (!width) return;
  const drawn = curves.map((curve) => ({ ...curve, lines: curve.lines.map((line) => line
    .map(([step, flops, value]) => [x === "flops" ? flops : step, value])
    .filter(([place]) => place > 0)) }));
  const all = drawn.flatMap((curve) => curve.lines.flat());
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": described(id, drawn, all) });
  if (!all.length) {
    const text = svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, root);
    text.textContent = "nothing is measured yet";
    at.replaceChildren(root);
    return;
  }
  const across = scale(all.map(([value]) => value), LEFT, width - RIGHT, true, ACROSS);
  const up = scale(all.map(([, value]) => value), height - BOTTOM, TOP,
    all.every(([, value]) => value > 0), UP);
  frame(root, across, up, width, height);
  const shown = picked;
  if (shown && drawn.some((curve) => curve.id === shown)) root.classList.add("fades");
  for (const curve of drawn) {
    const mark = `${look(curve.group)}${curve.id === shown ? " picked" : ""}`;
    for (const line of curve.lines) {
      const places = line.map(([a, b]) => [across.at(a), up.at(b)]);
      const d = places.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
      if (d) titled(svg("path", { d, class: `curve ${mark}` }, root), curve);
      if (points || line.length === 1) {
        for (const [cx, cy] of places) {
          titled(svg("circle", { cx, cy, r: 3, class: `point ${mark}` }, root), curve);
        }
      }
    }
  }
  at.replaceChildren(root);
}

function titled(mark, curve) {
  svg("title", {}, mark).textContent = curve.name;
  mark.addEventListener("pointerenter", () => setText(place("picked"), curve.name));
}

function described(id, curves, all) {
  const what = place(`${id}-title`).textContent, with_ = curves.filter((c) => c.lines.flat().length);
  if (!all.length) return `${what}: nothing is measured yet`;
  const lowest = Math.min(...all.map(([, value]) => value));
  const best = curves.find((c) => c.lines.flat().some(([, value]) => value === lowest));
  return `${what}: ${with_.length} curves, the lowest value is ${short(lowest)}, of ${best.name}`;
}

/* Places of values between two pixels, logarithmic or linear, with a margin, and round ticks that
   are at least `gap` pixels apart. */
function scale(values, from, to, logarithmic, gap) {
  const by = logarithmic ? Math.log10 : (value) => value;
  let low = Math.min(...values.map(by)), high = Math.max(...values.map(by));
  const margin = (high - low) * 0.04 || Math.abs(low) * 0.02 || 0.1;
  low -= margin;
  high += margin;
  const at = (value) => from + (by(value) - low) / (high - low) * (to - from);
  const most = Math.max(2, Math.floor(Math.abs(to - from) / gap));
  if (!logarithmic) return { at, ticks: evenTicks(low, high, most) };
  const apart = (ticks) => ticks.every((tick, i) => !i || Math.abs(at(tick) - at(ticks[i - 1])) >= gap);
  const found = logTicks(low, high).filter(apart).find((ticks) => ticks.length >= 3);
  const even = evenTicks(10 ** low, 10 ** high, most).filter((tick) => tick > 0);
  return { at, ticks: found || thinned(even, at, gap) };
}

/* Round numbers between two powers of ten, the closest first. */
function logTicks(low, high) {
  const sets = [[1, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 2, 3, 4, 6], [1, 2, 5], [1, 3], [1]];
  const every = [1, 2, 3, 4, 6, 8, 12].map((powers) => [[1], powers]);
  return [...sets.map((steps) => [steps, 1]), ...every].map(([steps, powers]) => {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) {
      if (power % powers) continue;
      found.push(...steps.map((step) => Number(`${step}e${power}`)));
    }
    return found.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  });
}

function thinned(ticks, at, gap) {
  const kept = [];
  for (const tick of ticks) {
    if (!kept.length || Math.abs(at(tick) - at(kept[kept.length - 1])) >= gap) kept.push(tick);
  }
  return kept;
}

function evenTicks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function frame(root, across, up, width, height) {
  const bottom = height - BOTTOM;
  for (const value of up.ticks) {
    const y = up.at(value);
    svg("path", { class: "grid", d: `M${LEFT} ${y}H${width - RIGHT}` }, root);
    svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, root).textContent = short(value);
  }
  for (const value of across.ticks) {
    const x = across.at(value);
    svg("path", { class: "grid", d: `M${x} ${TOP}V${bottom}` }, root);
    svg("text", { x, y: bottom + 18, "text-anchor": "middle" }, root).textContent = short(value);
  }
  svg("path", { class: "frame", fill: "none", d: `M${LEFT} ${TOP}V${bottom}H${width - RIGHT}` }, root);
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6 || (size && size < 1e-3)) {
    return value.toExponential().replace(/(\.\d{2})\d+/, "$1").replace("e+", "e");
  }
  return value.toLocaleString("en-GB", { maximumSignificantDigits: 5 });
}

poll();
