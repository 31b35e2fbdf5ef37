"use strict";
// The page of cards, and the controls above it.

A3D.PER_PAGE = 60;
A3D.CELL = 128; // pixels of a small picture in a sheet
A3D.ACROSS = 4; // objects in a row of a sheet: the photo and the mesh of each
A3D.by = (id) => document.getElementById(id);

// A small picture out of a sheet: cell `cell` of `across` in a row.
A3D.picture = (sheet, cell, across, name, times = 1) => {
  const side = A3D.CELL * times;
  const element = A3D.make("span", { className: "picture", role: "img", "aria-label": name });
  element.style.backgroundImage = `url("${sheet}")`;
  element.style.backgroundPosition = `${-(cell % across) * side}px ${-Math.floor(cell / across) * side}px`;
  element.style.backgroundSize = `${across * side}px auto`;
  element.style.width = element.style.height = `${side}px`;
  return element;
};

// The photo with the outlined mask, and the mesh at the same camera.
A3D.pictures = (shard, index, place, times = 1) => {
  const [sheet, within] = A3D.sheetOf(shard, index.sheets, place);
  return ["photo with the outlined mask", "mesh, seen as in the photo"].map((name, side) =>
    A3D.picture(sheet, 2 * within + side, 2 * A3D.ACROSS, name, times));
};

A3D.card = (shard, index, place, said, mark) => {
  const id = index.ids[place];
  const caption = index.captions[place];
  const tier = index.quality?.[place];
  const link = A3D.make("a", { href: A3D.link({ object: id, shard: A3D.state().shard, at: shard.name }) },
    A3D.make("span", { className: "pair" }, ...A3D.pictures(shard, index, place)),
    A3D.make("span", { className: "caption" }, caption || "no caption"),
    A3D.make("span", { className: "small" }, [id, tier && `quality ${tier}`, said,
      mark && `looks like ${mark[0]}, cosine ${mark[1]}`].filter(Boolean).join(" · ")));
  return A3D.make("li", {}, link);
};

A3D.drawing = 0;

// Draw the page of objects that the state asks for.
A3D.drawCards = async () => {
  const turn = ++A3D.drawing;
  const state = A3D.state();
  const page = Math.max(1, Math.floor(Number(state.page)) || 1);
  const start = (page - 1) * A3D.PER_PAGE;
  const tell = (done, all) => {
    if (turn === A3D.drawing && done < all) A3D.by("said").textContent = `Reading shard ${done} of ${all} ...`;
    return turn === A3D.drawing;
  };
  const found = A3D.isPlain(state) ? A3D.plain(state, start, A3D.PER_PAGE)
    : await A3D.filtered(state, start, A3D.PER_PAGE, tell);
  if (found === null) return;
  const indices = await Promise.all(found.rows.map(([shard]) => A3D.index(shard)));
  const marks = state.duplicates === "only" ? await A3D.marks() : new Map();
  if (turn !== A3D.drawing) return;
  A3D.by("cards").replaceChildren(...found.rows.map(([shard, place], at) =>
    A3D.card(shard, indices[at], place, A3D.sortedBy(state, found.keys[at]), marks.get(indices[at].ids[place]))));
  const last = Math.max(1, Math.ceil(found.total / A3D.PER_PAGE));
  A3D.by("page").value = page;
  A3D.by("page").max = last;
  A3D.by("of").textContent = `of ${last.toLocaleString("en")}`;
  A3D.by("before").disabled = page <= 1;
  A3D.by("after").disabled = page >= last;
  A3D.by("said").textContent = A3D.summary(state, found.total);
};

A3D.sortedBy = ({ sort }, value) => (!sort ? "" : Number.isNaN(value) ? `no ${sort}` : `${sort} ${A3D.number(value)}`);

A3D.summary = (state, total) => {
  const old = A3D.catalogue.shards.filter((shard) => !shard.files.objects);
  const left = old.length
    ? ` ${A3D.count(old.length, "shard")} with ${A3D.count(old.reduce((sum, one) => sum + one.objects, 0), "object")}`
      + " were published by a version without this gallery: run them again to see them."
    : "";
  return `${A3D.count(total, "object")}${A3D.isPlain(state) ? "" : ` of ${A3D.catalogue.shards
    .reduce((sum, shard) => sum + shard.objects, 0).toLocaleString("en")}`}.${left}`;
};

// Show the state in the controls, and let the controls change the state.
A3D.fillControls = () => {
  const { shards, numbers, duplicates } = A3D.catalogue;
  A3D.by("duplicates").parentElement.hidden = duplicates === null;
  A3D.by("shard").append(A3D.make("option", { value: "" }, "all"),
    ...shards.map((one) => A3D.make("option", { value: one.name }, one.name)));
  A3D.by("sort").append(A3D.make("option", { value: "" }, "place in the corpus"),
    ...numbers.map((name) => A3D.make("option", { value: name, title: A3D.catalogue.columns[name] ?? "" }, name)));
  let waiting;
  A3D.by("text").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => A3D.go({ text: event.target.value }, { quietly: true }), 200);
  });
  for (const id of ["shard", "duplicates", "sort", "order"]) {
    A3D.by(id).addEventListener("change", (event) => A3D.go({ [id]: event.target.value }));
  }
  A3D.by("filters").addEventListener("submit", (event) => event.preventDefault());
  A3D.by("reset").addEventListener("click", () => { location.hash = "#"; });
  A3D.by("before").addEventListener("click", () => A3D.go({ page: String(Number(A3D.by("page").value) - 1) }));
  A3D.by("after").addEventListener("click", () => A3D.go({ page: String(Number(A3D.by("page").value) + 1) }));
  A3D.by("page").addEventListener("change", (event) => A3D.go({ page: event.target.value }));
};

A3D.showControls = (state) => {
  if (document.activeElement !== A3D.by("text")) A3D.by("text").value = state.text;
  for (const id of ["shard", "duplicates", "sort", "order"]) A3D.by(id).value = state[id];
  A3D.by("order").disabled = !state.sort;
};

// The tiers, if the corpus has any: they are known when a shard has been read.
A3D.showTiers = (index) => {
  const field = A3D.by("quality");
  if (!index.quality || field.querySelector("input")) return;
  field.hidden = false;
  for (const tier of ["A", "B", "C"]) {
    const box = A3D.make("input", { type: "checkbox", value: tier });
    box.addEventListener("change", () => {
      const chosen = [...field.querySelectorAll("input:checked")].map((one) => one.value);
      A3D.go({ quality: chosen.length === 3 ? "" : chosen.join(",") });
    });
    field.append(A3D.make("label", {}, box, ` ${tier}`));
  }
};
