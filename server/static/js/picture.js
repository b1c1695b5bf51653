// The picture in hand, and the ways to get one: pick, drop, paste, samples.

import * as api from "./api.js";
import { byId, make } from "./dom.js";
import { tell } from "./telling.js";

/** A picture's file, and the sample's address where it is one. Its id comes from the server, which is asked once. */
export class Picture {
  #id = null;
  #leaving = null; // AbortController of the upload

  constructor(blob, name, sample = null) {
    this.blob = blob;
    this.name = name;
    this.sample = sample;
  }

  /** The id under which the server knows it; the upload begins with the first call. */
  id() {
    this.#id ??= this.#send().catch((error) => {
      this.#id = null; // the next call tries again
      throw error;
    });
    return this.#id;
  }

  /** Stop the upload, where it is under way: `id` fails with `AbortError`. */
  cancel() {
    this.#leaving?.abort();
  }

  #send() {
    this.#leaving = new AbortController();
    return api.upload(this.blob, this.#leaving.signal);
  }

  /** The server has forgotten it. */
  forget() {
    this.#id = null;
  }
}

/** Call `chosen(picture)` whenever the user gives a picture as a file. */
export function watchFiles(chosen) {
  const input = byId("file");
  const stage = byId("stage");
  const take = (files) => {
    const [file, ...others] = files ?? [];
    if (file) chosen(new Picture(file, file.name || "picture.png"));
    if (others.length) tell(`Only the first of the ${files.length} files is used.`);
    return Boolean(file);
  };
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that the same file can be picked again
  });
  addEventListener("paste", (event) => {
    if (!isText(event) && take(event.clipboardData?.files)) event.preventDefault();
  });
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return; // text may be dragged into the prompt
    event.preventDefault();
    stage.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    stage.classList.remove("over");
    take(event.dataTransfer.files);
  });
}

const holdsFiles = (event) => event.dataTransfer.types.includes("Files");

/** Whether what is pasted is meant as text: office programs give a picture of it, too. */
function isText(event) {
  return event.clipboardData?.types.includes("text/plain") && event.target.matches?.("input, textarea");
}

/** Offer the sample scenes; call `chosen(sample)` with the one that is pressed. */
export async function offerSamples(chosen) {
  const samples = await api.samples();
  byId("samples").replaceChildren(...samples.map((sample) => make("li", {}, button(sample, chosen))));
  return samples;
}

/** Mark the sample that is shown, or none. */
export function markSample(url) {
  for (const button of byId("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.url === url));
  }
}

function button(sample, chosen) {
  const element = make("button", { type: "button", title: sample.prompt });
  element.append(make("img", { src: sample.url, alt: `Scene with a ${sample.target}`, loading: "lazy" }));
  element.dataset.url = sample.url;
  element.setAttribute("aria-pressed", "false");
  element.addEventListener("click", () => chosen(sample));
  return element;
}
