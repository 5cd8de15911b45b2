# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The page in a real browser, through nginx and salt-api, with a real master.

Of what is only looked at, the 3,000 stores, the records are written into the ledger by the test.
"""

import dataclasses
import re
import subprocess
import time

import api_site
import pytest
import store_site
from api_site import HOST, PASSWORD
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from storemaster.deployment.actor import Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record

APP = f"https://{HOST}/app"
SHOTS = store_site.CHECKOUT / "artifacts" / "page"
WAITING, MARKUP = "page-waits", "page-markup"
EVIL = '<img src=x onerror="document.title=1"><b>late</b>'
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
SOON_MS, LONG_MS = 20_000, 180_000
expect.set_options(timeout=SOON_MS)


@pytest.fixture(scope="module")
def api(site):
    """The API and the page; what a test stops, it starts again."""
    with api_site.serving(site, two_persons=["redeploy"]) as api:
        yield api


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            # In this network there are no names; root may not have Chromium's own sandbox.
            args=["--no-sandbox", f"--host-resolver-rules=MAP {HOST} 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(api, chromium):
    """Return what opens the page anew, with options of a browser's context."""
    contexts = []

    def opened(url=APP, **options):
        context = chromium.new_context(
            ignore_https_errors=True, **{"locale": "en-GB", "service_workers": "block", **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SOON_MS)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: _violation(page, said))
        page.goto(url)
        return page

    yield opened
    errors = [error for context in contexts for page in context.pages for error in page.errors]
    for context in contexts:
        context.close()
    assert errors == []


def _violation(page, said):
    if "Content Security Policy" in said.text:
        page.errors.append(said.text)


def type_log_in(page, user, password=PASSWORD):
    page.get_by_label(re.compile("User|Benutzer")).fill(user)
    page.get_by_label(re.compile("Password|Passwort")).fill(password)
    page.keyboard.press("Enter")


def log_in(page, user):
    """Log in, not faster than one may."""
    deadline = time.monotonic() + 90
    while True:
        type_log_in(page, user)
        gone = page.locator("#login:not([open])")
        too_many = page.get_by_text("Too many tries")
        expect(gone.or_(too_many).first).to_be_attached(timeout=SOON_MS)
        if page.locator("#login[open]").count() == 0:
            break
        assert time.monotonic() < deadline, "nobody may log in"
        page.wait_for_timeout(5000)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    return page


