// One view of the canvas: pointers, wheel, zoom, and the ring that shows the brush.

const PALM_MS = 1200; // touches this soon after the pen are the palm
const THIN = 0.08; // slice pixels; nearer points add nothing
const RAW_MS = 4; // a fast mouse sends 1000 positions a second; each need not be painted alone
const GUARDED = [
  "mousemove", "mousedown", "mouseup", "mouseout", "wheel",
  "touchstart", "touchmove", "touchend", "touchcancel", "keydown",
];

class Stage {
  constructor(link, painter, tools, parts) {
    Object.assign(this, { link, painter, tools, ...parts });
    this.zoom = { scale: 1, x: 0, y: 0 };
    this.touches = new Map();
    this.pointer = null; // id of the pointer that draws
    this.held = []; // its positions that are not painted yet
    this.pan = null;
    this.pinch = null;
    this.penUntil = 0;
    this.space = false;
    this.abort = new AbortController();
    this.offs = [
      link.on("entered", (scene) => this.fit(scene)),
      tools.on(() => this.ring(this.last)),
    ];
    this.observer = new ResizeObserver(() => this.fit(painter.scene));
    this.observer.observe(this.overlay);
  }

  close() {
    this.abort.abort();
    this.observer.disconnect();
    this.offs.forEach((off) => off());
    this.canvas?.removeAttribute("data-alnb");
  }

  /** Take over the pointer events of the MultiCanvas' view, before ipycanvas sends them away. */
  take(canvas) {
    if (canvas === this.canvas) return;
    this.canvas = canvas;
    canvas.dataset.alnb = "on";
    canvas.tabIndex = 0;
    canvas.style.touchAction = "none";
    canvas.setAttribute("aria-label", "Slice. Draw with the pen or the mouse; press ? for the keys.");
    const options = { signal: this.abort.signal, capture: true, passive: false };
    for (const type of GUARDED)
      canvas.addEventListener(type, (event) => this.guard(event), options);
    const listen = (type, handler) =>
      canvas.addEventListener(type, handler.bind(this), { signal: this.abort.signal });
    listen("pointerdown", this.down);
    listen("pointerrawupdate", this.raw);
    listen("pointermove", this.move);
    listen("pointerup", this.up);
    listen("pointercancel", this.up);
    listen("lostpointercapture", this.up);
    listen("pointerenter", (event) => this.ring(event));
    listen("pointerleave", () => this.ring(null));
    listen("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    this.fit(this.painter.scene);
  }

  /** Nothing here may flood the kernel with one message per move, nor scroll unasked. */
  guard(event) {
    event.stopImmediatePropagation();
    if (event.type === "wheel") this.wheel(event);
  }

  get focused() {
    return document.activeElement === this.canvas;
  }

  // ---- geometry ----

  fit(scene) {
    if (!scene || !this.canvas) return;
    const [rowMm, colMm] = scene.aspect;
    const box = this.overlay.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const across = scene.width * colMm;
    const down = scene.height * rowMm;
    let scale = Math.min(box.width / across, box.height / down);
    const ratio = window.devicePixelRatio || 1;
    const whole = Math.floor(scale * Math.min(rowMm, colMm) * ratio) / ratio / Math.min(rowMm, colMm);
    const square = Math.abs(rowMm - colMm) < 0.01 * rowMm;
    if (square && whole > 0.85 * scale) scale = whole; // every voxel equally large on the screen
    this.size = [across * scale, down * scale];
    this.perPixel = [colMm * scale, rowMm * scale];
    this.place();
  }

  place() {
    const { scale, x, y } = this.zoom;
    const [across, down] = this.size;
    const flip = this.painter.scene.flip.map((flipped) => (flipped ? -1 : 1));
    const style = this.canvas.style;
    style.setProperty("--alnb-w", `${across}px`);
    style.setProperty("--alnb-h", `${down}px`);
    style.setProperty(
      "--alnb-t",
      `translate(${x}px, ${y}px) scale(${scale * flip[1]}, ${scale * flip[0]})`,
    );
    this.ring(this.last);
  }

  zoomTo(scale, clientX, clientY) {
    const next = Math.min(12, Math.max(1, scale));
    const box = this.overlay.getBoundingClientRect();
    const fromX = (clientX ?? box.left + box.width / 2) - box.left - box.width / 2 - this.zoom.x;
    const fromY = (clientY ?? box.top + box.height / 2) - box.top - box.height / 2 - this.zoom.y;
    const ratio = 1 - next / this.zoom.scale;
    this.moveTo(this.zoom.x + fromX * ratio, this.zoom.y + fromY * ratio, next);
  }

  moveTo(x, y, scale = this.zoom.scale) {
    const reach = this.size.map((side) => (side * (scale - 1)) / 2 + (scale > 1 ? 40 : 0));
    const clamp = (value, limit) => Math.min(limit, Math.max(-limit, value));
    this.zoom = { scale, x: clamp(x, reach[0]), y: clamp(y, reach[1]) };
    this.place();
    this.link.emit("zoomed", scale);
  }

  /** Screen position to [row, col] in slice pixels, rounded as it will travel. */
  toSlice(event) {
    const { width, height, flip } = this.painter.scene;
    const box = this.canvas.getBoundingClientRect();
    const col = ((event.clientX - box.left) / box.width) * width;
    const row = ((event.clientY - box.top) / box.height) * height;
    return [flip[0] ? height - row : row, flip[1] ? width - col : col].map(Math.fround);
  }

  ring(event) {
    this.last = event;
    const scene = this.painter.scene;
    const ring = this.cursor;
    const shown = event && scene && this.perPixel && event.pointerType !== "touch" && !this.pan;
    ring.hidden = !shown;
    if (!shown) return;
    const box = this.overlay.getBoundingClientRect();
    const across = 2 * this.tools.radius * this.perPixel[0] * this.zoom.scale;
    const down = 2 * this.tools.radius * this.perPixel[1] * this.zoom.scale;
    ring.style.width = `${across}px`;
    ring.style.height = `${down}px`;
    ring.style.transform =
      `translate(${event.clientX - box.left - across / 2}px, ${event.clientY - box.top - down / 2}px)`;
    ring.dataset.tool = this.erasing(event) ? "eraser" : this.tools.tool;
    ring.dataset.locked = scene.editable ? "no" : "yes";
  }

  // ---- pointers ----

  erasing(event) {
    return this.tools.tool === "eraser" || Boolean(event.buttons & (2 | 32)) || event.button === 5;
  }

  ignored(event) {
    const now = performance.now();
    if (event.pointerType === "pen") this.penUntil = now + PALM_MS;
    return event.pointerType === "touch" && now < this.penUntil;
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    this.link.active = true;
    const { scene, open } = this.painter;
    if (!scene || this.ignored(event)) return;
    if (event.pointerType === "touch") {
      this.touches.set(event.pointerId, event);
      if (this.touches.size === 2) return this.startPinch();
    }
    if (open || this.pinch) return;
    if (event.button === 1 || this.space) return this.startPan(event);
    if (![0, 2, 5].includes(event.button)) return;
    if (!scene.editable) return this.link.emit("locked");
    this.capture(event);
    this.pointer = event.pointerId;
    this.held = [];
    this.ahead = false;
    this.painted = 0;
    const erasing = this.erasing(event);
    this.painter.begin({
      id: newId(),
      slice: scene.slice,
      label: erasing ? IGNORE : this.tools.label,
      radius: this.tools.radius,
      tool: !erasing && this.tools.tool === "lasso" ? "lasso" : "brush",
      keep: erasing ? [] : this.tools.keep(),
      points: [this.toSlice(event)],
      began: Date.now() / 1000,
    });
    this.ring(event);
  }

  capture(event) {
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch (error) {
      // the pointer is gone already: its pointerup or pointercancel ends the stroke
    }
  }

  move(event) {
    this.link.active = true;
    if (this.ignored(event)) return;
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, event);
    if (this.pinch) return this.movePinch();
    if (this.pan?.id === event.pointerId)
      return this.moveTo(this.pan.x + event.clientX, this.pan.y + event.clientY);
    if (event.pointerId === this.pointer && this.painter.open) {
      if (!this.ahead) this.hold(event);
      this.draw();
    }
    this.ring(event);
  }

