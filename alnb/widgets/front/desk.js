// The controls around the canvas. Text enters the page by textContent only: names come from files.

const NARROW = 640; // CSS pixels; below, the right column moves under the stage
const SVG = "http://www.w3.org/2000/svg";

/** An element with properties, attributes (by a leading "@") and children. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("@")) element.setAttribute(key.slice(1), value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const ICONS = {
  brush: "M3 13c2 0 1-3 3-3s2 3 0 4-3 0-3-1Zm4-4 5.5-6.5 1 1L7.8 9.8Z",
  lasso: "M8 2.5c3.3 0 5.5 1.6 5.5 3.8S11.300 10 8 10 2.500 8.500 2.500 6.300 4.700 2.500 8 2.500ZM5 9.500c-1.500 1-.5 3 .8 2.500S6 9.800 4.800 10.500 4 13.500 5.500 14",
  eraser: "M9.500 2.500 13.500 6.500 7.500 12.500H5L2.500 10ZM5.500 6.500l4 4M7.500 13.500h6",
  undo: "M6 3 2.500 6.500 6 10M2.500 6.500H10a3.500 3.500 0 0 1 0 7H6",
  redo: "M10 3l3.500 3.500L10 10M13.500 6.500H6a3.500 3.500 0 0 0 0 7h4",
  clear: "M3 4.500h10M6.500 4.500V3h3v1.500M4.500 4.500l.7 9h5.600l.7-9M6.800 7v4M9.200 7v4",
  shield: "M8 2l5 2v4c0 3-2.200 5-5 6-2.800-1-5-3-5-6V4Z",
  sprout: "M8 14V8.500M8 8.500C8 5.500 5.800 4 2.500 4 2.500 7 4.700 8.500 8 8.500ZM8 7c0-2.800 2-4.500 5.500-4.500C13.500 5.500 11.500 7 8 7Z",
  outline: "M8 3.500c3 0 4.500 2 4.500 4.500S11 12.500 8 12.500 3.500 10.500 3.500 8 5 3.500 8 3.500Z",
  eye: "M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8ZM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4Z",
  between: "M4 2.500h8M2.500 13.500h11M5 5.500h6M4.500 8h7M3.500 10.800h9",
  reset: "M3 3v3.500h3.500M3.200 6.300A5.200 5.200 0 1 1 3 9.500",
};

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

class Desk {
  constructor(link, painter, tools, el) {
    Object.assign(this, { link, painter, tools, el });
    this.setup = null;
    this.ui = null;
    this.note = null;
    this.film = new Film(link, painter, (index, parts) => this.cell(index, parts));
    this.build();
    this.stage = new Stage(link, painter, tools, { overlay: this.overlay, cursor: this.cursor });
    this.offs = [
      link.on("setup", (setup) => this.prepare(setup)),
      link.on("ui", (ui) => this.show(ui)),
      link.on("entered", () => this.entered()),
      link.on("live", () => this.grown()),
      link.on("between", () => this.grown()),
      link.on("remembered", () => this.thumbs()),
      link.on("pending", () => this.state()),
      link.on("refused", ({ error }) => this.say(error, "error", 12000)),
      link.on("condition", () => this.state()),
      link.on("browse", (by) => this.browse(by)),
      link.on("zoomed", () => this.settings()),
      link.on("locked", () =>
        this.say("This slice is not in the query: it can be looked at, not drawn on.", "warn"),
      ),
      tools.on((changes) => {
        this.settings();
        if ("brightness" in changes || "contrast" in changes) this.thumbs();
      }),
    ];
    this.keydown = this.keydown.bind(this);
    this.keyup = this.keyup.bind(this);
  }

  /** Called until the canvas is there, and again if the host makes another one. */
  attach() {
    const root = this.el.closest(".alnb-desk");
    if (!root) return;
    if (root !== this.root) {
      this.root = root;
      root.setAttribute("data-lm-suppress-shortcuts", "true");
      root.dataset.booster = "on"; // the style sheet puts the kernel-drawn controls away
      this.resized = new ResizeObserver(() => {
        root.dataset.narrow = root.clientWidth < NARROW ? "yes" : "no";
      });
      this.resized.observe(root);
      root.addEventListener("keydown", this.keydown, true);
      root.addEventListener("keyup", this.keyup, true);
    }
    const canvas = root.querySelector(".alnb-stage canvas");
    if (canvas) this.stage.take(canvas);
  }

  close() {
    this.resized?.disconnect();
    this.root?.removeEventListener("keydown", this.keydown, true);
    this.root?.removeEventListener("keyup", this.keyup, true);
    this.offs.forEach((off) => off());
    this.film.close();
    this.stage.close();
    clearTimeout(this.fading);
    clearTimeout(this.forgetting);
  }

  // ---- building ----

  button(text, title, act, { glyph = null, cls = "" } = {}) {
    const label = text ? [h("span", { textContent: text })] : [];
    const button = h(
      "button",
      { type: "button", className: `alnb-button ${cls}`, title, "@aria-label": title },
      glyph && icon(glyph),
      ...label,
    );
    button.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus
    button.addEventListener("click", () => {
      this.link.active = true;
      if (this.root?.contains(document.activeElement) === false) this.focus();
      act();
    });
    return button;
  }

  slider(name, title, range, get, set) {
    const input = h("input", { type: "range", title, ...range, "@aria-label": title });
    input.addEventListener("input", () => set(Number(input.value)));
    input.addEventListener("pointerup", () => this.focus());
    this.refreshers.push(() => (input.value = get()));
    return h("label", { className: "alnb-slider", title }, h("span", { textContent: name }), input);
  }

  toggle(text, title, glyph, get, flip) {
    const button = this.button(text, title, flip, { glyph, cls: "alnb-toggle" });
    this.refreshers.push(() => button.setAttribute("aria-pressed", String(get())));
    return button;
  }

  build() {
    const { tools } = this;
    this.refreshers = [];
    const box = (cls, ...children) => h("div", { className: cls }, ...children);
    const head = (text) => h("div", { className: "alnb-head", textContent: text });

    this.title = h("span", { className: "alnb-title" });
    this.where = h("span", { className: "alnb-where" });
    this.count = h("span", { className: "alnb-count" });
    this.chips = h("div", { className: "alnb-chips", "@role": "list", "@aria-label": "Queue" });
    this.back = this.button("‹", "Previous slice of the query (←)", () => this.go(-1), { cls: "alnb-arrow" });
    this.forth = this.button("›", "Next slice of the query (→)", () => this.go(1), { cls: "alnb-arrow" });
    this.before = this.button("‹", "Previous volume of the query (Shift+←)", () => this.onVolume("previous_volume"), { cls: "alnb-arrow" });
    this.after = this.button("›", "Next volume of the query (Shift+→)", () => this.onVolume("next_volume"), { cls: "alnb-arrow" });
    this.fallback = this.button("!", "", () => this.say(this.ui.note, "warn", 15000), { cls: "alnb-fallback" });
    this.fallback.hidden = true;
    const top = box(
      "alnb-top",
      box("alnb-name", this.title, this.where),
      box("alnb-queue", this.fallback, this.count, this.back, this.before, this.chips, this.forth, this.after),
      this.button("?", "Keys (?)", () => this.help(), { cls: "alnb-round" }),
    );

    this.palette = h("div", { className: "alnb-palette", "@role": "radiogroup", "@aria-label": "Class" });
    const tool = (name, text, key) =>
      this.toggle(text, `${text} (${key})`, name, () => tools.tool === name, () => tools.set({ tool: name }));
    this.size = h("output", { className: "alnb-size" });
    this.refreshers.push(() => (this.size.textContent = `${(2 * tools.radius).toFixed(1)} px`));
    this.undo = this.button("", "Undo (Ctrl+Z)", () => this.onSlice("undo"), { glyph: "undo" });
    this.redo = this.button("", "Redo (Ctrl+Shift+Z)", () => this.onSlice("redo"), { glyph: "redo" });
    this.clear = this.button("", "Take back every stroke on this slice", () => this.onSlice("clear"), { glyph: "clear" });
    this.interpolating = this.toggle("Interpolate", "Fill in slices between labelled ones, as proposals (I)",
      "between", () => Boolean(this.ui?.walk?.offering), () => this.interpolate());
    this.interpolating.hidden = true;
    const left = box(
      "alnb-left",
      head("Class"),
      this.palette,
      head("Tool"),
      box("alnb-tools", tool("brush", "Brush", "P"), tool("lasso", "Lasso", "L"), tool("eraser", "Eraser", "E")),
      box("alnb-sizes", h("span", { textContent: "Width" }), this.size),
      this.slider("", "Brush width ([ and ], or Shift+wheel)", { min: -0.5, max: 5.3, step: 0.1 },
        () => Math.log2(tools.radius), (value) => tools.set({ radius: 2 ** value })),
      this.toggle("Protect others", "Do not paint over other classes (B)", "shield",
        () => tools.protect, () => tools.set({ protect: !tools.protect })),
      this.toggle("Live proposal", "Grow the strokes into a proposal while drawing (V)", "sprout",
        () => Boolean(this.ui?.live), () => this.switchLive()),
      this.interpolating,
      box("alnb-row", this.undo, this.redo, this.clear),
    );

    this.cursor = h("div", { className: "alnb-cursor", hidden: true });
    this.badge = h("div", { className: "alnb-badge", hidden: true, "@data-grown": "" });
    this.banner = h("div", { className: "alnb-banner", hidden: true });
    this.home = this.button("Back to the query (Home)", "Back to the slice of the query", () => this.home_());
    this.peek = box("alnb-peek", h("span"), this.home);
    this.peek.hidden = true;
    this.bannerHead = h("strong");
    this.bannerText = h("span");
    this.banner.setAttribute("role", "alert");
    this.banner.append(this.bannerHead, this.bannerText);
    this.keys = h("div", { className: "alnb-help", hidden: true, "@role": "dialog", "@aria-label": "Keys" });
    this.overlay = box("alnb-overlay", this.badge, this.peek, this.cursor, this.banner, this.keys);

    this.above = this.thumb(1);
    this.below = this.thumb(-1);
    const right = box(
      "alnb-right",
      head("Neighbours"),
      this.above.button,
      this.below.button,
      head("View"),
      this.slider("Bright", "Brightness", { min: -1, max: 1, step: 0.02 },
        () => tools.brightness, (brightness) => tools.set({ brightness })),
      this.slider("Contrast", "Contrast", { min: -1, max: 1, step: 0.02 },
        () => tools.contrast, (contrast) => tools.set({ contrast })),
      this.slider("Proposal", "Opacity of the proposal (A and D)", { min: 0, max: 1, step: 0.05 },
        () => tools.opacity, (opacity) => tools.set({ opacity })),
      this.slider("Ink", "Opacity of the ink", { min: 0.1, max: 1, step: 0.05 },
        () => tools.ink, (ink) => tools.set({ ink })),
      box(
        "alnb-row",
        this.toggle("", "Proposal as an outline (O)", "outline", () => tools.outline,
          () => tools.set({ outline: !tools.outline })),
        this.toggle("", "Hide ink and proposal (S)", "eye", () => tools.hidden,
          () => tools.set({ hidden: !tools.hidden })),
        this.button("", "Reset window and zoom (Z)", () => this.resetView(), { glyph: "reset" }),
      ),
    );

    this.far = h("span", { className: "alnb-far" });
    this.walkActs = box("alnb-walk-acts");
    this.track = box("alnb-track", this.film.element, box("alnb-walk", this.far, this.walkActs));
    this.track.hidden = true;

    this.acts = box("alnb-acts");
    this.bar = h("progress", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", "Training");
    this.barText = h("span", { className: "alnb-bar-text" });
    this.stop = this.button("Stop", "Stop the training; the model so far is kept", () => this.link.act("stop"));
    this.training = box("alnb-training", this.bar, this.barText, this.stop);
    this.training.dataset.on = "no";
    const bottom = box("alnb-bottom", this.acts, this.training, this.asking());

    this.saved = h("span", { className: "alnb-saved" });
    this.line = h("span", { className: "alnb-line" });
    const state = h("div", { className: "alnb-state", "@role": "status", "@aria-live": "polite" }, this.saved, this.line);

    this.el.classList.add("alnb-parts");
    this.el.replaceChildren(top, left, this.overlay, right, this.track, bottom, state);
    this.settings();
    this.state();
  }

  /** Who chooses the next query. */
  asking() {
    this.strategy = h("select", { className: "alnb-select", "@aria-label": "Strategy of the next query" });
    this.strategy.addEventListener("pointerdown", () => (this.pointed = true));
    this.strategy.addEventListener("change", () => {
      this.link.active = true;
      this.wanted = this.strategy.value;
      clearTimeout(this.forgetting);
      this.forgetting = setTimeout(() => this.strategies(), 10000);
      this.link.act("strategy", { strategy: this.wanted });
      if (this.pointed) this.focus(); // whoever chooses by arrow keys goes on choosing
    });
    return h("label", { className: "alnb-asking" }, h("span", { textContent: "Next query by" }), this.strategy);
  }

  /** Show what can be chosen; a choice under way is not taken back by an older answer. */
  strategies({ underway = false } = {}) {
    const { chosen, groups, enabled } = this.ui.strategy;
    if (!underway || chosen === this.wanted) {
      this.wanted = null;
      clearTimeout(this.forgetting);
    }
    const offered = JSON.stringify(groups);
    if (offered !== this.offered) {
      this.offered = offered;
      this.strategy.replaceChildren(...groups.map(({ name, choices }) =>
        h("optgroup", { label: name }, ...choices.map((choice) =>
          h("option", { value: choice.name, textContent: choice.name, title: choice.hint })))));
    }
    const shown = this.wanted ?? chosen;
    if (this.strategy.value !== shown) this.strategy.value = shown;
    const hint = groups.flatMap(({ choices }) => choices).find(({ name }) => name === shown)?.hint ?? "";
    this.strategy.title = `${shown}: ${hint}`;
    if (!enabled && document.activeElement === this.strategy) this.focus();
    this.strategy.disabled = !enabled;
  }

  thumb(offset) {
    const canvas = h("canvas", { width: 1, height: 1 });
    const caption = h("span");
    const title = offset > 0 ? "The slice above (↑)" : "The slice below (↓)";
    const button = this.button("", title, () => this.browse(offset), { cls: "alnb-thumb" });
    button.append(canvas, caption);
    return { offset, canvas, caption, button };
  }

  prepare(setup) {
    this.setup = setup;
    this.tools.classes(setup.classes.map(({ label }) => label));
    this.palette.replaceChildren(
      ...setup.classes.map(({ label, name, colour }) => {
        const button = this.button(name, `${name} (${label})`, () => this.tools.pick(label), { cls: "alnb-class" });
        const swatch = h("i", { className: "alnb-swatch" });
        swatch.style.setProperty("--alnb-colour", colour);
        swatch.dataset.background = label === 0 ? "yes" : "no";
        button.prepend(swatch);
        if (label < 10) button.append(h("kbd", { textContent: String(label) }));
        button.dataset.label = label;
        button.setAttribute("role", "radio");
        return button;
      }),
    );
    const rows = setup.keys.map(({ shown, help, volume }) =>
      h("div", { className: volume ? "alnb-of-volumes" : "" }, h("span", { className: "alnb-keys" }, ...shown.map((key) => h("kbd", { textContent: key }))),
        h("span", { textContent: help })),
    );
    this.keys.replaceChildren(
      h("div", { className: "alnb-help-head" }, h("strong", { textContent: "Keys" }),
        this.button("Close", "Close (Esc)", () => this.help(false))),
      h("div", { className: "alnb-help-rows" }, ...rows),
    );
    this.settings();
  }

  // ---- showing ----

  settings() {
    this.refreshers.forEach((refresh) => refresh());
    for (const button of this.palette.children) {
      const on = Number(button.dataset.label) === this.tools.label && this.tools.tool !== "eraser";
      button.setAttribute("aria-checked", String(on));
    }
    const entry = this.setup?.classes.find(({ label }) => label === this.tools.label);
    this.cursor.style.setProperty("--alnb-colour", entry?.colour ?? "#fff");
  }

  entered() {
    const { scene } = this.painter;
    this.title.textContent = scene.title;
    this.badge.dataset.grown = "";
    const place = `slice ${scene.slice.index + 1} of ${scene.depth}`;
    this.where.textContent = [place, scene.reason].filter(Boolean).join(" · ");
    this.peek.hidden = scene.editable;
    this.peek.firstChild.textContent = scene.why;
    this.home.hidden = !scene.home;
    this.thumbs();
    this.state();
  }

  /** Say by the badge's rim whether a live proposal is what one sees. */
  grown() {
    const { between, live } = this.painter;
    this.badge.dataset.grown = between ? "" : live?.id ?? "";
  }

  thumbs() {
    const { scene, near } = this.painter;
    if (!scene) return;
    for (const { offset, canvas, caption, button } of [this.above, this.below]) {
      const index = scene.slice.index + offset;
      const inside = index >= 0 && index < scene.depth;
      button.disabled = !inside;
      caption.textContent = inside ? `${offset > 0 ? "↑" : "↓"} slice ${index + 1}` : "end of the volume";
      const found = inside ? near.get(keyOf({ ...scene.slice, index })) : null;
      canvas.dataset.empty = found ? "no" : "yes";
      if (!found) continue;
      const [height, width] = found.shape;
      Object.assign(canvas, { width, height });
      canvas.style.aspectRatio = `${width * scene.aspect[1]} / ${height * scene.aspect[0]}`;
      canvas.style.transform = `scale(${scene.flip.map((on) => (on ? -1 : 1)).reverse().join()})`;
      canvas.getContext("2d").putImageData(this.painter.grey(found), 0, 0);
    }
  }

  show(ui) {
    this.ui = ui;
    const done = ui.queue.filter(({ status }) => status !== "open").length;
    const what = ui.walk ? `${plural(ui.queue.length, "volume")} done` : `${ui.queue.length} done`;
    this.count.textContent = ui.queue.length ? `${done} of ${what}` : "no query";
    for (const arrow of [this.back, this.forth, this.before, this.after]) arrow.disabled = ui.queue.length < 2;
    this.back.hidden = this.forth.hidden = Boolean(ui.walk);
    this.before.hidden = this.after.hidden = !ui.walk;
    this.walk(ui.walk);
    this.chips.replaceChildren(
      ...ui.queue.map(({ slice, status, here, title: told }, i) => {
        const words = { open: "to do", submitted: "submitted", skipped: "skipped" }[status] ?? status;
        const title = told ?? `${slice.volume}, slice ${slice.index + 1}: ${words}`;
        const chip = this.button(status === "submitted" ? "✓" : status === "skipped" ? "–" : String(i + 1),
          title, () => this.link.act("show", { target: slice }), { cls: "alnb-chip" });
        chip.dataset.status = status;
        if (here) chip.setAttribute("aria-current", "true");
        return chip;
      }),
    );
    this.chips.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.buttons(this.acts, ui.acts, (act) => this.decide(act));
    this.strategies({ underway: Boolean(this.wanted) });
    this.fallback.hidden = !ui.note;
    this.fallback.title = ui.note;
    this.fallback.setAttribute("aria-label", `Why another strategy chose this query: ${ui.note}`);
    this.undo.disabled = !ui.undo;
    this.redo.disabled = !ui.redo;
    this.clear.disabled = !ui.undo;
    this.badge.hidden = !ui.badge;
    this.badge.textContent = ui.badge;
    this.settings();
    this.training.dataset.on = ui.training ? "yes" : "no";
    if (ui.training) {
      const { share, text, stopping } = ui.training;
      if (share === null) this.bar.removeAttribute("value");
      else this.bar.value = share;
      this.barText.textContent = text;
      this.stop.disabled = stopping;
    }
    this.state();
  }

  buttons(box, acts, perform) {
    box.replaceChildren(
      ...acts.map(({ act, label, hint, primary, enabled }) => {
        const button = this.button(label, hint, () => perform(act), { cls: primary ? "alnb-primary" : "" });
        button.disabled = !enabled;
        button.dataset.act = act;
        return button;
      }),
    );
  }

  /** The track of a volume; where single slices are asked for there is none. */
  walk(walk) {
    this.track.hidden = this.interpolating.hidden = !walk;
    if (this.root) this.root.dataset.track = walk ? "yes" : "no";
    if (!walk) return;
    this.film.show(walk);
    this.far.textContent = this.far.title = walk.text;
    this.buttons(this.walkActs, walk.acts, (act) => this.onVolume(act));
  }

  cell(index, parts) {
    const button = this.button("", "", () => {
      const { volume } = this.ui.walk;
      this.link.act("show", { target: { volume, index } });
    }, { cls: "alnb-cell" });
    button.append(...parts);
    return button;
  }

  /** A sentence of the view's own, for a few seconds in the place of the kernel's. */
  say(text, tone = "plain", during = 5000) {
    this.note = { text, tone };
    clearTimeout(this.fading);
    this.fading = setTimeout(() => {
      this.note = null;
      this.state();
    }, during);
    this.state();
  }

  state() {
    const { link } = this;
    const unsaved = link.unsaved();
    const lost = link.condition === "lost";
    const tone = lost ? "error" : unsaved ? "warn" : "good";
    this.saved.dataset.tone = link.heard || lost ? tone : "plain";
    this.saved.textContent = unsaved
      ? `${plural(unsaved, "stroke")} not saved yet`
      : lost ? "No connection" : link.heard ? "All strokes saved" : "Connecting …";
    const line = this.note ?? (unsaved && link.waiting.length
      ? { text: "Goes on as soon as the strokes are saved.", tone: "warn" }
      : this.ui?.line) ?? { text: "", tone: "plain" };
    this.line.textContent = line.text;
    this.line.title = line.text;
    this.line.dataset.tone = line.tone;
    this.warn(unsaved);
  }

  warn(unsaved) {
    const { condition, keepable } = this.link;
    this.banner.hidden = condition === "ok" || condition === "fresh";
    this.banner.dataset.tone = condition === "lost" ? "error" : "warn";
    const kept = keepable
      ? "They are kept in this browser and sent as soon as the kernel is back."
      : "This browser cannot keep them: do not close the page.";
    if (condition === "lost") {
      this.bannerHead.textContent = "No connection to the kernel: strokes are not saved.";
      this.bannerText.textContent =
        `${unsaved ? `${plural(unsaved, "stroke")} waiting. ` : ""}${kept} ` +
        "If the kernel was restarted, run the cell again.";
    } else if (condition === "busy") {
      this.bannerHead.textContent = "The kernel is busy with a cell.";
      this.bannerText.textContent = "Go on drawing: strokes are kept here and saved when it is free.";
    }
  }

  // ---- acting ----

  focus() {
    this.stage.canvas?.focus({ preventScroll: true });
  }

  get slice() {
    return this.painter.scene?.slice;
  }

  onSlice(name) {
    if (this.slice) this.link.act(name, { slice: this.slice });
  }

  decide(act) {
    this.painter.commit();
    const { live, grown, between, offered } = this.painter;
    // what is accepted, or passed over, is what stands here now, not what may be on its way
    const seen = act === "accept"
      ? { live: between ? null : live?.id ?? null, between: between?.id ?? null }
      : { live: grown, between: offered };
    this.link.act(act, this.slice ? { slice: this.slice, ...seen } : {});
  }

  key_act(name) {
    const found = this.ui?.acts.find(({ act, enabled }) => enabled && (act === name || name === "primary"));
    if (found) this.decide(found.act);
  }

  /** What is done to a whole volume. */
  onVolume(name) {
    this.painter.commit();
    if (this.ui?.walk && this.slice) this.link.act(name, { slice: this.slice });
  }

  key_volume(name) {
    const found = this.ui?.walk?.acts.find(({ act, enabled }) => enabled && act === name);
    if (found) this.onVolume(name);
  }

  interpolate() {
    if (this.ui?.walk) this.link.act("between", { on: !this.ui.walk.offering });
  }

  switchLive() {
    if (this.ui) this.link.act("live", { on: !this.ui.live });
  }

  go(by) {
    this.link.act(by > 0 ? "next" : "previous");
  }

  home_() {
    this.link.act("home");
  }

  browse(by) {
    const { scene } = this.painter;
    if (!scene) return;
    const index = scene.slice.index + by;
    if (index < 0 || index >= scene.depth) return;
    this.link.act("show", { target: { ...scene.slice, index } });
  }

  resetView() {
    this.tools.set({ brightness: 0, contrast: 0 });
    this.stage.zoomTo(1);
    this.stage.moveTo(0, 0, 1);
  }

  help(open = this.keys.hidden) {
    this.keys.hidden = !open;
    if (!open) this.focus();
  }

  // ---- keys ----

  keyup(event) {
    if (event.key === " ") this.stage.space = false;
  }

  keydown(event) {
    this.link.active = true;
    event.stopPropagation(); // the host moves the focus to its cell at every key it hears
    const typing = event.target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key);
    const pressing = event.target.matches("button") && [" ", "Enter"].includes(event.key) && !event.ctrlKey;
    const choosing = event.target.matches("select") && event.key !== "Escape" && !event.ctrlKey;
    this.pointed &&= !choosing;
    if (typing || pressing || choosing || event.altKey) return;
    const chord = this.chord(event);
    const found = this.setup?.keys.find(({ keys }) => keys.includes(chord));
    if (!found || (event.repeat && !found.repeats && found.action !== "pan")) {
      if (found) event.preventDefault();
      return;
    }
    if (this.perform(found.action, chord) === false) return;
    event.preventDefault();
  }

  chord(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const shift = event.shiftKey && (event.key.length > 1 || /[a-z]/i.test(event.key));
    return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift ? "Shift+" : ""}${key === " " ? "Space" : key}`;
  }

  perform(action, chord) {
    const { tools } = this;
    const actions = {
      class: () => tools.pick(Number(chord)),
      brush: () => tools.set({ tool: "brush" }),
      lasso: () => tools.set({ tool: "lasso" }),
      eraser: () => tools.set({ tool: "eraser" }),
      swap: () => tools.set({ tool: tools.tool === "eraser" ? "brush" : "eraser" }),
      smaller: () => tools.set({ radius: tools.radius / 1.2 }),
      larger: () => tools.set({ radius: tools.radius * 1.2 }),
      previous_class: () => tools.step(-1),
      next_class: () => tools.step(1),
      protect: () => tools.set({ protect: !tools.protect }),
      undo: () => this.onSlice("undo"),
      redo: () => this.onSlice("redo"),
      fainter: () => tools.set({ opacity: tools.opacity - 0.1 }),
      stronger: () => tools.set({ opacity: tools.opacity + 0.1 }),
      outline: () => tools.set({ outline: !tools.outline }),
      hide: () => tools.set({ hidden: !tools.hidden }),
      reset: () => this.resetView(),
      zoom_in: () => this.stage.zoomTo(this.stage.zoom.scale * 1.25),
      zoom_out: () => this.stage.zoomTo(this.stage.zoom.scale / 1.25),
      pan: () => (this.stage.space = true),
      previous: () => this.go(-1),
      next: () => this.go(1),
      above: () => this.browse(1),
      below: () => this.browse(-1),
      home: () => this.home_(),
      worth: () => this.key_volume("worth"),
      between: () => this.interpolate(),
      accept_all: () => this.key_volume("accept_all"),
      next_volume: () => this.onVolume("next_volume"),
      previous_volume: () => this.onVolume("previous_volume"),
      finish: () => this.key_volume("finish"),
      primary: () => this.key_act("primary"),
      accept: () => this.key_act("accept"),
      live: () => this.switchLive(),
      skip: () => this.key_act("skip"),
      help: () => this.help(),
      leave: () => this.leave(),
    };
    return actions[action]?.();
  }

  /** Esc, in this order: abort the stroke, close the help, give the keyboard back. */
  leave() {
    if (this.stage.cancel()) return;
    if (!this.keys.hidden) return this.help(false);
    document.activeElement?.blur();
  }
}
