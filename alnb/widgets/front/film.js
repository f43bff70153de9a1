// The track of a volume: a small picture of every slice, what it holds, and where one is.

const CELLS = {
  empty: ["", "not labelled"],
  drawn: ["✎", "strokes that wait to be submitted"],
  offered: ["◇", "interpolated, not accepted"],
  labelled: ["✓", "labelled"],
  taken: ["◆", "interpolation accepted"],
  skipped: ["–", "passed over"],
};

class Film {
  constructor(link, painter, choose) {
    Object.assign(this, { link, painter, choose });
    this.element = h("div", { className: "alnb-film", "@role": "list", "@aria-label": "Slices of the volume" });
    this.buttons = [];
    this.walk = null;
    this.pictures = null;
    this.maps = new Map();
    this.offs = [
      link.on("film", (film, [greys]) => this.receive(film, greys)),
      link.on("film_labels", (content, maps) => this.label(content, maps)),
      link.on("setup", () => this.paint()),
    ];
  }

  close() {
    this.offs.forEach((off) => off());
  }

  receive(film, greys) {
    this.pictures = { ...film, greys: new Uint8Array(greys) };
    this.maps.clear();
    this.paint();
  }

  label({ volume, indices }, maps) {
    if (volume !== this.pictures?.volume) return;
    indices.forEach((index, i) => {
      if (maps[i].byteLength) this.maps.set(index, new Uint8Array(maps[i]));
      else this.maps.delete(index);
    });
    this.paint(indices);
  }

  /** Follow the walk: what the cells hold, and which slice is in view. */
  show(walk) {
    const another = walk.volume !== this.walk?.volume || walk.cells.length !== this.buttons.length;
    const before = another ? [] : this.walk.cells;
    this.walk = walk;
    if (another) this.build();
    this.buttons.forEach((button, index) => {
      const cell = walk.cells[index];
      const [mark, words] = CELLS[cell];
      const here = index === walk.here;
      button.dataset.cell = cell;
      button.title = `Slice ${index + 1}: ${words}`;
      button.setAttribute("aria-label", button.title);
      button.lastChild.textContent = [index + 1, mark].filter(Boolean).join(" ");
      if (here) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    this.follow(another);
    this.paint(another ? undefined : walk.cells.flatMap((cell, i) => (cell === before[i] ? [] : [i])));
  }

  build() {
    this.buttons = this.walk.cells.map((_, index) =>
      this.choose(index, [h("canvas", { width: 1, height: 1 }), h("span")]));
    this.element.replaceChildren(...this.buttons);
    this.element.dataset.pictures = "no";
  }

  /** Keep the slice in view within the track, without moving the page. */
  follow(another) {
    const button = this.buttons[this.walk.here];
    if (!button) return;
    const { offsetLeft, offsetWidth } = button;
    const { scrollLeft, clientWidth } = this.element;
    const before = offsetLeft < scrollLeft;
    if (another || before || offsetLeft + offsetWidth > scrollLeft + clientWidth)
      this.element.scrollLeft = offsetLeft - (clientWidth - offsetWidth) / 2;
  }

  paint(indices = this.buttons.keys()) {
    const { pictures, walk } = this;
    const { scene } = this.painter;
    if (!pictures || pictures.volume !== walk?.volume || !scene) return;
    this.element.dataset.pictures = "yes";
    const [height, width] = pictures.size;
    for (const index of indices) {
      const canvas = this.buttons[index]?.firstChild;
      if (!canvas) continue;
      Object.assign(canvas, { width, height });
      canvas.style.aspectRatio = `${scene.width * scene.aspect[1]} / ${scene.height * scene.aspect[0]}`;
      canvas.style.transform = `scale(${scene.flip.map((on) => (on ? -1 : 1)).reverse().join()})`;
      canvas.getContext("2d").putImageData(this.picture(index, height, width), 0, 0);
    }
  }

  picture(index, height, width) {
    const pixels = new ImageData(width, height);
    const { data } = pixels;
    const from = index * height * width;
    const labels = this.maps.get(index);
    const lined = this.walk.cells[index] === "offered"; // as it is on the stage
    for (let at = 0; at < height * width; at++) {
      const grey = this.pictures.greys[from + at];
      const label = lined && Math.floor(at / width) % 3 === 0 ? 0 : labels?.[at];
      const colour = label && label !== IGNORE ? this.painter.colours.get(label) : null;
      const mixed = colour ? colour.map((value) => grey * 0.35 + value * 0.65) : [grey, grey, grey];
      data.set([...mixed, 255], 4 * at);
    }
    return pixels;
  }
}