def shot(page, name):
    """Keep a picture of a view, for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def waiting(api):
    """A store whose deployment waits for a hypervisor that never comes."""
    api.site.describe("hv-nowhere", WAITING)
    api.site.begin(WAITING, "hypervisor=hv-nowhere")
    yield WAITING
    api.site.salt_run("cancel", WAITING)
    api.site.ended(WAITING)


def write(store, state, reason="", who="", group=None):
    """Write a record, as the engine would after a step."""
    spec = {"store": store, "group": group, "image": {"source": "salt://image", "sha256": ""}}
    record = Record(
        store, 1, state, time.time(), None, f"hv-{store}", f"store-{store}", spec, 1.0, "operator"
    )
    with Ledger(store_site.STATE_DIR / "ledger.sqlite") as ledger, act_as(Actor(who, "api")):
        old = ledger.get(store) or record
        failed_in = "booting" if state == "failed" else ""
        new = {"state": state, "since": time.time(), "reason": reason, "failed_in": failed_in}
        return ledger.save(dataclasses.replace(old, **new), reason)


@pytest.fixture(scope="module")
def markup(api):
    """A store whose words are full of markup."""
    write(MARKUP, "deployed", EVIL, who=EVIL)
    return MARKUP


# Who may do what


@pytest.mark.parametrize(("user", "role", "starts"), [("vera", "viewer", 0), ("olga", "owner", 1)])
def test_each_role_sees_the_stores_and_what_it_may_do(opened, waiting, user, role, starts):
    page = log_in(opened(), user)
    expect(page.get_by_text(f"{user} ({role})")).to_be_visible()
    expect(page.get_by_role("link", name=waiting)).to_be_visible()
    expect(page.get_by_role("button", name="Deploy a store")).to_have_count(starts)
    page.get_by_role("link", name=waiting).click()
    expect(page.get_by_text("hv-nowhere").first).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(starts)
    expect(page.get_by_label("Note for the history")).to_have_count(starts)


def test_a_wrong_password_is_told_and_nobody_comes_in(opened):
    page = opened()
    type_log_in(page, "olga", "guessed")
    expect(page.get_by_role("alert").get_by_text("User or password is wrong.")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_count(0)
    shot(page, "log-in")


def test_the_token_is_kept_nowhere(opened):
    page = log_in(opened(), "vera")
    assert page.context.cookies() == []
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert not re.search(r"[0-9a-f]{32}", kept)
    assert page.evaluate("Object.keys(sessionStorage).length") == 0


def test_what_a_role_may_not_do_is_refused_by_the_master(opened, waiting):
    page = log_in(opened(), "vera")
    refused = page.evaluate(
        "import('/static/api.js').then((api) => api.act('cancel', {store: 'page-waits'}))"
        ".then(() => 'done', (error) => error.message)"
    )
    assert refused == "vera may not say deploy.cancel: the role is viewer"


# What is done


def test_a_store_is_deployed_and_watched_to_its_end(opened, api):
    site = api.site
    site.describe("hv-page", "page")
    site.start_hypervisors("hv-page")
    page = log_in(opened(), "otto")
    page.get_by_role("button", name="Deploy a store").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Store").fill("page")
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("store-page: 1 CPUs, 128 MiB of memory")).to_be_visible()
    shot(page, "plan")
    dialog.get_by_role("button", name="Deploy: store page").click()
    expect(page.locator("#said")).to_have_text("Done: Deploy, store page.")
    page.get_by_role("link", name="page", exact=True).click()
    now = page.locator(".now .badge")
    expect(now).to_have_text("deployed", timeout=LONG_MS)
    site.ended("page")
    bars = page.get_by_role("img", name="Timeline of deployment 1 of store page")
    expect(bars).to_be_visible()
    rows = page.get_by_role("row")
    expect(rows.filter(has_text="awaiting_hypervisor")).to_contain_text("otto (api)")
    expect(page.get_by_text("boot_ids")).to_be_visible()
    shot(page, "store")
    assert [change.state for change in site.history("page")][-1] == "deployed"


def test_a_plan_with_faults_cannot_be_confirmed(opened, waiting):
    page = log_in(opened(), "otto")
    page.get_by_role("button", name="Deploy a store").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Store").fill(waiting)
    dialog.get_by_role("button", name="Show the plan").click()
    expect(dialog.get_by_text("What is in the way")).to_be_visible()
    expect(dialog.get_by_role("button", name="Show the plan")).to_be_visible()
    shot(page, "plan-faults")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_an_act_names_its_store_and_its_consequences_and_can_be_left(opened, api, waiting):
    page = log_in(opened(f"{APP}#/store/{waiting}"), "otto")
    page.get_by_role("button", name="Hold").click()
    dialog = page.get_by_role("dialog", name=f"Hold: store {waiting}")
    expect(dialog.get_by_text("rests before its next step")).to_be_visible()
    shot(page, "confirm")
    dialog.get_by_role("button", name="Close").click()
    assert api.site.record(waiting).state == "awaiting_hypervisor"
    page.get_by_role("button", name="Hold").click()
    page.get_by_role("button", name=f"Hold: store {waiting}").click()
    expect(page.locator(".now .badge")).to_have_text("held")
    page.get_by_role("button", name="Release").click()
    page.get_by_role("button", name=f"Release: store {waiting}").click()
    expect(page.locator(".now .badge")).to_have_text("awaiting_hypervisor")
    whose = {(change.actor, change.way) for change in api.site.history(waiting)}
    assert ("otto", "api") in whose


def test_a_deployment_is_cancelled_by_keyboard_alone(opened, api):
    store = "page-cancel"
    api.site.describe("hv-nowhere", store)
    api.site.begin(store, "hypervisor=hv-nowhere")
    page = opened()
    # The log-in has the focus by itself.
    page.keyboard.type("otto")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=store)).to_be_visible()
    tab_to(page, store)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name=f"Store {store}")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    tab_to(page, f"Cancel: store {store}")
    page.keyboard.press("Enter")
    expect(page.locator(".now .badge")).to_have_text("cancelled", timeout=LONG_MS)
    assert api.site.record(store).state == "cancelled"


def tab_to(page, name):
    """Go on from element to element until the one of that name has the focus."""
    for _ in range(60):
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{name} cannot be reached by keyboard")


def test_what_has_changed_since_the_question_is_not_done(opened, api, waiting):
    page = log_in(opened(f"{APP}#/store/{waiting}"), "otto")
    page.get_by_role("button", name="Hold").click()
    # Meanwhile somebody else does it.
    assert api.site.salt_run("hold", waiting).status == 0
    page.get_by_role("button", name=f"Hold: store {waiting}").click()
    told = page.get_by_role("dialog").get_by_role("alert")
    expect(told).to_contain_text(
        "Meanwhile the store is another one than when you asked: it is held"
    )
    page.keyboard.press("Escape")
    assert api.site.salt_run("release", waiting).status == 0


def test_a_refused_act_says_why_and_loses_nothing(opened, api):
    api.site.describe("hv-late", "late")
    api.site.start_hypervisors("hv-late")
    page = log_in(opened(), "otto")
    page.get_by_role("button", name="Deploy a store").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Store").fill("late")
    dialog.get_by_role("button", name="Show the plan").click()
    really = dialog.get_by_role("button", name="Deploy: store late")
    expect(really).to_be_visible()
    api.site.describe("hv-late", "late", cpus=0)
    really.click()
    expect(dialog.get_by_role("alert")).to_contain_text("cpus is 0")
    expect(dialog.get_by_label("Store")).to_have_value("late")


def test_what_wants_two_persons_waits_for_the_second_one(opened, api):
    api.site.describe("hv-two", "two")
    write("two", "deployed")
    page = log_in(opened(f"{APP}#/store/two"), "otto")
    asked = page.evaluate(
        "import('/static/api.js').then((api) => "
        "api.act('store', {store: 'two', redeploy: true, wait: false}))"
    )
    expect(page.get_by_role("heading", name="Waits for another person")).to_be_visible()
    expect(page.get_by_text("(otto, ")).to_be_visible()
    # Not the one who asks.
    expect(page.get_by_role("button", name="Agree")).to_have_count(0)
    other = log_in(opened(f"{APP}#/store/two"), "olga")
    other.get_by_role("button", name="Agree").click()
    shot(other, "agree")
    other.get_by_role("button", name="Agree: store two").click()
    expect(other.locator(".now .badge")).to_have_text("awaiting_hypervisor")
    told = [change.reason for change in api.site.history("two")]
    assert any(asked["request"] in reason for reason in told), told
    assert api.site.salt_run("cancel", "two").status == 0


def test_a_plan_is_of_the_store_that_is_confirmed(opened, api, waiting):
    page = log_in(opened(), "otto")
    held = []
    page.route(f"https://{HOST}/", lambda route: _hold_plans(route, held))
    page.get_by_role("button", name="Deploy a store").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Store").fill("page")
    dialog.get_by_role("button", name="Show the plan").click()
    # While its plan is on its way another store is typed.
    store_site.until(lambda: page.wait_for_timeout(100) or held, 20, "the plan is asked for")
    dialog.get_by_label("Store").fill("another")
    held.pop().continue_()
    expect(page.locator("#ask-wait")).to_be_empty()
    expect(dialog.get_by_role("button", name="Show the plan")).to_be_visible()


def _hold_plans(route, held):
    if "deploy.plan" in (route.request.post_data or ""):
        held.append(route)
    else:
        route.continue_()


def test_a_note_stands_in_the_history(opened, markup):
    page = log_in(opened(f"{APP}#/store/{markup}"), "otto")
    page.get_by_label("Note for the history").fill(EVIL)
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("cell", name=f"note: {EVIL}")).to_be_visible()


# What stays text


def test_names_and_reasons_full_of_markup_stay_text(opened, markup):
    page = log_in(opened(), "olga")
    row = page.get_by_role("row").filter(has_text=markup)
    expect(row).to_contain_text(EVIL)
    row.get_by_role("link").click()
    expect(page.get_by_role("cell", name=f"{EVIL} (api)")).to_be_visible()
    assert page.locator("main img, main b").count() == 0
    assert page.title() == f"{markup}: store-deploy"


@pytest.mark.parametrize("store", ["%3Cimg%20src%3Dx%3E", "..%2f..", "nobody", "%"])
def test_an_address_of_no_store_is_told(opened, store):
    page = log_in(opened(f"{APP}#/store/{store}"), "vera")
    expect(page.locator("main")).to_contain_text(re.compile("no store|store nobody|is no"))


# When something goes away


def test_a_lost_master_is_told_what_is_old_is_marked_and_it_comes_back(opened, api, waiting):
    page = log_in(opened(), "vera")
    page.get_by_label("Search").fill("page")
    page.context.set_offline(True)
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(page.locator(".fresh.old")).to_be_visible(timeout=SOON_MS + 10_000)
    shot(page, "lost")
    # What was seen and typed is still there.
    expect(page.get_by_role("link", name=waiting)).to_be_visible()
    expect(page.get_by_label("Search")).to_have_value("page")
    page.context.set_offline(False)
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator(".fresh.old")).to_have_count(0)


def in_a_session_that_is_over(opened, api, store, note):
    """Write a note of otto's, whose session has ended meanwhile."""
    page = log_in(opened(f"{APP}#/store/{store}"), "otto")
    page.get_by_label("Note for the history").fill(note)
    # It keeps the sessions in its memory.
    api.salt_api.kill()
    api.start()
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_text("Your session is over")).to_be_visible()
    return page


