// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// What the page says to salt-api. The token is here and nowhere else: no cookie, no storage.

/** The master said no, in a sentence. */
export class Refused extends Error {
  constructor(reason, hint = "") {
    super(reason);
    this.hint = hint;
  }
}

/** Nobody answers, or not as salt-api does. */
export class Lost extends Error {}

/** The log-in is over. */
export class Expired extends Error {}

const TIMEOUT_MS = 60_000;

let token = "";

async function send(path, body, more = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      headers: {
        Accept: "application/json",
        "Content-Type": "application/json",
        ...(token ? { "X-Auth-Token": token } : {}),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...more,
    });
  } catch (error) {
    throw new Lost(String(error.message || error));
  }
  return answer;
}

async function data(answer) {
  try {
    return (await answer.json()).return;
  } catch {
    throw new Lost(`HTTP ${answer.status}`);
  }
}

/** Log in; refuse what is no user. */
export async function logIn(username, password, eauth) {
  token = "";
  const answer = await send("/login", { username, password, eauth });
  if (answer.status === 401) throw new Expired();
  if (answer.status === 429) throw new Refused("429");
  if (!answer.ok) throw new Lost(`HTTP ${answer.status}`);
  const [told] = await data(answer);
  token = told.token;
}

/** Log out; whether the master is there to be told is not waited for. */
export function logOut() {
  send("/logout", {}, { keepalive: true }).catch(() => {});
  token = "";
}

/** Say verbs, [name, arguments] each, in one request; return their answers. */
export async function say(...verbs) {
  if (!token) throw new Expired();
  const low = verbs.map(([verb, kwarg]) => ({ client: "runner", fun: `deploy.${verb}`, kwarg }));
  const shown = token;
  const answer = await send("/", low);
  if (answer.status === 401) {
    // Somebody may have logged in anew meanwhile.
    if (token === shown) token = "";
    throw new Expired();
  }
  if (!answer.ok) throw new Lost(`HTTP ${answer.status}`);
  const told = await data(answer);
  for (const one of told) {
    // What Salt itself has to say of a call is no data.
    if (typeof one !== "object" || one === null) throw new Lost(String(one).split("\n")[0]);
  }
  return told;
}

/** Say one verb; throw what it refuses. */
export async function act(verb, kwarg) {
  const [told] = await say([verb, kwarg]);
  if (told && told.error && told.retcode) throw new Refused(told.error, told.hint);
  return told;
}

/**
 * Hear the bus, where one may: `heard` is called for each change of a deployment.
 *
 * Return whether it was heard, when that is over.
 */
export async function listen(heard) {
  const headers = { Accept: "text/event-stream", "X-Auth-Token": token };
  let open = false;
  try {
    const answer = await fetch("/events", { credentials: "omit", cache: "no-store", headers });
    open = answer.ok && (answer.headers.get("Content-Type") || "").includes("event-stream");
    if (!open) {
      await answer.body?.cancel();
      return false;
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      if (lines.some((line) => /^tag: store\/[^/]+\/deploy\//.test(line))) heard();
    }
  } catch {
    return open;
  }
}
