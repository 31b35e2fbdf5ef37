"use strict";
// Which objects are shown, and in which order. Without a filter and a sort, no index of a shard is needed for that.

A3D.isPlain = (state) =>
  !state.text && !state.quality && !state.duplicates && !state.sort && !Object.keys(A3D.limits(state)).length;

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
  return { total: before, rows: found, keys: [] };
};

A3D.AT_ONCE = 32; // files that are read at the same time

// Read the index of every shard; `tell` hears how far it is, and ends it by false.
A3D.readAll = async (shards, tell) => {
  const indices = [];
  for (const shard of shards) {
    indices.push(A3D.index(shard));
    if (indices.length >= A3D.AT_ONCE) await indices.at(-A3D.AT_ONCE);
    if (!tell(indices.length, shards.length)) return null;
  }
  return Promise.all(indices);
};

// The same as `plain`, with filter and sort; `keys` are the values that were sorted by, NaN where there is none.
// null if the reader has changed the filter meanwhile.
A3D.filtered = async (state, start, size, tell) => {
  const shards = A3D.shown(state);
  const indices = await A3D.readAll(shards, tell);
  if (indices === null) return null;
  const marks = state.duplicates && A3D.catalogue.duplicates !== null ? await A3D.marks() : null;
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const tiers = state.quality ? state.quality.split(",") : null;
  const limits = Object.entries(A3D.limits(state));
  const [whose, places, keys] = [[], [], []]; // of each object that is left: number of its shard, place, value to sort by
  shards.forEach((shard, number) => {
    const index = indices[number];
    const sorted = state.sort ? index.numbers[state.sort] : null;
    const bounds = limits.map(([column, [least, most]]) => [index.numbers[column], least, most]);
    for (let place = 0; place < index.ids.length; place++) {
      if (tiers && !tiers.includes(index.quality?.[place] ?? "none")) continue;
      if (marks && marks.has(index.ids[place]) !== (state.duplicates === "only")) continue;
      if (!bounds.every(([values, least, most]) => A3D.within(values?.[place], least, most))) continue;
      if (words.length) {
        const text = `${index.captions[place]} ${index.ids[place]}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      whose.push(number);
      places.push(place);
      if (state.sort) keys.push(sorted?.[place] ?? NaN);
    }
  });
  const order = Uint32Array.from(whose, (_, at) => at);
  if (state.sort) A3D.sort(order, keys, state.order === "up" ? 1 : -1);
  const slice = [...order.subarray(start, start + size)];
  return {
    total: order.length,
    rows: slice.map((at) => [shards[whose[at]], places[at]]),
    keys: state.sort ? slice.map((at) => keys[at]) : [],
  };
};

// Numbers of objects by their values. Equal values stay in their order, and objects without a value come last.
A3D.sort = (order, keys, sign) => {
  const values = Float64Array.from(keys, (value) => (Number.isNaN(value) ? Infinity : sign * value));
  order.sort((a, b) => (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : a - b));
};

A3D.within = (value, least, most) => typeof value === "number" && value >= least && value <= most;
