// The playground: a picture, a sentence, and the answer as it grows.

import * as api from "./api.js";
import { byId } from "./dom.js";
import { saveJson, savePng, united } from "./downloads.js";
import { counted, percent, showDecision } from "./gauge.js";
import { largest } from "./heat.js";
import { chosenOptions, offerOptions } from "./options.js";
import { markSample, offerSamples, Picture, watchFiles } from "./picture.js";
import { Points } from "./points.js";
import { Result } from "./result.js";
import { openSettings, watchSettings } from "./settings.js";
import { asCurl, asPython, showSnippet } from "./snippets.js";
import { describe, showMasks, showProblem, tell } from "./telling.js";
import { showTimings, told } from "./timings.js";
import { View } from "./view.js";

const FIRST = "amodal"; // the sample to begin with
const READY_EVERY = 5000; // milliseconds between looks at a server that is not ready

const view = new View(byId("canvas"), byId("stage"));
let offered = { drafts: 0, points: false, promptRequired: true };
let picture = null;
let wanted = null; // the sample that was pressed last, while it is on its way
let points = null; // Points, where the server takes them
let result = null;
let asked = null; // the request that `result` answers, without its image
let running = null; // AbortController of the request under way
let choice = "image"; // the view that is shown
let chosen = false; // whether the user has chosen it

// the picture

async function usePicture(next, sample = null) {
  stop();
  picture = next;
  wanted = null;
  points?.clear();
  forgetAnswer();
  markSample(sample);
  tell("");
  try {
    const bitmap = await createImageBitmap(next.blob);
    if (picture !== next) return bitmap.close(); // another one was picked meanwhile
    view.setImage(bitmap);
    describe(view.size, null, "image");
    byId("stage").classList.toggle("pointing", offered.points);
  } catch {
    if (picture !== next) return;
    tell("This browser cannot show the picture.");
  }
  if (picture === next && !sample) next.id().catch(fail); // its encode begins while the prompt is written
  refresh();
}

async function useSample(sample) {
  wanted = sample;
  const blob = await api.picture(sample.url).catch(fail);
  if (!blob || wanted !== sample) return; // another one was pressed meanwhile
  byId("prompt").value = sample.prompt;
  await usePicture(new Picture(blob, sample.url.split("/").at(-1)), sample.url);
}

// a request

async function run() {
  if (running || !askable()) return;
  const controller = (running = new AbortController());
  forgetAnswer();
  asked = chosenOptions(points?.list ?? []);
  result = new Result();
  refresh();
  try {
    await follow(asked, result, controller.signal);
    finish();
  } catch (error) {
    fail(error, controller.signal.aborted);
  } finally {
    if (running === controller) running = null;
    byId("reasoning-text").classList.remove("live");
    refresh();
  }
}

async function follow(request, answer, signal) {
  tell("Sending the picture …");
  try {
    await take(request, answer, signal);
  } catch (error) {
    if (!(error instanceof api.Problem && error.is("image-not-found"))) throw error;
    picture.forget(); // uploaded too long ago, or to another server
    await take(request, answer, signal);
  }
}

async function take(request, answer, signal) {
  const id = await unlessAborted(picture.id(), signal);
  tell("Waiting for a turn …");
  for await (const event of api.segment({ ...request, image: { id } }, signal)) {
    await answer.take(event);
    if (answer === result) follows[event.type]?.(event);
  }
}

/** The promise, or `AbortError` as soon as `signal` says so. */
function unlessAborted(promise, signal) {
  const aborted = new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  return Promise.race([promise, aborted]);
}

const follows = {
  accepted() {
    tell("Thinking …");
    byId("reasoning-text").classList.add("live");
  },
  "reasoning.delta"() {
    const box = byId("reasoning-text");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
    box.textContent = result.reasoning;
    if (atEnd) box.scrollTop = box.scrollHeight;
  },
  "mask.draft"({ number }) {
    badge(`Draft ${number + 1}`);
    if (!result.masks.length) view.show(result, "image");
  },
  decision(event) {
    byId("reasoning-text").classList.remove("live");
    showDecision(event);
    tell("Drawing the mask …");
  },
  mask() {
    badge("");
    if (!chosen) choice = result.answer;
    showViews();
  },
};

