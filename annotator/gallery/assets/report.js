"use strict";

// What the address says after #: class=NUMBER, opacity=PERCENT. Links to other pages of photos take it along.

const index = JSON.parse(document.getElementById("index").textContent);
const cards = [...document.querySelectorAll(".card")];
const buttons = [...document.querySelectorAll("#legend [data-class]")];
const slider = document.getElementById("opacity");
const masks = document.getElementById("masks");
const filter = document.getElementById("filter");
const large = document.getElementById("large");
const links = [...document.querySelectorAll(".pages a")];
const SVG = "http://www.w3.org/2000/svg";
let chosen = null; // number of a class, as text

function numberOf(card) {
  return Number(card.dataset.number);
}

function labelsOf(card) {
  return index.photos[numberOf(card)].labels;
}

// --- masks -----------------------------------------------------------------------------------------------------------

function setOpacity(percent) {
  slider.value = percent;
  slider.nextElementSibling.value = `${slider.value}%`;
  document.documentElement.style.setProperty("--opacity", slider.value / 100);
}

function showMasks(shown) {
  masks.setAttribute("aria-pressed", String(shown));
  document.body.classList.toggle("no-masks", !shown);
}

function element(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A table that maps one value of 0 to 255 to 1 and all others to 0.
function only(value) {
  return Array.from({ length: 256 }, (_, at) => Number(at === value)).join(" ");
}

// A filter that keeps pixels of exactly these colours as they are and makes all others faint gray.
function keeping(id, colors) {
  const steps = [];
  colors.forEach((color, at) => {
    const channels = [1, 3, 5].map((from) => parseInt(color.slice(from, from + 2), 16));
    const functions = ["R", "G", "B"].map((channel, which) =>
      element(`feFunc${channel}`, { type: "discrete", tableValues: only(channels[which]) }));
    steps.push(element("feComponentTransfer", { in: "SourceGraphic", result: `match${at}` }, ...functions));
    // opaque where all three match
    const values = "0 0 0 0 0  0 0 0 0 0  0 0 0 0 0  1 1 1 1 -3";
    steps.push(element("feColorMatrix", { in: `match${at}`, values, result: `mask${at}` }));
  });
  const union = element("feMerge", { result: "mask" }, ...colors.map((_, at) => element("feMergeNode", { in: `mask${at}` })));
  const gray = "0 0 0 0 0.5  0 0 0 0 0.5  0 0 0 0 0.5  0 0 0 0.3 0";
  return element("filter", { id, "color-interpolation-filters": "sRGB", x: 0, y: 0, width: 1, height: 1 },
    ...steps,
    union,
    element("feComposite", { in: "SourceGraphic", in2: "mask", operator: "in", result: "kept" }),
    element("feColorMatrix", { in: "SourceGraphic", values: gray, result: "faint" }),
    element("feMerge", {}, element("feMergeNode", { in: "faint" }), element("feMergeNode", { in: "kept" })));
}

// Shows those colours alone in a card's or the dialog's mask; null: all of them.
function isolate(stage, id, colors) {
  const mask = stage.querySelector(".mask");
  const painted = colors && [...new Set(colors)].filter(Boolean);
  document.getElementById(id)?.remove();
  mask.classList.toggle("alone", Boolean(painted));
  mask.style.filter = painted ? `url("#${id}")` : "";
  if (painted) document.getElementById("alone").append(keeping(id, painted));
}

function isolateClass(card, stage, id) {
  const colors = labelsOf(card).filter(([number]) => String(number) === chosen).map(([, color]) => color);
  isolate(stage, id, chosen === null ? null : colors);
}

function isolateLabel(card, stage, id, chip) {
  isolate(stage, id, [labelsOf(card)[chip.dataset.label][1]]);
}

function hovering(box, card, stage, id) {
  box.addEventListener("pointerover", (event) => {
    const chip = event.target.closest(".label");
    if (chip) isolateLabel(card(), stage(), id, chip);
  });
  box.addEventListener("pointerout", (event) => {
    if (event.target.closest(".label")) isolateClass(card(), stage(), id);
  });
}

// --- classes ---------------------------------------------------------------------------------------------------------

function choose(number) {
  chosen = number;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.class === chosen));
  for (const card of cards) {
    const labels = labelsOf(card);
    card.hidden = chosen !== null && !labels.some(([label]) => String(label) === chosen);
    if (!card.hidden) isolateClass(card, card, `alone-${numberOf(card)}`);
    for (const chip of card.querySelectorAll(".label")) {
      chip.classList.toggle("dim", chosen !== null && String(labels[chip.dataset.label][0]) !== chosen);
    }
  }
  sayFilter();
  remember();
}

