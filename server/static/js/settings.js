// The settings dialog: the API key, in this tab's session storage and nowhere else.

import { apiKey, keepApiKey } from "./api.js";
import { byId } from "./dom.js";

/** Call `changed()` when another key has been saved. */
export function watchSettings(changed) {
  const dialog = byId("settings");
  const field = byId("api-key");
  byId("open-settings").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("beforetoggle", () => (field.value = apiKey()));
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "save" && field.value.trim() !== apiKey()) {
      keepApiKey(field.value.trim());
      changed();
    }
    dialog.returnValue = "";
    field.value = "";
  });
}
