// The server's HTTP interface: images, streams of events, problem documents.

import { events } from "./sse.js";

const KEY = "r2sm.key"; // of this tab alone
const SENDABLE = /^[!-~]*$/; // what an Authorization header takes and every server reads alike

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

/** What keeps a key from being sent, in a sentence; empty where nothing does. */
export function faultOf(key) {
  return SENDABLE.test(key) ? "" : "A key is one word of ASCII letters, digits and signs. This one holds something else.";
}

export function keepApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What went wrong, as a problem document (RFC 9457); `retryAfter` in seconds where trying again may help. */
export class Problem extends Error {
  constructor(document, retryAfter = null) {
    super(document.detail || document.title);
    this.document = document;
    this.retryAfter = retryAfter;
  }

  is(slug) {
    return this.document.type === `urn:r2sm:problem:${slug}`;
  }
}

/** What this server's requests may hold, read from its OpenAPI document. */
export async function offers() {
  const { components } = await (await ask("/openapi.json")).json();
  const { properties, required = [] } = components.schemas.SegmentOptions;
  return {
    drafts: "drafts" in properties ? (numeric(properties.drafts).maximum ?? 4) : 0,
    points: "points" in properties,
    promptRequired: required.includes("prompt"),
  };
}

/** The served model, as `/v1/models` tells of it. */
export async function servedModel() {
  return (await (await ask("/v1/models")).json()).data[0];
}

/** Whether a request could be served now. */
export async function ready() {
  const response = await fetch("/readyz").catch(() => null);
  return response !== null && response.ok;
}

/** The sample scenes: `[{url, name, target, prompt}]`. */
export async function samples() {
  return (await ask("/samples")).json();
}

/** A picture's file, as a blob. */
export async function picture(url) {
  return (await ask(url)).blob();
}

/** Send a picture once; its id stands for it from then on. */
export async function upload(blob, signal) {
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  try {
    const response = await ask("/v1/images", { method: "POST", body: blob, signal, headers: { "Content-Type": type } });
    return (await response.json()).id;
  } catch (error) {
    if (signal.aborted || (await readable(blob))) throw error;
    throw new Problem({ title: "The picture's file cannot be read", detail: "It has changed since it was picked, or is gone. Pick it again." });
  }
}

/** Whether a file is still as it was when it was picked; `fetch` does not tell. */
function readable(blob) {
  return blob.slice(0, 1).arrayBuffer().then(() => true, () => false);
}

/** One request's events, the last one `done`. Throws `Problem`, or `AbortError` after `signal`. */
export async function* segment(request, signal) {
  const response = await ask("/v1/segment", {
    method: "POST",
    body: JSON.stringify(request),
    signal,
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
  });
  try {
    for await (const event of events(response.body)) {
      if (event.type === "error") throw new Problem(event.problem, event.retry_after);
      yield event;
      if (event.type === "done") return;
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
  }
  throw new Problem({ title: "The answer broke off", detail: "The connection was closed before the last event." });
}

async function ask(path, options = {}) {
  const fault = faultOf(apiKey());
  if (fault) throw new Problem({ title: "The API key cannot be sent", detail: fault, status: 401 });
  const headers = { ...options.headers, ...(apiKey() && { Authorization: `Bearer ${apiKey()}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The server cannot be reached", detail: "Nothing answers at this address just now." });
  }
  if (!response.ok) throw await problemIn(response);
  return response;
}

async function problemIn(response) {
  const after = Number(response.headers.get("Retry-After")) || null;
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    return new Problem(await response.json(), after);
  }
  return new Problem({ title: "The server refused", detail: `It answered ${response.status}.`, status: response.status }, after);
}

/** The number among the forms that a schema allows. */
function numeric(schema) {
  return schema.anyOf?.find((one) => one.type === "integer") ?? schema;
}
