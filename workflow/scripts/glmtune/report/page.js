"use strict";
// The furniture of the page: language, theme, what is hidden, sorting, copying, tips.
const $ = id => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);  // texts become text nodes, never HTML
  return element;
};
const memory = {  // a page from a file may be forbidden to remember
  get(key) { try { return localStorage.getItem(`glmtune-${key}`); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(`glmtune-${key}`, value); } catch { /* not remembered */ } },
};

let language = memory.get("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
const listeners = [];  // called when the language, or what is hidden, has changed
function speak() {
  document.documentElement.lang = language;
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  for (const element of all("[data-en]")) element.textContent = element.dataset[language];
  for (const element of all("[data-name-en]"))
    element.setAttribute("aria-label", element.getAttribute(`data-name-${language}`));
  for (const listener of listeners) listener();
}
$("language").onclick = () => {
  language = language === "zh" ? "en" : "zh";
  memory.set("language", language);
  speak();
};

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const isDark = theme ? theme === "dark" : prefersDark.matches;
  [$("theme").dataset.en, $("theme").dataset.zh] = isDark ? ["Light", "浅色"] : ["Dark", "深色"];
  $("theme").onclick = () => { memory.set("theme", isDark ? "light" : "dark"); paint(isDark ? "light" : "dark"); };
  $("theme").textContent = $("theme").dataset[language];
}

// --- what is hidden ---------------------------------------------------------------------------------
const hidden = { model: new Set(), method: new Set() };
function isHidden({ model, method }) { return hidden.model.has(model) || hidden.method.has(method); }
for (const box of all("[data-hides]")) {
  box.onchange = () => {
    hidden[box.dataset.hides][box.checked ? "delete" : "add"](box.value);
    for (const element of all("[data-model], [data-method]"))
      element.classList.toggle("off", isHidden(element.dataset));
    for (const listener of listeners) listener();
  };
}

// --- tables -----------------------------------------------------------------------------------------
const inWords = new Intl.Collator("zh", { numeric: true });
function sortBy(table, index, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => {
    if (!direction) return a.place - b.place;
    const [one, other] = [a.cells[index], b.cells[index]];
    const [x, y] = [one.dataset.value, other.dataset.value];
    if (x === undefined && y === undefined) return direction * inWords.compare(one.innerText, other.innerText);
    if (x === undefined || y === undefined) return x === undefined ? 1 : -1;  // without a value: last
    return direction * (x - y);
  });
  body.append(...rows);
}
for (const table of all("main table")) {
  [...table.tBodies[0].rows].forEach((row, place) => { row.place = place; });
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    if (!head.textContent || table.tBodies[0].rows.length < 2) return;
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    const order = head.classList.contains("number") ? ["descending", "ascending"] : ["ascending", "descending"];
    button.onclick = () => {
      const next = [...order, null][order.indexOf(head.getAttribute("aria-sort")) + 1];
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      sortBy(table, index, { ascending: 1, descending: -1 }[next] || 0);
    };
  });
}

// --- copying ----------------------------------------------------------------------------------------
async function copy(text) {
  try { await navigator.clipboard.writeText(text); return; } catch { /* no permission in a file */ }
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
for (const button of all(".code button")) {
  button.hidden = false;
  button.onclick = async () => {
    await copy(button.previousElementSibling.textContent);
    button.textContent = language === "zh" ? "已复制" : "Copied";
    setTimeout(() => { button.textContent = button.dataset[language]; }, 1500);
  };
}

// --- tips -------------------------------------------------------------------------------------------
function tip(text, event) {
  $("tip").hidden = !text;
  if (!text) return;
  $("tip").textContent = text;
  const { width, height } = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
  $("tip").style.top = `${Math.max(event.clientY - height - 10, 8)}px`;
}
for (const element of all("[data-tip]")) {
  element.onpointermove = event => tip(element.dataset.tip, event);
  element.onpointerleave = () => tip("");
}

// --- contents ---------------------------------------------------------------------------------------
const links = new Map(all("nav a").map(link => [link.hash.slice(1), link]));
const inView = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const link = links.get(entry.target.querySelector("h2")?.id);
    if (!link || !entry.isIntersecting) continue;
    for (const each of links.values()) each.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
for (const section of all("main > section")) inView.observe(section);
if (matchMedia("(max-width: 60rem)").matches) $("side").open = false;

// Everything is printed, also what is folded.
let folded = [];
addEventListener("beforeprint", () => { folded = all("main details:not([open])"); for (const each of folded) each.open = true; });
addEventListener("afterprint", () => { for (const each of folded) each.open = false; });

for (const element of all(".buttons, #shown, .zoom")) element.hidden = false;
paint(memory.get("theme"));
speak();