function sayFilter() {
  filter.hidden = chosen === null;
  filter.replaceChildren();
  if (chosen === null) return;
  const found = index.classes[chosen];
  const text = document.createElement("span");
  if (found) {
    const name = document.createElement("bdi");
    const strong = document.createElement("b");
    strong.textContent = found.name;
    name.append(strong);
    const rest = found.pages > 1 ? `, ${found.photos.toLocaleString("en")} in the run, on ${found.pages.toLocaleString("en")} pages` : "";
    text.append(name, `: ${found.here} of ${cards.length} photos on this page${rest}`);
  } else {
    text.append("No photo on this page has that class.");
  }
  filter.append(text);
  for (const [key, label] of [["previous", "← Page before with it"], ["next", "Next page with it →"]]) {
    if (!found?.[key]) continue;
    const link = document.createElement("a");
    link.textContent = label;
    link.href = `${found[key]}${location.hash}`;
    link.dataset.carry = found[key];
    filter.append(link);
  }
  const clear = document.createElement("button");
  clear.type = "button";
  clear.textContent = "Show all";
  clear.addEventListener("click", () => choose(null));
  filter.append(clear);
}

// --- the address -----------------------------------------------------------------------------------------------------

function remember() {
  const parts = [];
  if (chosen !== null) parts.push(`class=${chosen}`);
  if (slider.value !== slider.defaultValue) parts.push(`opacity=${slider.value}`);
  const hash = parts.length ? `#${parts.join("&")}` : "";
  history.replaceState(null, "", hash || location.pathname);
  for (const link of links) link.href = link.getAttribute("href").split("#")[0] + hash;
  for (const link of filter.querySelectorAll("[data-carry]")) link.href = link.dataset.carry + hash;
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  const opacity = given.get("opacity");
  setOpacity(/^\d{1,3}$/.test(opacity) ? opacity : slider.defaultValue);
  const number = given.get("class");
  choose(/^\d+$/.test(number) ? number : null);
  if (chosen !== null) document.getElementById("photos").scrollIntoView();
}

// --- one photo, large ------------------------------------------------------------------------------------------------

let current = null;

function enlarge(card) {
  current = card;
  const stage = large.querySelector(".stage");
  stage.replaceChildren(...[...card.querySelector(".stage").children].map((child) => child.cloneNode(true)));
  large.querySelector(".path bdi").textContent = index.photos[numberOf(card)].path;
  const chips = [...card.querySelectorAll(".label")].map((chip) => chip.cloneNode(true));
  large.querySelector(".labels").replaceChildren(...chips);
  isolateClass(card, stage, "alone-large");
  if (!large.open) large.showModal();
}

function step(by) {
  const shown = cards.filter((card) => !card.hidden);
  const next = shown[shown.indexOf(current) + by];
  if (next) enlarge(next);
}

large.addEventListener("click", (event) => {
  const by = event.target.closest("[data-step]")?.dataset.step;
  if (event.target === large || by === "0") large.close();
  else if (by) step(Number(by));
});
large.addEventListener("close", () => current?.querySelector(".stage").focus());
hovering(large, () => current, () => large.querySelector(".stage"), "alone-large");

// --- hands -----------------------------------------------------------------------------------------------------------

for (const card of cards) {
  card.querySelector(".stage").addEventListener("click", () => enlarge(card));
  hovering(card, () => card, () => card, `alone-${numberOf(card)}`);
}
for (const button of buttons) {
  button.addEventListener("click", () => choose(button.dataset.class === chosen ? null : button.dataset.class));
}
slider.addEventListener("input", () => setOpacity(slider.value));
slider.addEventListener("change", remember);
masks.addEventListener("click", () => showMasks(masks.getAttribute("aria-pressed") === "false"));
document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const button of buttons) {
    button.parentElement.hidden = !button.textContent.toLowerCase().includes(wanted);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input") || event.ctrlKey || event.altKey || event.metaKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "m") showMasks(masks.getAttribute("aria-pressed") === "false");
  else if (by && large.open) step(by);
  else if (by) document.querySelector(`.pages a[rel="${by < 0 ? "prev" : "next"}"]`)?.click();
  else if (event.key === "Escape" && !large.open && chosen !== null) choose(null);
});
window.addEventListener("hashchange", () => {
  if (location.hash === "" || location.hash.includes("=")) recall(); // the link that skips to the photos has none
});
if (matchMedia("(max-width: 820px)").matches) document.getElementById("legend").open = false;
recall();
