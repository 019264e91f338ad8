/* Draws the curves of a report, in the colours of the page, and again where those change. */
(function () {
  "use strict";
  const LIGHT = {
    text: "#1f2328", line: "#d0d7de", back: "#ffffff",
    colours: ["#0b5cbf", "#b42318", "#1a7f37", "#7a35d6", "#8a5a00", "#00727c", "#b0307a", "#57606a"],
  };
  const DARK = {
    text: "#e6edf3", line: "#343c46", back: "#0d1117",
    colours: ["#6cb6ff", "#ff8f8f", "#5fd38d", "#c7a9ff", "#e3b341", "#4fd6e0", "#ff9bce", "#adbac7"],
  };
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const SYMBOLS = ["circle", "square", "diamond", "cross", "x"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawings = JSON.parse(document.getElementById("drawings").textContent);

  // plotly reads a few tags in names.
  function plain(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function isNarrow() {
    return document.documentElement.clientWidth < 560;
  }

  function traces(drawing, theme) {
    const count = theme.colours.length;
    if (drawing.bars) {
      return drawing.bars.map((bar) => ({
        type: "bar", orientation: "h", name: bar.name, x: bar.x, y: bar.y.map(plain),
        marker: { color: theme.colours[bar.run % count], pattern: { shape: bar.run ? "/" : "" } },
        hovertemplate: "%{y}: %{x:.2f} GiB " + bar.name + "<extra></extra>",
      }));
    }
    return drawing.curves.map((curve) => ({
      type: "scatter", name: isNarrow() ? plain(curve.name).replace(", ", ",<br>") : plain(curve.name), x: curve.x, y: curve.y, connectgaps: false,
      mode: curve.dots ? "lines+markers" : "lines",
      line: { color: theme.colours[curve.run % count], dash: DASHES[curve.run % DASHES.length], width: curve.x.length > 400 ? 1.3 : 2 },
      marker: { color: theme.colours[curve.run % count], symbol: SYMBOLS[curve.run % SYMBOLS.length], size: 7 },
    }));
  }

  // A constant curve would get an axis from one below it to one above.
  function range(drawing) {
    const all = drawing.bars ? [] : drawing.curves.flatMap((curve) => curve.y).filter((y) => y !== null);
    const isConstant = all.length > 0 && all.every((y) => y === all[0]);
    return isConstant && all[0] !== 0 ? { range: [0, 2 * all[0]].sort((a, b) => a - b) } : {};
  }

  function height(drawing) {
    const lines = isNarrow() ? drawing.curves?.filter((curve) => curve.name.includes(", ")).length : 0;
    const names = drawing.bars ? drawing.bars[0].y.length + 1 : drawing.curves.length + lines;
    return (drawing.bars ? 120 : 300) + (drawing.bars ? 56 : 20) * names + "px";
  }

  function layout(drawing, theme) {
    const axis = { gridcolor: theme.line, zerolinecolor: theme.line, linecolor: theme.line, automargin: true };
    const bars = Boolean(drawing.bars);
    return {
      paper_bgcolor: theme.back, plot_bgcolor: theme.back,
      font: { color: theme.text, family: "system-ui, sans-serif", size: 12 },
      margin: { l: 48, r: 12, t: bars ? 32 : 8, b: 40 },
      barmode: "group",
      hovermode: bars || drawing.curves.length > 6 ? "closest" : "x unified",
      hoverlabel: { bgcolor: theme.back, bordercolor: theme.line, font: { color: theme.text } },
      showlegend: bars || drawing.curves.length > 1,
      legend: { orientation: "h", x: 0, ...(bars ? { y: 1, yanchor: "bottom" } : { y: -0.24, yanchor: "top" }), bgcolor: theme.back },
      xaxis: bars
        ? { ...axis, title: { text: "GiB", standoff: 4 }, rangemode: "tozero" }
        : { ...axis, title: { text: "step", standoff: 4 }, tickformat: ",~r", hoverformat: ",~r" },
      yaxis: bars ? axis : { ...axis, ...range(drawing), tickformat: drawing.format, hoverformat: ".5~g" },
      modebar: { bgcolor: theme.back, color: theme.text, activecolor: theme.colours[0] },
    };
  }

  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    // Named one by one: plotly adds a button that sends the data to its own site.
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };

  // A screen reader gets the chart's words and its table; the drawing would be a heap of numbers. Its buttons stay.
  function describe(plot) {
    plot.querySelectorAll(".main-svg").forEach((each) => { each.setAttribute("aria-hidden", "true"); });
    plot.querySelectorAll(".modebar-btn").forEach((each) => { each.setAttribute("aria-label", each.dataset.title); });
  }

  function draw(theme) {
    for (const drawing of drawings) {
      const plot = document.getElementById("plot-" + drawing.name);
      if (plot.data) {
        const now = traces(drawing, theme);
        plot.data.forEach((trace, n) => { if (trace.visible) { now[n].visible = trace.visible; } });
        window.Plotly.react(plot, now, layout(drawing, theme), config);
      } else {
        plot.style.height = height(drawing);
        window.Plotly.newPlot(plot, traces(drawing, theme), layout(drawing, theme), config);
      }
      describe(plot);
    }
  }

  function theme() {
    return dark.matches ? DARK : LIGHT;
  }

  let opened = [];
  function resize() {
    for (const drawing of drawings) { window.Plotly.Plots.resize("plot-" + drawing.name); }
  }
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.print:not([open])")];
    opened.forEach((each) => { each.open = true; });
    draw(LIGHT);
    resize();
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((each) => { each.open = false; });
    draw(theme());
    resize();
  });
  dark.addEventListener("change", () => draw(theme()));
  draw(theme());
})();
