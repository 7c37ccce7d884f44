// What the page gains with scripts: copy buttons, sorting of the rules, the section in view, curves to read off.
"use strict";

const report = (() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // The data block: JSON, packed by gzip and base64 where it is large.
  const read = async () => {
    const block = one("#data");
    if (block.dataset.packed !== "true") return JSON.parse(block.textContent);
    const bytes = Uint8Array.from(atob(block.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  };
  let data;
  const load = () => (data ??= read());

  const toClipboard = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages opened from a file may not use the clipboard directly.
      const area = element("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  const copyable = (box) => {
    const button = element("button", { type: "button", textContent: "copy" });
    button.addEventListener("click", async () => {
      await toClipboard(one("pre", box).textContent);
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    box.append(button);
  };

  // Each rule is a tbody of its own, so its details travel with it.
  const sortable = (table) => {
    // Cells say what they sort by: a word, or numbers of which the first that differs decides.
    const worth = (body, column) => {
      const parts = (body.rows[0].cells[column].dataset.sort ?? "-1").split(" ");
      return parts.map((part) => (part === "inf" ? Infinity : Number.isNaN(Number(part)) ? part : Number(part)));
    };
    const compare = (a, b) => {
      const i = a.findIndex((part, i) => part !== b[i]);
      return i < 0 ? 0 : typeof a[i] === "string" || typeof b[i] === "string" ? String(a[i]).localeCompare(b[i]) : a[i] - (b[i] ?? -1);
    };
    all("thead th", table).forEach((head, column) => {
      const button = element("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numeric = column > 0;
        const now = head.getAttribute("aria-sort");
        const sign = now === "none" ? (numeric ? -1 : 1) : now === "ascending" ? -1 : 1;
        all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const bodies = [...table.tBodies].map((body) => [worth(body, column), body]);
        bodies.sort(([a], [b]) => sign * compare(a, b));
        table.append(...bodies.map(([, body]) => body));
      });
    });
  };

  const followSections = () => {
    const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
    const seen = new Set();
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
        const current = [...links.keys()].find((id) => seen.has(id));
        for (const [id, link] of links) id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
      },
      { rootMargin: "-10% 0px -60% 0px" },
    );
    all("main > *").forEach((section) => watch.observe(section));
  };

  // Curves to read off, drawn when they are asked for.
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const digits = (value) => {
    if (value == null) return "–";
    if (!Number.isFinite(value)) return String(value).replace("Infinity", "∞");
    const size = Math.abs(value);
    if (size >= 1000 && size < 1e5) return thousands(Math.round(value));
    if (value === 0 || (size >= 1e-3 && size < 1000)) return String(Number(value.toPrecision(3)));
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return `${Number(mantissa)}×10${exponent.replace("+", "").replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻")}`;
  };
  const plot = (holder, curve, names, log, key) => {
    const styles = {
      loss_autodiff: ["autodiff", "--autodiff", 4], loss_by_hand: ["by hand", "--hand", 1.5],
      allowance_ulps: ["allowance", "--wrong", 1], divergence_ulps: ["divergence", "--hand", 1.5],
    };
    const columns = names.map((name) => (curve[name] ?? []).map((value) => (typeof value === "number" ? value : null)));
    // A logarithm holds no zero: zeros are drawn a decade below the least positive value, and read as 0.
    const least = Math.min(...columns.flat().filter((value) => value > 0)) / 10;
    const drawn = log ? columns.map((column) => column.map((value) => (value === null || value > 0 ? value : least))) : columns;
    const decades = (chart, ticks, at) => ticks.map((tick) => (at === 0 || !log || Number.isInteger(Math.log10(tick)) ? tick : null));
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--hair"), width: 1, filter: decades }, ticks: { show: false } };
    return new uPlot(
      {
        width: holder.clientWidth, height: 260,
        cursor: { sync: { key } },
        scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
        axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : digits(tick))) }],
        series: [
          { label: "step" },
          ...names.map((name, i) => ({
            label: styles[name][0], stroke: colour(styles[name][1]), width: styles[name][2], points: { show: false },
            dash: name === "allowance_ulps" ? [5, 4] : undefined,
            value: (_, value, series, at) => digits(at === null ? null : columns[i][at]),
          })),
        ],
      },
      [curve.steps, ...drawn],
      holder,
    );
  };
  const readable = (article) => {
    const panels = one(".panels", article);
    const button = element("button", { type: "button", textContent: "Read off values" });
    button.setAttribute("aria-expanded", "false");
    const holder = element("div", { className: "panels", hidden: true });
    button.addEventListener("click", async () => {
      holder.hidden = !holder.hidden;
      button.setAttribute("aria-expanded", String(!holder.hidden));
      if (holder.hidden || holder.childNodes.length) return;
      const curve = (await load()).curves[article.dataset.curve];
      const boxes = [element("div"), element("div")];
      holder.append(...boxes);
      plot(boxes[0], curve, ["loss_autodiff", "loss_by_hand"], curve.loss_by_hand.every((value) => value > 0), article.dataset.curve);
      plot(boxes[1], curve, ["allowance_ulps", "divergence_ulps"], true, article.dataset.curve);
    });
    if (one("svg", panels)) panels.after(button, holder);
  };

  // A link to a rule or a failure opens what it points to.
  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.tagName === "TBODY") one("details", target).open = true;
  };

  all(".copyable").forEach(copyable);
  all("table.sortable").forEach(sortable);
  all("article.curve").forEach(readable);
  followSections();
  openTarget();
  addEventListener("hashchange", openTarget);
  addEventListener("beforeprint", () => all("details:not(.rules *)").forEach((details) => (details.open = true)));

  return { all, copyable, digits, element, load, one, thousands };
})();
