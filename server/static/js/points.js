// Points on the picture that say where the object is, and where it is not. By pointer or by keyboard.

import { byId, make } from "./dom.js";

const STEP = 0.025; // of the longer side, for an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Points {
  list = []; // [{x, y, label}] in the image's pixels, label 1 here and 0 not here
  cursor = null; // where the keyboard is

  constructor(canvas, view, changed) {
    this.view = view;
    this.changed = changed;
    canvas.addEventListener("click", (event) => this.#clicked(event));
    canvas.addEventListener("keydown", (event) => this.#pressed(event));
    canvas.addEventListener("blur", () => this.#move(null));
    byId("clear-points").addEventListener("click", () => this.clear());
    byId("points").hidden = false;
  }

  clear() {
    this.#set([]);
  }

  #clicked(event) {
    if (!this.view.size) return;
    this.#add(this.view.locate(event), event);
  }

  #pressed(event) {
    const { size } = this.view;
    if (!size || event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
    if (event.key in ARROWS) this.#move(this.#stepped(ARROWS[event.key], size));
    else if (event.key === "Enter" && this.cursor) this.#add(this.cursor, event);
    else if (event.key === "Backspace") this.#set(this.list.slice(0, -1));
    else return;
    event.preventDefault();
  }

  #add(place, { shiftKey, altKey }) {
    this.#set([...this.list, { ...place, label: shiftKey || altKey || byId("not-here").checked ? 0 : 1 }]);
  }

  #stepped([dx, dy], { width, height }) {
    const from = this.cursor ?? { x: width / 2, y: height / 2 };
    const step = Math.max(1, STEP * Math.max(width, height));
    const within = (value, most) => Math.round(Math.min(Math.max(value, 0), most - 1));
    return { x: within(from.x + dx * step, width), y: within(from.y + dy * step, height) };
  }

  #move(cursor) {
    this.cursor = cursor;
    byId("cursor").textContent = cursor ? `${cursor.x}, ${cursor.y}` : "";
    this.view.draw();
  }

  #set(list) {
    this.list = list;
    byId("clear-points").hidden = !list.length;
    byId("points-list").replaceChildren(...list.map((point, index) => this.#entry(point, index)));
    this.view.draw();
    this.changed();
  }

  #entry({ x, y, label }, index) {
    const button = make("button", { type: "button", textContent: `${label ? "+" : "−"} ${x}, ${y}` });
    button.setAttribute("aria-label", `Remove point ${index + 1}: ${label ? "here" : "not here"}, at ${x}, ${y}`);
    button.addEventListener("click", () => this.#set(this.list.filter((_, other) => other !== index)));
    return make("li", {}, button);
  }
}

/** Draw points and the keyboard's cursor; `scale` canvas pixels for one of the image, `density` for one on screen. */
export function drawPoints(context, { list, cursor }, scale, density) {
  const place = ({ x, y }) => [(x + 0.5) * scale, (y + 0.5) * scale];
  for (const point of list) dot(context, ...place(point), 6 * density, point.label);
  if (cursor) cross(context, ...place(cursor), 14 * density, density);
}

function dot(context, x, y, radius, positive) {
  context.lineWidth = radius / 2.5;
  context.strokeStyle = "#fff";
  context.fillStyle = positive ? "#0b7285" : "#c92a2a";
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
  context.fillStyle = "#fff";
  context.fillRect(x - radius / 2, y - radius / 10, radius, radius / 5);
  if (positive) context.fillRect(x - radius / 10, y - radius / 2, radius / 5, radius);
}

function cross(context, x, y, arm, density) {
  for (const [colour, width] of [["#000", 3], ["#fff", 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * density;
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    context.stroke();
  }
}