  /** Positions as they come, where the browser gives them: pointermove waits for the next frame. */
  raw(event) {
    if (event.pointerId !== this.pointer || !this.painter.open || this.ignored(event)) return;
    this.ahead = true; // pointermove will tell the same positions once more
    this.hold(event);
    if (event.timeStamp - this.painted >= RAW_MS) {
      this.painted = event.timeStamp;
      this.draw();
    }
  }

  hold(event) {
    const all = event.getCoalescedEvents?.() ?? [];
    this.held.push(...(all.length ? all : [event]));
  }

  draw() {
    const fresh = [];
    let [row, col] = this.painter.open.points.at(-1);
    for (const each of this.held.splice(0)) {
      const point = this.toSlice(each);
      if (Math.hypot(point[0] - row, point[1] - col) < THIN) continue;
      fresh.push(point);
      [row, col] = point;
    }
    if (fresh.length) this.painter.extend(fresh);
  }

  up(event) {
    this.touches.delete(event.pointerId);
    if (this.pinch && this.touches.size < 2) this.pinch = null;
    if (this.pan?.id === event.pointerId) this.endPan();
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    if (this.painter.open) {
      this.draw();
      this.painter.commit();
    }
    this.ring(event.type === "pointerup" ? event : null);
  }

  /** Esc: drop the open stroke; false if there was none. */
  cancel() {
    if (!this.painter.open) return false;
    this.pointer = null;
    this.held = [];
    this.painter.abort();
    return true;
  }

  startPan(event) {
    this.capture(event);
    this.pan = {
      id: event.pointerId,
      x: this.zoom.x - event.clientX,
      y: this.zoom.y - event.clientY,
    };
    this.overlay.dataset.pan = "yes";
  }

  endPan() {
    this.pan = null;
    this.overlay.dataset.pan = "no";
  }

  startPinch() {
    this.cancel();
    const [a, b] = this.touches.values();
    this.pinch = { span: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
    this.pinch.scale = this.zoom.scale;
  }

  movePinch() {
    const [a, b] = this.touches.values();
    const span = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    const middle = [(a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2];
    this.zoomTo((this.pinch.scale * span) / this.pinch.span, ...middle);
    if (this.pinch.middle)
      this.moveTo(
        this.zoom.x + middle[0] - this.pinch.middle[0],
        this.zoom.y + middle[1] - this.pinch.middle[1],
      );
    this.pinch.middle = middle;
  }

  wheel(event) {
    if (!event.ctrlKey && !this.focused) return; // the page may scroll past an unused canvas
    event.preventDefault();
    this.link.active = true;
    if (event.ctrlKey)
      return this.zoomTo(this.zoom.scale * Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
    const step = Math.sign(event.deltaY || event.deltaX);
    if (event.shiftKey) this.tools.set({ radius: this.tools.radius - step * 0.5 });
    else if (step) this.link.emit("browse", step);
  }
}
