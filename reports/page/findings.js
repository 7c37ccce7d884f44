// The table of all findings: columns from the data block, a query language, a link for every state.
"use strict";

(() => {
  const { all, copyable, digits, element, load, one, thousands } = report;
  const explorer = one("#explorer");
  if (!explorer) return;
  explorer.hidden = false;

  const TEXT = ["verdict", "family", "subject", "leaf", "check", "dtype", "diagnosis", "message", "example"];
  const NUMBERS = ["ratio", "ulps", "relative", "points"];
  const FAILING = ["raised", "wrong", "abstained", "right"];
  const query = one("#query");
  let count, columns, table, keep;

  const text = (name, row) => columns[name].words[columns[name].codes[row]];
  const finite = (value) => (typeof value === "string" ? { nan: NaN, inf: Infinity, "-inf": -Infinity }[value] : value);
  const keyOf = (row) => ["family", "subject", "check", "leaf", "dtype"].map((name) => text(name, row)).join("/");

  // A query is terms that must all hold: word, "two words", column:word, column:>number, each with - for its opposite.
  const terms = (input) =>
    [...input.matchAll(/(-?)(?:([a-z_]+):)?(?:"([^"]*)"?|(\S+))/gi)].map(([, minus, field, quoted, plain]) => ({
      not: minus === "-", field: field?.toLowerCase(), word: (quoted ?? plain).toLowerCase(), whole: quoted !== undefined,
    }));

  // Words are matched once per distinct text of a column, not once per row.
  const matcher = ({ field, word, whole }) => {
    const comparison = /^([<>]=?|=)(.+)$/.exec(word);
    if (NUMBERS.includes(field)) {
      const [sign, bound] = comparison ? [comparison[1], Number(comparison[2])] : ["=", Number(word)];
      const values = columns[field];
      const tests = { ">": (v) => v > bound, "<": (v) => v < bound, ">=": (v) => v >= bound, "<=": (v) => v <= bound, "=": (v) => v === bound };
      return (row) => values[row] !== null && tests[sign](finite(values[row]));
    }
    const exact = ["verdict", "family", "dtype", "check"].includes(field);
    const within = TEXT.includes(field) ? [field] : TEXT;
    const sought = TEXT.includes(field) || field === undefined ? word : `${field}:${word}`;
    const fits = (value) => (exact && !whole ? value.startsWith(sought) : whole && field ? value === sought : value.includes(sought));
    const hits = within.map((name) => [columns[name].codes, columns[name].words.map((value) => fits(value.toLowerCase()))]);
    return (row) => hits.some(([codes, hit]) => codes[row] >= 0 && hit[codes[row]]);
  };

  const search = (input) => {
    keep = new Uint8Array(count).fill(1);
    for (const term of terms(input)) {
      const matches = matcher(term);
      for (let row = 0; row < count; row++) if (keep[row] && matches(row) === term.not) keep[row] = 0;
    }
    const found = keep.reduce((sum, one) => sum + one, 0);
    one("#matches").textContent = found === count ? `${thousands(count)} findings` : `${thousands(found)} of ${thousands(count)}`;
    table.setFilter((data) => keep[data.row]);
    for (const chip of all("#chips button")) chip.setAttribute("aria-pressed", String(input.includes(chip.dataset.term)));
  };

  const remember = () => history.replaceState(null, "", query.value ? `#q=${encodeURIComponent(query.value)}` : "#findings");

  const chips = () => {
    const { words, codes } = columns.verdict;
    const counts = new Array(words.length).fill(0);
    for (const code of codes) counts[code]++;
    for (const verdict of FAILING.filter((word) => words.includes(word))) {
      const term = `verdict:${verdict}`;
      const chip = element("button", { type: "button", textContent: `${verdict} ${thousands(counts[words.indexOf(verdict)])}` });
      chip.dataset.term = term;
      chip.addEventListener("click", () => {
        const had = query.value.includes(term);
        const rest = query.value.replace(/\bverdict:\S+\s*/g, "").trim();
        query.value = had ? rest : `${term} ${rest}`.trim();
        search(query.value);
        remember();
      });
      one("#chips").append(chip);
    }
  };

  const show = (row, link = true) => {
    const detail = one("#detail");
    const worst = text("worst", row);
    const facts = {
      ratio: digits(finite(columns.ratio[row])), ulps: digits(finite(columns.ulps[row])),
      "relative error": digits(finite(columns.relative[row])), "absolute error": digits(finite(columns.absolute[row])),
      "mean ratio, spread": `${digits(finite(columns.mean_ratio[row]))}, ${digits(finite(columns.spread[row]))}`,
      points: columns.points[row], "worst element": worst, example: text("example", row),
      diagnosis: text("diagnosis", row), message: text("message", row),
    };
    const list = element("dl", { className: "measured" });
    for (const [name, value] of Object.entries(facts)) {
      if (value == null || value === "–" || value === "–, –") continue;
      list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    }
    const verdict = element("span", { className: `verdict ${text("verdict", row)}`, textContent: text("verdict", row) });
    const title = element("h3", {}, element("code", { textContent: text("subject", row) }), " ", verdict);
    const about = `${text("leaf", row) ?? ""} in ${text("dtype", row)}, by ${text("check", row)}`;
    detail.replaceChildren(title, element("p", { className: "kind", textContent: about }), list);
    const reproduction = text("reproduction", row);
    if (reproduction) {
      const box = element("div", { className: "copyable" }, element("pre", {}, element("code", { textContent: reproduction })));
      detail.append(box);
      copyable(box);
    }
    if (link) history.replaceState(null, "", `#finding=${encodeURIComponent(keyOf(row))}`);
    detail.scrollIntoView({ block: "nearest" });
  };

  const numeric = (title, field, width) => ({
    title, field, width, hozAlign: "right", headerHozAlign: "right", headerSortStartingDir: "desc",
    sorter: (a, b) => (Number.isNaN(a) ? Infinity : a ?? -1) - (Number.isNaN(b) ? Infinity : b ?? -1) || 0,
    formatter: (cell) => (cell.getValue() == null ? "" : digits(cell.getValue())),
  });
  const word = (title, field, options = {}) => ({ title, field, formatter: "plaintext", ...options });

  const build = async () => {
    ({ count, columns } = await load());
    const rows = Array.from({ length: count }, (_, row) => ({
      row, verdict: text("verdict", row), subject: text("subject", row), leaf: text("leaf", row), check: text("check", row),
      dtype: text("dtype", row), ratio: finite(columns.ratio[row]), ulps: finite(columns.ulps[row]), points: columns.points[row],
    }));
    const rank = (verdict) => FAILING.length - FAILING.indexOf(verdict);
    rows.sort((a, b) => rank(b.verdict) - rank(a.verdict) || (b.ratio ?? -1) - (a.ratio ?? -1) || 0);
    table = new Tabulator("#table", {
      data: rows, index: "row", maxHeight: 560, layout: "fitColumns",
      renderHorizontal: "basic", placeholder: "No finding matches", columnHeaderSortMulti: false,
      columns: [
        word("verdict", "verdict", {
          width: 96, sorter: (a, b) => rank(a) - rank(b),
          formatter: (cell) => element("span", { className: `verdict ${cell.getValue()}`, textContent: cell.getValue() }),
        }),
        word("subject", "subject", { widthGrow: 3, minWidth: 160, cssClass: "code" }),
        word("leaf", "leaf", { minWidth: 90, cssClass: "code" }),
        word("check", "check", { minWidth: 120 }), word("dtype", "dtype", { width: 90 }),
        numeric("ratio", "ratio", 90), numeric("ulps", "ulps", 90), numeric("points", "points", 92),
      ],
      rowFormatter: (row) => (row.getElement().tabIndex = 0),
    });
    one("#table").addEventListener("keydown", (event) => {
      const chosen = event.key === "Enter" && event.target.closest(".tabulator-row");
      if (chosen) show(table.getRow(chosen).getData().row);
    });
    table.on("rowClick", (_, row) => show(row.getData().row));
    await new Promise((ready) => table.on("tableBuilt", ready));
    chips();
    search(query.value);
  };

  let building;
  const ready = () => (building ??= build());

  const fromLink = async () => {
    const [, kind, value] = /^#(q|finding)=(.*)$/.exec(location.hash) ?? [];
    if (!kind) return;
    one("#findings").scrollIntoView();
    if (kind === "q") query.value = decodeURIComponent(value);
    await ready();
    if (kind === "q") search(query.value);
    else for (let row = 0; row < count; row++) if (keyOf(row) === decodeURIComponent(value)) return show(row, false);
  };

  let pause;
  query.addEventListener("input", async () => {
    await ready();
    clearTimeout(pause);
    pause = setTimeout(() => (search(query.value), remember()), 80);
  });
  one("#query-form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    query.focus();
    query.scrollIntoView({ block: "center" });
  });
  addEventListener("hashchange", fromLink);
  // The table is built when it comes near, so the page opens at once.
  const near = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && (ready(), near.disconnect()), { rootMargin: "600px" });
  near.observe(explorer);
  fromLink();
})();
