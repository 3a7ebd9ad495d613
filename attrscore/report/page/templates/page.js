"use strict";
// What moves in the page: thresholds, heat tables, sorting, filters, depth. All data are in it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const known = (x) => x !== null && x !== undefined;
  const digits = (x, n = 2) => (known(x) ? x.toFixed(n).replace("-", "−") : "–");
  const percent = (x) => (known(x) ? `${(100 * x).toFixed(0)} %` : "–");

  // Share of cells above a threshold
  const slider = byId("threshold");
  function threshold() {
    const i = Number(slider.value);
    const t = data.threshold.at[i];
    byId("threshold-value").value = digits(t);
    slider.setAttribute("aria-valuetext", `t = ${digits(t)}`);
    for (const each of document.querySelectorAll("[data-t]")) each.textContent = digits(t);
    for (const row of document.querySelectorAll("tr[data-share]")) {
      const curve = data.threshold.rows[row.dataset.share];
      const bar = row.querySelector(".bar");
      const positions = { share: curve.above, low: curve.low, high: curve.high, reach: curve.attainable, luck: curve.chance };
      for (const [name, values] of Object.entries(positions)) {
        bar.style.setProperty(`--${name}`, known(values[i]) ? values[i] : 0);
        bar.classList.toggle(`no-${name}`, !known(values[i]));
      }
      row.querySelector(".above").textContent = percent(curve.above[i]);
      row.querySelector(".ends-shown").textContent = known(curve.low[i])
        ? `${(100 * curve.low[i]).toFixed(0)} to ${(100 * curve.high[i]).toFixed(0)}` : "";
      row.querySelector(".attainable").textContent = percent(curve.attainable[i]);
      row.querySelector(".lucky").textContent = percent(curve.chance[i]);
    }
  }
  if (slider) { slider.addEventListener("input", threshold); threshold(); }

  // Heat table: which number
  const metric = byId("metric");
  function heatTable() {
    const shown = data.metrics[metric.value];
    const values = Object.values(shown.values).filter(known);
    const top = shown.share ? 1 : Math.max(1e-9, ...values.map(Math.abs));
    for (const cell of document.querySelectorAll("td[data-heat]")) {
      const value = shown.values[cell.dataset.heat];
      cell.textContent = digits(value);
      cell.style.setProperty("--v", known(value) ? Math.abs(value) / top : 0);
      cell.style.setProperty("--tint", shown.share ? "var(--fill)" : value < 0 ? "var(--low)" : "var(--high)");
    }
    byId("metric-says").textContent = shown.says;
  }
  if (metric) { metric.addEventListener("change", heatTable); heatTable(); }

  // Tables that sort by their heads
  const order = new Intl.Collator(undefined, { numeric: true });
  const valueOf = (cell) => {
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  function ordered(a, b) {
    if (a === b) return 0;
    if (a === "" || a === "–" || !known(a)) return 1;
    if (b === "" || b === "–" || !known(b)) return -1;
    return typeof a === "number" && typeof b === "number" ? a - b : order.compare(a, b);
  }
  function heads(table, sort) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      if (head.hasAttribute("data-fixed")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("thead th").forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(column, down ? -1 : 1);
      });
    });
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    heads(table, (column, sign) => {
      const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
      const last = (v) => v === "" || v === "–";
      rows.sort((a, b) => (last(a[0]) || last(b[0]) ? 1 : sign) * ordered(a[0], b[0]));
      body.append(...rows.map(([, row]) => row));
    });
  }

  // Tables whose rows are found by their text
  for (const find of document.querySelectorAll("[data-rows]")) {
    find.addEventListener("input", () => {
      const wanted = find.value.toLowerCase().split(" ");
      for (const row of document.querySelector(find.dataset.rows).tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
      }
    });
  }

  // The table of cells: filtered, sorted, a page at a time
  const table = byId("cells-table");
  if (table) {
    const all = data.cells.rows;
    const names = data.cells.columns;
    const filters = [...document.querySelectorAll("[data-filter]")];
    let rows = all;
    let page = 0;
    let sorted = null;
    const SIZE = 25;
    const show = () => {
      const body = table.tBodies[0];
      const pages = Math.max(1, Math.ceil(rows.length / SIZE));
      page = Math.min(page, pages - 1);
      body.replaceChildren(...rows.slice(page * SIZE, (page + 1) * SIZE).map((row) => {
        const line = document.createElement("tr");
        row.forEach((value, column) => {
          const cell = document.createElement(column ? "td" : "th");
          const { kind } = names[column];
          if (!column) cell.scope = "row";
          const text = kind === "number" ? digits(value, 3) : kind === "percent" ? digits(value, 0) : value ?? "–";
          if (kind !== "text") cell.className = "n";
          const anchor = column ? null : data.cells.anchors[value];
          if (anchor) {
            const link = document.createElement("a");
            link.href = `#${anchor}`;
            link.textContent = text;
            cell.append(link);
          } else cell.textContent = text;
          if (!column) cell.classList.add("id");
          line.append(cell);
        });
        return line;
      }));
      byId("cells-count").textContent = rows.length === all.length
        ? `${all.length} rows` : `${rows.length} of ${all.length} rows`;
      byId("cells-page").textContent = `page ${page + 1} of ${pages}`;
      byId("cells-back").disabled = page === 0;
      byId("cells-on").disabled = page >= pages - 1;
    };
    const filter = () => {
      const wanted = filters.filter((each) => each.value).map((each) =>
        each.dataset.filter === "*"
          ? (row) => row.some((v, i) => names[i].kind === "text" && String(v ?? "").toLowerCase().includes(each.value.toLowerCase()))
          : (row) => String(row[Number(each.dataset.filter)]) === each.value);
      rows = all.filter((row) => wanted.every((test) => test(row)));
      if (sorted) {
        const [column, sign] = sorted;
        const last = (v) => !known(v) || v === "";
        rows = [...rows].sort((a, b) => (last(a[column]) || last(b[column]) ? 1 : sign) * ordered(a[column], b[column]));
      }
      page = 0;
      show();
    };
    for (const each of filters) each.addEventListener("input", filter);
    heads(table, (column, sign) => { sorted = [column, sign]; filter(); });
    byId("cells-back").addEventListener("click", () => { page -= 1; show(); });
    byId("cells-on").addEventListener("click", () => { page += 1; show(); });
    filter();
  }

  // The gallery: fifths of a condition, a filter, what is laid over the image, depth
  const bins = byId("bins");
  if (bins) {
    const by = byId("gallery-by");
    const find = byId("gallery-find");
    const cards = [...bins.querySelectorAll(".card")];
    const arrange = () => {
      const groups = [...bins.querySelectorAll(".bin")];
      const wanted = find.value.toLowerCase();
      const placed = cards.map((card) => {
        const at = data.gallery[card.id][by.value];
        return { card, at, bin: known(at) ? Math.min(4, Math.floor(at / 20)) : 5 };
      });
      placed.sort((a, b) => ordered(a.at, b.at));
      for (const { card, bin } of placed) {
        card.hidden = !card.dataset.text.toLowerCase().includes(wanted);
        groups[bin].querySelector(".cards").append(card);
      }
      for (const group of groups) {
        const count = group.querySelectorAll(".card:not([hidden])").length;
        group.hidden = count === 0;
        group.querySelector(".count").textContent = count === 1 ? "1 cell" : `${count} cells`;
      }
      byId("gallery-none").hidden = cards.some((card) => !card.hidden);
    };
    by.addEventListener("change", arrange);
    find.addEventListener("input", arrange);
    for (const [box, name] of [["show-heat", "no-heat"], ["show-lines", "no-lines"]]) {
      byId(box).addEventListener("change", (event) => bins.classList.toggle(name, !event.target.checked));
    }
    for (const depth of bins.querySelectorAll("input[data-depth]")) {
      const set = () => {
        depth.closest(".card").style.setProperty("--z", depth.value);
        const text = `z = ${depth.value} of ${depth.max}`;
        depth.parentElement.querySelector("output").value = text;
        depth.setAttribute("aria-valuetext", text);
      };
      depth.addEventListener("input", set);
      set();
    }
    arrange();
    // A link to a card whose group was rearranged
    if (location.hash.startsWith("#cell-")) byId(location.hash.slice(1))?.scrollIntoView();
  }

  // On paper everything that is folded is open
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.long)")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
  document.documentElement.classList.add("ready");
})();