def test_a_session_that_is_over_asks_for_a_log_in_and_loses_nothing(opened, api, markup):
    page = in_a_session_that_is_over(opened, api, markup, "ticket 4711")
    shot(page, "session-over")
    log_in(page, "otto")
    expect(page.get_by_role("cell", name="note: ticket 4711")).to_be_visible()


def test_nobody_goes_on_with_what_another_one_began(opened, api, markup):
    page = in_a_session_that_is_over(opened, api, markup, "of otto's")
    page.evaluate("window.before = true")

    def begins_anew():
        if page.evaluate("window.before"):
            type_log_in(page, "olga")
            page.wait_for_timeout(3000)
        return not page.evaluate("window.before")

    store_site.until(begins_anew, 90, "the page begins anew", every=3)
    log_in(page, "olga")
    expect(page.get_by_text("olga (owner)")).to_be_visible()
    assert "of otto's" not in str(api.site.history(markup))


def test_who_may_say_nothing_is_told_so(opened):
    page = opened()
    told = page.get_by_role("alert").filter(has_text=re.compile("may not say any|is wrong"))

    def tried():
        type_log_in(page, "zoe")
        expect(page.locator("#login-error")).not_to_be_empty()
        return told.count()

    store_site.until(tried, 90, "zoe is told", every=5)


