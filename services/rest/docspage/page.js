"use strict";
// The page: a list of operations, one of them at a time, and a way to try it.

let doc, running;
const $ = (id) => document.getElementById(id);

// el makes an element: el("a", {href: "#"}, "text", child, …).
function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== undefined && v !== null && v !== false) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter((c) => c !== undefined && c !== null));
  return e;
}

const method = (m) => el("span", { class: "method " + m }, m);

// resolve follows references and what stands around them.
function resolve(s) {
  if (!s) return {};
  if (s.$ref) return resolve(doc.components.schemas[s.$ref.split("/").pop()]);
  if (s.allOf && s.allOf.length === 1) return { ...resolve(s.allOf[0]), ...(s.description && { description: s.description }) };
  return s;
}

// typeName says in a few words what a schema takes.
function typeName(s) {
  if (!s) return "";
  if (s.allOf) return typeName(s.allOf[0]);
  if (s.$ref) return typeName(resolve(s)) === "object" ? s.$ref.split("/").pop().replace(/^v1/, "") : typeName(resolve(s));
  if (s.anyOf) return s.anyOf.map(typeName).join(" | ");
  if (s.type === "array") return "[" + (typeName(s.items) || "…") + "]";
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(" | ");
  return (s.type || "any") + (s.nullable ? " | null" : "");
}

// inner finds the schema of objects inside a field, for its own fields.
function inner(s) {
  for (s = resolve(s); s && !s.properties; ) {
    if (s.type === "array") s = resolve(s.items);
    else if (s.anyOf) s = s.anyOf.map(inner).find(Boolean);
    else if (s.additionalProperties && s.additionalProperties !== true) s = resolve(s.additionalProperties);
    else return undefined;
  }
  return s;
}

function bounds(s) {
  const out = [];
  if (s.default !== undefined) out.push("default " + JSON.stringify(s.default));
  if (s.minimum !== undefined && s.maximum !== undefined) out.push(`[${s.minimum}, ${s.maximum}]`);
  else if (s.minimum !== undefined) out.push("≥ " + s.minimum);
  return out.join(", ");
}

function fields(schema, depth) {
  const required = schema.required || [];
  const names = Object.keys(schema.properties || {}).sort((a, b) => required.includes(b) - required.includes(a));
  return el("div", { class: "fields" }, ...names.map((name) => field(name, schema.properties[name], required.includes(name), depth)));
}

function field(name, s, must, depth) {
  const full = resolve(s), below = depth < 5 ? inner(s) : undefined;
  const row = el("div", { class: "field" },
    el("div", {}, el("code", {}, name), must ? el("span", { class: "must" }, " required") : null,
      el("span", { class: "type" }, [typeName(s), bounds(full)].filter(Boolean).join(" · "))),
    el("p", {}, full.description || ""));
  if (below) {
    const d = el("details", {}, el("summary", {}, "fields"));
    d.addEventListener("toggle", () => { if (d.children.length === 1) d.append(fields(below, depth + 1)); });
    row.append(d);
  }
  return row;
}

function operations() {
  const out = [];
  for (const [path, item] of Object.entries(doc.paths))
    for (const [m, op] of Object.entries(item)) out.push({ id: m + path, path, m, op });
  return out;
}

function showList() {
  const want = $("filter").value.toLowerCase();
  const all = operations().filter((o) => (o.id + o.op.summary).toLowerCase().includes(want));
  $("list").replaceChildren(...doc.tags.flatMap((t) => {
    const here = all.filter((o) => (o.op.tags || []).includes(t.name));
    if (!here.length) return [];
    return [el("h2", { title: t.description }, t.name), ...here.map((o) =>
      el("a", { href: "#" + o.id, "aria-current": o.id === current() ? "page" : null, title: o.op.summary }, method(o.m), el("span", {}, o.path)))];
  }));
}

const current = () => decodeURIComponent(location.hash.slice(1));

function keyWords(level) {
  return { admin: "needs the admin key, where one is set", inference: "needs the API key, where one is set",
    describe: "needs the API key, where one is set", open: "needs no key" }[level] || level;
}

function show() {
  if (running) running.abort();
  showList();
  const o = operations().find((x) => x.id === current());
  $("main").replaceChildren(...(o ? operation(o) : welcome()));
  document.title = (o ? o.m.toUpperCase() + " " + o.path + " · " : "") + "Chorale API";
  scrollTo(0, 0);
}

function welcome() {
  return [el("h2", {}, "API"), el("p", { class: "lead" }, doc.info.description),
    ...doc.tags.flatMap((t) => {
      const here = operations().filter((o) => (o.op.tags || []).includes(t.name));
      return here.length ? [el("h3", {}, t.name), el("p", { class: "lead" }, t.description), el("div", { class: "fields" }, ...here.map((o) =>
        el("div", { class: "field" }, el("a", { href: "#" + o.id }, el("code", {}, o.m.toUpperCase() + " " + o.path)), el("p", {}, o.op.summary))))] : [];
    })];
}

function operation(o) {
  const out = [el("h2", {}, method(o.m), o.path), el("p", { class: "lead" }, o.op.description || o.op.summary), el("span", { class: "badge" }, keyWords(o.op["x-key"]))];
  out.push(el("h3", {}, "Try it"), ...tryIt(o));
  const [kind, media] = Object.entries(o.op.requestBody?.content || {})[0] || [];
  if (media) out.push(el("h3", {}, "Request" + (kind === "application/json" ? "" : " · " + kind)), fields(inner(media.schema) || {}, 0));
  for (const [code, r] of Object.entries(o.op.responses))
    for (const [kind, media] of Object.entries(r.content || {})) {
      const s = inner(media.schema);
      if (s) out.push(el("details", {}, el("summary", {}, `${code === "default" ? "Errors" : "Response " + code} · ${kind}`), fields(s, 0)));
    }
  return out;
}

