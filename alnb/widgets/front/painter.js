// Paints the five layers of the ipycanvas MultiCanvas from plain arrays: image, the model's proposal,
// the live proposal, ink and preview. The kernel's label map is `base`; `shown` is base with the
// strokes that are still on their way, and `provisional` marks the pixels which those touched.

const LAYERS = { image: 0, proposal: 1, live: 2, ink: 3, preview: 4 };

const LOOKS = ["opacity", "ink", "outline", "hidden", "brightness", "contrast"];
const rgbOf = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const lighter = (value) => value + (255 - value) * 0.45;
const darker = (value) => value * 0.25;

class Painter {
  constructor(link, tools) {
    this.link = link;
    this.tools = tools;
    this.colours = new Map();
    this.scene = null;
    this.open = null; // the stroke under the pen
    this.faint = false; // whether background ink is
    this.near = new Map(); // key -> {image, shape}: neighbouring slices, read ahead
    link.on("setup", (setup) => {
      this.colours = new Map(setup.classes.map(({ label, colour }) => [label, rgbOf(colour)]));
    });
    link.on("scene", (scene, buffers) => this.enter(scene, buffers));
    link.on("near", (slice, [image]) => this.remember(slice, image));
    link.on("proposal", (content, [labels]) => this.propose(content, labels));
    link.on("live", (content, buffers) => this.grow(content, buffers));
    link.on("between", (content, [labels]) => this.offer(content, labels));
    // whoever walks through a volume comes back to finished slices to look at them
    link.on("ui", ({ walk }) => {
      if (this.faint === Boolean(walk)) return;
      this.faint = Boolean(walk);
      this.paintAll();
    });
    link.on("ink", (content, [labels]) => this.patch(content, labels));
    link.on("ack", (content, [labels]) => this.patch(content, labels));
    tools.on((changes) => {
      if (LOOKS.some((key) => key in changes)) this.paintAll();
    });
  }

  async attach(model) {
    const manager = model.widget_manager;
    this.multi = await manager.get_model(model.get("target"));
    this.layers = this.multi.get("_canvases");
    this.multi.on("change:width change:height", () => queueMicrotask(() => this.paintAll()));
    this.paintAll();
  }

  // ---- what arrives ----

  enter(scene, [image, ink, proposal]) {
    if (this.open && keyOf(this.open.slice) !== keyOf(scene.slice)) this.commit();
    const [height, width] = scene.shape;
    this.scene = { ...scene, height, width, key: keyOf(scene.slice) };
    this.image = new Uint16Array(image);
    this.base = new Uint8Array(ink);
    this.shown = new Uint8Array(height * width);
    this.provisional = new Uint8Array(height * width);
    this.proposal = proposal?.byteLength ? new Uint8Array(proposal) : null;
    this.live = null;
    this.between = null;
    this.remember(scene, image);
    this.resize(width, height);
    this.replay();
    this.paintAll();
    this.link.emit("entered", this.scene);
  }

  remember(slice, image) {
    const key = keyOf(slice.slice);
    this.near.delete(key);
    this.near.set(key, { image: new Uint16Array(image), shape: slice.shape, view: slice });
    while (this.near.size > 16) this.near.delete(this.near.keys().next().value);
    this.link.emit("remembered");
  }

  propose(content, labels) {
    if (!this.scene || keyOf(content.slice) !== this.scene.key) return;
    this.proposal = labels?.byteLength ? new Uint8Array(labels) : null;
    this.paintProposal();
    this.flush();
  }

  /** What the strokes suggest. It takes the place of the model's proposal, so one is seen at a time. */
  grow({ slice, id }, [labels, sure]) {
    if (!this.scene || keyOf(slice) !== this.scene.key) return;
    this.live = id ? { id, labels: new Uint8Array(labels), sure: new Uint8Array(sure) } : null;
    this.paintProposal();
    this.paintLive();
    this.flush();
  }

  /** What was interpolated between labelled slices. It takes the place of any other proposal. */
  offer({ slice, id }, labels) {
    if (!this.scene || keyOf(slice) !== this.scene.key) return;
    this.between = id ? { id, labels: new Uint8Array(labels) } : null;
    this.paintProposal();
    this.paintLive();
    this.flush();
  }

  /** The id of the live proposal in view; null where there is none, or it is hidden. */
  get grown() {
    return this.between || !this.looking ? null : this.live?.id ?? null;
  }

  /** The id of the interpolation in view, likewise. */
  get offered() {
    return this.looking ? this.between?.id ?? null : null;
  }

  get looking() {
    return !this.tools.hidden && this.tools.opacity > 0;
  }

