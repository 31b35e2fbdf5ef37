"use strict";
// One object: its pictures, its mesh, and all columns.

A3D.FIRST = ["caption", "quality", "licence", "shard", "image_id", "photo_name", "mesh_psnr_db", "mesh_mask_iou",
  "mesh_clip_similarity", "reference_psnr_db", "reference_mask_iou", "clip_similarity"]; // columns that stand first
A3D.HIDDEN = /_offset$|_size$/; // where the files of an object lie; asset_tar says in which tar
A3D.ends = []; // what to do when the dialog closes

A3D.openObject = async (state) => {
  const dialog = A3D.by("detail");
  A3D.closeMesh();
  if (!state.object) {
    if (dialog.open) dialog.close();
    return;
  }
  const found = await A3D.whereIs(state);
  if (A3D.state().object !== state.object) return;
  dialog.replaceChildren(A3D.head(state.object));
  if (!dialog.open) dialog.showModal();
  if (!found) {
    dialog.append(A3D.make("p", {}, `The newest snapshot has no object ${state.object}.`));
    return;
  }
  const [shard, place] = found;
  const [index, row] = [await A3D.index(shard), await A3D.row(shard, place)];
  if (A3D.state().object !== state.object) return;
  const stage = A3D.make("div", { className: "mesh" });
  const pictures = A3D.make("div", { className: "views" });
  A3D.pictures(shard, index, place, 2).forEach((picture) => {
    pictures.append(A3D.make("figure", {}, picture, A3D.make("figcaption", {}, picture.getAttribute("aria-label"))));
  });
  dialog.append(A3D.make("p", { className: "caption" }, row.caption ?? ""), pictures, stage, A3D.table(row, shard));
  const mark = (await A3D.marks()).get(state.object);
  if (mark) pictures.before(A3D.make("p", {}, "Looks nearly like ",
    A3D.make("a", { href: A3D.link({ object: mark[0], at: "" }) }, mark[0]), `, cosine ${mark[1]}`));
  await A3D.showFiles(row, pictures, stage);
};

// The shard and the place of the object that a link names. `at` is its shard; without it, all shards are looked at.
A3D.whereIs = async ({ object, at }) => {
  const shards = A3D.catalogue.shards.filter((shard) => shard.files.objects);
  for (const shard of [...shards.filter((one) => one.name === at), ...shards.filter((one) => one.name !== at)]) {
    const place = (await A3D.index(shard)).ids.indexOf(object);
    if (place >= 0) return [shard, place];
  }
  return null;
};

A3D.head = (object) => {
  const close = A3D.make("button", { type: "button", "aria-label": "Close" }, "Close");
  close.addEventListener("click", () => A3D.by("detail").close());
  return A3D.make("header", {}, A3D.make("h2", { id: "detail-title" }, object), close);
};

// The turntable and the mesh, which lie in a tar.
A3D.showFiles = async (row, pictures, stage) => {
  const part = (name) => A3D.bytes(row.asset_tar, row[`${name}_offset`], row[`${name}_size`]);
  try {
    const turntable = await part("turntable_webp");
    if (turntable === null) {
      stage.replaceChildren(A3D.askForTar(row.asset_tar, () => A3D.showFiles(row, pictures, stage)));
      return;
    }
    const address = URL.createObjectURL(new Blob([turntable], { type: "image/webp" }));
    A3D.ends.push(() => URL.revokeObjectURL(address));
    pictures.append(A3D.make("figure", {},
      A3D.make("img", { src: address, alt: "the mesh from all round", width: 256, height: 256 }),
      A3D.make("figcaption", {}, "mesh, all round")));
    const open = A3D.make("button", { type: "button" }, `Show the mesh (${A3D.count(row.glb_size, "byte")})`);
    open.addEventListener("click", async () => {
      const canvas = A3D.make("canvas", { tabIndex: 0, role: "img",
        "aria-label": "The mesh. Arrow keys turn it, plus and minus change the distance." });
      stage.replaceChildren(canvas, A3D.make("p", { className: "small" },
        "Drag to turn, scroll to come closer. Arrow keys, + and - do the same."));
      canvas.focus();
      try {
        A3D.ends.push(await A3D.showMesh(canvas, await part("glb")));
        canvas.dataset.drawn = "yes";
      } catch (error) {
        stage.replaceChildren(A3D.make("p", { className: "note" }, `The mesh cannot be shown: ${error.message}`));
      }
    });
    stage.replaceChildren(open);
  } catch (error) {
    stage.replaceChildren(A3D.make("p", { className: "note" }, `The files cannot be read: ${error.message}`));
  }
};

// A page that was opened from the disk may read a file only if the reader chooses it.
A3D.askForTar = (tar, then) => {
  const choose = A3D.make("input", { type: "file", accept: ".tar", "aria-label": `The file ${tar}` });
  choose.addEventListener("change", () => {
    A3D.tars.set(tar, choose.files[0]);
    then();
  });
  return A3D.make("div", { className: "note" },
    A3D.make("p", {}, "The mesh and the turntable lie in a tar. This page was opened from the disk, where a browser "
      + "does not let a page read such a file. Run ", A3D.make("code", {}, "anything3d view CORPUS"),
      ", or choose the file ", A3D.make("code", {}, tar), " here:"), choose);
};

A3D.table = (row, shard) => {
  const names = [...A3D.FIRST.filter((name) => name in row), ...Object.keys(row).filter((name) =>
    !A3D.FIRST.includes(name) && !A3D.HIDDEN.test(name))];
  const lines = names.filter((name) => row[name] !== null && row[name] !== "").map((name) =>
    A3D.make("tr", {}, A3D.make("th", { scope: "row" }, name), A3D.make("td", {}, A3D.number(row[name])),
      A3D.make("td", {}, A3D.catalogue.columns[name] ?? "")));
  const { snapshot, digest, date, preset } = A3D.catalogue;
  lines.unshift(A3D.make("tr", {}, A3D.make("th", { scope: "row" }, "snapshot"),
    A3D.make("td", {}, `${snapshot} (${digest})`), A3D.make("td", {}, `${date}, preset ${preset || "not known"}`)));
  lines.unshift(A3D.make("tr", {}, A3D.make("th", { scope: "row" }, "location"),
    A3D.make("td", {}, shard.location), A3D.make("td", {}, "of the shard")));
  return A3D.make("table", {}, A3D.make("tbody", {}, ...lines));
};

A3D.closeMesh = () => {
  while (A3D.ends.length) A3D.ends.pop()();
};