# Changes


def test_who_may_hear_everything_sees_a_change_without_a_poll(opened, api, markup):
    # Without the proxy, which lets nobody hear the bus.
    page = opened("http://127.0.0.1:8000/app")
    with page.expect_response(lambda answer: answer.url.endswith("/events")) as heard:
        log_in(page, "olga")
    assert heard.value.status == 200
    expect(page.get_by_role("row").filter(has_text=markup)).to_contain_text("deployed")
    # No poll comes any more: the page's clock stands still.
    page.clock.install()
    page.clock.pause_at(time.time() + 60)
    write(markup, "failed", "it is late")
    api.site.salt_run("advance", markup)
    expect(page.get_by_role("row").filter(has_text=markup)).to_contain_text("failed")


def test_three_thousand_stores_are_found_by_text_state_and_group(opened, api):
    groups = ("north", "south")
    for number in range(3000):
        state = "failed" if number % 100 == 0 else "deployed"
        write(f"{number:04}", state, "it is late", group=groups[number % 2])
    page = log_in(opened(), "vera")
    expect(page.get_by_text(re.compile(r"of 30\d\d stores"))).to_be_visible()
    page.get_by_label("Search").fill("1234")
    expect(page.get_by_text("1 of 30")).to_be_visible()
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name=re.compile("^failed 3")).click()
    expect(page.get_by_role("row").filter(has_text="0100")).to_be_visible()
    page.get_by_label("Group").select_option("south")
    expect(page.get_by_text(re.compile(r"^0 of|No store matches"))).to_be_visible()
    page.get_by_role("button", name=re.compile("^all ")).click()
    expect(page.get_by_text("1500 of 30")).to_be_visible()
    page.get_by_label("Group").select_option("")
    shot(page, "stores")


