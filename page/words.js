// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// The page's own words, in two languages. What the master says is English.

const WORDS = {
  en: {
    skip: "Skip to the content",
    login: "Log in",
    logout: "Log out",
    user: "User",
    password: "Password",
    eauth: "Checked by",
    wrong_login: "User or password is wrong.",
    too_many: "Too many tries. Wait a minute.",
    expired: "Your session is over. Log in again; nothing that you typed is lost.",
    lost: "The master does not answer ({why}). What you see is old. It is tried again by itself.",
    perhaps: "No answer came ({why}). It may have been done: see the history before you try again.",
    changed: "Meanwhile the store is another one than when you asked: it is {state}",
    look_again: "look at it again",
    no_role: "You are logged in, but may not say any verb.",
    fresh: "as of {time}",
    old: "old: as of {time}",
    other_language: "Deutsch",
    stores: "Stores",
    search: "Search",
    group: "Group",
    all: "all",
    shown: "{shown} of {count} stores",
    none: "No store has been deployed yet.",
    no_match: "No store matches.",
    start: "Deploy a store",
    store: "Store",
    state: "State",
    since: "For",
    hypervisor: "Hypervisor",
    reason: "Reason",
    back: "All stores",
    why: "Where it is",
    what_now: "What you can do",
    nothing_now: "Nothing, with your role.",
    waits: "Waits for another person",
    timeline: "Timeline",
    timeline_of: "Timeline of deployment {generation} of store {store}",
    history: "History",
    at: "At",
    took: "Took",
    by: "By",
    evidence: "Evidence",
    deployment: "Deployment",
    meaning: "What happens",
    over_when: "Over when",
    waits_for: "Waits for",
    at_deadline: "At the deadline",
    failed_in: "Failed in",
    undo: "To undo it",
    held_in: "Held in",
    dns: "In the DNS",
    note: "Note",
    note_label: "Note for the history, such as a ticket's number",
    write: "Write",
    close: "Close",
    really: "{verb}: store {store}",
    asking: "The master asks. That can take some seconds.",
    see_plan: "Show the plan",
    plan: "What would happen",
    faults: "What is in the way",
    outage: "Without a server for",
    redeploy: "Replace the server that is deployed",
    done: "Done: {verb}, store {store}.",
    asked: "Another person has to agree: request {request}.",
    would_remove: "Would be removed",
    would_keep: "Would be kept",
    retire_data: "Remove the data disks, too",
    retire_uyuni: "Delete its profile in Uyuni, too",
    approve: "Agree",
    v_hold: "Hold",
    c_hold: "The deployment rests before its next step, with its deadline stopped. It keeps its slot.",
    v_release: "Release",
    c_release: "The deployment goes on where it was held, with the time that it had left.",
    v_retry: "Retry",
    c_retry: "The deployment goes on where it failed, once it has a slot. What was made is kept.",
    v_cancel: "Cancel",
    c_cancel: "What was made of the new server is removed. Data disks and a set-aside server stay.",
    v_store: "Deploy",
    c_store: "A new server is made and verified. A server that is there is set aside, and can be put back.",
    v_rollback: "Roll back",
    c_rollback: "The set-aside server is put back; the one that is there is set aside. The store is without a server meanwhile.",
    v_retire: "Retire",
    c_retire: "The store's servers are removed for good, the set-aside ones too. Nothing brings them back.",
    v_approve: "Agree",
    c_approve: "What the other person asked for is done now.",
  },
  de: {
    skip: "Zum Inhalt springen",
    login: "Anmelden",
    logout: "Abmelden",
    user: "Benutzer",
    password: "Passwort",
    eauth: "Geprüft durch",
    wrong_login: "Benutzer oder Passwort ist falsch.",
    too_many: "Zu viele Versuche. Warten Sie eine Minute.",
    expired: "Ihre Sitzung ist zu Ende. Melden Sie sich neu an; nichts Eingegebenes geht verloren.",
    lost: "Der Master antwortet nicht ({why}). Was Sie sehen, ist alt. Es wird von selbst weiter versucht.",
    perhaps: "Keine Antwort kam ({why}). Vielleicht ist es geschehen: sehen Sie in den Verlauf, bevor Sie es neu versuchen.",
    changed: "Inzwischen steht es anders um die Filiale als bei Ihrer Frage: sie ist {state}",
    look_again: "sehen Sie noch einmal hin",
    no_role: "Sie sind angemeldet, dürfen aber nichts.",
    fresh: "Stand {time}",
    old: "veraltet: Stand {time}",
    other_language: "English",
    stores: "Filialen",
    search: "Suche",
    group: "Gruppe",
    all: "alle",
    shown: "{shown} von {count} Filialen",
    none: "Noch keine Filiale wurde ausgerollt.",
    no_match: "Keine Filiale passt dazu.",
    start: "Filiale ausrollen",
    store: "Filiale",
    state: "Zustand",
    since: "Seit",
    hypervisor: "Hypervisor",
    reason: "Grund",
    back: "Alle Filialen",
    why: "Wo es steht",
    what_now: "Was Sie tun können",
    nothing_now: "Mit Ihrer Rolle nichts.",
    waits: "Wartet auf eine zweite Person",
    timeline: "Zeitleiste",
    timeline_of: "Zeitleiste der Ausrollung {generation} von Filiale {store}",
    history: "Verlauf",
    at: "Zeit",
    took: "Dauer",
    by: "Durch",
    evidence: "Belege",
    deployment: "Ausrollung",
    meaning: "Was geschieht",
    over_when: "Vorbei, wenn",
    waits_for: "Wartet auf",
    at_deadline: "Am Ende der Frist",
    failed_in: "Gescheitert in",
    undo: "Rückgängig durch",
    held_in: "Angehalten in",
    dns: "Im DNS",
    note: "Notiz",
    note_label: "Notiz für den Verlauf, etwa eine Ticketnummer",
    write: "Schreiben",
    close: "Schließen",
    really: "{verb}: Filiale {store}",
    asking: "Der Master fragt nach. Das kann einige Sekunden dauern.",
    see_plan: "Plan zeigen",
    plan: "Was geschehen würde",
    faults: "Was im Weg steht",
    outage: "Ohne Server für",
    redeploy: "Den ausgerollten Server ersetzen",
    done: "Getan: {verb}, Filiale {store}.",
    asked: "Eine zweite Person muss zustimmen: Anfrage {request}.",
    would_remove: "Würde entfernt",
    would_keep: "Würde bleiben",
    retire_data: "Auch die Datenplatten entfernen",
    retire_uyuni: "Auch sein Profil in Uyuni löschen",
    approve: "Zustimmen",
    v_hold: "Anhalten",
    c_hold: "Die Ausrollung ruht vor ihrem nächsten Schritt, ihre Frist steht. Ihren Platz behält sie.",
    v_release: "Freigeben",
    c_release: "Die Ausrollung geht weiter, wo sie angehalten wurde, mit der Zeit, die ihr blieb.",
    v_retry: "Erneut versuchen",
    c_retry: "Die Ausrollung geht weiter, wo sie gescheitert ist, sobald ein Platz frei ist. Was gemacht ist, bleibt.",
    v_cancel: "Abbrechen",
    c_cancel: "Was vom neuen Server gemacht wurde, wird entfernt. Datenplatten und ein beiseitegelegter Server bleiben.",
    v_store: "Ausrollen",
    c_store: "Ein neuer Server wird gemacht und geprüft. Ein vorhandener wird beiseitegelegt und kann zurückgeholt werden.",
    v_rollback: "Zurückholen",
    c_rollback: "Der beiseitegelegte Server kommt zurück, der jetzige wird beiseitegelegt. Solange ist die Filiale ohne Server.",
    v_retire: "Stilllegen",
    c_retire: "Die Server der Filiale werden endgültig entfernt, auch die beiseitegelegten. Nichts bringt sie zurück.",
    v_approve: "Zustimmen",
    c_approve: "Was die andere Person verlangt hat, geschieht jetzt.",
  },
};

