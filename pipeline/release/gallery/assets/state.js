"use strict";
// What is shown stands in the fragment of the address, so that it can be linked to.

A3D.DEFAULTS = { tab: "objects", text: "", shard: "", quality: "", duplicates: "", sort: "", order: "down", page: "1", object: "", at: "", cause: "" };

A3D.state = () => {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  return { ...A3D.DEFAULTS, ...given };
};

// The address of the page with some of it changed.
A3D.link = (changes) => {
  const state = { ...A3D.state(), ...changes };
  const told = Object.entries(state).filter(([name, value]) => value !== "" && value !== A3D.DEFAULTS[name]);
  return `#${new URLSearchParams(told)}`;
};

// Change what is shown. A new filter begins with the first page.
A3D.go = (changes, { quietly = false } = {}) => {
  const link = A3D.link({ page: "1", ...changes });
  if (quietly) history.replaceState(null, "", link);
  else location.hash = link;
  if (quietly) window.dispatchEvent(new HashChangeEvent("hashchange"));
};

// The limits of histograms: column -> [least, most], as `min.column` and `max.column` of the state.
A3D.limits = (state) => {
  const limits = {};
  for (const [name, value] of Object.entries(state)) {
    const [side, column] = [name.slice(0, 4), name.slice(4)];
    if (value === "" || !Number.isFinite(Number(value)) || !["min.", "max."].includes(side)) continue;
    limits[column] ??= [-Infinity, Infinity];
    limits[column][side === "min." ? 0 : 1] = Number(value);
  }
  return limits;
};
