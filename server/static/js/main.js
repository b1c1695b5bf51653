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
import { describe, showMasks, showProblem, tell, unfit } from "./telling.js";
import { showTimings, told } from "./timings.js";
import { View } from "./view.js";

const FIRST = "amodal"; // the sample to begin with
const READY_EVERY = 5000; // milliseconds between looks at a server that is not ready

const view = new View(byId("canvas"), byId("stage"));
let offered = { drafts: 0, points: false, promptRequired: true };
let picture = null;
let shown = null; // settled when the picture is on the canvas, or is known not to come there
let wanted = null; // the sample that was pressed last, while it is on its way
let points = null; // Points, where the server takes them
let result = null;
let running = null; // AbortController of the request under way
let choice = "image"; // the view that is shown
let chosen = false; // whether the user has chosen it

// the picture

async function usePicture(next) {
  stop();
  picture?.cancel();
  picture = next;
  wanted = null;
  points?.clear();
  forgetAnswer();
  markSample(next.sample);
  tell("");
  shown = show(next);
  await shown;
  if (picture !== next || next.sample) return;
  next.id().catch((error) => picture === next && fail(error)); // its encode begins while the prompt is written
}

/** Put a picture on the canvas, or say that it cannot be shown. */
async function show(next) {
  const bitmap = await createImageBitmap(next.blob).catch(() => null);
  if (picture !== next) return bitmap?.close(); // another one was picked meanwhile
  view.setImage(bitmap);
  if (!bitmap) showProblem(unfit(null));
  showViews();
}

/** Take a sample scene with its prompt; with `keeping`, leave a prompt that is there already. */
async function useSample(sample, keeping = false) {
  wanted = sample;
  const blob = await api.picture(sample.url).catch((error) => wanted === sample && fail(error));
  if (!blob || wanted !== sample) return; // another one was pressed meanwhile
  if (!keeping || !byId("prompt").value.trim()) byId("prompt").value = sample.prompt;
  await usePicture(new Picture(blob, sample.url.split("/").at(-1), sample.url));
}

// a request

async function run() {
  if (running || !askable()) return;
  const { signal } = (running = new AbortController());
  forgetAnswer();
  const answer = (result = new Result());
  refresh();
  try {
    await follow(asked(), answer, signal).finally(ended);
    if (answer === result) finish();
  } catch (error) {
    if (answer === result) fail(error, signal.aborted); // else it is about a picture that is no longer shown
  }
}

function ended() {
  running = null;
  byId("reasoning-text").classList.remove("live");
  refresh();
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
  const [id] = await Promise.all([picture.id(), shown]); // nothing is drawn over the picture before
  tell("Waiting for a turn …");
  for await (const event of api.segment({ ...request, image: { id } }, signal)) {
    await answer.take(event);
    if (answer === result) follows[event.type]?.(event);
  }
}

const follows = {
  accepted() {
    tell("Thinking …");
    byId("reasoning-text").classList.add("live");
    if (!drawable()) showProblem(unfit(view.size, result.image));
    showViews();
  },
  "reasoning.delta"() {
    const box = byId("reasoning-text");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
    box.textContent = result.reasoning;
    if (atEnd) box.scrollTop = box.scrollHeight;
  },
  "mask.draft"() {
    showViews();
  },
  decision(event) {
    byId("reasoning-text").classList.remove("live");
    showDecision(event);
    tell("Drawing the mask …");
  },
  mask() {
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
  if (aborted || error.name === "AbortError") return tell("Cancelled.");
  tell("");
  if (!(error instanceof api.Problem)) {
    showProblem(new api.Problem({ title: "This page has failed", detail: String(error) }));
    throw error; // for the console
  }
  showProblem(error);
  if (error.document.status === 401) openSettings();
}

function stop() {
  if (!running) return;
  running.abort();
  picture.cancel();
}

// what is shown

function forgetAnswer() {
  result = null;
  chosen = false;
  choice = "image";
  byId("reasoning-text").textContent = "";
  byId("timings-section").hidden = true;
  showProblem(null);
  showDecision(null);
  showMasks(null);
  showViews();
}

function showViews() {
  const seen = drawable() ? result : null;
  const mode = seen ? choice : "image";
  for (const radio of byId("views").querySelectorAll("input")) {
    radio.disabled = !seen?.views.includes(radio.value);
    radio.checked = radio.value === mode;
  }
  view.show(seen, mode);
  describe(view.size, seen, mode);
  refresh();
}

/** Whether the answer is about the picture as it is seen here: some browsers do not turn all files that say so. */
function drawable() {
  const { size } = view;
  const { width, height } = result?.image ?? size ?? {};
  return Boolean(size) && size.width === width && size.height === height;
}

function askable() {
  const prompt = byId("prompt").value.trim();
  return Boolean(picture && (prompt || (points?.list.length && !offered.promptRequired)));
}

function refresh() {
  const buttons = [byId("run"), byId("cancel")];
  const focused = buttons.includes(document.activeElement);
  byId("run").disabled = Boolean(running) || !askable();
  byId("cancel").hidden = !running;
  if (focused) buttons[running ? 1 : 0].focus(); // on the one that takes over
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

/** What the form asks, without the image. */
function asked() {
  return chosenOptions(points?.list ?? []);
}

function copy(write, what) {
  const text = write(location.origin, asked(), picture.name, Boolean(api.apiKey()));
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
  byId("form").addEventListener("input", refresh);
  byId("cancel").addEventListener("click", stop);
  addEventListener("keydown", (event) => {
    const elsewhere = event.isComposing || document.querySelector("dialog[open]"); // what Escape is for then
    if (event.key === "Escape" && !elsewhere) stop();
  });
  byId("views").addEventListener("change", (event) => {
    choice = event.target.value;
    chosen = true;
    showViews();
  });
  byId("download-png").addEventListener("click", () => savePng(shownPixels(), `${choice}.png`));
  byId("download-rle").addEventListener("click", () => saveJson(result.json, "masks.json"));
  byId("copy-curl").addEventListener("click", () => copy(asCurl, "curl"));
  byId("copy-python").addEventListener("click", () => copy(asPython, "Python"));
  watchFiles(usePicture);
}

async function meetServer() {
  const [found, model] = await Promise.all([api.offers(), api.servedModel()]);
  offered = found;
  offerOptions(offered, model.mask_types);
  if (offered.points) points = view.points ??= new Points(byId("canvas"), view, refresh);
  byId("stage").classList.toggle("pointing", offered.points);
  byId("model").textContent = model.id;
  const samples = await offerSamples(useSample);
  markSample(picture?.sample);
  if (!picture) await useSample(samples.find(({ name }) => name === FIRST) ?? samples[0], true);
  await watchReadiness(model.id);
}

async function watchReadiness(name) {
  const ready = await api.ready();
  byId("model").dataset.state = ready ? "ready" : "away";
  byId("model").textContent = ready ? name : `${name} is not ready yet`;
  if (!ready) setTimeout(() => watchReadiness(name), READY_EVERY);
}

listen();
watchSettings(() => {
  showProblem(null); // often that the key was missing
  meetServer().catch(fail);
});
refresh();
meetServer().catch(fail);
