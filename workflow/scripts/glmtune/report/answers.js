// The browser of all answers.
const AT_ONCE = 10;
const LONGEST = 600;  // characters whose differences are marked; longer texts would take seconds
const WORDS = {
  en: { reference: "reference", found: (shown, count) => `${count} rows, ${shown} shown`, row: number => `Row ${number}`, link: "Link" },
  zh: { reference: "参考答案", found: (shown, count) => `${count} 行，显示 ${shown} 行`, row: number => `第 ${number} 行`, link: "链接" },
};
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

// Which characters of a text are in a longest common subsequence with another one.
function common(text, other) {
  const [a, b] = [[...text], [...other]], wide = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      lengths[i * wide + j] = a[i] === b[j] ? lengths[(i + 1) * wide + j + 1] + 1
        : Math.max(lengths[(i + 1) * wide + j], lengths[i * wide + j + 1]);
  const kept = new Array(a.length).fill(false);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { kept[i] = true; i += 1; j += 1; }
    else if (lengths[(i + 1) * wide + j] >= lengths[i * wide + j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}
function marked(text, other) {
  if (other === null || text.length > LONGEST || other.length > LONGEST) return [text];
  const kept = common(text, other), parts = [];
  [...text].forEach((character, index) => {
    if (parts.length && parts.at(-1).kept === kept[index]) parts.at(-1).text += character;
    else parts.push({ kept: kept[index], text: character });
  });
  return parts.map(part => part.kept ? part.text : make("mark", { textContent: part.text }));
}
const inChinese = text => /[\u3400-\u9fff]/.test(text) ? "zh" : "";

function answerBrowser({ scores, rows, runs }) {
  let shown = AT_ONCE, found = [];
  const untunedOf = run => runs.find(each => each.model === run.model && !each.is_trained);
  const chosen = () => runs[$("run").value];
  const scoreOf = (run, index) => run.scores[$("score").value][index];

  function matches() {
    const wanted = $("search").value.trim().toLowerCase();
    const [least, most] = [$("least"), $("most")].map(field => field.valueAsNumber);
    const has = text => text.toLowerCase().includes(wanted);
    return rows.map((_, index) => index).filter(index => {
      const value = scoreOf(chosen(), index);
      if (!Number.isNaN(least) && !(value >= least)) return false;
      if (!Number.isNaN(most) && !(value !== null && value <= most)) return false;
      return !wanted || has(rows[index].prompt) || has(rows[index].reference)
        || runs.some(run => !isHidden(run) && has(run.answers[index]));
    });
  }
  function ordered(indexes) {
    const order = $("order").value, run = chosen(), untuned = untunedOf(run);
    if (order === "row") return indexes;
    const gain = index => untuned ? scoreOf(run, index) - scoreOf(untuned, index) : 0;
    const key = { worst: index => scoreOf(run, index), best: index => -scoreOf(run, index), gain: index => -gain(index), drop: gain }[order];
    return [...indexes].sort((a, b) => key(a) - key(b));
  }
  function item(index) {
    const words = WORDS[language], { number, prompt, reference } = rows[index], list = make("dl");
    const add = (label, value, text, other, data = {}) => {
      const cells = [make("dt", { textContent: label }), make("dd", { className: "score", textContent: value }),
        make("dd", { className: "text", lang: inChinese(text) }, ...marked(text, other))];
      for (const cell of cells) Object.assign(cell.dataset, data);
      list.append(...cells);
    };
    add(words.reference, "", reference, null);
    for (const run of runs) {
      if (isHidden(run)) continue;
      const other = { reference, untuned: untunedOf(run)?.answers[index] ?? null, "": null }[$("marks").value];
      const value = scoreOf(run, index);
      add(`${run.model} / ${run.label[language]}`, value === null ? "–" : value.toFixed(2), run.answers[index], other,
        { model: run.model, method: run.method });
    }
    const link = make("a", { href: `#row-${number}`, textContent: words.row(number) });
    return make("li", { id: `row-${number}` }, make("h3", {}, link),
      make("p", { className: "text prompt", lang: inChinese(prompt), textContent: prompt }), list);
  }
  function show() {
    $("rows").replaceChildren(...found.slice(0, shown).map(item));
    $("found").textContent = WORDS[language].found(Math.min(shown, found.length), found.length);
    $("more").hidden = shown >= found.length;
    emphasize();
  }
  function search() { shown = AT_ONCE; found = ordered(matches()); show(); }
  // A link to a row shows it, whatever is searched for.
  function follow() {
    const number = Number(/^#row-(\d+)$/.exec(location.hash)?.[1]);
    const index = rows.findIndex(row => row.number === number);
    if (index < 0) return;
    if (!$(`row-${number}`)) {
      $("browser").querySelector("form").reset();
      found = ordered(matches());
      shown = Math.max(AT_ONCE, found.indexOf(index) + 1);
      show();
    }
    emphasize();
    $(`row-${number}`).scrollIntoView({ block: "start" });
  }
  function emphasize() {
    for (const row of all("#rows > li")) row.classList.toggle("here", location.hash === `#${row.id}`);
  }

  const form = $("browser").querySelector("form");
  form.onsubmit = event => event.preventDefault();
  form.oninput = search;
  $("more").onclick = () => { shown += AT_ONCE; show(); };
  addEventListener("hashchange", follow);
  listeners.push(search);
  $("browser").hidden = false;
  const tuned = runs.findIndex(run => run.is_trained);
  if (tuned >= 0) $("run").options[tuned].defaultSelected = true;
  search();
  follow();
}
if ($("packed")) unpack($("packed").textContent).then(answerBrowser);
