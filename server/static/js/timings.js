// Where the time went: stages one after another as one bar, what ran beside them below it, all of it as text.

import { make } from "./dom.js";

const STAGES = {
  queue: ["waiting", "#adb5bd"],
  image: ["image", "#868e96"],
  reason: ["reasoning", "#0c8599"],
  decide: ["deciding", "#5c7cfa"],
  concentrate: ["concentrating", "#9775fa"],
  decode: ["decoding", "#f08c00"],
  finish: ["finishing", "#e8590c"],
};
const BESIDE = { encode: ["encoding, beside", "#74b816"] };
const MARKS = { ttft: "first word", ttfm: "first mask" };
const REST = ["between", "#ced4da"];

/** The stages in order, `[{name, words, colour, ms}]`; what no stage accounts for comes last. */
export function inOrder(timings) {
  const stages = Object.entries(STAGES)
    .filter(([name]) => timings[name] > 0)
    .map(([name, [words, colour]]) => ({ name, words, colour, ms: timings[name] }));
  const rest = timings.total - stages.reduce((sum, stage) => sum + stage.ms, 0);
  if (rest > 0.5) stages.push({ name: "rest", words: REST[0], colour: REST[1], ms: rest });
  return stages;
}

/** Fill `place` with the timings of a finished request, in milliseconds by stage. */
export function showTimings(place, timings) {
  const stages = inOrder(timings);
  place.replaceChildren(bar(stages), besideBar(timings), texts(timings, stages), sum(timings));
}

function bar(stages) {
  const parts = stages.map(({ words, colour, ms }) => {
    const part = make("span", { title: `${words}: ${told(ms)}` });
    part.style.flex = `${ms} 1 0`;
    part.style.background = colour;
    return part;
  });
  const whole = make("div", { className: "bar" }, ...parts);
  whole.setAttribute("aria-hidden", "true"); // the list below says the same
  return whole;
}

function besideBar(timings) {
  const line = make("div", { className: "beside" });
  line.setAttribute("aria-hidden", "true");
  for (const [name, [words, colour]] of Object.entries(BESIDE)) {
    if (!(timings[name] > 0)) continue;
    const part = make("span", { title: `${words}: ${told(timings[name])}` });
    part.style.left = `${(100 * ((timings.queue ?? 0) + (timings.image ?? 0))) / timings.total}%`;
    part.style.width = `${Math.max(0.5, (100 * timings[name]) / timings.total)}%`;
    part.style.background = colour;
    line.append(part);
  }
  return line;
}

function texts(timings, stages) {
  const beside = Object.entries(BESIDE)
    .filter(([name]) => timings[name] > 0)
    .map(([name, [words, colour]]) => ({ words, colour, ms: timings[name] }));
  return make("dl", { className: "stages" }, ...[...stages, ...beside].map(entry));
}

function entry({ words, colour, ms }) {
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = colour;
  return make("div", {}, make("dt", {}, swatch, words), make("dd", { textContent: told(ms) }));
}

function sum(timings) {
  const marks = Object.entries(MARKS).filter(([name]) => name in timings);
  const said = [["in all", "total"], ...marks.map(([name, words]) => [words, name])];
  return make("p", { className: "sum", textContent: said.map(([words, name]) => `${told(timings[name])} ${words}`).join(" · ") });
}

/** Milliseconds for people. */
export function told(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 ? Math.round(ms).toLocaleString("en") : ms.toFixed(1)} ms`;
}
