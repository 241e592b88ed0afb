// The gallery: filters and pages of test images. Its address holds the filter, so that it can be linked to. Texts of
// strangers become text nodes, never markup.
"use strict";

const { page_rows: PAGE, head, baseline, classes, memory, images } =
  JSON.parse(document.getElementById("gallery").textContent);
const [form, state, rows, turn] = ["filters", "state", "rows", "turn"].map((id) => document.getElementById(id));
const KINDS = {
  all: () => true,
  mistakes: (image) => image.predicted !== image.label,
  fixed: (image) => image.predicted === image.label && image.without !== image.label,
  broken: (image) => image.predicted !== image.label && image.without === image.label,
};

function made(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// These words are those of `model/gallery/page.py`, which writes the first rows; a test compares both.
function percent(share) {
  const value = 100 * share;
  if (value >= 10) return `${value.toFixed(1)}\u00a0%`;
  if (value >= 0.01) return `${value.toPrecision(2)}\u00a0%`;
  return value > 0 ? "<\u00a00.01\u00a0%" : "0\u00a0%";
}

const number = (count) => count.toLocaleString("en");

function signed(value) {
  const text = (100 * Math.abs(value)).toFixed(2);
  return `${text === "0.00" ? "" : value > 0 ? "+" : "−"}${text}`;
}

function titles(image, kept, filtered) {
  if (image.near.length && image.near[0][5] === null) {
    return [`The nearest of ${number(image.listed)} neighbours`];
  }
  const out = image.listed - image.keeps;
  return [
    `Kept: ${number(image.keeps)} of ${number(image.listed)}, ${percent(image.kept_weight)} of the weight` +
      (kept < image.keeps ? `; shown are the ${kept} largest` : ""),
    `Filtered out: ${number(out)}` + (filtered < out ? `; shown are the ${filtered} smallest` : ""),
  ];
}

function picture(file, alt) {
  if (!file) return made("span", { class: "photo none" }, "no picture");
  return made("img", { class: "photo", src: `pictures/${file}`, alt, width: 96, height: 96, loading: "lazy" });
}

function neighbor([row, place, cosine, weight, influence, , relevant], largest) {
  const [caption, file] = memory[row];
  const figures = [
    weight === null ? null : `weight ${percent(weight)}`,
    `cosine ${cosine.toFixed(2)}, rank ${number(place)}`,
    influence === null ? null : `influence ${signed(influence)}`,
    relevant ? "about the class" : null,
  ].filter((figure) => figure !== null);
  const item = made("li", relevant ? { class: "relevant" } : {}, picture(file, ""));
  if (weight !== null) {
    const space = "http://www.w3.org/2000/svg";
    const [svg, rect] = ["svg", "rect"].map((tag) => document.createElementNS(space, tag));
    const view = { class: "share", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" };
    for (const [name, value] of Object.entries(view)) svg.setAttribute(name, value);
    rect.setAttribute("width", largest ? (100 * weight / largest).toFixed(1) : "0.0");
    rect.setAttribute("height", "4");
    svg.append(rect);
    item.append(svg);
  }
  item.append(made("ul", { class: "figures" }, ...figures.map((figure) => made("li", {}, figure))));
  if (caption) item.append(made("p", { class: "caption", title: caption }, made("bdi", {}, caption)));
  return item;
}

function example(image, place) {
  const right = image.predicted === image.label, id = `image-${place}`;
  const verdict = right ? "right" : "wrong", before = image.without === image.label ? "right" : "wrong";
  const said = `${verdict}: ${head} says ${classes[image.predicted]}, ${percent(image.probability)}`;
  const without =
    image.without < 0 ? null : `${before} without memory: ${baseline} says ${classes[image.without]}`;
  const parts = [image.near.filter((near) => near[5] !== 0), image.near.filter((near) => near[5] === 0)];
  const named = titles(image, parts[0].length, parts[1].length);
  const names = named.length === 1 ? ["nearest"] : ["kept", "filtered"];
  const largest = Math.max(0, ...image.near.map((near) => near[3] ?? 0));
  const lists = names.map((name, part) => !parts[part].length && name === "nearest" ? null : made("div", { class: name },
    made("h4", {}, named[part]), made("ol", {}, ...parts[part].map((near) => neighbor(near, largest)))));
  return made("article", { class: "example", "aria-labelledby": id },
    made("div", { class: "query" }, picture(image.picture, "test image"), made("div", {},
      made("h3", { id }, made("bdi", {}, classes[image.label])),
      made("p", { class: `verdict ${verdict}` },
        made("span", { "aria-hidden": "true" }, right ? "✓" : "✗"), " ", made("bdi", {}, said)),
      without === null ? null : made("p", { class: "without" }, made("bdi", {}, without)),
      made("p", { class: "faint" }, made("bdi", {}, image.name)))),
    made("div", { class: "lists" }, ...lists));
}

// The address after #, as `show=fixed&class=3&page=2`; what it does not name, or names wrongly, is as at first.
function wanted() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = [...form.elements.show].map((radio) => radio.value);
  const label = given.get("class") ?? "";
  return {
    show: known.includes(given.get("show")) ? given.get("show") : "all",
    label: [...form.elements.class.options].some((option) => option.value === label) ? label : "",
    page: Math.max(1, Math.floor(Number(given.get("page"))) || 1),
  };
}

function go(changes) {
  const { show, label, page } = { ...wanted(), page: 1, ...changes };
  const address = new URLSearchParams({ show });
  if (label !== "") address.set("class", label);
  if (page > 1) address.set("page", page);
  location.hash = address;
}

function draw() {
  const { show, label, page } = wanted();
  for (const radio of form.elements.show) radio.checked = radio.value === show;
  form.elements.class.value = label;
  const found = images.map((image, place) => [image, place])
    .filter(([image]) => KINDS[show](image) && (label === "" || image.label === Number(label)));
  const pages = Math.max(1, Math.ceil(found.length / PAGE)), at = Math.min(page, pages), first = (at - 1) * PAGE;
  const some = found.slice(first, first + PAGE);
  rows.replaceChildren(...some.map(([image, place]) => example(image, place)));
  state.textContent = found.length < 2 ? `${found.length || "No"} test image` :
    `${number(first + 1)} to ${number(first + some.length)} of ${number(found.length)} test images`;
  document.getElementById("place").textContent = `Page ${number(at)} of ${number(pages)}`;
  for (const [id, to] of [["before", at - 1], ["next", at + 1]]) {
    const button = document.getElementById(id);
    button.disabled = to < 1 || to > pages;
    button.onclick = () => { turned = true; go({ page: to }); };
  }
  turn.hidden = pages < 2;
}

let turned = false;
form.addEventListener("change", (event) => {
  go(event.target.name === "show" ? { show: event.target.value } : { label: event.target.value });
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => {
  draw();
  // Who turns a page goes on reading at its top; who filters stays at the filter and is told what it found.
  if (turned) state.focus();
  else say(state.textContent);
  turned = false;
});
form.hidden = false;
draw();
