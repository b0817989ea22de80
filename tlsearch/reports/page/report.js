"use strict";
// Draws each figure into its place, in the colours that the page has at the moment.
(() => {
  const figures = new Map(
    JSON.parse(document.getElementById("figures").textContent).map((figure) => [figure.name, figure]),
  );
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const resolve = (value, style) => {
    if (typeof value === "string") {
      if (value === "heat") {
        return [0, 0.35, 0.7, 1].map((stop, index) => [stop, style.getPropertyValue(`--heat${index}`).trim()]);
      }
      return /^--[a-z0-9]+$/.test(value) ? style.getPropertyValue(value).trim() : value;
    }
    if (Array.isArray(value)) return value.map((inner) => resolve(inner, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner, style)]));
    }
    return value;
  };

  const axis = (given, style) => ({
    gridcolor: style.getPropertyValue("--line").trim(),
    linecolor: style.getPropertyValue("--line").trim(),
    zeroline: false,
    ticks: "",
    automargin: true,
    fixedrange: true,
    ...given,
    title: { standoff: 10, font: { size: 12 }, ...(given || {}).title },
  });

  const draw = (place) => {
    const figure = figures.get(place.dataset.figure);
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--muted").trim();
    const layout = resolve(figure.layout, style);
    const heat = figure.traces.some((trace) => trace.type === "heatmap");
    Plotly.react(
      place,
      resolve(figure.traces, style),
      {
        margin: { l: 12, r: 14, t: 8, b: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: style.getPropertyValue("--font").trim(), size: 12, color: ink },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
        hoverlabel: {
          bgcolor: style.getPropertyValue("--card").trim(),
          bordercolor: style.getPropertyValue("--line").trim(),
          font: { color: style.getPropertyValue("--ink").trim() },
          align: "left",
        },
        dragmode: false,
        ...layout,
        xaxis: axis({ showgrid: !heat, ...layout.xaxis }, style),
        yaxis: axis({ showgrid: !heat, ...layout.yaxis }, style),
      },
      { displayModeBar: false, responsive: true, doubleClick: false },
    ).then(() => place.setAttribute("data-drawn", ""));
  };

  const places = [...document.querySelectorAll("[data-figure]")];
  places.forEach(draw);
  dark.addEventListener("change", () => places.forEach(draw));
})();
