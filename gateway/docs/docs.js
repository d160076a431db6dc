// Reads /openapi.json and shows it, with a way to try every operation. No library, no other origin.
import { curl, perform } from "./try.js";

const page = document.getElementById("page");
const list = document.getElementById("operations");
const filter = document.getElementById("filter");
const credential = document.getElementById("credential");

// The key stays in this tab: gone when it closes.
credential.value = sessionStorage.getItem("credential") ?? "";
credential.addEventListener("input", () => sessionStorage.setItem("credential", credential.value));

const contract = await (await fetch("/openapi.json")).json();
const operations = Object.entries(contract.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })),
);

filter.addEventListener("input", showList);
addEventListener("hashchange", showPage);
showList();
showPage();

/** An element with attributes and children; text is always text. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

function showList() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = operations.filter((operation) => {
    const text = `${operation.operationId} ${operation.method} ${operation.path} ${operation.summary}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const groups = Object.groupBy?.(matching, (each) => each.tags[0]) ?? grouped(matching);
  list.replaceChildren(
    ...Object.entries(groups).flatMap(([tag, members]) => [
      el("h3", {}, tag.replace(/Service$/, "")),
      ...members.map((each) =>
        el(
          "a",
          { href: `#${each.operationId}`, title: each.summary, "aria-current": current() === each && "page" },
          el("span", { class: "verb" }, each.method),
          el("span", {}, each.operationId.split("_").slice(1).join(" ")),
        ),
      ),
    ]),
  );
}

function grouped(members) {
  const groups = {};
  for (const each of members) (groups[each.tags[0]] ??= []).push(each);
  return groups;
}

function current() {
  return operations.find((each) => `#${each.operationId}` === location.hash);
}

function showPage() {
  const operation = current();
  page.replaceChildren(...(operation ? operationPage(operation) : welcome()));
  showList();
  page.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function welcome() {
  const first = operations.find((each) => each.operationId === "AssistantService_Ask") ?? operations[0];
  return [
    el("h2", {}, `${contract.info.title} ${contract.info.version}`),
    ...prose(contract.info.description),
    el("p", {}, el("a", { href: `#${first.operationId}` }, "Ask a question"), " or choose an operation."),
    ...contract.tags.flatMap((tag) => [el("h3", {}, tag.name), ...prose(tag.description)]),
  ];
}

function operationPage(operation) {
  const body = bodyOf(operation);
  return [
    el("h2", {}, operation.summary),
    el("div", { class: "path" }, el("span", { class: "verb" }, `${operation.method} `), operation.path),
    el(
      "div",
      {},
      el("span", { class: "tag" }, operation["x-permission"] ?? "no credential needed"),
      streams(operation) ? el("span", { class: "tag" }, "streams events") : null,
    ),
    ...prose(operation.description),
    ...parameterTable(operation),
    ...(body?.schema?.properties ? [el("h3", {}, "Body"), fields(body.schema)] : []),
    ...tryIt(operation, body),
    el("h3", {}, "Answer"),
    ...answer(operation),
  ];
}

function bodyOf(operation) {
  const content = operation.requestBody?.content ?? {};
  const [type, media] = Object.entries(content)[0] ?? [];
  if (!type) return undefined;
  return { type, example: media.example, schema: resolved(media.schema), isFile: type !== "application/json" };
}

function streams(operation) {
  return Object.keys(operation.responses["200"].content ?? {})[0] === "text/event-stream";
}

function parameterTable(operation) {
  if (!operation.parameters?.length) return [];
  const rows = operation.parameters.map((each) =>
    el(
      "tr",
      {},
      el("td", {}, each.name, each.required ? el("span", { class: "must" }, " required") : null),
      el("td", { class: "type" }, `${kind(each.schema)} · ${each.in}`),
      el("td", {}, each.description ?? ""),
    ),
  );
  return [el("h3", {}, "Parameters"), el("table", {}, ...rows)];
}

function tryIt(operation, body) {
  const inputs = new Map();
  const grid = el(
    "div",
    { class: "grid" },
    ...(operation.parameters ?? []).map((each) => {
      const input = el("input", { "aria-label": each.name, spellcheck: "false" });
      inputs.set(each, input);
      return el("label", {}, each.name, input);
    }),
  );
  let content;
  if (body?.isFile) content = el("input", { type: "file", "aria-label": "file" });
  else if (body) {
    content = el("textarea", { "aria-label": "body", spellcheck: "false" });
    content.value = JSON.stringify(body.example ?? {}, null, 2);
  }
  const request = () => ({
    operation,
    credential: credential.value.trim(),
    parameters: [...inputs].map(([each, input]) => ({ ...each, value: input.value })),
    body: body?.isFile ? content.files[0] : content?.value,
    isFile: Boolean(body?.isFile),
  });
  const output = el("div", { "aria-live": "polite" });
  const stop = el("button", { class: "quiet", disabled: true }, "Stop");
  const send = el("button", { onclick: () => perform(request(), { output, send, stop, el }) }, "Send");
  const copy = el("button", { class: "quiet", onclick: () => output.replaceChildren(el("pre", {}, curl(request()))) }, "Show curl");
  return [el("h3", {}, "Try it"), grid, content, el("div", { class: "buttons" }, send, stop, copy), output].filter(Boolean);
}

function answer(operation) {
  const ok = operation.responses["200"];
  const media = ok.content?.["application/json"];
  if (media) {
    const schema = resolved(media.schema);
    return [schema.properties ? fields(schema) : el("p", { class: "type" }, kind(schema))];
  }
  const stream = ok.content["text/event-stream"];
  if (!stream) return prose(ok.description);
  return [...prose(ok.description), el("pre", {}, stream.example), fields(resolved(stream["x-event-schema"]))];
}

function fields(schema, depth = 0) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, given]) => {
    const inner = resolved(given.items ?? given);
    const deeper = inner.properties && depth < 5;
    return el(
      "tr",
      {},
      el("td", {}, name, required.has(name) ? el("span", { class: "must" }, " required") : null),
      el("td", { class: "type" }, kind(given)),
      el("td", {}, ...prose(given.description ?? ""), deeper ? lazily(() => fields(inner, depth + 1)) : null),
    );
  });
  return el("table", {}, ...rows);
}

function lazily(make) {
  const box = el("details", {}, el("summary", {}, "fields"));
  box.addEventListener("toggle", () => box.children.length === 1 && box.append(make()), { once: true });
  return box;
}

function kind(schema) {
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  const name = schema.$ref?.split("/").at(-1);
  const whole = resolved(schema);
  if (whole.enum) return whole.enum.join(" | ");
  return [name ?? whole.format ?? whole.type ?? "any", limits(whole), whole.readOnly ? "read only" : ""].filter(Boolean).join(", ");
}

function limits(schema) {
  const said = [];
  if (schema.minLength || schema.maxLength) said.push(`${schema.minLength ?? 0}–${schema.maxLength ?? "∞"} characters`);
  if (schema.type === "integer" && schema.maximum < 2 ** 31 - 1) said.push(`${schema.minimum}–${schema.maximum}`);
  return said.join(", ");
}

function resolved(schema) {
  if (!schema?.$ref) return schema ?? {};
  const { $ref, ...own } = schema;
  return { ...contract.components.schemas[$ref.split("/").at(-1)], ...own };
}

/** Paragraphs, lists and `code` of a comment. */
function prose(text) {
  return (text ?? "").split(/\n{2,}/).filter(Boolean).map((block) => {
    if (!block.startsWith("- ")) return el("p", {}, ...inline(block));
    return el("ul", {}, ...block.split(/\n(?=- )/).map((item) => el("li", {}, ...inline(item.slice(2)))));
  });
}

function inline(text) {
  return text.split(/(`[^`]+`)/).map((part) => (part.startsWith("`") ? el("code", {}, part.slice(1, -1)) : part));
}