  /** Put a box of authoritative labels in place; the preview of the stroke behind it goes away. */
  patch({ slice, box }, labels) {
    if (!this.scene || keyOf(slice) !== this.scene.key) return;
    if (box && labels) {
      const [top, left, height, width] = box;
      const rows = new Uint8Array(labels);
      for (let row = 0; row < height; row++)
        this.base.set(
          rows.subarray(row * width, (row + 1) * width),
          (top + row) * this.scene.width + left,
        );
    }
    this.replay();
    this.paintInk();
    this.flush();
  }

  resize(width, height) {
    for (const canvas of [...(this.layers ?? []), ...(this.multi ? [this.multi] : [])])
      canvas.set({ width, height });
  }

  // ---- strokes ----

  begin(stroke) {
    this.open = stroke;
    this.link.send({ kind: "pen", down: true });
    this.before = { shown: this.shown.slice(), provisional: this.provisional.slice() };
    this.extend([]);
  }

  /** Add points to the open stroke and paint only the box that they touch. */
  extend(points) {
    const { open, scene } = this;
    const { height, width } = scene;
    const from = open.points.at(-1);
    open.points.push(...points);
    if (open.tool === "lasso") return this.extendLasso();
    const chain = points.length ? [from, ...points] : [from, from];
    let [top, left, bottom, right] = [height, width, 0, 0];
    for (let i = 1; i < chain.length; i++) {
      stampSegment(height, width, chain[i - 1], chain[i], open.radius, (at) => this.mark(at, open));
      const box = segmentBox(height, width, chain[i - 1], chain[i], open.radius);
      top = Math.min(top, box[0]);
      left = Math.min(left, box[1]);
      bottom = Math.max(bottom, box[0] + box[2]);
      right = Math.max(right, box[1] + box[3]);
    }
    this.paintInk([top, left, bottom - top, right - left]);
    this.flush();
  }

  extendLasso() {
    const { open, scene } = this;
    this.shown.set(this.before.shown);
    this.provisional.set(this.before.provisional);
    coverStroke(scene.height, scene.width, open, (at) => this.mark(at, open));
    const edge = { ...open, tool: "brush", radius: 0.75 };
    coverStroke(scene.height, scene.width, edge, (at) => (this.provisional[at] = 1));
    this.paintInk();
    this.flush();
  }

  mark(at, stroke) {
    if (stroke.keep.includes(this.shown[at])) return;
    this.shown[at] = stroke.label;
    this.provisional[at] = 1;
  }

  commit() {
    const stroke = this.open;
    this.open = null;
    if (!stroke) return;
    stroke.ended = Date.now() / 1000;
    if (stroke.tool === "lasso") this.replay();
    this.link.stroke(stroke);
    this.link.send({ kind: "pen", down: false });
    this.replay();
    this.paintInk();
    this.flush();
  }

  abort() {
    this.open = null;
    this.link.send({ kind: "pen", down: false });
    this.replay();
    this.paintInk();
    this.flush();
  }

  /** Rebuild what is shown: the kernel's labels, then every stroke that is not confirmed yet. */
  replay() {
    const { scene } = this;
    if (!scene) return;
    this.shown.set(this.base);
    this.provisional.fill(0);
    const put = (stroke) =>
      coverStroke(scene.height, scene.width, stroke, (at) => this.mark(at, stroke));
    for (const stroke of this.link.pending.values())
      if (keyOf(stroke.slice) === scene.key) put(stroke);
    if (this.open) {
      this.before = { shown: this.shown.slice(), provisional: this.provisional.slice() };
      put(this.open);
    }
  }

  // ---- pixels ----

  paintAll() {
    if (!this.scene || !this.layers) return;
    this.paintImage();
    this.paintProposal();
    this.paintLive();
    this.paintInk();
    this.flush();
  }

  flush() {
    this.layers?.[LAYERS.preview].trigger("new-frame");
  }

  put(layer, pixels, top, left) {
    this.layers[LAYERS[layer]].ctx.putImageData(pixels, left, top);
  }

  grey({ image, view, shape }) {
    const [height, width] = shape;
    const pixels = new ImageData(width, height);
    const [low, high] = this.tools.window(view.window);
    const unit = (view.range[1] - view.range[0]) / 65535;
    const gain = (255 * unit) / (high - low);
    const shift = (255 * (view.range[0] - low)) / (high - low);
    for (let i = 0, at = 0; i < image.length; i++, at += 4) {
      const value = image[i] * gain + shift; // Uint8ClampedArray clamps and rounds
      pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = value;
      pixels.data[at + 3] = 255;
    }
    return pixels;
  }

  paintImage() {
    const { scene, image } = this;
    this.put("image", this.grey({ image, view: scene, shape: scene.shape }), 0, 0);
  }

