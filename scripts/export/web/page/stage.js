// The picture with its outline on a canvas: zoom, brush and ruler, by mouse, pen, finger and keyboard.

import {classNames, settings} from "./data.js";
import {outlines, paintLine} from "./masks.js";

const MARGIN = 24, MOST_ZOOM = 40; // pixels of the screen around the picture, and a pixel of the picture on it
const HALO = "rgba(0, 0, 0, 0.65)", RULER = "#ffffff";

export class Stage {
  // told: {stroked(the mask before), measured(line or null), reserved() -> height of what lies over the canvas}
  constructor(canvas, told) {
    Object.assign(this, {canvas, told, tool: "move", radius: 12, value: 1, outlined: true, line: null, cursor: null});
    Object.assign(this, {image: null, mask: null, width: 0, height: 0, pointers: new Map(), stroke: null});
    Object.assign(this, {paths: [], stale: false}); // the outlines, and whether the mask has changed since
    this.view = {scale: 1, x: 0, y: 0}; // a pixel of the picture (px, py) is at (x + scale * px, y + scale * py)
    this.context = canvas.getContext("2d");
    new ResizeObserver(() => this.fit()).observe(canvas);
    const listen = (name, handler, options) => canvas.addEventListener(name, handler.bind(this), options);
    listen("pointerdown", this.down);
    listen("pointermove", this.move);
    for (const name of ["pointerup", "pointercancel"]) listen(name, this.up);
    listen("pointerleave", () => this.point(null));
    listen("wheel", this.wheel, {passive: false});
    listen("keydown", this.key);
    listen("blur", () => this.point(null));
  }

  show(image, width, height) {
    const same = this.width === width && this.height === height;
    Object.assign(this, {image, width, height, mask: null, stroke: null, line: same ? this.line : null});
    Object.assign(this, {paths: [], stale: false});
    same ? this.draw() : this.fit();
  }

  setMask(mask) {
    this.mask = mask;
    this.change();
  }

  change() { // the outlines are traced when they are painted next
    this.stale = true;
    this.draw();
  }

  trace() {
    this.stale = false;
    this.paths = classNames.map((_, i) => outlinePath(this.mask, this.width, this.height, i + 1));
  }

  fit() {
    const {clientWidth, clientHeight} = this.canvas, ratio = globalThis.devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (this.width) {
      const wide = Math.max(1, clientWidth - 2 * MARGIN) / this.width;
      const scale = Math.min(wide, Math.max(1, clientHeight - 2 * MARGIN - this.reserved()) / this.height, MOST_ZOOM);
      const y = (clientHeight - this.reserved() - scale * this.height) / 2;
      this.view = {scale, x: (clientWidth - scale * this.width) / 2, y};
    }
    this.draw();
  }

