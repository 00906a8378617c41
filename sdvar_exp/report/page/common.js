"use strict";
// Shared by the parts of the page: data, pictures by key, and which cell is chosen.
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const CELLS = new Map(DATA.cells.map((cell) => [cell.id, cell]));
const BLOCKS = new Map([...document.querySelectorAll("script[data-picture]")].map((node) => [node.dataset.picture, node]));
const URLS = new Map();

// A short address of an inlined picture, decoded once; null where the page has none of that key.
function picture(key) {
  const block = BLOCKS.get(key);
  if (!block) return null;
  if (!URLS.has(key)) {
    const [head, body] = block.textContent.split(",", 2);
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    URLS.set(key, URL.createObjectURL(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) })));
  }
  return URLS.get(key);
}

function shown(value, digits) {
  if (value === null || value === undefined || value === "") return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 0.5 * 10 ** -digits ? value.toFixed(digits) : value.toExponential(0);
}

// The class that a label stands for, with the label; the label alone where the study does not name it.
const named = (label) => (DATA.classes[label] ? `${DATA.classes[label]} (${label})` : String(label));
const labelled = (label) => (DATA.classes[label] ? named(label) : `label ${label}`);

function facts(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    box.append(term, text);
    return box;
  }));
}

// Parts of the page that follow the chosen cell.
const FOLLOWERS = [];
function choose(id) {
  for (const follow of FOLLOWERS) follow(id);
}
