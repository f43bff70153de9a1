// The pen and the view settings. They live in the browser, so that a choice of class or brush is
// immediate whatever the kernel does, and they are remembered per project.

const RADII = [0.75, 40];
const DEFAULTS = {
  label: 1,
  radius: 2.5,
  tool: "brush",
  protect: false,
  opacity: 0.9,
  ink: 0.75,
  outline: true,
  hidden: false,
  brightness: 0,
  contrast: 0,
};

class Tools {
  constructor(project) {
    this.store = `alnb:tools:${project}`;
    this.listeners = new Set();
    this.labels = [0, 1];
    Object.assign(this, DEFAULTS);
    try {
      const saved = JSON.parse(localStorage.getItem(this.store)) ?? {};
      for (const key of Object.keys(DEFAULTS)) if (typeof saved[key] === typeof DEFAULTS[key]) this[key] = saved[key];
    } catch (error) {
      // no storage: the settings last as long as the page
    }
    this.hidden = false; // nobody should open a project and find the ink gone
  }

  on(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  classes(labels) {
    this.labels = labels;
    if (!labels.includes(this.label)) this.label = labels[1] ?? labels[0];
  }

  set(changes) {
    Object.assign(this, changes);
    this.radius = Math.min(RADII[1], Math.max(RADII[0], this.radius));
    this.opacity = Math.min(1, Math.max(0, this.opacity));
    this.ink = Math.min(1, Math.max(0.1, this.ink));
    const now = Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, this[key]]));
    try {
      localStorage.setItem(this.store, JSON.stringify(now));
    } catch (error) {
      // as above
    }
    for (const listener of this.listeners) listener(changes);
  }

  pick(label) {
    if (!this.labels.includes(label)) return;
    this.set({ label, tool: this.tool === "eraser" ? "brush" : this.tool });
  }

  step(by) {
    const at = this.labels.indexOf(this.label);
    this.pick(this.labels[(at + by + this.labels.length) % this.labels.length]);
  }

  /** Classes a stroke must not paint over: with protection on, every other foreground class. */
  keep() {
    return this.protect ? this.labels.filter((label) => label !== this.label && label !== 0) : [];
  }

  /** The grey window in the volume's own units, from its default and the two sliders. */
  window([low, high]) {
    const width = Math.max(high - low, 1e-9) * 4 ** -this.contrast;
    const level = (low + high) / 2 - this.brightness * (high - low) * 0.75;
    return [level - width / 2, level + width / 2];
  }
}
