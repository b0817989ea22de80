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

  const plain = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;

  const swatch = (trace, style) => {
    const mark = document.createElement("i");
    const lines = (trace.mode || "").startsWith("lines"); // bars and histograms have no mode
    const ink = resolve((lines ? trace.line : trace.marker).color, style);
    const symbols = [trace.marker && trace.marker.symbol].flat();
    if (symbols[0] === "star") {
      mark.className = "star";
      mark.textContent = "\u2605";
    } else if (lines) {
      mark.className = trace.line.dash === "dot" && !trace.legendgroup ? "line dot" : "line";
    } else {
      mark.style.background = ink;
    }
    mark.style.color = ink;
    return mark;
  };

  // Plotly's own legend would take half of a figure where there are many strategies on a phone.
  const legend = (place, figure, style) => {
    const named = figure.traces.filter((trace) => trace.name && trace.showlegend !== false);
    if (figure.layout.showlegend === false || named.length < 2) return;
    const before = place.previousElementSibling;
    const list = before && before.className === "legend" ? before : document.createElement("ul");
    list.className = "legend";
    list.replaceChildren(
      ...named.map((trace) => {
        const own = figure.traces.flatMap((other, index) =>
          other === trace || (trace.legendgroup && other.legendgroup === trace.legendgroup) ? [index] : [],
        );
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.append(swatch(trace, style), plain(trace.name));
        button.addEventListener("click", () => {
          const shown = button.getAttribute("aria-pressed") !== "true";
          button.setAttribute("aria-pressed", String(shown));
          Plotly.restyle(place, { visible: shown }, own);
        });
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
    place.before(list);
  };

  const draw = (place) => {
    const figure = figures.get(place.dataset.figure);
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--muted").trim();
    const layout = resolve(figure.layout, style);
    legend(place, figure, style);
    const heat = figure.traces.some((trace) => trace.type === "heatmap");
    Plotly.react(
      place,
      resolve(figure.traces, style),
      {
        margin: { l: 12, r: 14, t: 8, b: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: style.getPropertyValue("--font").trim(), size: 12, color: ink },
        hoverlabel: {
          bgcolor: style.getPropertyValue("--card").trim(),
          bordercolor: style.getPropertyValue("--line").trim(),
          font: { color: style.getPropertyValue("--ink").trim() },
          align: "left",
        },
        dragmode: false,
        ...layout,
        showlegend: false,
        xaxis: axis({ showgrid: !heat, ...layout.xaxis }, style),
        yaxis: axis({ showgrid: !heat, ...layout.yaxis }, style),
      },
      { displayModeBar: false, responsive: true, doubleClick: false },
    ).then(() => place.setAttribute("data-drawn", ""));
  };

  // Before the next frame is painted: Plotly's `responsive` lets a place shrink, but draws anew a tenth of a second
  // later, while charts stick out of their cards, and hears of the window alone.
  const fit = new ResizeObserver((entries) => {
    entries.forEach(({ target, contentRect }) => {
      const drawn = target._fullLayout;
      if (Math.abs(contentRect.width - drawn.width) >= 1 || Math.abs(contentRect.height - drawn.height) >= 1) {
        Plotly.relayout(target, { autosize: true });
      }
    });
  });

  const places = [...document.querySelectorAll("[data-figure]")];
  places.forEach(draw);
  places.forEach((place) => fit.observe(place));
  dark.addEventListener("change", () => places.forEach(draw));
})();
