// The link to the kernel: strokes leave once, are repeated until they are acknowledged, and outlive
// a reload of the page. Nothing counts as saved before the kernel has said so.

const PING_MS = 600; // a dead kernel must show within three seconds
const LOST_MS = 1700;
const FIRST_RETRY_MS = 2500;
const LONGEST_RETRY_MS = 15000;

const bytesOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
const keyOf = (slice) => (slice ? `${slice.volume}:${slice.index}` : "");
const newId = () =>
  crypto.randomUUID?.() ??
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

class Link {
  constructor(model) {
    this.model = model;
    this.prefix = `alnb:stroke:${model.get("project")}:`;
    this.listeners = new Map();
    this.pending = new Map(); // id -> stroke, in drawing order
    this.waiting = []; // acts that must not overtake an unsaved stroke
    this.asked = null; // when the oldest unanswered ping left
    this.pinged = 0;
    this.heard = false;
    this.condition = "fresh"; // fresh | ok | busy | lost
    this.active = false;
    this.penDown = () => false;
    this.keepable = true;
    this.views = 0;
    this.restore();
    this.receive = this.receive.bind(this);
    model.on("msg:custom", this.receive);
    this.timer = setInterval(() => this.beat(), 250);
  }

  close() {
    clearInterval(this.timer);
    this.model.off("msg:custom", this.receive);
    this.listeners.clear();
  }

  on(kind, listener) {
    if (!this.listeners.has(kind)) this.listeners.set(kind, new Set());
    this.listeners.get(kind).add(listener);
    return () => this.listeners.get(kind)?.delete(listener);
  }

  emit(kind, ...details) {
    for (const listener of this.listeners.get(kind) ?? []) listener(...details);
  }

  // ---- leaving ----

  send(content, buffers) {
    try {
      this.model.send(content, undefined, buffers);
      return true;
    } catch (error) {
      return false; // a closed comm: the heartbeat says so in words, the retry comes later
    }
  }

  hello() {
    this.send({ kind: "hello" });
    this.repeat(true);
  }

  stroke(stroke) {
    this.pending.set(stroke.id, stroke);
    this.keep(stroke);
    this.post(stroke);
    this.emit("pending");
  }

  post(stroke) {
    stroke.sent = performance.now();
    stroke.tries = (stroke.tries ?? 0) + 1;
    const { id, slice, label, radius, tool, keep, began, ended } = stroke;
    const points = new Float32Array(stroke.points.flat());
    this.send({ kind: "stroke", id, slice, label, radius, tool, keep, began, ended }, [points.buffer]);
  }

  /** An act of the person. One about a slice waits until the strokes on it are saved. */
  act(name, details = {}) {
    const message = { kind: "act", name, at: Date.now() / 1000, ...details };
    if (details.slice && this.unsaved(details.slice)) {
      this.waiting.push(message);
      this.emit("pending");
    } else this.send(message);
  }

  unsaved(slice) {
    const key = keyOf(slice);
    let count = 0;
    for (const stroke of this.pending.values()) if (!slice || keyOf(stroke.slice) === key) count++;
    return count;
  }

  // ---- surviving ----

  keep(stroke) {
    try {
      localStorage.setItem(this.prefix + stroke.id, JSON.stringify(stroke));
    } catch (error) {
      this.keepable = false; // storage is full or forbidden: the view says so while ink is unsaved
    }
  }

  forget(id) {
    this.pending.delete(id);
    try {
      localStorage.removeItem(this.prefix + id);
    } catch (error) {
      this.keepable = false;
    }
  }

  restore() {
    const found = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const key = localStorage.key(i);
        if (key.startsWith(this.prefix)) found.push(JSON.parse(localStorage.getItem(key)));
      }
    } catch (error) {
      this.keepable = false;
    }
    found.sort((a, b) => a.began - b.began);
    for (const stroke of found) this.pending.set(stroke.id, { ...stroke, sent: 0, tries: 0 });
  }

  /** Send again what was not acknowledged in time; `now` does not wait for the time. */
  repeat(now = false) {
    if (!this.views) return;
    for (const stroke of this.pending.values()) {
      const patience = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** ((stroke.tries || 1) - 1));
      if (now || performance.now() - stroke.sent > patience) this.post(stroke);
    }
  }

  // ---- arriving ----

  receive(content, buffers) {
    const wasLost = this.condition === "lost";
    this.asked = null;
    this.heard = true;
    if (content.kind === "ack") this.acknowledged(content, buffers);
    else this.emit(content.kind, content, (buffers ?? []).map(bytesOf));
    this.judge();
    // The kernel is back: everything again, the ids prevent doubles.
    if (wasLost && this.condition !== "lost") this.hello();
  }

  acknowledged(content, buffers) {
    const stroke = this.pending.get(content.id);
    if (content.ok || content.final) this.forget(content.id);
    else if (stroke) stroke.sent = performance.now(); // not saved: keep it, and be patient
    if (!content.ok) this.emit("refused", content);
    this.emit("ack", content, (buffers ?? []).map(bytesOf));
    this.waiting = this.waiting.filter((message) => {
      if (this.unsaved(message.slice)) return true;
      this.send(message);
      return false;
    });
    this.emit("pending");
  }

  // ---- heartbeat ----

  get kernel() {
    const manager = this.model.widget_manager;
    return manager?.kernel ?? manager?.context?.sessionContext?.session?.kernel ?? null;
  }

  beat() {
    if (!this.views) return;
    const now = performance.now();
    if (document.hidden) {
      this.asked = null; // a hidden page's timers sleep: silence means nothing
      return;
    }
    if (this.penDown()) this.active = true;
    if (now - this.pinged >= PING_MS) {
      this.pinged = now;
      this.asked ??= now;
      this.send({ kind: "ping", at: Date.now() / 1000, active: this.active });
      this.active = false;
    }
    if (this.condition !== "lost") this.repeat();
    this.judge();
  }

  judge() {
    const kernel = this.kernel;
    const silent = this.asked !== null && performance.now() - this.asked > LOST_MS;
    const gone =
      ["dead", "restarting", "autorestarting", "terminating"].includes(kernel?.status) ||
      ["disconnected", "connecting"].includes(kernel?.connectionStatus);
    let condition = this.heard ? "ok" : "fresh";
    if (gone) condition = "lost";
    else if (silent) condition = kernel?.status === "busy" ? "busy" : "lost";
    if (gone) this.asked ??= performance.now();
    if (condition === this.condition) return;
    this.condition = condition;
    this.emit("condition", condition);
  }
}