// example makes a body to begin with.
function example(media) {
  if (media.example) return media.example;
  const out = {}, s = inner(media.schema) || {};
  for (const name of s.required || []) out[name] = resolve(s.properties[name]).type === "array" ? [] : "";
  if (media.schema.$ref?.endsWith("v1GenerateRequest")) out.prompts = [{ text: "The capital of France is" }];
  if (media.schema.$ref?.endsWith("v1GenerateStreamRequest")) out.request = { prompts: [{ text: "The capital of France is" }], sampling: { maxTokens: 16 } };
  if (media.schema.$ref?.endsWith("v1TokenizeRequest")) out.prompt = { text: "Hello world" };
  return out;
}

function tryIt(o) {
  const [kind, media] = Object.entries(o.op.requestBody?.content || {})[0] || [];
  if (kind === "multipart/form-data") return [el("p", {}, "Files go up best with chorale adapter upload, or curl -F.")];
  const inputs = (o.op.parameters || []).map((p) => ({ p, input: el("input", { "aria-label": p.name, placeholder: p.in === "path" ? "required" : "" }) }));
  const text = media ? el("textarea", { "aria-label": "Request body", spellcheck: "false" }, JSON.stringify(example(media), null, 2)) : null;
  if (text) text.rows = Math.min(24, text.value.split("\n").length + 1);
  const status = el("p", { class: "status", role: "status" }), answer = el("pre", { hidden: true });
  const send = el("button", {}, "Send"), stop = el("button", { class: "quiet", disabled: true }, "Stop"), curl = el("button", { class: "quiet" }, "Copy as curl");
  const request = () => build(o, inputs, text);
  send.addEventListener("click", async () => {
    running = new AbortController();
    send.disabled = true; stop.disabled = false;
    await exchange(request(), status, answer).catch((err) => { status.replaceChildren(el("b", { class: "bad" }, err.name === "AbortError" ? "stopped" : String(err))); });
    send.disabled = false; stop.disabled = true;
  });
  stop.addEventListener("click", () => running && running.abort());
  curl.addEventListener("click", () => navigator.clipboard?.writeText(asCurl(request())));
  return [inputs.length ? el("div", { class: "row" }, ...inputs.map(({ p, input }) => el("label", {}, p.name, input))) : null, text,
    el("div", { class: "row" }, send, stop, curl), status, answer].filter(Boolean);
}

function build(o, inputs, text) {
  let path = o.path;
  const query = new URLSearchParams();
  for (const { p, input } of inputs) {
    if (p.in === "path") path = path.replace(`{${p.name}}`, input.value.split("/").map(encodeURIComponent).join("/"));
    else if (input.value) query.set(p.name, input.value);
  }
  const headers = {};
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  if (text) headers["Content-Type"] = "application/json";
  const base = location.pathname.replace(/\/docs$/, "");
  return { url: location.origin + base + path + (query.size ? "?" + query : ""), method: o.m.toUpperCase(), headers, body: text ? text.value : undefined };
}

function asCurl(r) {
  const quote = (s) => "'" + s.replaceAll("'", `'\\''`) + "'";
  return ["curl", quote(r.url), r.method === "GET" ? "" : "-X " + r.method, ...Object.entries(r.headers).map(([k, v]) => "-H " + quote(`${k}: ${v}`)),
    r.body === undefined ? "" : "-d " + quote(r.body)].filter(Boolean).join(" ");
}

// exchange sends a request and shows the answer as it comes.
async function exchange(r, status, answer) {
  const began = performance.now();
  status.replaceChildren("waiting …");
  answer.hidden = true; answer.textContent = "";
  const resp = await fetch(r.url, { method: r.method, headers: r.headers, body: r.body, signal: running.signal });
  const head = () => status.replaceChildren(el("b", { class: resp.ok ? "" : "bad" }, `${resp.status} ${resp.statusText}`),
    ` · ${Math.round(performance.now() - began)} ms · ${resp.headers.get("Content-Type") || "no content"} · id ${resp.headers.get("X-Request-Id") || "-"}`
    + (resp.headers.get("X-Chorale-Adapter") ? " · " + resp.headers.get("X-Chorale-Adapter") : ""));
  head();
  answer.hidden = false;
  const most = 200000, reader = resp.body.pipeThrough(new TextDecoderStream()).getReader();
  let all = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (all.length < most) answer.append(value);
    all += value;
  }
  head();
  if ((resp.headers.get("Content-Type") || "").startsWith("application/json"))
    try { answer.textContent = JSON.stringify(JSON.parse(all), null, 2).slice(0, most); } catch { /* lines of JSON stay as they came */ }
  if (!all) answer.hidden = true;
}

async function start() {
  try {
    const resp = await fetch("openapi.json");
    if (!resp.ok) throw new Error("openapi.json: " + resp.status);
    doc = await resp.json();
  } catch (err) {
    $("main").replaceChildren(el("p", {}, "The document cannot be read: " + err.message));
    return;
  }
  $("version").textContent = doc.info.version;
  $("filter").addEventListener("input", showList);
  addEventListener("hashchange", show);
  show();
}

start();
