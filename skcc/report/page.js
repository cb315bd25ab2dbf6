"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const shorten = (name) => (name.length > 42 ? `${name.slice(0, 16)}\u2026${name.slice(-24)}` : name);
  const names = new Map(); // names given to clusters, by number
  const called = (cluster) => (names.has(String(cluster)) ? `${cluster} (${names.get(String(cluster))})` : cluster);
  const describe = (cluster, p) => `cluster ${called(cluster)}, probability ${p}`;
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });

  function save(name, type, text) {
    const link = Object.assign(make("a"), { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Viewer: one dialog that enlarges any image.
  const viewer = document.getElementById("viewer");
  const enlargePoint = ({ image, name, cluster, p, near }) => enlarge(image, name, describe(cluster, p), near);
  function enlarge(source, name, what, near = []) {
    const image = viewer.querySelector("img");
    image.hidden = !source;
    if (source) image.src = source;
    image.alt = name;
    viewer.querySelector(".name").textContent = name;
    viewer.querySelector(".what").textContent = what;
    viewer.querySelector(".near").hidden = !near.length;
    viewer.querySelector(".near-images").replaceChildren(...near.map((index) => {
      const point = data.points[index], button = make("button");
      button.type = "button";
      button.title = `${point.name}, ${describe(point.cluster, point.p)}`;
      button.append(picture(point), make("span", called(point.cluster)));
      button.addEventListener("click", () => enlargePoint(point));
      return button;
    }));
    if (!viewer.open) viewer.showModal();
  }
  function picture({ image, name }) {
    const element = image ? Object.assign(make("img"), { src: image }) : make("span", "no longer there");
    if (image) element.alt = name;
    return element;
  }
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  // Thumbnails: each row is one tab stop; arrow keys move within it.
  for (const strip of all(".strip")) {
    const thumbs = all(".thumb", strip);
    thumbs.forEach((thumb, at) => {
      thumb.tabIndex = at ? -1 : 0;
      thumb.addEventListener("click", () => {
        const image = thumb.querySelector("img");
        const near = thumb.dataset.near.split(" ").filter(Boolean).map(Number);
        enlarge(image && image.src, thumb.dataset.name, describe(thumb.dataset.cluster, thumb.dataset.p), near);
      });
    });
    strip.addEventListener("keydown", (event) => {
      const at = thumbs.indexOf(document.activeElement), last = thumbs.length - 1;
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
      if (to === undefined || at < 0) return;
      event.preventDefault();
      thumbs[at].tabIndex = -1;
      const next = thumbs[clamp(to, 0, last)];
      next.tabIndex = 0;
      next.focus();
    });
  }

  // Map: show the image nearest to the pointer, or move from image to image with arrow keys.
  const map = document.getElementById("map");
  if (map) {
    const svg = map.querySelector("svg"), ring = map.querySelector(".ring");
    const tip = document.getElementById("tip"), announcement = document.getElementById("announcement");
    const picture = tip.querySelector("img"), { points } = data;
    const scale = () => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    let current = -1;

    function show(index) {
      current = index;
      for (const element of [ring, tip]) element.classList.toggle("on", index >= 0);
      if (index < 0) return;
      const { x, y, cluster, p, name, image } = points[index];
      picture.hidden = !image;
      if (image) picture.src = image;
      tip.querySelector(".name").textContent = shorten(name);
      tip.querySelector(".what").textContent = describe(cluster, p);
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      const left = x * scale(), top = y * scale(), gap = 14, box = tip.getBoundingClientRect();
      const beside = left + gap + box.width > map.clientWidth ? left - gap - box.width : left + gap;
      tip.style.left = `${clamp(beside, 0, Math.max(0, map.clientWidth - box.width))}px`;
      tip.style.top = `${clamp(top - box.height / 2, 0, Math.max(0, map.clientHeight - box.height))}px`;
    }

    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / scale(), y = (event.clientY - box.top) / scale();
      const reach = (event.pointerType === "mouse" ? 24 : 44) / scale();
      let best = -1, least = reach * reach;
      points.forEach((point, index) => {
        const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (distance < least) [best, least] = [index, distance];
      });
      return best;
    }

    function neighbour(key) {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
      const from = points[current];
      let best = current, least = Infinity;
      points.forEach((point, index) => {
        const ahead = (point.x - from.x) * dx + (point.y - from.y) * dy;
        const aside = Math.abs((point.x - from.x) * dy) + Math.abs((point.y - from.y) * dx);
        if (index !== current && ahead > 0 && ahead + 2 * aside < least) [best, least] = [index, ahead + 2 * aside];
      });
      return best;
    }

    const open = (index) => enlargePoint(points[index]);

    map.addEventListener("pointermove", (event) => show(nearest(event)));
    map.addEventListener("pointerdown", (event) => show(nearest(event)));
    map.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(-1); });
    map.addEventListener("click", (event) => {
      if (event.pointerType === "mouse" && current >= 0) open(current);
    });
    map.addEventListener("focus", () => { if (current < 0 && map.matches(":focus-visible")) show(0); });
    map.addEventListener("blur", () => show(-1));
    map.addEventListener("keydown", (event) => {
      const { key } = event;
      if (key === "Escape") show(-1);
      else if (key === "Enter" && current >= 0) open(current);
      else if (key === "Home" || (key.startsWith("Arrow") && current < 0)) show(0);
      else if (key === "End") show(points.length - 1);
      else if (key.startsWith("Arrow")) show(neighbour(key));
      else return;
      event.preventDefault();
      if (current >= 0) announcement.textContent = `${points[current].name}, ${describe(points[current].cluster, points[current].p)}`;
    });

    // Highlight on the map the cluster that is hovered or focused in the table of sizes.
    const groups = new Map(all("g[data-cluster]", svg).map((g) => [g.dataset.cluster, g]));
    function highlight(cluster) {
      svg.classList.toggle("some", cluster !== null);
      for (const [name, group] of groups) group.classList.toggle("on", name === cluster);
    }
    for (const row of all(".sizes [data-cluster]")) {
      for (const begin of ["pointerenter", "focusin"]) row.addEventListener(begin, () => highlight(row.dataset.cluster));
      for (const end of ["pointerleave", "focusout"]) row.addEventListener(end, () => highlight(null));
    }
  }

  // Search: images whose path holds what was typed; those on the map can be enlarged.
  const MOST = 24, search = document.getElementById("search"), found = document.getElementById("found");
  if (search) {
    const { names: paths, clusters, p } = data.files, lower = paths.map((path) => path.toLowerCase());
    const onMap = new Map(data.points.map((point) => [point.name, point]));
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      const hits = wanted ? lower.flatMap((path, index) => (path.includes(wanted) ? [index] : [])) : [];
      found.hidden = !wanted;
      found.querySelector("p").textContent = `${hits.length} found${hits.length > MOST ? `, the first ${MOST} are shown` : ""}`;
      found.querySelector("ul").replaceChildren(...hits.slice(0, MOST).map((index) => {
        const item = make("li"), button = make("button"), point = onMap.get(paths[index]);
        button.type = "button";
        if (point) button.append(picture(point));
        button.append(make("span", `${shorten(paths[index])}, cluster ${called(clusters[index])}`));
        const alone = { name: paths[index], cluster: clusters[index], p: p[index].toFixed(2), near: [] };
        button.addEventListener("click", () => enlargePoint(point || alone));
        item.append(button);
        return item;
      }));
    });
  }

  // Names of clusters, and files to keep. A path that a spreadsheet takes for a formula begins with ./
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const path = (text) => cell(/^[=+\-@\t\r\n]/.test(text) ? `./${text}` : text);
  const saveNames = document.getElementById("save-names"), saveLabels = document.getElementById("save-labels");
  for (const input of all(".rename")) {
    input.addEventListener("input", () => {
      const { cluster } = input.dataset, name = input.value.trim();
      const isPlain = !/^[=+\-@]/.test(name);
      input.setCustomValidity(isPlain ? "" : "A name must not begin with = + - or @");
      if (name && isPlain) names.set(cluster, name);
      else names.delete(cluster);
      const kinds = new Set(names.values());
      document.getElementById("names").replaceChildren(...[...kinds].map((kind) => Object.assign(make("option"), { value: kind })));
      document.querySelector(`.sizes [data-cluster="${cluster}"] .given`).textContent = names.get(cluster) || "";
      saveNames.disabled = !names.size;
      document.getElementById("named").textContent = `${names.size} named, ${kinds.size} name${kinds.size === 1 ? "" : "s"}`;
    });
  }
  saveNames.addEventListener("click", () => save("names.json", "application/json", JSON.stringify(Object.fromEntries(names), null, 1)));
  if (saveLabels) {
    saveLabels.addEventListener("click", () => {
      const { names: paths, clusters, p } = data.files;
      const lines = paths.map((name, index) => [path(name), cell(names.get(String(clusters[index])) || String(clusters[index])), p[index].toFixed(6)].join(","));
      save("labels.csv", "text/csv", `path,cluster,probability\n${lines.join("\n")}\n`);
    });
  }

  // Curves: read the epoch below the pointer, or move between epochs with arrow keys.
  all(".curve").forEach((figure, number) => {
    const { epochs, values } = data.curves[number], plot = figure.querySelector(".plot");
    const line = figure.querySelector(".at"), output = figure.querySelector("output");
    const last = epochs.length - 1, summary = output.textContent;
    const span = Math.max(epochs[last] - epochs[0], 1);
    let at = null;
    function show(index) {
      at = index;
      line.classList.toggle("on", index !== null);
      if (index === null) return void (output.textContent = summary);
      const x = (100 * (epochs[index] - epochs[0])) / span;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      output.textContent = `epoch ${epochs[index]}: ${values[index]}`;
    }
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      show(clamp(Math.round(((event.clientX - box.left) / box.width) * last), 0, last));
    });
    plot.addEventListener("pointerleave", () => show(null));
    plot.addEventListener("blur", () => show(null));
    plot.addEventListener("keydown", (event) => {
      const now = at === null ? last : at;
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") show(null);
      if (to === undefined) return;
      event.preventDefault();
      show(clamp(to, 0, last));
    });
  });
})();
