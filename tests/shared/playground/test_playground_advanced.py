"""The playground of the advanced service, in a real browser: users, limits, cache, health."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from shared.offline_model import OfflineModel, Scenario
from tests.advanced.serving_advanced import LOGOUT, PASSWORDS, Advanced, served_advanced
from tests.shared.playground.browsing import DESK, PHONE, Visit, Visitor

LIMIT, WINDOW = 12, 6


@pytest.fixture(scope="module")
def running(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Advanced]:
    with served_advanced(
        checkout,
        tmp_path_factory.mktemp("state"),
        API_PREFIX="/v2",
        RATE_LIMIT_REQUESTS=str(LIMIT),
        RATE_LIMIT_WINDOW=str(WINDOW),
    ) as service:
        yield service


@pytest.fixture
def service(running: Advanced) -> Advanced:
    """The one that all share, with an empty cache and every allowance whole."""
    assert running.redis
    running.model.clear()
    running.redis.ask("FLUSHALL")
    return running


@pytest.fixture
def model(service: Advanced) -> OfflineModel:
    return service.model


@pytest.fixture
def here(visit: Visitor, service: Advanced) -> Visit:
    """The page, and carol logged in to it."""
    here = visit(service.url)
    here.log_in("carol", PASSWORDS["carol"])
    expect(here.page.locator("#account")).to_contain_text("Logged in as carol")
    return here


def token_of(here: Visit) -> str:
    return str(here.page.evaluate("() => JSON.parse(sessionStorage['playground.login']).token"))


def test_asks_for_a_login_first(visit: Visitor, service: Advanced) -> None:
    """Nothing but the form, until name and password are right; focus is where typing goes on."""
    page = visit(service.url).page
    expect(page.get_by_label("User name")).to_be_focused()
    expect(page.get_by_label("Your question")).to_be_hidden()
    expect(page.locator("#sessions")).to_be_hidden()
    page.keyboard.type("carol")
    page.keyboard.press("Tab")
    page.keyboard.type("not-her-password")
    page.keyboard.press("Enter")
    problem = page.locator("#login-problem")
    expect(problem.get_by_role("alert")).to_contain_text("The user name or the password is wrong.")
    expect(problem).to_contain_text("Code: invalid_credentials")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORDS["carol"])  # over the wrong one, which is selected
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    expect(page.locator("#announcement")).to_have_text("Logged in as carol.")
    expect(page.get_by_label("User name")).to_be_hidden()


def test_token_stays_in_the_tab(here: Visit, service: Advanced, visit: Visitor) -> None:
    """A reload keeps it, another tab has none; it is in no cookie, URL, curl or lasting storage."""
    here.answered("What is 6 * 7?")
    here.reload()
    expect(here.page.locator("#messages .words")).to_have_text(["What is 6 * 7?", "6 * 7 = 42."])
    assert here.answered("Now divide that by 2") == "42 / 2 = 21."
    token, page = token_of(here), here.page
    assert page.context.cookies() == []
    assert page.evaluate("() => localStorage.length") == 0
    assert token not in page.url
    assert token not in page.content()
    assert "Bearer $TOKEN" in str(page.locator("#curl").text_content())
    other = page.context.new_page()
    other.goto(service.url + "/playground")
    expect(other.get_by_label("User name")).to_be_focused()


def test_log_out_means_it(here: Visit, service: Advanced) -> None:
    """The service refuses the token from then on, and the next user sees nothing of the last."""
    here.answered("What is my secret, 6 * 7?")
    token, page = token_of(here), here.page
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#login-reason")).to_have_text("You have logged out.")
    expect(page.get_by_label("User name")).to_be_focused()
    with service.waiting_client(token) as client:
        assert client.get("/v2/sessions").json()["code"] == "invalid_token"
    here.log_in("dave", PASSWORDS["dave"])
    expect(page.locator("#account")).to_contain_text("Logged in as dave")
    expect(page.locator("#nothing-yet")).to_be_visible()
    expect(page.locator("#no-sessions")).to_be_visible()
    assert "secret" not in page.content()


def test_goes_on_when_a_login_has_ended(here: Visit, service: Advanced) -> None:
    """It says so and asks for another; the conversation and the question are still there."""
    here.answered("What is 6 * 7?")
    page = here.page
    with service.waiting_client(token_of(here)) as client:
        assert client.post(LOGOUT.replace("/api/v1", "/v2")).status_code == 200
    here.ask("Now divide that by 2")
    expect(page.locator("#login-reason")).to_contain_text("Your login has ended.")
    here.log_in("carol", PASSWORDS["carol"])
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#messages .assistant .words")).to_have_text(
        ["6 * 7 = 42.", "42 / 2 = 21."]
    )


def test_shows_a_cached_answer(here: Visit, model: OfflineModel) -> None:
    """The same first question again costs no model call, and the page says so."""
    page = here.page
    here.answered("What is 6 * 7?")
    calls = model.call_count
    expect(page.locator(".note")).to_have_count(0)
    page.get_by_role("button", name="New session").click()
    assert here.answered("What is 6 * 7?") == "6 * 7 = 42."
    expect(page.locator(".note")).to_have_text("From the cache: no model call was needed.")
    expect(page.get_by_role("status")).to_contain_text("Done: from the cache, ")
    assert model.call_count == calls


def test_shows_the_allowance_and_its_end(here: Visit, service: Advanced) -> None:
    """What is left goes down with each request; at the limit the page says when to come back."""
    page = here.page
    meter = page.get_by_role("meter", name="Requests left")
    expect(page.locator("#allowance-text")).to_contain_text(f" of {LIMIT} in {WINDOW} s.")
    before = int(str(meter.get_attribute("value")))
    here.answered("Hello")
    assert int(str(meter.get_attribute("value"))) == before - 1
    with service.waiting_client(token_of(here)) as client:
        while client.get("/v2/sessions").status_code == 200:
            pass
    here.ask("What is 6 * 7?")
    problem = page.locator("#messages .problem")
    expect(problem).to_contain_text("Too many requests")
    expect(problem).to_contain_text(f"{LIMIT} requests in {WINDOW} s are allowed.")
    expect(problem).to_contain_text("Code: rate_limited")
    expect(problem.locator(".countdown")).to_contain_text("Try again in ")
    expect(meter).to_have_attribute("value", "0")
    expect(problem.locator(".countdown")).to_have_text("You can try again now.")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#messages .assistant .words").last).to_have_text("6 * 7 = 42.")


def test_shows_what_the_service_has_to_do_without(here: Visit, service: Advanced) -> None:
    """Each dependency by name and state; Redis stops, and the service is degraded."""
    page = here.page
    states = page.locator("#dependencies dd")
    expect(page.locator("#dependencies dt")).to_have_text(["session store", "redis", "model"])
    expect(states).to_have_text(["up", "up", "up"])
    assert service.redis
    service.redis.freeze()
    try:
        check = page.get_by_role("button", name="Check again")
        for _ in range(10):  # what is known stays known for two seconds
            check.click()
            page.wait_for_timeout(500)
            if states.nth(1).inner_text() == "down":
                break
        expect(states).to_have_text(["up", "down", "up"])
        expect(page.locator("#health")).to_have_text("degraded")
    finally:
        service.redis.thaw()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_barrier(
    visit: Visitor, service: Advanced, scheme: str, size: dict[str, int]
) -> None:
    """Not in the form, with a wrong password, logged in, or with an answer; nothing is too wide."""
    here = visit(service.url, color_scheme=scheme, viewport=size)
    page = here.page
    found = here.barriers()
    here.log_in("carol", "not-her-password")
    expect(page.get_by_role("alert")).to_be_visible()
    found += here.barriers()
    assert not here.scrolls_sideways()
    here.log_in("carol", PASSWORDS["carol"])
    expect(page.get_by_label("Your question")).to_be_focused()
    service.model.enqueue(Scenario("The answer is " + "long" * 60))
    here.answered("Hello")
    while page.locator("details:not([open])").count():
        page.locator("details:not([open]) > summary").first.click()
    found += here.barriers()
    assert not here.scrolls_sideways()
    assert found == []
