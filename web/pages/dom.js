// Elements and lists of them. Text is only ever text: nothing here takes markup.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text, never markup. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** Text with `code` in it. */
export const prose = (text) => (text ?? "").split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

const FOCUSABLE = "a, button, summary, [tabindex]";

/**
 * Makes the children of `parent` those of `items`, in this order. An item is `{key, sign, make}`:
 * while `sign` stays what it was, the node stays, and with it focus, selection and scrolling. A
 * node that is made anew keeps what the reader has opened, and the focus.
 */
export function patch(parent, items) {
  const keys = new Set(items.map((item) => item.key));
  const old = new Map();
  for (const node of [...parent.children]) {
    if (keys.has(node.dataset.key)) old.set(node.dataset.key, node);
    else node.remove();
  }
  let at = parent.firstElementChild;
  for (const { key, sign, make } of items) {
    let node = old.get(key);
    if (!node || node.sign !== sign) {
      const fresh = make();
      fresh.dataset.key = key;
      fresh.sign = sign;
      if (node) {
        if (at === node) at = fresh;
        replace(node, fresh);
      }
      node = fresh;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

function replace(node, fresh) {
  const details = (n) => [...(n.matches("details") ? [n] : []), ...n.querySelectorAll("details")];
  const open = details(node);
  details(fresh).forEach((d, i) => { d.open = open[i]?.open ?? d.open; });
  const all = (n) => [n, ...n.querySelectorAll(FOCUSABLE)];
  const focus = all(node).indexOf(document.activeElement);
  node.replaceWith(fresh);
  if (focus >= 0) all(fresh)[focus]?.focus({ preventScroll: true });
}
