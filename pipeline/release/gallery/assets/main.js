"use strict";
// The page follows the fragment of its address.

A3D.show = async () => {
  const state = A3D.state();
  for (const name of ["objects", "rejects"]) {
    const isShown = state.tab === name;
    A3D.by(name).hidden = !isShown;
    A3D.by(`tab-${name}`).setAttribute("aria-selected", String(isShown));
    A3D.by(`tab-${name}`).tabIndex = isShown ? 0 : -1;
  }
  A3D.showControls(state);
  try {
    if (state.tab === "rejects") await A3D.drawRejects(state);
    else {
      const key = A3D.link({ object: "", at: "" });
      if (key !== A3D.drawn) await A3D.drawCards(state);
      A3D.drawn = key;
      await A3D.drawBars(state);
    }
    await A3D.openObject(state);
  } catch (error) {
    A3D.by("said").textContent = `${error.message}. The corpus may have changed: read this page again.`;
  }
};

A3D.start = async () => {
  A3D.catalogue = await A3D.load("gallery/catalogue.js");
  A3D.fillControls();
  const tabs = [A3D.by("tab-objects"), A3D.by("tab-rejects")];
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => A3D.go({ tab: tab.id.slice(4), object: "" }));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      tabs[1 - number].focus();
      tabs[1 - number].click();
    });
  });
  A3D.by("detail").addEventListener("close", () => {
    A3D.closeMesh();
    const { page } = A3D.state();
    if (A3D.state().object) A3D.go({ object: "", at: "", page });
  });
  A3D.by("scores").addEventListener("toggle", () => A3D.drawBars(A3D.state()));
  window.addEventListener("hashchange", A3D.show);
  const first = A3D.shown(A3D.state())[0];
  await A3D.show();
  if (first) A3D.showTiers(await A3D.index(first));
  document.body.dataset.ready = "yes";
};

A3D.start();