const KEPT = "store-deploy-language";

/** Return what this browser keeps under a name; one that keeps nothing has no storage. */
export function kept(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Keep it: nothing but how somebody likes the page. */
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It is asked for again.
  }
}

let language = kept(KEPT);
if (!(language in WORDS)) language = navigator.language.startsWith("de") ? "de" : "en";

/** The language that is spoken. */
export function spoken() {
  return language;
}

/** Speak the other language. */
export function change() {
  language = language === "de" ? "en" : "de";
  keep(KEPT, language);
}

/** Return words of the page's own, with what belongs in their gaps. */
export function word(key, told = {}) {
  return WORDS[language][key].replace(/{(\w+)}/g, (_, name) => told[name]);
}

/** Return a span of time as people say it. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const left = Math.max(0, Math.round(seconds));
  const at = units.findIndex(([size]) => left >= size);
  if (at < 0) return "0 s";
  const [size, unit] = units[at];
  const more = at + 1 < units.length ? Math.floor((left % size) / units[at + 1][0]) : 0;
  return `${Math.floor(left / size)} ${unit}${more ? ` ${more} ${units[at + 1][1]}` : ""}`;
}

/** Return a time of day. */
export function clock(date) {
  return date.toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** Return a date and time, of one that the master says. */
export function moment(text) {
  return new Date(text).toLocaleString(language, { dateStyle: "short", timeStyle: "medium" });
}
