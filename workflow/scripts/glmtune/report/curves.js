// Curves that a reader enlarges. A drawing of `curve_panel` in charts.py holds all it needs: its frame,
// the values at the frame's ends, and the values of each curve.
function curvePanel(group, zoom) {
  const [left, top, width, height] = group.dataset.frame.split(" ").map(Number);
  const whole = group.dataset.domain.split(" ").map(Number);
  const svg = name => document.createElementNS(group.namespaceURI, name);
  const lines = all("polyline", group).map(line => ({
    line, points: line.dataset.xy.split(" ").map(pair => pair.split(",").map(Number)),
  }));
  let domain = whole;
  const isLog = () => zoom.querySelector("input").checked;
  const spread = value => isLog() ? Math.log10(Math.max(value, Number.MIN_VALUE)) : value;
  const x = value => width * (value - domain[0]) / (domain[1] - domain[0]);
  const y = value => height * (spread(domain[3]) - spread(value)) / (spread(domain[3]) - spread(domain[2]));
  const valueAt = (px, py) => {
    const up = spread(domain[3]) - (spread(domain[3]) - spread(domain[2])) * py / height;
    return [domain[0] + (domain[1] - domain[0]) * px / width, isLog() ? 10 ** up : up];
  };

  function ticks(low, high, count) {
    const rough = 0.7 * (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(size => size * power).find(size => size >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at <= Math.floor(high / step + 1e-9); at += 1) found.push(at * step);
    return found;
  }
  function axis(name, values, place) {
    group.querySelector(`.${name}.axis`).replaceChildren(...values.flatMap(value => {
      const line = svg("line"), text = svg("text"), at = place(value);
      const ends = name === "x" ? { x1: at, x2: at, y1: top, y2: top + height } : { x1: left, x2: left + width, y1: at, y2: at };
      const spot = name === "x" ? { x: at, y: top + height + 15, "text-anchor": "middle" } : { x: left - 6, y: at + 4, "text-anchor": "end" };
      for (const [key, each] of Object.entries(ends)) line.setAttribute(key, each);
      for (const [key, each] of Object.entries(spot)) text.setAttribute(key, each);
      text.textContent = String(Number(value.toPrecision(4)));
      return [line, text];
    }));
  }
  function draw() {
    for (const { line, points } of lines)
      line.setAttribute("points", (points.length > 1 ? points : [...points, ...points]).map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "));
    axis("x", ticks(domain[0], domain[1], 4), value => left + x(value));
    axis("y", ticks(domain[2], domain[3], 4).filter(value => !isLog() || value > 0), value => top + y(value));
  }
  function show(wanted) { domain = wanted; draw(); }

  // The pointer, in the units of the drawing.
  const at = event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(group.getScreenCTM().inverse());
    return [Math.min(Math.max(point.x - left, 0), width), Math.min(Math.max(point.y - top, 0), height)];
  };
  const hit = svg("rect"), drag = svg("rect");
  const place = (rect, a, b, c, d) => Object.entries({ x: a, y: b, width: c, height: d }).forEach(([k, v]) => rect.setAttribute(k, v));
  hit.classList.add("hit");
  drag.classList.add("drag");
  place(hit, left, top, width, height);
  group.append(drag, hit);
  let start = null;
  hit.onpointerdown = event => { start = at(event); if (event.pointerType === "mouse") hit.setPointerCapture(event.pointerId); };
  hit.onpointermove = event => {
    const [px, py] = at(event);
    if (start) place(drag, left + Math.min(start[0], px), top, Math.abs(px - start[0]), height);
    let best = null;
    for (const { line, points } of lines) {
      if (line.classList.contains("off")) continue;
      for (const [a, b] of points) {
        const distance = Math.hypot(x(a) - px, y(b) - py);
        if (distance < 24 && (!best || distance < best.distance)) best = { distance, text: `${line.dataset.name}: ${a}, ${b}` };
      }
    }
    tip(best?.text, event);
  };
  hit.onpointerup = event => {
    const [px] = at(event);
    const ends = start && [start[0], px].sort((a, b) => a - b).map(each => valueAt(each, 0)[0]);
    start = null;
    place(drag, 0, 0, 0, 0);
    if (ends && x(ends[1]) - x(ends[0]) > 8) narrow(ends);
  };
  hit.onpointercancel = () => { start = null; place(drag, 0, 0, 0, 0); };
  hit.onpointerleave = () => tip("");
  // The steps between two ends, and as much of the values as the curves have there.
  function narrow([low, high]) {
    const values = lines.flatMap(({ line, points }) => line.classList.contains("off") ? []
      : points.filter(([a]) => a >= low && a <= high).map(([, b]) => b));
    if (!values.length) return;
    const [least, most] = [Math.min(...values), Math.max(...values)], room = 0.06 * (most - least) || most / 10 || 1;
    show([low, high, least - room > 0 ? least - room : least, most + room]);
  }
  return { draw, narrow, reset: () => show(whole), get domain() { return domain; } };
}
const curvePanels = [];
for (const zoom of all(".zoom")) {
  const panels = all(".curves", zoom.parentElement).map(group => curvePanel(group, zoom));
  zoom.querySelector("input").onchange = () => panels.forEach(panel => panel.draw());
  const [later, reset] = all("button", zoom);  // for those without a mouse
  later.onclick = () => panels.forEach(panel => panel.narrow([(panel.domain[0] + panel.domain[1]) / 2, panel.domain[1]]));
  reset.onclick = () => panels.forEach(panel => panel.reset());
  all(".curves", zoom.parentElement).forEach((group, index) => { group.ondblclick = () => panels[index].reset(); });
  curvePanels.push(...panels);
}
