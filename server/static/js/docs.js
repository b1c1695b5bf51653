// The reference, drawn from the server's OpenAPI document.

import { byId, make } from "./dom.js";
import { schemaTable, typeOf } from "./schemas.js";

const anchor = (text) => text.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");

async function draw() {
  const api = await (await fetch("/openapi.json")).json();
  byId("title").textContent = api.info.title;
  byId("about").append(...prose(api.info.description ?? ""));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) add("Endpoints", method, path, operationParts(operation));
  }
  for (const [path, socket] of Object.entries(api["x-websockets"] ?? {})) add("Endpoints", "ws", path, socketParts(socket));
  const kinds = problemKinds(api);
  add("Reference", "", "Problems", [problemTable(kinds)]);
  for (const [name, schema] of Object.entries(api.components.schemas)) add("Schemas", "", name, schemaParts(schema));
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/** A section with an entry in the contents, under the heading `group`. */
function add(group, method, name, parts) {
  const id = anchor(`${method} ${name}`.trim());
  const title = () => [...(method ? [make("span", { className: "method", textContent: method.toUpperCase() })] : []), name];
  const heading = make("h2", { className: method ? "path" : "" }, ...title());
  byId("content").append(make("section", { id }, heading, ...parts));
  const contents = byId("contents");
  let list = contents.querySelector(`ul[data-group="${group}"]`);
  if (!list) {
    list = make("ul");
    list.dataset.group = group;
    contents.append(make("h2", { textContent: group }), list);
  }
  list.append(make("li", {}, make("a", { href: `#${id}` }, ...title())));
}

function operationParts({ description, parameters = [], requestBody, responses }) {
  const parts = [make("p", {}, ...prose(description ?? ""))];
  for (const { name, schema, example } of parameters) {
    parts.push(make("p", {}, make("code", { textContent: `{${name}}` }), ` ${schema.type}, such as `, make("code", { textContent: example })));
  }
  if (requestBody) parts.push(make("h3", { textContent: "Request" }), ...Object.entries(requestBody.content).map(contentBox));
  parts.push(make("h3", { textContent: "Answers" }));
  for (const [status, answer] of Object.entries(responses)) parts.push(answerBox(status, answer));
  return parts;
}

function answerBox(status, { description, content = {} }) {
  const summary = make("summary", {}, make("span", { className: "status", textContent: status }), description);
  if (!Object.keys(content).length) return make("details", {}, summary, make("p", { className: "hint", textContent: "No body." }));
  return make("details", {}, summary, ...Object.entries(content).flatMap(([type, one]) => contentParts(type, one)));
}

function contentBox([type, content]) {
  return make("details", {}, make("summary", { textContent: type }), ...contentParts(type, content));
}

function contentParts(type, { schema, example, examples = {} }) {
  const all = example === undefined ? Object.entries(examples).map(([name, { value }]) => [name, value]) : [["example", example]];
  const boxes = all.map(([name, value]) => [make("p", { className: "hint", textContent: name }), pre(value)]);
  return [make("p", {}, make("code", { textContent: type }), " ", typeOf(schema)), ...boxes.flat()];
}

function socketParts({ description, client, server, problems, closeCodes }) {
  const sides = [["Frames of the client", client], ["Frames of the server", server], ["Problems in error events", problems]];
  return [
    make("p", {}, ...prose(description)),
    ...sides.map(([name, content]) => make("details", {}, make("summary", { textContent: name }), ...contentParts("application/json", content))),
    make("h3", { textContent: "Close codes" }),
    table(["code", "meaning"], Object.entries(closeCodes)),
  ];
}

function schemaParts(schema) {
  return [make("p", {}, ...prose(schema.description ?? "")), schemaTable(schema)];
}

/** Every kind of problem in the examples, once: `{type: {title, status, where}}`. */
function problemKinds(api) {
  const kinds = {};
  const see = (where, content) => {
    for (const { value } of Object.values(content?.examples ?? {})) {
      (kinds[value.type] ??= { ...value, where: [] }).where.push(where);
    }
  };
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, { responses }] of Object.entries(methods)) {
      for (const { content } of Object.values(responses)) see(`${method.toUpperCase()} ${path}`, content?.["application/problem+json"]);
    }
  }
  for (const [path, { problems }] of Object.entries(api["x-websockets"] ?? {})) see(`WS ${path}`, problems);
  see("before any endpoint, or beside them", api["x-problems"]);
  return Object.values(kinds).sort((one, other) => one.status - other.status);
}

function problemTable(kinds) {
  return table(["type", "status", "title"], kinds.map(({ type, status, title }) => [type, status, title]));
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((textContent) => make("th", { textContent, scope: "col" })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((textContent) => make("td", { textContent }))));
  return make("div", { className: "table", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function pre(value) {
  return make("pre", { tabIndex: 0, textContent: JSON.stringify(value, null, 2) });
}

/** Text with `code` in it. */
function prose(text) {
  return text.split(/(`+[^`]+`+)/).map((piece) =>
    piece.startsWith("`") ? make("code", { textContent: piece.replaceAll("`", "") }) : piece,
  );
}

draw();
