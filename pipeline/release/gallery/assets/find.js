"use strict";
// Which objects are shown, and in which order. Without a filter and a sort, no index of a shard is needed for that.

A3D.isPlain = (state) =>
  !state.text && !state.quality && !state.sort && !Object.keys(A3D.limits(state)).length;

// The shards that have files of the gallery; those of a filter.
A3D.shown = (state) =>
  A3D.catalogue.shards.filter((shard) => shard.files.objects && (!state.shard || shard.name === state.shard));

// The objects of a page without filter and sort: [shard, place] of each, and how many there are in all.
A3D.plain = (state, start, size) => {
  const found = [];
  let before = 0;
  for (const shard of A3D.shown(state)) {
    const first = Math.max(0, start - before);
    for (let place = first; place < shard.objects && found.length < size; place++) found.push([shard, place]);
    before += shard.objects;
  }
  return { total: before, rows: found };
};

// Read the index of every shard; `tell` hears how far it is, and ends it by false.
A3D.readAll = async (shards, tell) => {
  const indices = [];
  for (const shard of shards) {
    indices.push(A3D.index(shard));
    if (indices.length % 8 === 0) await indices.at(-8); // some at once, but not a thousand
    if (!tell(indices.length, shards.length)) return null;
  }
  return Promise.all(indices);
};

// The same as `plain`, with filter and sort. null if the reader has changed the filter meanwhile.
A3D.filtered = async (state, tell) => {
  const shards = A3D.shown(state);
  const indices = await A3D.readAll(shards, tell);
  if (indices === null) return null;
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const tiers = state.quality ? state.quality.split(",") : null;
  const limits = Object.entries(A3D.limits(state));
  const rows = [];
  const keys = [];
  shards.forEach((shard, number) => {
    const index = indices[number];
    const sorted = state.sort ? index.numbers[state.sort] : null;
    const bounds = limits.map(([column, [least, most]]) => [index.numbers[column], least, most]);
    for (let place = 0; place < index.ids.length; place++) {
      if (tiers && !tiers.includes(index.quality?.[place] ?? "none")) continue;
      if (!bounds.every(([values, least, most]) => A3D.within(values?.[place], least, most))) continue;
      if (words.length) {
        const text = `${index.captions[place]} ${index.ids[place]}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      rows.push([shard, place]);
      keys.push(sorted?.[place] ?? null);
    }
  });
  if (!state.sort) return { total: rows.length, rows };
  const sign = state.order === "up" ? 1 : -1;
  const order = Uint32Array.from(rows, (_, place) => place).sort((a, b) => {
    if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b; // null: last
    return sign * (keys[a] - keys[b]) || a - b;
  });
  return { total: rows.length, rows: Array.from(order, (place) => rows[place]), keys: Array.from(order, (at) => keys[at]) };
};

A3D.within = (value, least, most) => typeof value === "number" && value >= least && value <= most;
