// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// One store: where it is and why, what can be done, what happened, what was read back.

import { ask } from "./acts.js";
import { Refused } from "./api.js";
import { el, fill } from "./dom.js";
import { badge } from "./list.js";
import { timeline } from "./timeline.js";
import { lasting, moment, word } from "./words.js";

const SAID = ["meaning", "waits_for", "over_when", "at_deadline", "failed_in", "reason", "undo", "held_in", "dns"];

export class Store {
  #where = el("div");
  #acts = el("div", { class: "buttons" });
  #waits = el("div");
  #picture = el("div", { class: "picture", tabindex: "0", role: "region" });
  #history = el("tbody");
  #evidence = el("dl");
  #offers = el("h2", { tabindex: "-1" }, word("what_now"));
  #since = 0;
  #asked = 0;
  #stale = true;
  #for = el("span", { class: "for" });

  constructor(page, store) {
    this.page = page;
    this.store = store;
    this.#picture.setAttribute("aria-label", word("timeline"));
    const text = el("input", { name: "text", maxlength: "500", required: true, autocomplete: "off" });
    let writing = false;
    const note = el("form", {
      class: "note",
      onsubmit: async (event) => {
        event.preventDefault();
        if (writing) return;
        writing = true;
        const typed = text.value;
        try {
          await page.act("note", { store, text: typed });
          if (text.value === typed) text.value = "";
          page.tell(word("done", { verb: word("note"), store }));
          await page.refresh();
        } catch (error) {
          page.tell(error instanceof Refused ? `${error.message}; ${error.hint}` : word("perhaps", { why: error.message }));
        } finally {
          writing = false;
        }
      },
    }, el("label", {}, `${word("note_label")} `, text), el("button", { type: "submit" }, word("write")));
    const heads = ["state", "at", "took", "reason", "by"];
    this.element = el("section", {},
      el("p", {}, el("a", { href: "#/" }, `← ${word("back")}`)),
      el("h1", {}, `${word("store")} ${store}`),
      el("h2", {}, word("why")), this.#where,
      this.#waits,
      this.#offers, this.#acts,
      el("h2", {}, word("timeline")), this.#picture,
      el("h2", {}, word("history")),
      page.may("note") ? note : null,
      el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": word("history") },
        el("table", {},
          el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, word(head))))),
          this.#history,
        ),
      ),
      el("h2", {}, word("evidence")), this.#evidence,
    );
  }

  /** Ask for all of the store, if it has changed. */
  async update(changed) {
    if (changed !== null && !changed.has(this.store) && !this.#stale) return;
    this.#stale = true;
    const number = ++this.#asked;
    const named = { store: this.store };
    const [explained, history, record] = await this.page.say(["explain", named], ["history", named], ["status", named]);
    // An answer that a later one has overtaken is old.
    if (number !== this.#asked) return;
    this.#stale = false;
    if (explained.error && explained.retcode) {
      for (const part of [this.#acts, this.#waits, this.#picture, this.#history, this.#evidence]) part.replaceChildren();
      fill(this.#where, el("p", { class: "error", lang: "en" }, `${explained.error}; ${explained.hint}`));
      this.#since = 0;
      return;
    }
    this.#since = Date.now() - 1000 * explained.for_s;
    this.tick();
    fill(this.#where,
      el("p", { class: "now" }, badge(explained.state), " ", this.#for),
      el("dl", {}, SAID.filter((key) => explained[key]).map((key) => [el("dt", {}, word(key)), el("dd", { lang: "en" }, explained[key])])),
    );
    this.#offer(explained, record);
    const own = history.filter((row) => row.generation === record.generation);
    fill(this.#picture, own.length ? timeline(this.store, own) : "");
    fill(this.#history, history.toReversed().map((row) => el("tr", {},
      el("td", {}, badge(row.state)),
      el("td", {}, el("time", { datetime: row.at }, moment(row.at))),
      el("td", {}, lasting(row.took_s)),
      el("td", { lang: "en" }, row.reason),
      el("td", {}, row.actor ? `${row.actor} (${row.way})` : row.way),
    )));
    const facts = { ...record, ...record.evidence };
    for (const key of ["evidence", "store", "revision", "state", "reason"]) delete facts[key];
    fill(this.#evidence, Object.entries(facts).filter(([, value]) => !empty(value)).map(([key, value]) => [
      el("dt", {}, key), el("dd", {}, typeof value === "object" ? el("pre", {}, JSON.stringify(value, null, 1)) : String(value)),
    ]));
  }

  /** Go on where what is offered now stands: what was pressed may be gone. */
  acted() {
    if (document.activeElement === document.body) this.#offers.focus();
  }

  /** Say how long it has been where it is. */
  tick() {
    if (!this.#since) return;
    this.#for.textContent = lasting((Date.now() - this.#since) / 1000);
  }

  #offer(explained, record) {
    const offered = explained.verbs.map((verb) => el("button", {
      type: "button",
      onclick: () => ask(this.page, verb, {
        store: this.store, redeploy: record.state === "deployed", seen: record,
        data_disks: record.evidence.data_disks, uyuni: record.evidence.leaves_uyuni,
      }),
    }, word(`v_${verb}`)));
    const focused = this.#acts.contains(document.activeElement) ? document.activeElement.textContent : null;
    fill(this.#acts, offered.length ? offered : el("p", {}, word("nothing_now")));
    if (focused) [...this.#acts.children].find((button) => button.textContent === focused)?.focus();
    const requests = explained.requests ?? [];
    fill(this.#waits, requests.length ? [
      el("h2", {}, word("waits")),
      el("ul", { lang: "en" }, requests.map((each) => el("li", {}, `${each.words} (${each.who}, ${moment(each.until)}) `,
        this.page.may("approve") && each.who !== this.page.me.user ? el("button", {
          type: "button", onclick: () => ask(this.page, "approve", { store: this.store, request: each.id, words: each.words }),
        }, word("approve")) : null,
      ))),
    ] : []);
  }
}

function empty(value) {
  return value === null || value === "" || (typeof value === "object" && Object.keys(value).length === 0);
}
