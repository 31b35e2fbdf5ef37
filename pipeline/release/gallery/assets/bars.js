"use strict";
// Histograms of scores. A drag over the bars, or the two fields below them, limits the score.

A3D.BARS = 40;

A3D.drawingBars = 0;

// The histograms are of all objects of the shown shards; they are drawn when they are unfolded.
A3D.drawBars = async (state) => {
  const turn = ++A3D.drawingBars;
  if (!A3D.by("scores").open && !Object.keys(A3D.limits(state)).length) return;
  A3D.by("scores").open = true;
  const indices = await A3D.readAll(A3D.shown(state), () => turn === A3D.drawingBars);
  if (indices === null || turn !== A3D.drawingBars) return;
  const key = A3D.link({ page: "1", object: "", at: "", text: "", sort: "", order: "down", quality: "" });
  if (A3D.by("bars").dataset.key === key) return;
  A3D.by("bars").dataset.key = key;
  const limits = A3D.limits(state);
  const drawn = A3D.catalogue.numbers.map((name) => A3D.histogram(name, indices, limits[name])).filter(Boolean);
  A3D.by("bars").replaceChildren(...drawn);
};

// The counts of a column's values in BARS equal steps; null if there are no two different values.
A3D.counts = (name, indices) => {
  let [least, most] = [Infinity, -Infinity];
  for (const { numbers } of indices) {
    for (const value of numbers[name] ?? []) {
      if (value === null) continue;
      if (value < least) least = value;
      if (value > most) most = value;
    }
  }
  if (!(least < most)) return null;
  const counts = new Array(A3D.BARS).fill(0);
  for (const { numbers } of indices) {
    for (const value of numbers[name] ?? []) {
      if (value !== null) counts[Math.min(A3D.BARS - 1, Math.floor(((value - least) / (most - least)) * A3D.BARS))]++;
    }
  }
  return { least, most, counts };
};

A3D.histogram = (name, indices, limits) => {
  const known = A3D.counts(name, indices);
  if (known === null) return null;
  const { least, most, counts } = known;
  const [low, high] = limits ?? [-Infinity, Infinity];
  const highest = Math.max(...counts);
  const step = (most - least) / A3D.BARS;
  const bars = counts.map((count, number) => {
    const from = least + number * step;
    const bar = A3D.make("span", { className: from + step >= low && from <= high ? "in" : "" });
    bar.style.height = count ? `${Math.max(2, (100 * count) / highest)}%` : "0";
    return bar;
  });
  const drawing = A3D.make("div", { className: "histogram", role: "img",
    "aria-label": `${name} of the objects, from ${A3D.number(least)} to ${A3D.number(most)}` }, ...bars);
  A3D.brush(drawing, bars, (first, last) => A3D.limit(name, least + first * step, least + (last + 1) * step));
  const fields = [["min", low, least], ["max", high, most]].map(([side, value, end]) => {
    const field = A3D.make("input", { type: "number", step: "any", placeholder: A3D.number(end),
      value: Number.isFinite(value) ? A3D.number(value) : "", "aria-label": `${name}, ${side === "min" ? "least" : "most"}` });
    field.addEventListener("change", () => A3D.go({ [`${side}.${name}`]: field.value }));
    return field;
  });
  const clear = A3D.make("button", { type: "button", disabled: !limits, "aria-label": `No limits of ${name}` }, "All");
  clear.addEventListener("click", () => A3D.go({ [`min.${name}`]: "", [`max.${name}`]: "" }));
  return A3D.make("figure", {}, A3D.make("figcaption", { title: A3D.catalogue.columns[name] ?? "" }, name), drawing,
    A3D.make("div", { className: "limits" }, ...fields, clear));
};

A3D.limit = (name, least, most) =>
  A3D.go({ [`min.${name}`]: String(Number(least.toPrecision(4))), [`max.${name}`]: String(Number(most.toPrecision(4))) });

// A drag from one bar to another.
A3D.brush = (drawing, bars, then) => {
  let first = null;
  const at = (event) => {
    const { left, width } = drawing.getBoundingClientRect();
    return Math.max(0, Math.min(bars.length - 1, Math.floor(((event.clientX - left) / width) * bars.length)));
  };
  const mark = (event) => {
    const [low, high] = [Math.min(first, at(event)), Math.max(first, at(event))];
    bars.forEach((bar, number) => { bar.className = number >= low && number <= high ? "in" : ""; });
    return [low, high];
  };
  drawing.addEventListener("pointerdown", (event) => {
    first = at(event);
    drawing.setPointerCapture(event.pointerId);
    mark(event);
  });
  drawing.addEventListener("pointermove", (event) => { if (first !== null) mark(event); });
  drawing.addEventListener("pointerup", (event) => {
    if (first === null) return;
    const [low, high] = mark(event);
    first = null;
    then(low, high);
  });
  drawing.addEventListener("pointercancel", () => { first = null; });
};
