"use strict";
// What was left out: how often each stage gave each reason, and examples.

A3D.REJECTS_SHOWN = 120;

// [stage, kind, reason, count] of the shards together, the most frequent first.
A3D.causes = (shards) => {
  const sums = new Map();
  for (const shard of shards) {
    for (const [stage, kind, reason, count] of shard.reasons) {
      const key = `${stage}/${kind}/${reason}`;
      sums.set(key, (sums.get(key) ?? 0) + count);
    }
  }
  return [...sums].map(([key, count]) => [...key.split("/"), count]).sort((a, b) => b[3] - a[3]);
};

A3D.drawingRejects = 0;

A3D.drawRejects = async (state) => {
  const turn = ++A3D.drawingRejects;
  const shards = A3D.catalogue.shards.filter((shard) => !state.shard || shard.name === state.shard);
  const causes = A3D.causes(shards);
  const total = causes.reduce((sum, cause) => sum + cause[3], 0);
  const choose = A3D.make("select", { id: "reject-shard" }, A3D.make("option", { value: "" }, "all"),
    ...A3D.catalogue.shards.map(({ name }) => A3D.make("option", { value: name }, name)));
  choose.value = state.shard;
  choose.addEventListener("change", () => A3D.go({ shard: choose.value }));
  const lines = causes.map(([stage, kind, reason, count]) => {
    const cause = `${stage}/${kind}/${reason}`;
    const link = A3D.make("a", { href: A3D.link({ cause: state.cause === cause ? "" : cause }) }, reason);
    if (state.cause === cause) link.setAttribute("aria-current", "true");
    const bar = A3D.make("span", { className: "share" });
    bar.style.width = `${Math.max(1, (100 * count) / causes[0][3])}%`;
    return A3D.make("tr", {}, A3D.make("td", {}, link), A3D.make("td", {}, stage), A3D.make("td", {}, kind),
      A3D.make("td", { className: "count" }, count.toLocaleString("en")), A3D.make("td", { className: "bar" }, bar));
  });
  const head = ["reason", "stage", "kind", "rejects", ""].map((name) => A3D.make("th", { scope: "col" }, name));
  const said = A3D.make("p", { role: "status", "aria-live": "polite", className: "small" }, "Reading examples ...");
  const list = A3D.make("ol", { className: "rejected", "aria-label": "Examples of rejects" });
  A3D.by("rejects").replaceChildren(A3D.make("label", { className: "small" }, "Shard ", choose),
    A3D.make("p", {}, `${A3D.count(total, "reject")}. Choose a reason to see its examples only.`),
    A3D.make("table", { className: "causes" }, A3D.make("thead", {}, A3D.make("tr", {}, ...head)),
      A3D.make("tbody", {}, ...lines)), said, list);
  const shown = await A3D.readExamples(shards, state.cause, () => turn === A3D.drawingRejects);
  if (shown === null) return;
  list.append(...shown.map(A3D.reject));
  const wanted = causes.filter((one) => !state.cause || one.slice(0, 3).join("/") === state.cause)
    .reduce((sum, one) => sum + one[3], 0);
  said.textContent = `${shown.length.toLocaleString("en")} examples of ${A3D.count(wanted, "reject")}. The gallery has up to `
    + `${A3D.catalogue.examples} of each reason and shard, and shows ${A3D.REJECTS_SHOWN}. rejects/*.parquet has all.`;
};

// Examples of a reason, or of all, shard by shard until there are enough: [shard, sheets, stage, kind, reason, example].
A3D.readExamples = async (shards, cause, isWanted) => {
  const found = [];
  for (const shard of shards) {
    const of = shard.reasons.some(([stage, kind, reason]) => !cause || `${stage}/${kind}/${reason}` === cause);
    if (!shard.files.rejects || !of) continue;
    const { causes, sheets } = await A3D.load(shard.files.rejects);
    if (!isWanted()) return null;
    for (const [stage, kind, reason, examples] of causes) {
      if (cause && `${stage}/${kind}/${reason}` !== cause) continue;
      found.push(...examples.map((example) => [shard, sheets, stage, kind, reason, example]));
    }
    if (found.length >= A3D.REJECTS_SHOWN) break;
  }
  return found.slice(0, A3D.REJECTS_SHOWN);
};

A3D.reject = ([shard, sheets, stage, kind, reason, [item, message, place]]) => {
  const words = A3D.make("div", {}, A3D.make("strong", {}, item),
    A3D.make("p", { className: "small" }, `${reason} (${stage}, ${kind}), shard ${shard.name}`),
    A3D.make("p", {}, message));
  if (place < 0) return A3D.make("li", {}, words);
  const [sheet, within] = A3D.sheetOf(shard, sheets, place);
  return A3D.make("li", {}, A3D.picture(sheet, within, A3D.ACROSS, "photo with the outlined mask"), words);
};
