"use strict";
// Reads values off the curves, hides runs, filters tables. Without it, all is shown.
for (const chart of document.querySelectorAll("svg.chart")) {
  const curves = JSON.parse(chart.dataset.curves);
  const said = chart.parentElement.querySelector("output");
  const pointer = document.createElementNS("http://www.w3.org/2000/svg", "line");
  pointer.setAttribute("class", "pointer");
  pointer.setAttribute("y1", 10);
  pointer.setAttribute("y2", 214);
  const isShown = curve => !document.querySelector(`input[data-run="${curve.number}"]:not(:checked)`);
  const nearest = (curve, across) => curve.at.reduce(
    (best, place, i) => Math.abs(place[0] - across) < Math.abs(curve.at[best][0] - across) ? i : best, 0);
  let at = null;
  const read = across => {
    const shown = curves.filter(isShown);
    if (!shown.length) { said.textContent = ""; return; }
    const told = shown.map(curve => {
      const [step, value] = curve.points[nearest(curve, across)];
      return (shown.length > 1 ? curve.run + ": " : "") + value.toPrecision(4) + " at step " + step.toLocaleString("en");
    });
    at = shown[0].at[nearest(shown[0], across)][0];
    pointer.setAttribute("x1", at);
    pointer.setAttribute("x2", at);
    chart.append(pointer);
    said.textContent = told.join(", ");
  };
  const clear = () => { said.textContent = ""; pointer.remove(); at = null; };
  chart.addEventListener("pointermove", event => {
    const box = chart.getBoundingClientRect();
    read((event.clientX - box.left) * 640 / box.width);
  });
  chart.addEventListener("pointerleave", clear);
  chart.addEventListener("blur", clear);
  chart.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    const shown = curves.filter(isShown);
    if (!by || !shown.length) return;
    event.preventDefault();
    const places = shown[0].at;
    const next = at === null ? (by > 0 ? 0 : places.length - 1) : nearest(shown[0], at) + by;
    read(places[Math.min(places.length - 1, Math.max(0, next))][0]);
  });
}
for (const box of document.querySelectorAll("input[data-run]")) {
  box.addEventListener("change", () => {
    const drawn = `.charts .run${box.dataset.run % 6}`;
    for (const one of document.querySelectorAll(drawn)) one.classList.toggle("hidden", !box.checked);
  });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of document.getElementById(field.dataset.filter).tBodies[0].rows)
      row.classList.toggle("hidden", !row.textContent.toLowerCase().includes(wanted));
  });
}