  reserved() { // for the tools below the picture
    return this.told.reserved();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(MOST_ZOOM, Math.max(0.02, this.view.scale * factor)), change = scale / this.view.scale;
    this.view = {scale, x: x - (x - this.view.x) * change, y: y - (y - this.view.y) * change};
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.paint(); });
  }

  paint() {
    const {context, canvas, view, width, height} = this, ratio = globalThis.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    context.imageSmoothingEnabled = view.scale < 6;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, 0, 0, width, height);
    const unit = 1 / view.scale, {colors} = settings;
    if (this.stale && this.mask) this.trace();
    if (this.outlined) this.paths.forEach((path, i) => drawOutline(context, path, colors[i], unit));
    if (this.line) drawRuler(context, this.line, unit);
    if (this.cursor && this.tool !== "move") this.drawCursor();
  }

  drawCursor() {
    const {context, cursor: [x, y], view} = this, radius = this.tool === "ruler" ? 5 / view.scale : this.radius;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    twice(context, this.tool === "brush" ? settings.colors[this.value - 1] : RULER, 1.5 / view.scale);
  }

  place(event) { // of the screen -> of the picture
    const box = this.canvas.getBoundingClientRect(), {scale, x, y} = this.view;
    return [(event.clientX - box.left - x) / scale, (event.clientY - box.top - y) / scale];
  }

  point(cursor) {
    this.cursor = cursor;
    this.draw();
  }

  down(event) {
    if (!this.image || event.button > 1) return;
    try { this.canvas.setPointerCapture(event.pointerId); } catch { /* it has left */ }
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) this.cancel();
    if (this.pointers.size > 1) return;
    const at = this.place(event), pans = this.tool === "move" || event.button === 1;
    if (pans) this.stroke = {kind: "move"};
    else if (this.tool === "ruler") this.stroke = {kind: "ruler"}, this.line = [at, at];
    else if (this.mask) {
      this.stroke = {kind: "paint", at, before: this.mask.slice()};
      this.apply(at, at);
    }
    this.point(at);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId), at = this.place(event);
    if (before && this.pointers.size === 2) this.pinch(event, before);
    else if (before && this.stroke?.kind === "move") {
      this.view.x += event.clientX - before[0];
      this.view.y += event.clientY - before[1];
    } else if (before && this.stroke?.kind === "ruler") this.line = [this.line[0], at];
    else if (before && this.stroke?.kind === "paint") {
      this.apply(this.stroke.at, at);
      this.stroke.at = at;
    }
    if (before) this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.point(event.pointerType === "touch" && !before ? null : at);
  }

  pinch(event, before) {
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const distance = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
    const now = [event.clientX, event.clientY], box = this.canvas.getBoundingClientRect();
    this.view.x += (now[0] - before[0]) / 2;
    this.view.y += (now[1] - before[1]) / 2;
    this.zoom(distance(now) / distance(before), (now[0] + other[0]) / 2 - box.left, (now[1] + other[1]) / 2 - box.top);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    const {stroke} = this;
    this.stroke = null;
    if (stroke?.kind === "paint") this.told.stroked(stroke.before);
    if (stroke?.kind === "ruler") this.endRuler();
    if (event.pointerType === "touch") this.point(null);
  }

  cancel() { // a second finger zooms, and takes the stroke of the first back
    if (this.stroke?.kind === "paint") this.setMask(this.stroke.before);
    this.stroke = null;
  }

  endRuler() {
    const [[x0, y0], [x1, y1]] = this.line;
    if (Math.hypot(x1 - x0, y1 - y0) < 2) this.line = null;
    this.told.measured(this.line);
    this.draw();
  }

  apply(from, to) {
    const erases = this.tool === "erase", {mask, width, height, radius, value} = this;
    paintLine(mask, width, height, from, to, radius, erases ? 0 : value, erases ? value : null);
    this.change();
  }

  wheel(event) {
    if (!this.image) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const factor = Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)); // Ctrl: a pinch on a touchpad
    this.zoom(factor, event.clientX - box.left, event.clientY - box.top);
  }

  // With a tool, arrows move its cursor and Space or Enter sets it down.
  key(event) {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!this.image || this.tool === "move" || event.ctrlKey || event.metaKey || event.altKey) return;
    const sets = event.key === " " || event.key === "Enter";
    if (!steps && !sets) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = this.cursor ?? [this.width / 2, this.height / 2], size = event.shiftKey ? 10 : 1;
    if (steps) {
      const keep = (value, most) => Math.min(most, Math.max(0, value));
      this.point([keep(x + size * steps[0], this.width), keep(y + size * steps[1], this.height)]);
      if (this.stroke?.kind === "keyboard") this.line = [this.line[0], this.cursor];
    } else this.set([x, y]);
  }

  set(at) {
    this.cursor = at;
    if (this.tool === "ruler") {
      if (this.stroke?.kind === "keyboard") this.stroke = null, this.endRuler();
      else this.stroke = {kind: "keyboard"}, this.line = [at, at];
    } else if (this.mask) {
      const before = this.mask.slice();
      this.apply(at, at);
      this.told.stroked(before);
    }
    this.draw();
  }
}

// The borders of a class, their corners rounded within half a pixel.
export function outlinePath(mask, width, height, value) {
  const path = new Path2D();
  for (const line of outlines(mask, width, height, value)) {
    const count = line.length, mean = (i, j) => (line[i % count] + line[j % count]) / 2;
    const middle = i => [mean(i, i + 2), mean(i + 1, i + 3)];
    path.moveTo(...middle(count - 2));
    for (let i = 0; i < count; i += 2) path.quadraticCurveTo(line[i], line[i + 1], ...middle(i));
  }
  return path;
}

export function drawOutline(context, path, color, unit) {
  context.fillStyle = `${color}22`;
  context.fill(path, "evenodd");
  context.lineJoin = "round";
  context.strokeStyle = HALO;
  context.lineWidth = 4.5 * unit;
  context.stroke(path);
  context.strokeStyle = color;
  context.lineWidth = 2.25 * unit;
  context.stroke(path);
}

function drawRuler(context, [[x0, y0], [x1, y1]], unit) {
  const length = Math.max(1e-6, Math.hypot(x1 - x0, y1 - y0)), ex = 6 * unit * (y1 - y0) / length;
  const ey = -6 * unit * (x1 - x0) / length;
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  for (const [x, y] of [[x0, y0], [x1, y1]]) {
    context.moveTo(x - ex, y - ey);
    context.lineTo(x + ex, y + ey);
  }
  twice(context, RULER, 1.75 * unit);
}

function twice(context, color, width) { // a line in front of a darker one shows on every picture
  context.strokeStyle = HALO;
  context.lineWidth = 2.2 * width;
  context.stroke();
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}