# For everybody


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "german": {"locale": "de-DE"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_in_any_view(opened, waiting, markup, look):
    page = opened(**LOOKS[look])
    checked = [accessible(page)]
    log_in(page, "olga")
    page.get_by_label(re.compile("Search|Suche")).fill("page")
    expect(page.get_by_role("link", name=waiting)).to_be_visible()
    checked.append(accessible(page))
    shot(page, f"stores-{look}")
    page.get_by_role("button", name=re.compile("Deploy a store|Filiale ausrollen")).click()
    checked.append(accessible(page))
    page.keyboard.press("Escape")
    for store in (waiting, markup):
        page.goto(f"{APP}#/store/{store}")
        expect(page.locator(".now .badge")).to_be_visible()
        checked.append(accessible(page))
        shot(page, f"store-{look}-{store}")
    page.get_by_role("button", name=re.compile("Retire|Stilllegen")).first.click()
    checked.append(accessible(page))
    assert checked == [""] * 6
    # On no screen has anybody to scroll to the side.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def accessible(page):
    """Return what axe-core finds."""
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": WCAG}})
    return found.generate_report() if found.violations_count else ""


def test_it_speaks_german_where_the_browser_does_and_changes_at_a_click(opened):
    page = log_in(opened(locale="de-DE"), "vera")
    expect(page.get_by_role("heading", name="Filialen")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "de"
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Stores")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_both_languages_have_the_same_words():
    text = (store_site.CHECKOUT / "page/words.js").read_text()
    english, german = re.findall(r"(?s)  (?:en|de): \{\n(.*?)\n  \}", text)
    keys = [re.findall(r"(?m)^    (\w+): ", each) for each in (english, german)]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 60


def test_nothing_comes_from_another_host_and_nothing_is_inline(opened):
    page = opened()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    seen = page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
    assert seen
    assert [url for url in seen if not url.startswith(f"https://{HOST}/static/")] == []
    text = (store_site.CHECKOUT / "page/index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text)


def test_its_scripts_can_be_read():
    for path in (store_site.CHECKOUT / "page").glob("*.js"):
        subprocess.run(
            ["node", "--input-type=module", "--check"], input=path.read_bytes(), check=True
        )
