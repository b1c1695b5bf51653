// What the page says: the status line, problems, the table of masks, the picture's name for those who do not see it.

import { Problem } from "./api.js";
import { byId, make } from "./dom.js";
import { percent } from "./gauge.js";
import { colourOf } from "./overlay.js";

const HINTS = {
  image: "",
  modal: "The part that can be seen.",
  amodal: "The complete shape; its hidden part is hatched.",
  hidden: "The complete shape less what can be seen.",
  heatmap: "Where the model looks: bright is likely.",
};

/** One line about what goes on; read out by screen readers. */
export function tell(text) {
  byId("status").textContent = text;
}

/** Show a problem document, or none. */
export function showProblem(problem) {
  const box = byId("problem");
  box.hidden = !problem;
  if (!problem) return box.replaceChildren();
  const { title, detail, errors = [], type } = problem.document;
  box.replaceChildren(make("h2", { textContent: title }), make("p", { textContent: detail }));
  const faults = errors.filter(({ message }) => !detail?.includes(message));
  if (faults.length) {
    box.append(make("ul", {}, ...faults.map(({ field, message }) => make("li", { textContent: `${field}: ${message}` }))));
  }
  if (problem.retryAfter) box.append(make("p", { textContent: `Try again in ${Math.ceil(problem.retryAfter)} s.` }));
  if (type) box.append(make("p", {}, make("code", { textContent: type })));
  return box;
}

/** The masks as rows of figures. */
export function showMasks(result) {
  byId("masks-section").hidden = !result?.masks.length;
  if (!result) return;
  const head = make("tr", {}, ...["Mask", "pixels", "expected IoU"].map((text) => heading(text, "col")));
  const rows = result.masks.map((mask) => row(mask, `${mask.mask_type}`, mask.area.toLocaleString("en"), mask.score.toFixed(2)));
  const hidden = result.hidden.map((part) =>
    row(part, "hidden part", `${part.bitmap.area.toLocaleString("en")} (${percent(part.fraction)})`, ""),
  );
  byId("masks").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows, ...hidden));
}

/** The problem of a picture that the masks cannot be drawn over: sizes as it is shown here and as the server reads it. */
export function unfit(shown, read) {
  const masks = "Masks cannot be drawn over it here; they can be saved.";
  if (!shown) return new Problem({ title: "This picture cannot be shown", detail: `This browser cannot read the file. ${masks}` });
  const [here, there] = [shown, read].map(({ width, height }) => `${width} by ${height} pixels`);
  const detail = `Its file says that it is to be turned: the server reads ${there}, this browser shows ${here}. ${masks}`;
  return new Problem({ title: "This picture is shown unturned", detail });
}

/** Which view is shown, in words: on the picture, below it, and as its name. */
export function describe(size, result, view) {
  const draft = view === "image" ? (result?.drafted ?? 0) : 0;
  const bare = draft ? "a draft of the mask over it" : "no mask over it";
  const shown = { image: bare, hidden: "the hidden part marked", heatmap: "a heatmap over it" };
  const name = size ? `Picture, ${size.width} by ${size.height} pixels, ${shown[view] ?? `the ${view} mask over it`}` : "No picture yet";
  byId("canvas").setAttribute("aria-label", name);
  byId("badge").textContent = `Draft ${draft}`;
  byId("badge").hidden = !draft;
  const nothing = view === "hidden" && result?.hidden.every((part) => part.bitmap.area === 0);
  byId("view-hint").textContent = nothing ? "Nothing of it is hidden." : HINTS[view];
}

function row({ object }, name, ...figures) {
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = `rgb(${colourOf(object)})`;
  const first = make("td", {}, swatch, `${object + 1} · ${name}`);
  return make("tr", {}, first, ...figures.map((text) => make("td", { textContent: text })));
}

function heading(textContent, scope) {
  return make("th", { textContent, scope });
}
