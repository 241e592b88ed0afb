// The page of the service. Whatever it shows was written by strangers, so it becomes text, never markup.
"use strict";

const KEPT = 5, FILTERED = 3;  // Neighbours that are shown of each kind.
const SHARE = 0.9;  // What the kept ones have of all weight, as in model/measures/kept.py.
const byId = (id) => document.getElementById(id);
const limits = document.body.dataset;
let shown = [];  // The photographs whose classes are shown.
let asked = 0;  // Answers to earlier questions are not shown.

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);  // Strings become text nodes.
  return made;
}

function bar(share) {
  const fill = element("i");
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  const made = element("div", "bar", fill);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function say(text, failed = false) {
  byId("status").textContent = text;
  byId("status").className = failed ? "failed" : "";
}

async function post(path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body, headers });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({ error: `the service answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function number(value, digits = 3) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function signed(value) {
  const size = number(Math.abs(value));
  if (!Number(size)) return size;
  return value < 0 ? `−${size}` : `+${size}`;
}

// A weight of 1/k is even; a bar is full at four times that.
function neighbor(near, k) {
  const item = element("li");
  const facts = [`similarity ${number(near.score)}`];
  if (k) {
    item.append(bar(near.weight * k / 4));
    facts.unshift(`weight ${number(near.weight)}`, `${number(near.weight * k, 2)} × even`);
  }
  if (near.influence !== null) facts.push(`influence ${signed(near.influence)}`);
  const spans = facts.map((fact) => element("span", "", fact));
  item.append(element("div", "caption", near.caption || "no caption"), element("p", "facts", ...spans));
  return item;
}

function group(className, title, neighbors, k) {
  const list = element("ul", "near", ...neighbors.map((near) => neighbor(near, k)));
  return element("div", className, element("h3", "", title), list);
}

// They come in the order of their weights.
function countKept(neighbors) {
  const all = neighbors.reduce((sum, near) => sum + near.weight, 0);
  let count = 0;
  for (let sum = 0; count < neighbors.length && sum < SHARE * all && neighbors[count].weight > 0; count++) {
    sum += neighbors[count].weight;
  }
  return count;
}

function memory(neighbors) {
  if (!neighbors.length) return element("p", "memory why", "This head reads no memory.");
  const k = neighbors.length, count = countKept(neighbors);
  const kept = neighbors.slice(0, Math.min(count, KEPT)), filtered = neighbors.slice(count).slice(-FILTERED);
  const made = element("div", "memory");
  if (count) made.append(group("kept", `Kept: ${count} of ${k} with 90 % of the weight`, kept, k));
  if (filtered.length) made.append(group("filtered", `Filtered out: the other ${k - count}`, filtered, k));
  const between = k - kept.length - filtered.length;
  if (between > 0) made.append(element("p", "facts", `${between} more are not shown`));
  return made;
}

function card(photo, prediction) {
  const picture = element("img", "photo");
  picture.src = photo.url;
  picture.alt = photo.name;
  picture.addEventListener("error", () => picture.remove());
  const left = element("div", "", picture, element("p", "name", photo.name));
  const made = element("article", "card", left);
  if (prediction.error) {
    made.append(element("p", "failed", prediction.error));
    return made;
  }
  const rows = prediction.classes.map((name, place) => {
    const probability = prediction.probabilities[place];
    const figure = element("span", "figure", `${number(100 * probability, 1)} %`);
    return element("li", "", element("span", "label", name), bar(probability), figure);
  });
  made.append(element("ol", "classes", ...rows), memory(prediction.neighbors));
  made.setAttribute("aria-label", `${photo.name}: ${prediction.classes[0]}`);
  return made;
}

async function answer(question, title) {
  const mine = ++asked;
  say(title);
  byId("results").setAttribute("aria-busy", "true");
  try {
    const [cards, done] = await question();
    if (mine !== asked) return;
    byId("results").replaceChildren(...cards);
    say(done);
  } catch (error) {
    if (mine === asked) say(error.message, true);
  } finally {
    if (mine === asked) byId("results").removeAttribute("aria-busy");
  }
}

function sized(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (files.length > Number(limits.images)) throw new Error(`Choose at most ${limits.images} photographs at a time.`);
  if (bytes > Number(limits.bytes)) {
    throw new Error(`These photographs have more than ${Math.floor(Number(limits.bytes) / 1048576)} MiB together.`);
  }
}

function predict() {
  if (!shown.length) return;
  const photos = shown;
  answer(async () => {
    sized(photos.map((photo) => photo.file));
    const body = new FormData();
    for (const photo of photos) body.append("image", photo.file);
    body.append("head", byId("head").value);
    body.append("influence", String(byId("influence").checked));
    const begin = performance.now();
    const found = await post("/predict", body);
    const secs = number((performance.now() - begin) / 1000, 1);
    const cards = photos.map((photo, place) => card(photo, found.predictions[place]));
    return [cards, `${photos.length === 1 ? "1 photograph" : `${photos.length} photographs`} by ${found.head}, ${secs} s`];
  }, "Recognising …");
}

function show(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/"));
  if (!images.length) return say("That is no photograph.", true);
  for (const photo of shown) URL.revokeObjectURL(photo.url);
  shown = images.map((file) => ({ file, name: file.name || "pasted photograph", url: URL.createObjectURL(file) }));
  predict();
}

function search(ask, title) {
  const where = byId("where").value.trim();
  answer(async () => {
    const found = await ask(where);
    const list = group("", where ? `${title}, where ${where}` : title, found.neighbors, 0);
    return [[element("article", "card wide", list)], `${found.neighbors.length} rows of the memory`];
  }, "Searching …");
}

byId("files").addEventListener("change", (event) => {
  show(event.target.files);
  event.target.value = "";
});
byId("head").addEventListener("change", predict);
byId("influence").addEventListener("change", predict);
byId("predict").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text) return say("Type a text to search for.", true);
  const ask = (where) => post("/search", JSON.stringify({ text, where }), { "Content-Type": "application/json" });
  search(ask, `Nearest to “${text}”`);
});
byId("like").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  const address = (where) => `/search?${new URLSearchParams({ where })}`;
  search((where) => post(address(where), file, { "Content-Type": "application/octet-stream" }), `Nearest to ${file.name}`);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => show(event.dataTransfer.files));
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) show(event.clipboardData.files);
});
