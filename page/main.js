// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// The page: who is logged in, what is known of all stores, which view is shown.

import { Expired, Lost, Refused, act, listen, logIn, logOut, say } from "./api.js";
import { by, fill } from "./dom.js";
import { List } from "./list.js";
import { Store } from "./store.js";
import { change, clock, keep, kept, spoken, word } from "./words.js";

const POLL_MS = 5000;
const OLD_MS = 15_000;
const KEPT = "store-deploy-eauth";

/** What all views know. */
const page = {
  rows: new Map(),
  revision: 0,
  known: false,
  me: { user: "", role: "", verbs: [] },
  may: (verb) => page.me.verbs.includes(verb),
  say: (...verbs) => guarded(() => say(...verbs)),
  act: (verb, kwarg) => guarded(() => act(verb, kwarg)),
  tell: (text) => { by("said").textContent = text; },
  refresh: () => poll(),
};

let view = null;
let fetched = null;
let timer = 0;
let asking = null;
let polling = null;
let again = false;
let hearing = false;

/** Do what needs a log-in; where it is over, ask for it and go on. */
async function guarded(what) {
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (!(error instanceof Expired)) throw error;
      await loggedIn(word("expired"));
    }
  }
}

/** Ask who is there, once for all who want to know; over whatever is shown. */
function loggedIn(why) {
  asking ??= new Promise((resolve) => {
    const dialog = by("login");
    const form = by("login-form");
    by("login-why").textContent = why;
    by("login-error").textContent = "";
    form.password.value = "";
    form.username.value ||= page.me.user;
    const eauth = kept(KEPT);
    if ([...form.eauth.options].some((option) => option.value === eauth)) form.eauth.value = eauth;
    dialog.oncancel = (event) => event.preventDefault();
    // A browser lets nobody be kept in a dialog for ever.
    dialog.onclose = () => { if (asking) dialog.showModal(); };
    form.onsubmit = async (event) => {
      event.preventDefault();
      const error = by("login-error");
      error.textContent = "";
      let entered = false;
      try {
        await logIn(form.username.value, form.password.value, form.eauth.value);
        entered = true;
        await same();
      } catch (caught) {
        if (caught instanceof Expired) error.textContent = word(entered ? "no_role" : "wrong_login");
        else if (caught instanceof Refused) error.textContent = caught.hint ? `${word("no_role")} ${caught.message}; ${caught.hint}` : word("too_many");
        else error.textContent = word("lost", { why: caught.message });
        form.password.select();
        return;
      }
      form.password.value = "";
      keep(KEPT, form.eauth.value);
      asking = null;
      dialog.close();
      resolve();
      hear();
    };
    dialog.showModal();
    (form.username.value ? form.password : form.username).focus();
  });
  return asking;
}

/** Learn who has logged in. Nobody goes on with what another one began. */
async function same() {
  const me = await act("whoami", {});
  if (page.me.user && me.user !== page.me.user) {
    location.reload();
    await new Promise(() => {});
  }
  page.me = me;
  by("who").textContent = `${me.user} (${me.role})`;
  by("logout").hidden = false;
}

/** Hear the bus for as long as that is allowed. */
async function hear() {
  if (hearing) return;
  hearing = true;
  while (await listen(poll)) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  hearing = false;
}

/** Take what has changed since the last time; one at a time, and once more if somebody asked meanwhile. */
function poll() {
  clearTimeout(timer);
  if (polling) again = true;
  polling ??= polled().finally(() => {
    polling = null;
    timer = setTimeout(poll, POLL_MS);
  });
  return polling;
}

async function polled() {
  do {
    again = false;
    try {
      const [told] = await page.say(["list", { since: page.revision }]);
      if (told.error || !Array.isArray(told.stores)) throw new Lost(told.error ?? "");
      const now = Date.now();
      if (told.anew) page.rows.clear();
      again ||= told.more;
      for (const row of told.stores) {
        page.rows.set(row.store, { ...row, since: now - 1000 * row.for_s });
      }
      page.revision = told.revision;
      page.known = true;
      await view?.update(told.anew ? null : new Set(told.stores.map((row) => row.store)));
      fetched = now;
      by("lost").hidden = true;
    } catch (error) {
      lost(error);
    }
    fresh();
  } while (again);
}

function lost(error) {
  const told = word("lost", { why: error.message });
  // It is an alert: said once, not at each try.
  if (by("lost").hidden || by("lost").textContent !== told) by("lost").textContent = told;
  by("lost").hidden = false;
}

/** Say how old is what is shown. */
function fresh() {
  if (fetched === null) return;
  const old = Date.now() - fetched > OLD_MS;
  by("fresh").textContent = word(old ? "old" : "fresh", { time: clock(new Date(fetched)) });
  by("fresh").classList.toggle("old", old);
}

/** Show the view that the address names. */
function route() {
  const [, name, told] = location.hash.split("/");
  const store = name === "store" && told ? decoded(told) : "";
  view = store ? new Store(page, store) : new List(page);
  page.acted = () => view.acted?.();
  fill(by("main"), view.element);
  Promise.resolve(view.update(null)).catch(lost);
  document.title = store ? `${store}: store-deploy` : "store-deploy";
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Say the page's own words in the language that is chosen. */
function speak() {
  document.documentElement.lang = spoken();
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = word(element.dataset.word);
  }
  by("language").textContent = word("other_language");
  by("language").lang = spoken() === "de" ? "en" : "de";
  fresh();
}

by("language").onclick = () => {
  const typed = document.querySelector(".note input")?.value ?? "";
  change();
  speak();
  route();
  const note = document.querySelector(".note input");
  if (note) note.value = typed;
};
by("skip").onclick = (event) => {
  // The address names the view.
  event.preventDefault();
  by("main").focus();
};
by("logout").onclick = () => {
  logOut();
  location.reload();
};
window.addEventListener("hashchange", () => {
  page.tell("");
  route();
  by("main").focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && fetched !== null) poll();
});
setInterval(() => {
  fresh();
  view?.tick?.();
}, 1000);

speak();
await loggedIn("");
await poll();
route();
