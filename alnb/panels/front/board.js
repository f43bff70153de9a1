// What several strategies would ask: heat map of shared slices, then a row of pictures for each.
// Text enters the page by textContent only: names come from files.

const SVG = "http://www.w3.org/2000/svg";

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("@")) element.setAttribute(key.slice(1), value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const box = (cls, ...children) => h("div", { className: cls }, ...children);

/** Cells shaded by the share of slices that two strategies both ask. */
function heatMap(board) {
  const head = h("tr", {}, h("td"),
    ...board.names.map((name) => h("th", { "@scope": "col", title: name, textContent: name })));
  const rows = board.overlap.map((cells, a) =>
    h("tr", {}, h("th", { "@scope": "row", textContent: board.names[a] }),
      ...cells.map((shared, b) => {
        const cell = h("td", { textContent: String(shared), title: board.cells[a][b] });
        cell.dataset.self = a === b ? "yes" : "no";
        cell.style.setProperty("--alnb-share", shared / board.n);
        cell.dataset.dark = shared / board.n > 0.55 && a !== b ? "yes" : "no";
        return cell;
      })));
  const caption = h("caption", { textContent: "Slices that both would ask" });
  return h("table", { className: "alnb-heat" }, caption, h("thead", {}, head), h("tbody", {}, ...rows));
}

/** The colours of the heat map from none to all, with a mark where chance would be. */
function scale(board) {
  const mark = box("alnb-heat-mark");
  mark.style.left = `${Math.min(100, (100 * board.expected) / board.n)}%`;
  mark.title = `Two random queries would share ${board.expected.toFixed(1)}`;
  return box("alnb-heat-scale", h("span", { textContent: "0" }), box("alnb-heat-bar", mark),
    h("span", { textContent: String(board.n) }),
    h("span", { className: "alnb-heat-key", textContent: "▲ by chance" }));
}

/** How the query lies between first and last slice; the outline is the pool. */
function positions(wish, pool) {
  const svg = document.createElementNS(SVG, "svg");
  const [width, height, gap] = [90, 26, 2];
  const wide = width / pool.length;
  const total = Math.max(1, wish.positions.reduce((sum, count) => sum + count, 0));
  const top = Math.max(...pool, ...wish.positions.map((count) => count / total));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "alnb-places");
  svg.setAttribute("role", "img");
  const words = wish.positions.join(", ");
  svg.setAttribute("aria-label", `Slices in each fifth of their volume, first to last: ${words}`);
  const title = document.createElementNS(SVG, "title");
  title.textContent =
    `How many slices lie in each fifth of their volume, from the first slice to the last: ${words}. ` +
    "The outline is the pool.";
  svg.append(title);
  pool.forEach((share, place) => {
    for (const [value, name] of [[wish.positions[place] / total, "wish"], [share, "pool"]]) {
      const bar = document.createElementNS(SVG, "rect");
      const tall = ((height - 2) * value) / top;
      const numbers = { x: place * wide + gap / 2, y: height - 1 - tall, width: wide - gap, height: tall };
      Object.entries(numbers).forEach(([key, number]) => bar.setAttribute(key, String(number)));
      bar.setAttribute("class", `alnb-places-${name}`);
      svg.append(bar);
    }
  });
  return svg;
}

function picture(pick, number, board, model, el) {
  const image = h("img", { src: board.pictures[pick.picture], alt: "" });
  const [volume, place, score] = pick.caption;
  const button = h("button", { type: "button", className: "alnb-pick", title: pick.title, "@aria-label": pick.title },
    box("alnb-pick-image", image, h("span", { className: "alnb-pick-number", textContent: String(number) }),
      pick.wanted > 1 ? h("span", { className: "alnb-pick-wanted", textContent: `×${pick.wanted}` }) : null),
    h("span", { className: "alnb-pick-name", textContent: volume }),
    h("span", { className: "alnb-pick-place", textContent: place }),
    score ? h("span", { className: "alnb-pick-place", textContent: score }) : null);
  button.dataset.picture = pick.picture;
  if (pick.colour) {
    button.style.setProperty("--alnb-frame", pick.colour);
    button.style.borderStyle = pick.line;
  }
  button.dataset.shared = pick.colour ? "yes" : "no";
  const same = (on) => {
    for (const other of el.querySelectorAll(".alnb-pick")) {
      other.dataset.same = on && pick.wanted > 1 && other.dataset.picture === pick.picture ? "yes" : "no";
    }
  };
  for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
    button.addEventListener(event, () => same(on));
  }
  button.dataset.opens = model.get("opens") ? "yes" : "no";
  if (model.get("opens")) {
    button.addEventListener("click", () => model.send({ kind: "open", slice: pick.slice }));
  }
  return button;
}

function row(wish, board, model, el) {
  const note = wish.note ? h("div", { className: "alnb-wish-note", textContent: wish.note }) : null;
  const about = box("alnb-wish-about", h("strong", { textContent: wish.name }),
    h("div", { className: "alnb-wish-words", textContent: wish.sentence }), positions(wish, board.pool), note);
  const picks = wish.picks.map((pick, place) => picture(pick, place + 1, board, model, el));
  const strip = h("div", { className: "alnb-picks", "@role": "group", "@aria-label": `Asked by ${wish.name}` }, ...picks);
  return box("alnb-wish", about, strip);
}

function render({ model, el }) {
  el.classList.add("alnb-board");
  const again = h("button", { type: "button", className: "alnb-again", textContent: "Compare again" });
  again.addEventListener("click", () => model.send({ kind: "again" }));
  const line = h("span", { className: "alnb-board-line", "@role": "status", "@aria-live": "polite" });
  const body = box("alnb-board-body");
  el.replaceChildren(box("alnb-board-head", h("strong", { textContent: "What each would ask now" }), again, line), body);

  const state = () => {
    again.disabled = model.get("busy");
    line.textContent = model.get("line");
    el.dataset.busy = model.get("busy") ? "yes" : "no";
  };
  const draw = () => {
    const board = model.get("board");
    if (!board.names) return;
    const problems = board.problems.map(([name, why]) =>
      h("p", {}, h("strong", { textContent: `${name} cannot choose: ` }), why));
    const words = box("alnb-board-words", h("p", { textContent: board.sentence }), ...problems,
      h("p", { className: "alnb-board-quiet", textContent:
        "Equal frames are one slice that several ask. Small bars: where in their volume the slices lie, " +
        "first to last; the outline is the pool." }));
    const left = board.names.length ? box("alnb-board-heat", heatMap(board), scale(board)) : null;
    body.replaceChildren(box("alnb-board-top", ...[left, words].filter(Boolean)),
      ...board.wishes.map((wish) => row(wish, board, model, el)));
  };
  model.on("change:line", state);
  model.on("change:busy", state);
  model.on("change:board", draw);
  state();
  draw();
  return () => {
    model.off("change:line", state);
    model.off("change:busy", state);
    model.off("change:board", draw);
  };
}

export default { render };
