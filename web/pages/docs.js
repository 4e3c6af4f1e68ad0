// Renders /openapi.json, as text only.

import { $, el, prose } from "./dom.js";

const named = (ref) => ref.split("/").pop();

/** A schema in a few words, and the names of the shapes in it as links. */
function type(schema) {
  if (!schema || schema === true || Object.keys(schema).length === 0) return ["any JSON"];
  if (schema.$ref) return [el("a", { href: `#shape-${named(schema.$ref)}` }, named(schema.$ref))];
  const some = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (some) return some.flatMap((s, i) => [...(i ? [schema.allOf ? " and " : " or "] : []), ...type(s)]);
  if (schema.type === "array") return ["list of ", ...type(schema.items)];
  const types = [schema.type].flat().filter(Boolean).join(" or ") || "any JSON";
  const extra = schema.additionalProperties;
  const limits = [["minimum", "from "], ["maximum", "to "], ["maxLength", "at most "]]
    .filter(([k]) => schema[k] !== undefined).map(([k, word]) => `${word}${schema[k]}`).join(" ");
  return [types, schema.format ? ` (${schema.format})` : "", limits ? `, ${limits}` : "",
    ...(extra && extra !== true ? [" of ", ...type(extra)] : [])];
}

function fields(schema) {
  const parts = schema.allOf ?? [schema];
  const rows = parts.flatMap((part) => part.$ref
    ? [el("tr", {}, el("td", { colspan: "3" }, "everything of ", ...type(part)))]
    : Object.entries(part.properties ?? {}).map(([name, s]) => el("tr", {},
      el("td", {}, el("code", {}, name), (part.required ?? []).includes(name) ? "" : el("span", { class: "dim" }, " optional")),
      el("td", {}, ...type(s)), el("td", {}, ...prose(s.description)))));
  return rows.length ? el("table", {}, el("tbody", {}, ...rows)) : el("p", {}, ...type(schema));
}

function operation(path, method, op, doc) {
  const out = el("article", { id: op.operationId },
    el("h2", {}, el("code", {}, el("span", { class: "method" }, method.toUpperCase()), path)),
    ...[op.summary, ...(op.description ?? "").split("\n\n")].filter(Boolean).map((p) => el("p", {}, ...prose(p))));
  const needs = (op.security ?? doc.security ?? []).map((s) => Object.keys(s)[0] ?? "nothing");
  out.append(el("p", { class: "dim" }, `Needs: ${needs.join(" or ")}`));
  if (op.parameters?.length) {
    out.append(el("h3", {}, "Parameters"), el("table", {}, el("tbody", {}, ...op.parameters.map((p) => el("tr", {},
      el("td", {}, el("code", {}, p.name), el("span", { class: "dim" }, ` ${p.in}${p.required ? "" : ", optional"}`)),
      el("td", {}, ...type(p.schema)), el("td", {}, ...prose(p.description)))))));
  }
  for (const [kind, content] of Object.entries(op.requestBody?.content ?? {})) {
    out.append(el("h3", {}, `Body, ${kind}`), el("p", {}, ...type(content.schema)));
  }
  const answers = Object.entries(op.responses ?? {});
  out.append(el("h3", {}, "Answers"), el("table", {}, el("tbody", {}, ...answers.map(([code, r]) => el("tr", {},
    el("td", {}, code), el("td", {}, ...Object.values(r.content ?? {}).slice(0, 1).flatMap((c) => type(c.schema))),
    el("td", {}, ...(r.content?.["application/problem+json"] ? problems(r.description) : prose(r.description))))))));
  return out;
}

const problems = (text) => text.split(", ").flatMap((code, i) => {
  const slug = code.replaceAll("`", "");
  return [...(i ? [", "] : []), el("a", { href: `problems/${slug}` }, slug)];
});

async function main() {
  const doc = await (await fetch("openapi.json")).json();
  const main = $("calls");
  main.replaceChildren(el("h1", {}, `${doc.info.title} ${doc.info.version}`),
    el("p", {}, ...prose(doc.info.description)),
    el("p", {}, "As a file: ", el("a", { href: "openapi.yaml" }, "openapi.yaml"), ", ", el("a", { href: "openapi.json" }, "openapi.json")));
  for (const tag of doc.tags ?? []) {
    const list = el("ul");
    $("contents").append(el("strong", {}, tag.name), list);
    main.append(el("h1", {}, tag.description ?? tag.name));
    for (const [path, item] of Object.entries(doc.paths)) {
      for (const [method, op] of Object.entries(item)) {
        if (!op.tags?.includes(tag.name)) continue;
        list.append(el("li", {}, el("a", { href: `#${op.operationId}` }, op.summary ?? op.operationId)));
        main.append(operation(path, method, op, doc));
      }
    }
  }
  main.append(el("h1", {}, "Shapes"));
  const shapes = Object.entries(doc.components?.schemas ?? {}).sort(([a], [b]) => a.localeCompare(b));
  for (const [name, schema] of shapes) {
    main.append(el("article", { id: `shape-${name}` }, el("h2", {}, name), el("p", {}, ...prose(schema.description)), fields(schema)));
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

main().catch((error) => { $("calls").textContent = `The description could not be read: ${error.message}`; });
