// Shows openapi.json, which stands beside this page, for people to read.
// All text goes in as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Text in which what stands between backticks is code. */
function prose(text) {
  const parts = (text ?? "").split("`");
  return element("span", {}, ...parts.map((part, at) => (at % 2 ? element("code", {}, part) : part)));
}

/** What a `$ref` points at, or the value itself. */
function resolve(api, value) {
  if (!value || !value.$ref) return value ?? {};
  return value.$ref.slice(2).split("/").reduce((at, key) => at?.[key], api) ?? {};
}

const nameOf = (schema) => schema.$ref?.split("/").pop();

/** A schema in a few words. */
function typeName(schema) {
  if (!schema) return "any";
  if (schema.$ref) return nameOf(schema);
  const options = schema.oneOf ?? schema.anyOf;
  if (options) return options.filter((one) => one.type !== "null").map(typeName).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  const types = [schema.type ?? "any"].flat().filter((type) => type !== "null");
  if (types[0] === "array") return `array of ${typeName(schema.items)}`;
  if (types[0] === "object" && schema.additionalProperties)
    return `map of ${typeName(schema.additionalProperties)}`;
  return types.join(" or ");
}

/** All fields of an object, also those of what it is composed of. */
function fieldsOf(api, schema) {
  const whole = resolve(api, schema);
  const parts = (whole.allOf ?? []).flatMap((part) => fieldsOf(api, part));
  const required = new Set(whole.required ?? []);
  const own = Object.entries(whole.properties ?? {});
  return parts.concat(own.map(([name, field]) => ({ name, field, required: required.has(name) })));
}

/** What a field or parameter is for, and which words it may be. */
function about(api, schema, text) {
  const real = [schema, ...(schema?.oneOf ?? [])].map((one) => resolve(api, one));
  const words = real.find((one) => one.enum)?.enum;
  const said = text ?? schema?.oneOf?.find((one) => one.description)?.description;
  const told = said ?? real[0].description ?? "";
  return prose(words ? `${told} One of \`${words.join("`, `")}\`.` : told);
}

function table(titles, rows) {
  const cells = (kind, row) => element("tr", {}, ...row.map((cell) => element(kind, {}, cell)));
  return element("table", {}, cells("th", titles), ...rows.map((row) => cells("td", row)));
}

function fieldTable(api, schema) {
  const inner = schema?.type === "array" ? schema.items : schema;
  const fields = inner ? fieldsOf(api, inner) : [];
  if (fields.length === 0) return undefined;
  return table(
    ["Field", "Type", ""],
    fields.map(({ name, field, required }) => [
      element("code", {}, name),
      typeName(field) + (required ? "" : ", optional"),
      about(api, field, field.description),
    ]),
  );
}

function example(media) {
  const value = media.example ?? Object.values(media.examples ?? {})[0]?.value;
  if (value === undefined) return undefined;
  return element("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

function bodies(api, content) {
  return Object.entries(content ?? {}).map(([kind, media]) =>
    element(
      "div",
      {},
      element("p", { class: "faint" }, `${kind}: ${typeName(media.schema)}`),
      fieldTable(api, media.schema),
      example(media),
    ),
  );
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A request as one types it. */
function curl(api, method, path, operation, parameters) {
  const samples = { id: "sb-0123abcd", name: "native", path: "/workspace/main.py" };
  const real = path.replace(/\{\*?(\w+)\}/g, (_, name) => samples[name] ?? name);
  const query = parameters
    .filter((one) => one.in === "query" && one.required)
    .map((one) => `${one.name}=${encodeURIComponent(one.example ?? samples[one.name] ?? "…")}`);
  const address = location.origin + real + (query.length ? `?${query.join("&")}` : "");
  const words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  if ((operation.security ?? []).length > 0) words.push("-H", '"X-API-Key: $STACYVM_API_KEY"');
  const [kind, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (kind === "application/json") words.push("-d", quote(JSON.stringify(media.example ?? {})));
  else if (kind) words.push("--data-binary", "@FILE");
  return element("pre", {}, words.concat(quote(address)).join(" "));
}

function responses(api, operation) {
  return Object.entries(operation.responses).map(([status, pointer]) => {
    const response = resolve(api, pointer);
    const content = Object.values(response.content ?? {})[0];
    const code = Number(status) >= 400 ? content?.example?.code : undefined;
    const title = element("summary", {}, element("code", {}, status), " ");
    if (code) title.append(element("code", {}, code), " ");
    title.append(prose(response.description));
    const opened = Number(status) < 300 ? { open: "" } : {};
    return element("details", opened, title, ...bodies(api, response.content));
  });
}

function route(api, path, method, operation) {
  const parameters = (operation.parameters ?? []).map((one) => resolve(api, one));
  const inside = element("div", { class: "body" }, element("p", {}, prose(operation.summary)));
  if (operation.description) inside.append(element("p", { class: "faint" }, prose(operation.description)));
  if (parameters.length > 0) {
    const rows = parameters.map((one) => [
      element("code", {}, one.name),
      `${one.in}, ${typeName(one.schema)}${one.required ? "" : ", optional"}`,
      about(api, one.schema, one.description),
    ]);
    inside.append(element("h4", {}, "Parameters"), table(["Name", "Where, type", ""], rows));
  }
  if (operation.requestBody)
    inside.append(element("h4", {}, "Body"), ...bodies(api, operation.requestBody.content));
  inside.append(element("h4", {}, "Try it"), curl(api, method, path, operation, parameters));
  inside.append(element("h4", {}, "Answers"), ...responses(api, operation));
  const title = element("h3", {}, element("span", { class: `method ${method}` }, method));
  title.append(element("code", {}, path));
  return element("article", { id: operation.operationId }, title, inside);
}

function show(api) {
  const page = document.getElementById("page");
  const contents = document.getElementById("contents");
  document.getElementById("version").textContent = api.info.version;
  page.replaceChildren(element("p", {}, prose(api.info.description)));
  const shown = [];
  for (const tag of api.tags) {
    const heading = element("h2", { id: `tag-${tag.name}` }, tag.name);
    const about = element("p", { class: "faint" }, prose(tag.description));
    const entry = element("h2", {}, tag.name);
    page.append(heading, about);
    contents.append(entry);
    const group = { parts: [heading, about, entry], routes: [] };
    for (const [path, operations] of Object.entries(api.paths)) {
      for (const method of METHODS.filter((one) => operations[one]?.tags?.[0] === tag.name)) {
        const operation = operations[method];
        const article = route(api, path, method, operation);
        const link = element("a", { href: `#${operation.operationId}` });
        link.append(element("span", { class: `method ${method}` }, method));
        link.append(path.replace("/api/v1", ""));
        page.append(article);
        contents.append(link);
        const words = `${method} ${path} ${tag.name} ${article.textContent}`.toLowerCase();
        group.routes.push({ words, parts: [article, link] });
      }
    }
    shown.push(group);
  }
  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const group of shown) {
      let any = false;
      for (const { words, parts } of group.routes) {
        const fits = wanted.every((word) => words.includes(word));
        any ||= fits;
        for (const part of parts) part.hidden = !fits;
      }
      for (const part of group.parts) part.hidden = !any;
    }
  });
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch("openapi.json")
  .then((answer) => {
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  })
  .then(show)
  .catch((error) => {
    const page = document.getElementById("page");
    page.replaceChildren(element("p", {}, `The description could not be read: ${error.message}.`));
  });
