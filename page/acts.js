// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// What one may do: said with its consequences, confirmed by name, refused in a sentence.

import { Refused } from "./api.js";
import { by, el, fill } from "./dom.js";
import { word } from "./words.js";

let busy = false;

/**
 * Ask whether a verb is really meant, and say it.
 *
 * about: the store and what belongs to the verb, with `seen`, what it was when the question was
 * asked; for a new deployment the store is asked for.
 */
export function ask(page, verb, about) {
  const dialog = by("ask");
  const yes = by("ask-yes");
  const error = by("ask-error");
  const flow = (FLOWS[verb] ?? plain)(page, verb, about);
  const show = () => { yes.textContent = flow.yes(); };
  const wait = (until) => {
    busy = until;
    // Not by `disabled`, which takes the focus away.
    yes.setAttribute("aria-disabled", String(until));
    by("ask-wait").textContent = until ? word("asking") : "";
  };
  error.textContent = "";
  by("ask-title").textContent = about.store ? word("really", { verb: word(`v_${verb}`), store: about.store }) : word("start");
  fill(by("ask-body"), el("p", {}, about.words ? `${about.words}. ` : "", word(`c_${verb}`)), flow.fields ?? []);
  flow.changed = show;
  show();
  wait(false);
  // What is under way is waited for: its answer belongs into this dialog.
  dialog.oncancel = (event) => { if (busy) event.preventDefault(); };
  by("ask-no").onclick = () => { if (!busy) dialog.close(); };
  by("ask-form").onsubmit = async (event) => {
    event.preventDefault();
    if (busy) return;
    error.textContent = "";
    wait(true);
    try {
      const ended = await flow.next();
      if (ended) {
        dialog.close();
        page.tell(ended);
        await page.refresh();
        page.acted?.();
      } else show();
    } catch (caught) {
      const refused = caught instanceof Refused;
      const lost = () => word(flow.acting?.() ?? true ? "perhaps" : "lost", { why: caught.message });
      error.textContent = refused ? `${caught.message}; ${caught.hint}` : lost();
    } finally {
      wait(false);
    }
  };
  dialog.showModal();
}

function done(verb, store, answer) {
  return answer.request ? word("asked", answer) : word("done", { verb: word(`v_${verb}`), store });
}

/** Refuse to go on where the store is not any more what it was when the question was asked. */
async function unchanged(page, { store, seen }) {
  if (!seen) return;
  const [now] = await page.say(["status", { store }]);
  if (now.generation !== seen.generation || now.state !== seen.state) {
    throw new Refused(word("changed", { state: now.state }), word("look_again"));
  }
}

/** One question, one answer. */
function plain(page, verb, about) {
  const { store } = about;
  const more = { approve: { request: about.request }, rollback: { wait: false } }[verb] ?? {};
  return {
    yes: () => word("really", { verb: word(`v_${verb}`), store }),
    next: async () => {
      await unchanged(page, about);
      return done(verb, store, await page.act(verb, { store, ...more }));
    },
  };
}

/** First what would happen, as `look` shows it of what is `wanted`; then, if that is still wanted, its doing. */
function shown_first(verb, wanted, look, act, ...fields) {
  const would = el("div");
  let known = "";
  const flow = {
    fields: el("div", {}, fields, would),
    acting: () => known === JSON.stringify(wanted()),
    yes: () => word(flow.acting() ? "really" : "see_plan", { verb: word(`v_${verb}`), store: wanted().store }),
    next: async () => {
      const asked = wanted();
      if (flow.acting()) return done(verb, asked.store, await act(asked));
      const { parts, possible } = await look(asked);
      fill(would, parts);
      known = possible ? JSON.stringify(asked) : "";
      return "";
    },
  };
  flow.fields.addEventListener("input", () => {
    known = "";
    would.replaceChildren();
    flow.changed();
  });
  return flow;
}

function list(heading, lines, kind) {
  return lines.length ? [el("h3", {}, word(heading)), el("ul", { class: kind, lang: "en" }, lines.map((line) => el("li", {}, line)))] : [];
}

function deploy(page, verb, about) {
  const name = el("input", {
    name: "store", required: true, autocomplete: "off", value: about.store ?? "", readonly: Boolean(about.store),
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,62}",
  });
  const redeploy = el("input", { type: "checkbox", name: "redeploy", checked: Boolean(about.redeploy) });
  return shown_first(
    verb,
    () => ({ store: name.value.trim(), redeploy: redeploy.checked }),
    async (asked) => {
      const [plan] = await page.say(["plan", asked]);
      const faults = plan.faults ?? (plan.error ? [`${plan.error}; ${plan.hint}`] : []);
      const outage = plan.outage_expected ? el("p", {}, `${word("outage")}: ${plan.outage_expected}`) : [];
      return { parts: [list("plan", plan.would ?? []), outage, list("faults", faults, "error")], possible: !faults.length };
    },
    (asked) => page.act("store", { ...asked, wait: false }),
    el("label", {}, `${word("store")} `, name),
    el("label", { class: "check" }, redeploy, ` ${word("redeploy")}`),
  );
}

function retire(page, verb, about) {
  const data = el("input", { type: "checkbox", name: "data_disks", checked: Boolean(about.data_disks) });
  const uyuni = el("input", { type: "checkbox", name: "uyuni", checked: Boolean(about.uyuni) });
  const thing = (each) => (typeof each === "string" ? each : JSON.stringify(each));
  return shown_first(
    verb,
    () => ({ store: about.store, data_disks: data.checked, uyuni: uyuni.checked }),
    async (asked) => {
      const would = await page.act("retire", asked);
      return { parts: [list("would_remove", would.would_remove.map(thing)), list("would_keep", would.would_keep.map(thing))], possible: true };
    },
    async (asked) => {
      await unchanged(page, about);
      return page.act("retire", { ...asked, remove: true });
    },
    el("label", { class: "check" }, data, ` ${word("retire_data")}`),
    el("label", { class: "check" }, uyuni, ` ${word("retire_uyuni")}`),
  );
}

const FLOWS = { store: deploy, retire };