  paintProposal() {
    const { proposal, tools } = this;
    // solid: an outline with a wash, or filled
    const look = (edge) => [tools.outline ? (edge ? 1 : 0.16) : 0.62];
    this.paintRegions("proposal", this.live || this.between ? null : proposal, look);
  }

  paintLive() {
    const { live, tools } = this;
    if (this.between) return this.paintBetween();
    // hatched and dashed, so that it is told from ink and from the model's proposal without colour;
    // the gaps of the dashes are dark, which shows on bright tissue, and the hatch is fainter where
    // it is less sure
    const look = (edge, at, row, col) => {
      if (edge) return (row + col) & 2 ? [1] : [0.75, darker];
      const trust = 0.4 + (0.6 * live.sure[at]) / 255;
      const between = (row - col) & 3;
      return [trust * (tools.outline ? (between ? 0.08 : 0.5) : between ? 0.4 : 0.8)];
    };
    this.paintRegions("live", live?.labels, look);
  }

  paintBetween() {
    // lines along the rows and a light edge: neither the slant of a live proposal nor solid
    const look = (edge, at, row) => {
      if (edge) return [1, lighter];
      return [row % 3 ? (this.tools.outline ? 0.1 : 0.45) : this.tools.outline ? 0.4 : 0.75];
    };
    this.paintRegions("live", this.between.labels, look);
  }

  /** Paint a label map but for its background; `look` gives alpha, and shade, of each pixel. */
  paintRegions(layer, labels, look) {
    const { scene, tools } = this;
    if (!scene || !this.layers) return;
    const pixels = new ImageData(scene.width, scene.height);
    if (labels && !tools.hidden && tools.opacity > 0) {
      const { width, height } = scene;
      for (let row = 0, at = 0; row < height; row++)
        for (let col = 0; col < width; col++, at++) {
          const label = labels[at];
          if (label === 0 || label === IGNORE) continue;
          const edge =
            (col > 0 && labels[at - 1] !== label) ||
            (col + 1 < width && labels[at + 1] !== label) ||
            (row > 0 && labels[at - width] !== label) ||
            (row + 1 < height && labels[at + width] !== label);
          const [alpha, shade] = look(edge, at, row, col);
          this.setPixel(pixels, at, label, alpha * tools.opacity, shade);
        }
    }
    this.put(layer, pixels, 0, 0);
  }

  paintInk(box) {
    const { scene, shown, provisional, tools } = this;
    if (!scene || !this.layers) return;
    const [top, left, height, width] = box ?? [0, 0, scene.height, scene.width];
    if (!height || !width) return;
    const ink = new ImageData(width, height);
    const preview = new ImageData(width, height);
    if (!tools.hidden)
      for (let row = top; row < top + height; row++)
        for (let col = left; col < left + width; col++) {
          const at = row * scene.width + col;
          const label = shown[at];
          if (label === IGNORE && !provisional[at]) continue;
          const to = (row - top) * width + (col - left);
          const target = provisional[at] ? preview : ink;
          this.inkPixel(target, to, row, col, label, provisional[at]);
        }
    this.put("ink", ink, top, left);
    this.put("preview", preview, top, left);
  }

  inkPixel(pixels, to, row, col, label, provisional) {
    const opacity = this.tools.ink;
    const odd = (row + col) & 1;
    if (label === IGNORE) {
      // erased, but not yet confirmed
      if (odd) pixels.data.set([255, 255, 255, 90], 4 * to);
    } else if (label === 0 && !provisional && (row + col) % 4 && !this.onEdge(row, col)) {
      // background is a label too, but a slice full of it must still show the image
    } else if (provisional) {
      this.setPixel(pixels, to, label, (odd ? 0.95 : 0.45) * opacity, lighter);
    } else this.setPixel(pixels, to, label, (label ? 1 : this.faint ? 0.25 : 0.8) * opacity);
  }

  onEdge(row, col) {
    const { shown, scene } = this;
    const { width, height } = scene;
    const at = row * width + col;
    return (
      (col > 0 && shown[at - 1] !== 0) ||
      (col + 1 < width && shown[at + 1] !== 0) ||
      (row > 0 && shown[at - width] !== 0) ||
      (row + 1 < height && shown[at + width] !== 0)
    );
  }

  setPixel(pixels, at, label, alpha, shade = (value) => value) {
    const colour = this.colours.get(label) ?? [255, 0, 255];
    const data = pixels.data;
    data[4 * at] = shade(colour[0]);
    data[4 * at + 1] = shade(colour[1]);
    data[4 * at + 2] = shade(colour[2]);
    data[4 * at + 3] = 255 * alpha;
  }
}