function finish() {
  showMasks(result);
  showTimings(byId("timings"), result.done.timings_ms);
  byId("timings-section").hidden = false;
  if (!chosen) choice = result.answer;
  showViews();
  tell(`${result.decision ? outcome(result.decision) : "Done"}, in ${told(result.done.timings_ms.total)}.`);
}

function outcome({ mask_type, confidence, source, objects }) {
  return [counted(objects), mask_type, ...(source === "model" ? [percent(confidence)] : [])].join(", ");
}

function fail(error, aborted = false) {
  badge("");
  if (aborted || error.name === "AbortError") {
    tell("Cancelled.");
  } else if (error instanceof api.Problem) {
    tell("");
    showProblem(error);
    if (error.document.status === 401) openSettings();
  } else {
    throw error;
  }
}

function stop() {
  running?.abort();
}

// what is shown

function forgetAnswer() {
  result = asked = null;
  chosen = false;
  choice = "image";
  byId("reasoning-text").textContent = "";
  byId("timings-section").hidden = true;
  badge("");
  showProblem(null);
  showDecision(null);
  showMasks(null);
  showViews();
}

function showViews() {
  const there = result?.views ?? [];
  for (const radio of byId("views").querySelectorAll("input")) {
    radio.disabled = !there.includes(radio.value);
    radio.checked = radio.value === choice;
  }
  view.show(result, choice);
  describe(view.size, result, choice);
  refresh();
}

function badge(text) {
  byId("badge").textContent = text;
  byId("badge").hidden = !text;
}

function askable() {
  const prompt = byId("prompt").value.trim();
  return Boolean(picture && (prompt || (points?.list.length && !offered.promptRequired)));
}

function refresh() {
  byId("run").disabled = Boolean(running) || !askable();
  byId("cancel").hidden = !running;
  const done = Boolean(result?.done);
  byId("download-png").disabled = !done || !shownItems().length;
  byId("download-rle").disabled = !done || !result.masks.length;
  byId("copy-curl").disabled = byId("copy-python").disabled = !askable();
}

/** What the chosen view shows of the answer; of the bare picture, what it would show. */
function shownItems() {
  if (choice === "heatmap") return result.shownHeatmaps;
  if (choice === "hidden") return result.hidden;
  return result.ofType(choice === "image" ? result.answer : choice);
}

/** The same as grey values, for the PNG. */
function shownPixels() {
  const items = shownItems();
  return choice === "heatmap" ? largest(items) : united(items.map((item) => item.bitmap));
}

function copy(write, what) {
  const options = asked ?? chosenOptions(points?.list ?? []);
  const text = write(location.origin, options, picture.name, Boolean(api.apiKey()));
  const copied = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("not a secure context"));
  copied.then(() => tell(`Copied as ${what}.`), () => showSnippet(text, what));
}

// wiring

function listen() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    run();
  });
  byId("form").addEventListener("input", () => {
    if (!running) asked = null;
    refresh();
  });
  byId("cancel").addEventListener("click", stop);
  addEventListener("keydown", (event) => event.key === "Escape" && stop());
  byId("views").addEventListener("change", (event) => {
    choice = event.target.value;
    chosen = true;
    showViews();
  });
  byId("download-png").addEventListener("click", () => savePng(shownPixels(), `${choice}.png`));
  byId("download-rle").addEventListener("click", () => saveJson(result.json, "masks.json"));
  byId("copy-curl").addEventListener("click", () => copy(asCurl, "curl"));
  byId("copy-python").addEventListener("click", () => copy(asPython, "Python"));
  watchFiles((next) => usePicture(next));
}

async function meetServer() {
  const [found, model] = await Promise.all([api.offers(), api.servedModel()]);
  offered = found;
  offerOptions(offered, model.mask_types);
  if (offered.points) points = view.points ??= new Points(byId("canvas"), view, refresh);
  byId("model").textContent = model.id;
  const samples = await offerSamples(useSample);
  if (!picture) await useSample(samples.find(({ name }) => name === FIRST) ?? samples[0]);
  await watchReadiness(model.id);
}

async function watchReadiness(name) {
  const ready = await api.ready();
  byId("model").dataset.state = ready ? "ready" : "away";
  byId("model").textContent = ready ? name : `${name} is not ready yet`;
  if (!ready) setTimeout(() => watchReadiness(name), READY_EVERY);
}

listen();
watchSettings(() => meetServer().catch(fail));
refresh();
meetServer().catch(fail);
