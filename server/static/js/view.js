// The picture on its canvas, with what the chosen view lays over it.

import { drawn, largest } from "./heat.js";
import { colourOf, outline, resized, tint, veil } from "./overlay.js";
import { drawPoints } from "./points.js";

const LONGEST = 2048; // pixels of the canvas
const TALLEST = 0.62; // share of the window's height

export class View {
  #canvas;
  #stage;
  #image = null; // ImageBitmap, upright
  #result = null;
  #mode = "image";
  #overlays = new Map(); // mode → canvas, for the present size and result

  constructor(canvas, stage) {
    this.#canvas = canvas;
    this.#stage = stage;
    this.points = null;
    new ResizeObserver(() => this.#resize()).observe(stage);
  }

  get size() {
    return this.#image && { width: this.#image.width, height: this.#image.height };
  }

  /** Show another picture, or none, and nothing over it. */
  setImage(bitmap) {
    this.#image?.close();
    this.#image = bitmap;
    this.#stage.classList.toggle("filled", Boolean(bitmap));
    this.show(null, "image");
    this.#resize();
  }

  /** Show a result in one of its views. */
  show(result, mode) {
    this.#result = result;
    this.#mode = mode;
    this.#overlays.clear();
    this.draw();
  }

  /** Where on the picture a pointer is, in its pixels. */
  locate(event) {
    const box = this.#canvas.getBoundingClientRect();
    const clamp = (value, most) => Math.min(Math.max(value, 0), most);
    return {
      x: clamp(Math.floor(((event.clientX - box.left) / box.width) * this.#image.width), this.#image.width - 1),
      y: clamp(Math.floor(((event.clientY - box.top) / box.height) * this.#image.height), this.#image.height - 1),
    };
  }

  draw() {
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.#image) return;
    context.drawImage(this.#image, 0, 0, width, height);
    const overlay = this.#overlay();
    if (overlay) context.drawImage(overlay, 0, 0, width, height);
    if (this.points) drawPoints(context, this.points, width / this.#image.width, this.#density);
  }

  get #density() {
    return this.#canvas.width / (this.#canvas.clientWidth || this.#canvas.width);
  }

  #resize() {
    if (!this.#image) return this.#canvas.removeAttribute("style");
    const { width, height } = this.#image;
    const fit = Math.min(this.#stage.clientWidth / width, (window.innerHeight * TALLEST) / height);
    const sharp = Math.min(fit * window.devicePixelRatio, LONGEST / Math.max(width, height));
    this.#canvas.style.width = `${Math.round(width * fit)}px`;
    this.#canvas.style.height = `${Math.round(height * fit)}px`;
    this.#canvas.width = Math.round(width * sharp);
    this.#canvas.height = Math.round(height * sharp);
    this.#overlays.clear();
    this.draw();
  }

  #overlay() {
    if (!this.#result) return null;
    if (!this.#overlays.has(this.#mode)) this.#overlays.set(this.#mode, this.#paint());
    return this.#overlays.get(this.#mode);
  }

  #paint() {
    const result = this.#result;
    if (this.#mode === "heatmap") return this.#heat();
    if (this.#mode === "image") return result.masks.length ? null : this.#masks(result.drafts, [], { faint: true });
    if (this.#mode === "hidden") return this.#masks(result.hidden, result.hidden, {});
    return this.#masks(result.ofType(this.#mode), this.#mode === "amodal" ? result.hidden : [], {});
  }

  #heat() {
    return drawn(largest(this.#result.shownHeatmaps));
  }

  #masks(masks, hidden, { faint = false }) {
    if (!masks.length) return null;
    const { width, height } = this.#canvas;
    const image = veil(width, height, faint ? 20 : 105);
    const thick = Math.max(1, Math.round(2 * this.#density));
    for (const mask of masks) {
      const pixels = resized(mask.bitmap, width, height);
      const part = hidden.find((one) => one.object === mask.object);
      const covered = part && resized(part.bitmap, width, height);
      tint(image, pixels, colourOf(mask.object), faint ? 55 : 95, covered, Math.max(3, Math.round(4 * this.#density)));
      outline(image, pixels, colourOf(mask.object), thick, faint ? 150 : 255);
    }
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
}
