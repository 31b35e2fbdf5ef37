"use strict";
// Reading: data files, which are scripts that call anything3d(), and bytes of tars.

const A3D = { waiting: new Map(), loaded: new Map(), tars: new Map() };

function anything3d(content) {
  A3D.waiting.get(document.currentScript.dataset.path)?.(content);
}

// What a data file holds. A file is read once; a page that was opened from the disk can read it, too.
A3D.load = (path) => {
  if (!A3D.loaded.has(path)) {
    A3D.loaded.set(path, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      A3D.waiting.set(path, resolve);
      script.dataset.path = path;
      script.src = A3D.address(path);
      script.onload = () => script.remove();
      script.onerror = () => {
        A3D.loaded.delete(path);
        script.remove();
        reject(new Error(`${path} cannot be read`));
      };
      document.head.append(script);
    }));
  }
  return A3D.loaded.get(path);
};

// Names of shards may have any sign.
A3D.address = (path) => path.split("/").map(encodeURIComponent).join("/");

A3D.fromDisk = location.protocol === "file:";

// Some bytes of a tar. From the disk, only a tar that the reader has chosen can be read.
A3D.bytes = async (tar, offset, size) => {
  if (A3D.fromDisk) {
    const chosen = A3D.tars.get(tar);
    return chosen ? chosen.slice(offset, offset + size).arrayBuffer() : null;
  }
  const answer = await fetch(A3D.address(tar), { headers: { Range: `bytes=${offset}-${offset + size - 1}` } });
  if (answer.status !== 206) throw new Error(`${tar}: the server answers ${answer.status} to a request for some bytes`);
  return answer.arrayBuffer();
};

// What filters and sorts need of the objects of a shard.
A3D.index = (shard) => A3D.load(shard.files.objects);

// The near-duplicates: object -> [the earlier object, cosine]. There are none if nobody has looked for them.
A3D.marks = async () =>
  new Map(A3D.catalogue.duplicates === null ? [] : Object.entries(await A3D.load("gallery/duplicates.js")));

// Which of these files has the object at a place, and the object's place in it.
A3D.fileOf = (files, place) => {
  for (const [count, name] of files) {
    if (place < count) return [name, place];
    place -= count;
  }
  throw new RangeError("no file has this object");
};

// Where the small pictures of an object are: the address of the sheet, and the object's place in it.
A3D.sheetOf = (shard, files, place) => {
  const [name, within] = A3D.fileOf(files, place);
  return [A3D.address(`gallery/${shard.name}/${name}`), within];
};

// All columns of an object.
A3D.row = async (shard, place) => {
  const index = await A3D.index(shard);
  const [name, within] = A3D.fileOf(index.pages, place);
  const page = await A3D.load(`gallery/${shard.name}/${name}`);
  const own = Object.entries(page.columns).map(([column, values]) => [column, values[within]]);
  return { ...page.same, ...Object.fromEntries(own) };
};

// An element with properties and children. Text is text: nothing is read as HTML.
A3D.make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
};

A3D.number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));
A3D.count = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
