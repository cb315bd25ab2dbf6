"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const shorten = (name) => (name.length > 42 ? `${name.slice(0, 16)}\u2026${name.slice(-24)}` : name);
  const describe = (cluster, p) => `cluster ${cluster}, probability ${p}`;

  // Viewer: one dialog that enlarges any image.
  const viewer = document.getElementById("viewer");
  function enlarge(source, name, what) {
    const image = viewer.querySelector("img");
    image.hidden = !source;
    if (source) image.src = source;
    image.alt = name;
    viewer.querySelector(".name").textContent = name;
    viewer.querySelector(".what").textContent = what;
    viewer.showModal();
  }
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  // Thumbnails: each row is one tab stop; arrow keys move within it.
  for (const strip of all(".strip")) {
    const thumbs = all(".thumb", strip);
    thumbs.forEach((thumb, at) => {
      thumb.tabIndex = at ? -1 : 0;
      thumb.addEventListener("click", () => {
        const image = thumb.querySelector("img");
        enlarge(image && image.src, thumb.dataset.name, describe(thumb.dataset.cluster, thumb.dataset.p));
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

    function open(index) {
      const { cluster, p, name, image } = points[index];
      enlarge(image, name, describe(cluster, p));
    }

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
