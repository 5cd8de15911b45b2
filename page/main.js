// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// The page: who is logged in, what is known of all stores, which view is shown.

import { Expired, Lost, Refused, act, known, listen, logIn, logOut, say } from "./api.js";
import { by, fill } from "./dom.js";
import { List } from "./list.js";
import { Store } from "./store.js";
import { change, clock, spoken, word } from "./words.js";

const POLL_MS = 5000;
const OLD_MS = 15_000;
const KEPT = "store-deploy-eauth";

/** What all views know. */
const page = {
  rows: new Map(),
  revision: 0,
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
    form.eauth.value = localStorage.getItem(KEPT) || form.eauth.options[0].value;
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = async (event) => {
      event.preventDefault();
      const error = by("login-error");
      error.textContent = "";
      try {
        await logIn(form.username.value, form.password.value, form.eauth.value);
      } catch (caught) {
        if (caught instanceof Expired) error.textContent = word("wrong_login");
        else if (caught instanceof Refused) error.textContent = word("too_many");
        else error.textContent = word("lost", { why: caught.message });
        form.password.select();
        return;
      }
      form.password.value = "";
      localStorage.setItem(KEPT, form.eauth.value);
      dialog.close();
      asking = null;
      resolve();
    };
    dialog.showModal();
    (form.username.value ? form.password : form.username).focus();
  });
  return asking;
}

/** Learn who has logged in, and hear the bus if that is allowed. */
async function begin() {
  [page.me] = await page.say(["whoami", {}]);
  if (page.me.error) {
    by("main").textContent = `${word("no_role")} ${page.me.error}; ${page.me.hint}`;
    page.me = { user: "", role: "", verbs: [] };
    return;
  }
  by("who").textContent = `${page.me.user} (${page.me.role})`;
  by("logout").hidden = false;
  page.rows.clear();
  page.revision = 0;
  await poll();
  listen(() => poll());
}

/** Take what has changed since the last time; one at a time, however many ask. */
function poll() {
  clearTimeout(timer);
  polling ??= polled().finally(() => {
    polling = null;
    timer = setTimeout(poll, POLL_MS);
  });
  return polling;
}

async function polled() {
  if (!known() && fetched === null) return;
  try {
    const [told] = await page.say(["list", { since: page.revision }]);
    if (told.error) throw new Lost(told.error);
    const now = Date.now();
    if (told.all) page.rows.clear();
    for (const row of told.stores) {
      page.rows.set(row.store, { ...row, since: now - 1000 * row.for_s });
    }
    page.revision = told.revision;
    fetched = now;
    by("lost").hidden = true;
    await view?.update(new Set(told.stores.map((row) => row.store)));
  } catch (error) {
    by("lost").textContent = word("lost", { why: error.message });
    by("lost").hidden = false;
  }
  fresh();
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
  fill(by("main"), view.element);
  view.update(null)?.catch((error) => {
    by("lost").textContent = word("lost", { why: error.message });
    by("lost").hidden = false;
  });
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
  change();
  speak();
  route();
};
by("logout").onclick = async () => {
  await logOut();
  location.reload();
};
window.addEventListener("hashchange", () => {
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
await begin();
route();
