// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// All stores: found by what is typed, by state and by group.

import { ask } from "./acts.js";
import { el, fill } from "./dom.js";
import { lasting, word } from "./words.js";

// The view that is left keeps what was looked for.
const wanted = { text: "", state: "", group: "" };

const BY_NAME = new Intl.Collator("en", { numeric: true });

export class List {
  #lines = new Map();
  #counts = el("div", { class: "counts", role: "group" });
  #groups = el("select", { name: "group" });
  #body = el("div", { role: "rowgroup" });
  #shown = el("p", { class: "shown", role: "status" });
  #told = "";

  constructor(page) {
    this.page = page;
    this.#counts.setAttribute("aria-label", word("state"));
    const search = el("input", {
      type: "search", name: "search", value: wanted.text, autocomplete: "off",
      oninput: (event) => {
        wanted.text = event.target.value;
        this.#filter();
      },
    });
    this.#groups.addEventListener("change", () => {
      wanted.group = this.#groups.value;
      this.#filter();
    });
    const heads = ["store", "state", "since", "hypervisor", "reason"];
    this.element = el(
      "section", {},
      el("div", { class: "title" },
        el("h1", {}, word("stores")),
        page.may("store") ? el("button", { type: "button", class: "primary", onclick: () => ask(page, "store", {}) }, word("start")) : null,
      ),
      el("div", { class: "filters" },
        el("label", {}, `${word("search")} `, search),
        el("label", {}, `${word("group")} `, this.#groups),
        this.#counts,
      ),
      this.#shown,
      el("div", { role: "table", class: "stores", "aria-label": word("stores") },
        el("div", { role: "rowgroup" },
          el("div", { role: "row", class: "row head" },
            heads.map((head) => el("div", { role: "columnheader", class: head }, word(head))),
          ),
        ),
        this.#body,
      ),
    );
  }

  /** Show the rows that changed, or all. */
  update(changed) {
    const rows = this.page.rows;
    const names = changed === null || this.#lines.size === 0 ? [...rows.keys()] : [...changed];
    let more = false;
    for (const name of names) {
      const row = rows.get(name);
      if (!row) continue;
      const line = this.#lines.get(name) ?? this.#line(name);
      more ||= !line.element.isConnected;
      this.#show(line, row);
    }
    for (const [name, line] of this.#lines) {
      if (rows.has(name)) continue;
      line.element.remove();
      this.#lines.delete(name);
    }
    if (more) {
      const sorted = [...this.#lines.keys()].sort(BY_NAME.compare);
      fill(this.#body, sorted.map((name) => this.#lines.get(name).element));
    }
    this.#choices();
    this.#filter();
  }

  /** Say how long each has been where it is. */
  tick() {
    for (const [name, line] of this.#lines) {
      if (!line.element.hidden) this.#since(line, this.page.rows.get(name));
    }
  }

  #line(name) {
    const cell = (kind) => el("div", { role: "cell", class: kind });
    const parts = Object.fromEntries(["state", "since", "hypervisor", "reason"].map((kind) => [kind, cell(kind)]));
    const element = el("div", { role: "row", class: "row" },
      el("div", { role: "cell", class: "store" }, el("a", { href: `#/store/${encodeURIComponent(name)}` }, name)),
      Object.values(parts),
    );
    const line = { element, ...parts };
    this.#lines.set(name, line);
    return line;
  }

  #show(line, row) {
    fill(line.state, badge(row.state));
    line.hypervisor.textContent = row.hypervisor;
    line.reason.textContent = row.reason;
    line.reason.title = row.reason;
    line.reason.lang = "en";
    line.text = `${row.store} ${row.state} ${row.hypervisor} ${row.minion_id} ${row.reason}`.toLowerCase();
    this.#since(line, row);
  }

  #since(line, row) {
    const told = lasting((Date.now() - row.since) / 1000);
    if (line.since.textContent !== told) line.since.textContent = told;
  }

  /** Count the states, and name the groups. */
  #choices() {
    const states = new Map();
    const groups = new Set();
    for (const row of this.page.rows.values()) {
      states.set(row.state, (states.get(row.state) ?? 0) + 1);
      if (row.group) groups.add(row.group);
    }
    // What somebody is about to press stays in its place.
    const told = JSON.stringify([wanted.state, [...states].sort()]);
    if (told !== this.#told) this.#chips(states);
    this.#told = told;
    const known = ["", ...[...groups].sort()];
    if (!known.includes(wanted.group)) wanted.group = "";
    if (known.join("\n") !== [...this.#groups.options].map((option) => option.value).join("\n") || !this.#groups.options.length) {
      fill(this.#groups, known.map((group) => el("option", { value: group }, group || word("all"))));
    }
    this.#groups.value = wanted.group;
  }

  #chips(states) {
    const focused = this.#counts.contains(document.activeElement) ? document.activeElement.dataset.state : null;
    const choice = (state, text) => el("button", {
      type: "button", class: "count", "aria-pressed": String(wanted.state === state), "data-state": state,
      onclick: () => {
        wanted.state = wanted.state === state ? "" : state;
        this.#choices();
        this.#filter();
      },
    }, text);
    fill(this.#counts,
      choice("", `${word("all")} ${this.page.rows.size}`),
      [...states].sort(([one], [other]) => one.localeCompare(other)).map(([state, count]) => choice(state, `${state} ${count}`)),
    );
    if (focused !== null) this.#counts.querySelector(`[data-state="${focused}"]`)?.focus();
  }

  #filter() {
    const text = wanted.text.trim().toLowerCase();
    let shown = 0;
    for (const [name, line] of this.#lines) {
      const row = this.page.rows.get(name);
      const fits = (!text || line.text.includes(text))
        && (!wanted.state || row.state === wanted.state)
        && (!wanted.group || row.group === wanted.group);
      if (line.element.hidden === fits) line.element.hidden = !fits;
      shown += fits;
    }
    const count = this.#lines.size;
    const told = count && shown ? word("shown", { shown, count }) : this.page.known ? word(count ? "no_match" : "none") : "";
    if (this.#shown.textContent !== told) this.#shown.textContent = told;
  }
}

const KINDS = { deployed: "good", failed: "bad", held: "rests", cancelled: "off", retired: "off" };

/** Return a state as it is shown everywhere. */
export function badge(state) {
  return el("span", { class: `badge ${KINDS[state] ?? "moves"}` }, state);
}
