// The page of a zoo: one table, one map and one page a model, drawn from the JSON in the block "data".
// Text from the catalog goes into text nodes and attributes of SVG shapes alone, never through a parser of HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // -- Words and numbers -----------------------------------------------------------------------------------------

  const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/gu; // control characters, and marks that turn text around
  const PLAIN = new Intl.NumberFormat("en");

  function plain(value, most = 300) {
    const whole = String(value), text = whole.length > most ? `${whole.slice(0, most - 1)}…` : whole;
    return text.replace(UNSEEN, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`);
  }

  // Names differ least in the middle.
  function short(value, most) {
    const text = plain(value), half = Math.floor((most - 1) / 2);
    return text.length > most ? `${text.slice(0, half)}…${text.slice(-half)}` : text;
  }

  function number(value) {
    if (value === null || value === undefined) return "";
    if (Number.isInteger(value)) return PLAIN.format(value);
    const size = Math.abs(value);
    return size >= 1e6 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  function bytes(value) {
    const power = value < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
    return `${Number((value / 1000 ** power).toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][power]}`;
  }

  const shown = (column, value) =>
    value === null ? "" : column.name === "num_bytes" ? bytes(value) : typeof value === "number" ? number(value) : plain(value, 120);

  function fill(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
    made.append(...children.filter((one) => one !== null));
    return made;
  }
  const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // -- The models ------------------------------------------------------------------------------------------------

  const columns = data.columns.map((column) => ({
    ...column,
    values: column.codes ? column.codes.map((code) => (code < 0 ? null : column.values[code])) : column.values,
  }));
  const columnOf = new Map(columns.map((column) => [column.name.toLowerCase(), column]));
  const ids = columnOf.get("id").values, names = columnOf.get("name").values;
  const count = names.length;
  const rowOfName = new Map(names.map((name, row) => [name, row])), rowOfId = new Map(ids.map((id, row) => [id, row]));
  const address = (row) => `#model=${ids[row]}`;
  const link = (row, most = 200) => html("a", { href: address(row), dir: "auto" }, short(names[row], most));

  let haystacks = null; // what a word is looked for in, made at the first search
  function haystack(row) {
    if (haystacks === null) {
      const texts = columns.filter((column) => column.type === "text");
      haystacks = names.map((_, at) => texts.map((column) => column.values[at] ?? "").join("\n").toLowerCase());
    }
    return haystacks[row];
  }

  // -- The filter: words, and conditions such as test_accuracy > 0.9 --------------------------------------------

  const CONDITION = /([\p{L}_][\p{L}\p{N}_.]*)\s*(>=|<=|!=|=|>|<|~)\s*("[^"]*"|[^\s,]+)/gu;
  const COMPARE = {
    ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b,
    "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  };

  function condition(column, sign, wanted) {
    const { values } = column;
    if (sign === "~") return (row) => values[row] !== null && String(values[row]).toLowerCase().includes(wanted);
    const compare = COMPARE[sign];
    if (column.type === "number") return (row) => (values[row] === null ? sign === "!=" : compare(values[row], Number(wanted)));
    return (row) => (values[row] === null ? sign === "!=" : compare(String(values[row]).toLowerCase(), wanted));
  }

  function parse(text) {
    const tests = [], notes = [];
    const rest = text.replace(CONDITION, (whole, name, sign, given) => {
      const column = columnOf.get(name.toLowerCase()), wanted = given.replace(/^"|"$/g, "").toLowerCase();
      if (!column) {
        notes.push(`there is no column '${plain(name, 40)}', so it is searched as text`);
        return whole;
      }
      if (column.type === "number" && sign !== "~" && (wanted === "" || Number.isNaN(Number(wanted)))) {
        notes.push(`'${plain(wanted, 40)}' is no number`);
        return " ";
      }
      tests.push(condition(column, sign, wanted));
      return " ";
    });
    const words = rest.toLowerCase().split(/[\s,]+/).filter((word) => word && word !== "and");
    if (words.length) tests.push((row) => words.every((word) => haystack(row).includes(word)));
    return { tests, notes };
  }

  // -- The table: only the rows in view are drawn ---------------------------------------------------------------

  const HEIGHT = 29, SPARE = 8, PRINTED = 1000;
  const metrics = columns.filter((column) => column.metric);
  const first = metrics[0] ?? null;
  const state = { rows: [], sort: first ?? columnOf.get("name"), down: first !== null && !/loss|error|perplexity/i.test(first.name), printing: false };
  const visible = new Set(columns.filter((column) => column.usual));
  const box = byId("box"), head = byId("head"), body = byId("body"), widths = byId("widths"), field = byId("filter");

  const wide = (column) => (column.name === "name" ? null : (column.type === "text" ? "7rem" : "6.4rem"));

  function drawHead() {
    const list = columns.filter((column) => visible.has(column));
    widths.replaceChildren(...list.map((column) => {
      const one = html("col");
      if (wide(column)) one.style.width = wide(column);
      return one;
    }));
    byId("models").style.minWidth = `calc(10rem + ${list.length * 5.6}rem)`;
    head.replaceChildren(...list.map((column) => {
      const isSorted = state.sort === column;
      const button = html("button", { type: "button", title: `sort by ${plain(column.name)}` }, plain(column.label, 60), isSorted ? (state.down ? "\u00a0▾" : "\u00a0▴") : "");
      button.addEventListener("click", () => {
        state.down = isSorted ? !state.down : column.type === "number";
        state.sort = column;
        drawHead();
        order();
        paint(true);
      });
      const sorted = isSorted ? (state.down ? "descending" : "ascending") : null;
      return html("th", { class: column.type === "number" ? "n" : null, "aria-sort": sorted, scope: "col" }, button);
    }));
  }

  function order() {
    const { values } = state.sort, sign = state.down ? -1 : 1;
    state.rows.sort((a, b) => {
      const one = values[a], two = values[b];
      if (one === null || two === null) return (one === null) - (two === null) || a - b; // what is not known stands last
      return one < two ? -sign : one > two ? sign : a - b;
    });
  }

  function drawRow(row, list) {
    return html("tr", {}, ...list.map((column) => {
      if (column.name === "name") return html("td", { class: "name", title: plain(names[row]) }, html("bdi", { dir: "ltr" }, link(row, 90)));
      const text = shown(column, column.values[row]);
      return html("td", { class: column.type === "number" ? "n" : null, title: column.type === "text" ? text : null, dir: "auto" }, text);
    }));
  }

  function spacer(rows) {
    const made = html("tr", { class: "spacer", "aria-hidden": "true" }, html("td"));
    made.firstChild.style.height = `${rows * HEIGHT}px`;
    return made;
  }

  function paint(fromTop = false) {
    if (fromTop) box.scrollTop = 0;
    const list = columns.filter((column) => visible.has(column));
    const from = state.printing ? 0 : Math.max(0, Math.floor(box.scrollTop / HEIGHT) - SPARE);
    const to = Math.min(state.rows.length, state.printing ? PRINTED : from + Math.ceil((box.clientHeight || 500) / HEIGHT) + 2 * SPARE);
    const below = state.printing ? 0 : state.rows.length - to;
    body.replaceChildren(spacer(from), ...state.rows.slice(from, to).map((row) => drawRow(row, list)), spacer(below));
  }

  function filter(text) {
    const { tests, notes } = parse(text);
    state.rows = [];
    for (let row = 0; row < count; row += 1) if (tests.every((test) => test(row))) state.rows.push(row);
    order();
    paint(true);
    byId("tally").textContent = [`${PLAIN.format(state.rows.length)} of ${PLAIN.format(count)} models`, ...notes].join("; ");
    // The answer first, the map in the next frame: its points are many, and each is styled anew.
    cancelAnimationFrame(fading);
    fading = requestAnimationFrame(fade);
  }

  function chooseColumns() {
    byId("columns").append(...columns.filter((column) => column.name !== "name").map((column) => {
      const tick = html("input", { type: "checkbox" });
      tick.checked = visible.has(column);
      tick.addEventListener("change", () => {
        visible[tick.checked ? "add" : "delete"](column);
        drawHead();
        paint();
      });
      return html("label", {}, tick, ` ${plain(column.label, 60)}`);
    }));
  }

  // -- Colours: Okabe and Ito for kinds, a ramp that stays ordered in grey for numbers --------------------------

  const KINDS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442"], OTHER = "#8a94a0", MISSING = "#c3c9d0";
  const RAMP = [[68, 1, 84], [66, 63, 133], [45, 113, 142], [30, 157, 137], [86, 198, 103], [202, 225, 31]];
  const ramp = (part) => {
    const at = Math.min(0.9999, Math.max(0, part)) * (RAMP.length - 1), low = Math.floor(at);
    return `rgb(${RAMP[low].map((from, channel) => Math.round(from + (at - low) * (RAMP[low + 1][channel] - from))).join(" ")})`;
  };

  function colouring(column) {
    const known = column.values.filter((value) => value !== null);
    if (column.type === "number") {
      const low = known.reduce((a, b) => Math.min(a, b), Infinity), high = known.reduce((a, b) => Math.max(a, b), -Infinity);
      const scale = low > 0 && high / low > 100 ? Math.log : (value) => value, span = scale(high) - scale(low) || 1;
      const colour = (row) => (column.values[row] === null ? MISSING : ramp((scale(column.values[row]) - scale(low)) / span));
      const bar = html("span", { class: "ramp" });
      bar.style.background = `linear-gradient(90deg, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map(ramp).join(", ")})`;
      const ends = known.length ? [html("span", {}, shown(column, low)), bar, html("span", {}, shown(column, high))] : [];
      const remarks = [scale === Math.log ? "logarithmic" : "", known.length < count ? "grey: not known" : ""].filter(Boolean).join(", ");
      return { colour, legend: [...ends, html("span", { class: "soft" }, remarks)] };
    }
    const tally = new Map();
    for (const value of known) tally.set(value, (tally.get(value) ?? 0) + 1);
    const kinds = [...tally].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, KINDS.length).map(([kind]) => kind);
    const colourOf = new Map(kinds.map((kind, at) => [kind, KINDS[at]]));
    const colour = (row) => (column.values[row] === null ? MISSING : colourOf.get(column.values[row]) ?? OTHER);
    const key = (paint, text) => {
      const dot = html("i");
      dot.style.background = paint;
      return html("span", { dir: "auto" }, dot, text);
    };
    const rest = [...(tally.size > kinds.length ? [key(OTHER, `${tally.size - kinds.length} others`)] : []), ...(known.length < count ? [key(MISSING, "not known")] : [])];
    return { colour, legend: [...kinds.map((kind) => key(colourOf.get(kind), short(kind, 24))), ...rest] };
  }

  // -- The map ---------------------------------------------------------------------------------------------------

  const WIDTH = 560, TALL = 620, MARGIN = 22;
  const points = new Map(); // row -> circle
  const picker = byId("colour"), tip = byId("tip");

  function drawMap() {
    const { rows, x, y } = data.map;
    if (!rows.length) {
      byId("plane").remove();
      return;
    }
    const span = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const place = (value, [low, high], size) => MARGIN + ((value - low) / (high - low || 1)) * (size - 2 * MARGIN);
    const across = span(x), up = span(y), dots = svg("g");
    rows.forEach((row, at) => {
      const dot = svg("circle", { cx: place(x[at], across, WIDTH).toFixed(1), cy: (TALL - place(y[at], up, TALL)).toFixed(1), r: rows.length > 1500 ? 3 : 4.5, "data-row": row });
      points.set(row, dot);
      dots.append(dot);
    });
    const label = (text, attributes) => svg("text", { class: "axis", ...attributes }, text);
    byId("plane").append(
      svg("path", { class: "frame", d: `M15 4V${TALL - 16}H${WIDTH}` }), dots,
      label(data.map.axes[0], { x: WIDTH, y: TALL - 3, "text-anchor": "end" }),
      label(data.map.axes[1], { transform: "translate(10 4) rotate(-90)", "text-anchor": "end" }));
    picker.append(...columns.filter((column) => column.colours).map((column) => html("option", { value: column.name }, plain(column.label, 60))));
    picker.value = (first ?? columnOf.get("num_params") ?? columns[0]).name;
    picker.addEventListener("change", paintMap);
    paintMap();
    byId("plane").addEventListener("pointerover", (event) => point(event));
    byId("plane").addEventListener("pointerout", () => { tip.hidden = true; });
    byId("plane").addEventListener("click", (event) => {
      const row = event.target.dataset?.row;
      if (row !== undefined) location.hash = address(Number(row));
    });
  }

  function paintMap() {
    const { colour, legend } = colouring(columnOf.get(picker.value.toLowerCase()));
    for (const [row, dot] of points) dot.setAttribute("fill", colour(row));
    byId("legend").replaceChildren(...legend);
  }

  let fading = 0;
  const faded = new Set();
  function fade() {
    const kept = new Set(state.rows);
    for (const [row, dot] of points) {
      if (kept.has(row) === !faded.has(row)) continue;
      dot.classList.toggle("out", !kept.has(row));
      faded[kept.has(row) ? "delete" : "add"](row);
    }
  }

  function point(event) {
    const given = event.target.dataset?.row;
    if (given === undefined) return;
    const row = Number(given), column = columnOf.get(picker.value.toLowerCase());
    const facts = [...new Set([column, ...metrics.slice(0, 3), columnOf.get("num_params")])].filter((one) => one && one.values[row] !== null);
    tip.replaceChildren(html("b", { dir: "auto" }, short(names[row], 70)), ...facts.map((one) => html("div", { dir: "auto" }, `${plain(one.label, 40)}: ${short(shown(one, one.values[row]), 40)}`)));
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 8)}px`;
  }

  // -- A model's page --------------------------------------------------------------------------------------------

  const part = (title, ...children) => html("section", {}, html("h2", {}, title), ...children);
  const facts = (pairs) => html("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [
    html("dt", { dir: "auto" }, plain(name, 80)), html("dd", { dir: "auto" }, value instanceof Node ? value : plain(value)),
  ]));
  const grid = (titles, rows, kinds = []) => html("div", { class: "table" }, html("table", {},
    html("thead", {}, html("tr", {}, ...titles.map((title, at) => html("th", { class: kinds[at] ?? null, scope: "col" }, title)))),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell, at) => html("td", { class: kinds[at] ?? null, dir: "auto" }, cell)))))));

  const LAYERS = 400; // rows of a model's table of tensors
  const known = (name) => (at) => data.tensors[name][at];
  const STATISTICS = [
    ["share of parameters %", (at, total) => (100 * data.tensors.numel[at]) / total],
    ["norm", known("l2")], ["std", known("std")], ["kurtosis", known("kurtosis")],
    ["zeros %", (at) => (100 * data.tensors.num_zero[at]) / Math.max(1, data.tensors.numel[at])],
    ["largest magnitude", (at) => {
      const low = data.tensors.minimum[at], high = data.tensors.maximum[at];
      return low === null || high === null ? null : Math.max(Math.abs(low), Math.abs(high));
    }],
  ];

  // One line a tensor, one column a statistic, each with bars from zero to the column's largest value.
  function bars(tensors, labels, statistics, kind) {
    const values = statistics.map(([, value]) => tensors.map(value));
    const most = values.map((list) => list.reduce((a, b) => Math.max(a, Math.abs(b ?? 0)), 0));
    const rows = tensors.slice(0, LAYERS).map((at, place) => [
      html("span", { title: plain(labels[place]) }, short(labels[place], 60)),
      `${data.tensors.dtype[at]} ${data.tensors.shape[at].join("×") || "scalar"}`,
      ...values.map((list, which) => {
        if (list[place] === null || list[place] === undefined) return "";
        const bar = html("i", { class: "bar" });
        bar.style.width = `${(100 * Math.abs(list[place])) / (most[which] || 1)}%`;
        return html("div", { class: "barred" }, html("span", {}, number(list[place])), bar);
      }),
    ]);
    const left = tensors.length > LAYERS ? html("p", { class: "soft" }, `The first ${LAYERS} of ${PLAIN.format(tensors.length)} tensors.`) : null;
    return html("div", { class: kind }, grid(["tensor", "shape", ...statistics.map(([title]) => plain(title, 60))], rows), ...(left ? [left] : []));
  }

  function layers(row) {
    const held = data.held[row];
    if (!held) return [part("Layers", html("p", {}, `This page holds the tensors of the first ${PLAIN.format(data.held.length)} models; weightspace show ${ids[row].slice(0, 12)} tells them all.`))];
    const tensors = held.slice(1), labels = data.layouts[held[0]];
    const total = tensors.reduce((sum, at) => sum + data.tensors.numel[at], 0) || 1;
    const statistics = STATISTICS.map(([title, value]) => [title, (at) => value(at, total)]);
    const measured = Object.entries(data.measures).map(([name, values]) => [name, (at) => values[at] ?? null]).filter(([, value]) => tensors.some((at) => value(at) !== null));
    const matrices = tensors.map((at, place) => [at, labels[place]]).filter(([at]) => measured.some(([, value]) => value(at) !== null));
    const spectra = measured.length
      ? bars(matrices.map(([at]) => at), matrices.map(([, label]) => label), measured, "spectra")
      : html("p", {}, "The singular values of these layers have not been measured yet. This keeps what they say in the catalog: ", html("code", {}, `weightspace spectra --where "id like '${ids[row].slice(0, 12)}%'"`));
    return [part("Layers", bars(tensors, labels, statistics, "layers")), part("Spectra", spectra)];
  }

  // Who it comes from on the left, who comes from it on the right, three generations each way.
  const GENERATIONS = 3, ABREAST = 12;
  function generation(from, kin, seen) {
    const found = [], links = [];
    for (const name of from) {
      for (const [other, kind] of kin.get(name) ?? []) {
        links.push([name, other, kind]);
        if (seen.has(other)) continue;
        seen.add(other);
        found.push(other);
      }
    }
    return { found, links };
  }

  const kin = { parents: new Map(), children: new Map() };
  for (const [parent, child, kind] of data.edges) {
    for (const [side, of, other] of [[kin.parents, child, parent], [kin.children, parent, child]]) {
      if (!side.has(of)) side.set(of, []);
      side.get(of).push([other, kind]);
    }
  }

  function lineage(row) {
    const layersOf = new Map([[0, [names[row]]]]), lines = [], seen = new Set([names[row]]);
    let left = 0;
    for (const [side, step] of [[kin.parents, -1], [kin.children, 1]]) {
      let from = [names[row]];
      for (let at = step; Math.abs(at) <= GENERATIONS && from.length; at += step) {
        const { found, links } = generation(from, side, seen);
        left += Math.max(0, found.length - ABREAST);
        from = found.slice(0, ABREAST);
        if (from.length) layersOf.set(at, from);
        lines.push(...links);
      }
    }
    if (layersOf.size === 1) return part("Lineage", html("p", {}, "The catalog knows no parents and no children of this model."));
    const order = [...layersOf.keys()].sort((a, b) => a - b), tallest = Math.max(...[...layersOf.values()].map((list) => list.length));
    const wide = 240, gap = 80, line = 34, height = tallest * line + 8, places = new Map();
    const boxes = order.flatMap((level, across) => layersOf.get(level).map((name, down, list) => {
      const x = across * (wide + gap), y = 4 + (height - list.length * line) / 2 + down * line, other = rowOfName.get(name);
      places.set(name, [x, y + 13]);
      const box = [svg("title", {}, plain(name)), svg("rect", { x, y, width: wide, height: 26, rx: 5 }), svg("text", { x: x + 8, y: y + 17 }, short(name, 34))];
      return other === undefined || other === row ? svg("g", { class: other === row ? "here" : "away" }, ...box) : svg("a", { href: address(other) }, ...box);
    }));
    const paths = lines.filter(([a, b]) => places.has(a) && places.has(b)).map(([a, b, kind]) => {
      const [start, end] = [places.get(a), places.get(b)].sort((one, two) => one[0] - two[0]);
      const bend = (start[0] + wide + end[0]) / 2;
      return svg("path", { d: `M${start[0] + wide} ${start[1]}C${bend} ${start[1]} ${bend} ${end[1]} ${end[0]} ${end[1]}` }, svg("title", {}, plain(kind, 80)));
    });
    const kinds = [...new Set(lines.map(([, , kind]) => plain(kind, 40)))].join(", ");
    const total = order.length * (wide + gap) - gap;
    const tree = svg("svg", { class: "tree", viewBox: `-2 0 ${total + 4} ${height}`, width: total, role: "img", "aria-label": "parents on the left, children on the right" }, ...paths, ...boxes);
    const said = `Parents on the left, children on the right (${kinds})${left ? `; ${left} more are not drawn` : ""}.`;
    return part("Lineage", html("p", { class: "soft" }, said), html("div", { class: "scroll" }, tree));
  }

  function siblings(row) {
    const runs = columnOf.get("run"), steps = columnOf.get("step");
    if (!runs || !steps || runs.values[row] === null) return null;
    const own = names.map((_, at) => at).filter((at) => runs.values[at] === runs.values[row]).sort((a, b) => steps.values[a] - steps.values[b]);
    if (own.length < 2) return null;
    const shownMetrics = metrics.filter((column) => own.some((at) => column.values[at] !== null)).slice(0, 6);
    const rows = own.slice(0, LAYERS).map((at) => [at === row ? html("b", {}, short(names[at], 80)) : link(at, 80), number(steps.values[at]), ...shownMetrics.map((column) => shown(column, column.values[at]))]);
    return part("Its run", grid(["checkpoint", "step", ...shownMetrics.map((column) => plain(column.label, 40))], rows, ["", "n", ...shownMetrics.map(() => "n")]));
  }

  function drawModel(row) {
    const about = data.about[row] ?? {};
    const told = (wanted) => columns.filter((column) => wanted(column) && column.values[row] !== null).map((column) => [column.label, shown(column, column.values[row])]);
    const numbers = told((column) => column.metric), measured = Object.entries(about.measured ?? {}).map(([name, value]) => [name, number(value)]);
    const tags = Object.entries(about.tags ?? {}), files = about.files ?? [];
    const page = [
      html("p", {}, html("a", { href: "#table", class: "back" }, "← all models")),
      html("h1", { dir: "auto" }, ...plain(names[row]).split(/(?<=[/._])/).flatMap((part) => [part, html("wbr")])),
      html("div", { class: "pair" },
        part("Facts", facts(told((column) => !column.metric && column.name !== "name"))),
        html("div", {},
          part("Metrics", numbers.length || measured.length ? facts([...numbers, ...measured]) : html("p", {}, "No number is recorded of it.")),
          tags.length ? part("Tags", facts(tags.map(([key, value]) => [key, value || "yes"]))) : "")),
      ...layers(row), lineage(row), siblings(row),
      about.recipe === undefined ? null : part("Recipe", html("pre", {}, preformatted(data.recipes[about.recipe]))),
      files.length ? part("Files", grid(["path", "format", "size"], files.map(([path, format, size]) => [plain(path, 600), plain(format), bytes(size)]), ["", "", "n"])) : null,
      part("How to go on", html("pre", {}, `weightspace show ${ids[row].slice(0, 12)}\nweightspace export ${ids[row].slice(0, 12)} -o model.safetensors`)),
    ];
    byId("model").replaceChildren(...page.filter((one) => one !== null));
  }
  const preformatted = (text) => text.split("\n").map((line) => plain(line, 4000)).join("\n");

  // -- Where in the page: #model=ID, #filter=TEXT, or a section -------------------------------------------------

  let kept = 0; // how far the overview was scrolled
  const title = document.title;
  function route() {
    let [, what, given] = /^#(model|filter)=(.*)$/s.exec(location.hash) ?? [null, "", ""];
    try { given = decodeURIComponent(given); } catch { given = ""; }
    tip.hidden = true;
    const row = what === "model" ? rowOfId.get(given) ?? rowOfName.get(given) ?? ids.findIndex((id) => given.length > 3 && id.startsWith(given)) : -1;
    const wasOverview = !byId("overview").hidden;
    byId("missing").hidden = what !== "model" || row >= 0;
    if (row >= 0) {
      if (wasOverview) kept = scrollY;
      drawModel(row);
      document.title = `${plain(names[row], 80)} – ${title}`;
    } else document.title = title;
    byId("model").hidden = row < 0;
    byId("overview").hidden = row >= 0;
    if (row >= 0) scrollTo(0, 0);
    else if (!wasOverview) {
      paint();
      const target = location.hash === "#table" || what ? null : document.getElementById(location.hash.slice(1));
      if (target) target.scrollIntoView();
      else scrollTo(0, kept);
    }
    if (what === "filter" && field.value !== given) {
      field.value = given;
      filter(given);
    }
  }

  // -- Begin -----------------------------------------------------------------------------------------------------

  let isAsked = false;
  box.addEventListener("scroll", () => {
    if (!isAsked) requestAnimationFrame(() => { isAsked = false; paint(); });
    isAsked = true;
  });
  field.addEventListener("input", () => {
    filter(field.value);
    history.replaceState(null, "", field.value ? `#filter=${encodeURIComponent(field.value)}` : "#table");
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName) && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      if (byId("overview").hidden) location.hash = "#table";
      setTimeout(() => field.focus());
    }
    if (event.key === "Escape" && document.activeElement === field) field.blur();
  });
  addEventListener("hashchange", route);
  addEventListener("resize", () => paint());
  for (const [name, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(name, () => { state.printing = printing; paint(); });
  }
  drawMap();
  chooseColumns();
  drawHead();
  filter("");
  route();
  document.documentElement.classList.add("drawn");
})();
