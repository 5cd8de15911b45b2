// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// What one may do: said with its consequences, confirmed by name, refused in a sentence.

import { Refused } from "./api.js";
import { by, el, fill } from "./dom.js";
import { word } from "./words.js";

/**
 * Ask whether a verb is really meant, and say it.
 *
 * about: the store, and what belongs to the verb; for a new deployment the store is asked for.
 */
export function ask(page, verb, about) {
  const dialog = by("ask");
  const body = by("ask-body");
  const yes = by("ask-yes");
  const error = by("ask-error");
  const chosen = { ...about };
  error.textContent = "";
  by("ask-title").textContent = about.store ? word("really", { verb: word(`v_${verb}`), store: about.store }) : word("start");
  fill(body, el("p", {}, about.words ? `${about.words}. ` : "", word(`c_${verb}`)));
  const flow = (FLOWS[verb] ?? plain)(page, verb, chosen, body);

  const show = () => { yes.textContent = flow.yes(); };
  show();
  yes.disabled = false;
  by("ask-no").onclick = () => dialog.close();
  by("ask-form").onsubmit = async (event) => {
    event.preventDefault();
    error.textContent = "";
    yes.disabled = true;
    by("ask-wait").textContent = word("asking");
    try {
      const ended = await flow.next();
      if (ended) {
        dialog.close();
        page.tell(ended);
        await page.refresh();
      } else show();
    } catch (caught) {
      const refused = caught instanceof Refused;
      error.textContent = refused ? `${caught.message}; ${caught.hint}` : word("lost", { why: caught.message });
    } finally {
      yes.disabled = false;
      by("ask-wait").textContent = "";
    }
  };
  dialog.showModal();
}

function done(verb, store, answer) {
  return answer.request ? word("asked", answer) : word("done", { verb: word(`v_${verb}`), store });
}

/** One question, one answer. */
function plain(page, verb, chosen) {
  const { store } = chosen;
  const more = { approve: { request: chosen.request }, rollback: { wait: false } }[verb] ?? {};
  return {
    yes: () => word("really", { verb: word(`v_${verb}`), store }),
    next: async () => done(verb, store, await page.act(verb, { store, ...more })),
  };
}

/** First the plan, then the deployment. */
function deploy(page, verb, chosen, body) {
  const name = el("input", {
    name: "store", required: true, autocomplete: "off", value: chosen.store ?? "", readonly: Boolean(chosen.store),
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,62}",
  });
  const redeploy = el("input", { type: "checkbox", name: "redeploy", checked: Boolean(chosen.redeploy) });
  const planned = el("div");
  let known = "";
  const wanted = () => ({ store: name.value.trim(), redeploy: redeploy.checked });
  const forget = () => {
    known = "";
    planned.replaceChildren();
    by("ask-yes").textContent = word("see_plan");
  };
  name.addEventListener("input", forget);
  redeploy.addEventListener("change", forget);
  body.append(
    el("label", {}, `${word("store")} `, name),
    el("label", { class: "check" }, redeploy, ` ${word("redeploy")}`),
    planned,
  );
  return {
    yes: () => (known ? word("really", { verb: word("v_store"), store: wanted().store }) : word("see_plan")),
    next: async () => {
      if (known && known === JSON.stringify(wanted())) {
        return done(verb, wanted().store, await page.act("store", { ...wanted(), wait: false }));
      }
      const [plan] = await page.say(["plan", wanted()]);
      const faults = plan.faults ?? (plan.error ? [`${plan.error}; ${plan.hint}`] : []);
      fill(planned,
        plan.would ? [el("h3", {}, word("plan")), el("ul", {}, plan.would.map((line) => el("li", {}, line)))] : [],
        plan.outage_expected ? el("p", {}, `${word("outage")}: ${plan.outage_expected}`) : null,
        faults.length ? [el("h3", {}, word("faults")), el("ul", { class: "error" }, faults.map((line) => el("li", {}, line)))] : [],
      );
      known = faults.length ? "" : JSON.stringify(wanted());
      return "";
    },
  };
}

/** First what would go, then its going. */
function retire(page, verb, chosen, body) {
  const { store } = chosen;
  const shown = el("div");
  const data = el("input", { type: "checkbox", name: "data_disks" });
  let seen = false;
  if (Object.keys(chosen.data_disks ?? {}).length) {
    body.append(el("label", { class: "check" }, data, ` ${word("retire_data")}`));
    data.addEventListener("change", () => {
      seen = false;
      shown.replaceChildren();
      by("ask-yes").textContent = word("see_plan");
    });
  }
  body.append(shown);
  return {
    yes: () => (seen ? word("really", { verb: word("v_retire"), store }) : word("see_plan")),
    next: async () => {
      const told = { store, data_disks: data.checked };
      if (seen) return done(verb, store, await page.act("retire", { ...told, remove: true }));
      const would = await page.act("retire", told);
      const things = (all) => el("ul", {}, all.map((each) => el("li", {}, typeof each === "string" ? each : JSON.stringify(each))));
      fill(shown,
        el("h3", {}, word("would_remove")), things(would.would_remove),
        would.would_keep.length ? [el("h3", {}, word("would_keep")), things(would.would_keep)] : [],
      );
      seen = true;
      return "";
    },
  };
}

const FLOWS = { store: deploy, retire };
