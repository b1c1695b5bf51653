// The picture in hand, and the ways to get one: pick, drop, paste, samples.

import * as api from "./api.js";
import { byId, make } from "./dom.js";

/** A picture's file. Its id comes from the server, which is asked once. */
export class Picture {
  #id = null;

  constructor(blob, name) {
    this.blob = blob;
    this.name = name;
  }

  /** The id under which the server knows it; the upload begins with the first call. */
  id() {
    this.#id ??= api.upload(this.blob).catch((error) => {
      this.#id = null; // the next call tries again
      throw error;
    });
    return this.#id;
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
    const [file] = files ?? [];
    if (file) chosen(new Picture(file, file.name || "picture.png"));
    return Boolean(file);
  };
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that the same file can be picked again
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files) && event.preventDefault());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    take(event.dataTransfer.files);
  });
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
