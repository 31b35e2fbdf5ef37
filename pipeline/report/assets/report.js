
"use strict";
// The charts of the report. Their numbers stand in the page, in the tables and once more as JSON.
(() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  const counted = (value) => value.toLocaleString("en");
  const show = (id, ...drawn) => document.getElementById(id)?.replaceChildren(...drawn);
  // Colours that can be told apart by those who see no red, and on dark pages.
  const OUTCOMES = { done: "#4c8bf5", skipped: "#9aa0a6", failed: "#e8871e", crashed: "#b3261e" };

  // One bar for each row, its number behind it.
  const bars = (rows, words, label, name) => Plot.plot({
    ariaLabel: name, width: 900, height: 34 * rows.length + 40, marginLeft: 150, marginRight: 150,
    x: { label, grid: true, zero: true }, y: { label: null, domain: rows.map((row) => row[0]) },
    marks: [
      Plot.barX(rows, { x: (row) => row[1], y: (row) => row[0], fill: OUTCOMES.done, ariaLabel: (row) => `${row[0]}: ${words(row)}` }),
      Plot.text(rows, { x: (row) => row[1], y: (row) => row[0], text: words, textAnchor: "start", dx: 6 }),
      Plot.ruleX([0]),
    ],
  });

  const outcomes = () => {
    const steps = numbers.steps.filter((step) => step.items > 0);
    const parts = steps.flatMap((step) => Object.keys(OUTCOMES).map((kind) => ({ stage: step.stage, kind, count: step[kind], share: step[kind] / step.items })));
    const legend = make("p");
    legend.className = "legend";
    for (const [kind, color] of Object.entries(OUTCOMES)) {
      const entry = make("span", kind);
      const box = make("i");
      box.style.background = color;
      entry.prepend(box);
      legend.append(entry);
    }
    return [legend, Plot.plot({
      ariaLabel: "What became of the items of each stage", width: 900, height: 34 * steps.length + 40, marginLeft: 150, marginRight: 150,
      x: { label: "share of the items", percent: true, domain: [0, 100] }, y: { label: null, domain: steps.map((step) => step.stage) },
      color: { domain: Object.keys(OUTCOMES), range: Object.values(OUTCOMES) },
      marks: [
        Plot.barX(parts.filter((part) => part.count), { x: "share", y: "stage", fill: "kind", order: Object.keys(OUTCOMES),
          title: (part) => `${part.stage}: ${counted(part.count)} ${part.kind}` }),
        Plot.text(steps, { x: 1, y: "stage", text: (step) => `${counted(step.done)} of ${counted(step.items)} ${step.kind}`, textAnchor: "start", dx: 6 }),
      ],
    })];
  };

  // Where all values are equal, there is one bar around them.
  const histogram = ({ name, least, most, median, bars: counts }) => {
    const width = least < most ? (most - least) / counts.length : Math.abs(least) / 10 || 1;
    const start = least < most ? least : least - width / 2;
    const steps = counts.map((count, number) => ({ count, from: start + number * width, to: start + (number + 1) * width }));
    const figure = make("figure");
    figure.append(make("figcaption", name), Plot.plot({
      ariaLabel: `${name}: how it is spread`, width: 300, height: 130, marginLeft: 44, marginBottom: 28,
      x: { label: null, ticks: 4 }, y: { label: null, ticks: 3, grid: true },
      marks: [
        Plot.rectY(steps.filter((step) => step.count), { x1: "from", x2: "to", y: "count", fill: OUTCOMES.done, insetLeft: 0.5, insetRight: 0.5,
          title: (step) => `${counted(step.count)} from ${Number(step.from.toPrecision(4))} to ${Number(step.to.toPrecision(4))}` }),
        Plot.ruleX([median], { stroke: OUTCOMES.failed, strokeWidth: 2 }),
        Plot.ruleY([0]),
      ],
    }));
    return figure;
  };

  show("funnel", bars(numbers.funnel, (row) => counted(row[1]), "number", "What was left after each stage"));
  if (numbers.steps.some((step) => step.items > 0)) show("outcomes", ...outcomes());
  const seconds = numbers.steps.map((step) => [step.stage, step.seconds, step.seconds_per_input]);
  show("seconds", bars(seconds, (row) => `${Number(row[2].toPrecision(3))} s an input`, "seconds of actors", "Seconds of each stage"));
  show("distributions", ...numbers.distributions.map(histogram));
  document.body.dataset.ready = "";
})();
