"""The playground of the medium service, in a real browser: asking, stopping, sessions, access."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from shared.offline_model import OfflineModel, Scenario
from tests.serving import Service, served
from tests.shared.playground.browsing import DESK, PHONE, Visit, Visitor
from tests.talking import event_data

BOTH = "What does the handbook say about caching, and what is 6 * 7?"
PIECES = [f"word{number} " for number in range(40)]
HALF = Scenario(pieces=PIECES, hang_after=4)
"""The beginning of an answer, and then nothing until somebody stops it."""


@pytest.fixture(scope="module")
def running(checkout: Path) -> Iterator[tuple[Service, OfflineModel]]:
    with served(checkout) as both:
        yield both


@pytest.fixture
def model(running: tuple[Service, OfflineModel]) -> OfflineModel:
    running[1].clear()
    return running[1]


@pytest.fixture
def url(running: tuple[Service, OfflineModel], model: OfflineModel) -> str:
    return running[0].url


@pytest.fixture
def here(visit: Visitor, url: str) -> Visit:
    return visit(url)


def words(page: Page) -> str:
    return page.locator("#messages .assistant .words").last.inner_text()


def test_shows_an_answer_while_it_is_written(here: Visit, model: OfflineModel) -> None:
    """The first words are there while the model has yet to write the others."""
    model.respond(HALF)
    here.ask("Tell me something.")
    expect(here.page.locator("#messages .assistant .words")).to_have_text("".join(PIECES[:4]))
    expect(here.page.get_by_role("status")).to_have_text("The supervisor writes.")
    expect(here.page.get_by_role("button", name="Ask")).to_have_attribute("aria-disabled", "true")
    assert here.page.locator("#first-piece").inner_text().endswith(" s")
    assert here.page.locator("#pieces").inner_text() == "4"


def test_tells_an_answer_in_numbers(here: Visit, model: OfflineModel) -> None:
    """How many pieces came, how quickly, how long it took, and what it cost."""
    model.respond(Scenario(pieces=PIECES, token_delay=0.01))
    assert here.answered("Tell me something.").split() == [piece.strip() for piece in PIECES]
    expect(here.page.get_by_role("status")).to_contain_text("Done: 1 model call, ")
    numbers = here.page.locator("#numbers dd").all_inner_texts()
    first, pieces, rate, time, tokens, calls = numbers
    assert re.fullmatch(r"\d+\.\d+ s", first)
    assert re.fullmatch(r"[1-9]\d* a second", rate)
    assert re.fullmatch(r"\d+\.\d+ s", time)
    assert int(tokens) > 40
    assert (pieces, calls) == ("40", "1")


def test_draws_who_is_at_work(here: Visit, model: OfflineModel) -> None:
    """The specialists light up with their tools while they work, then the supervisor again."""
    model.respond(Scenario(first_token_delay=0.25))
    page = here.page
    here.ask(BOTH)

    def expect_state(selector: str, state: str) -> None:
        expect(page.locator(f"#graph {selector}")).to_have_attribute("data-state", state)

    expect_state('[data-node="supervisor"]', "active")
    for part in ('[data-node="researcher"]', '[data-node="analyst"]', '[data-call="ask_analyst"]'):
        expect_state(part, "active")
    for part in ('[data-tool="search_handbook"]', '[data-tool="calculate"]'):
        expect_state(part, "active")
    expect_state('[data-node="__end__"]', "done")
    expect_state('[data-edge="analyst supervisor"]', "done")
    expect(page.locator('#graph [data-state="active"]')).to_have_count(0)
    steps = page.locator("#steps li").all_inner_texts()
    assert sorted(" ".join(step.split()[:2]) for step in steps) == [
        "analyst calculate",
        "researcher search_handbook",
        "supervisor ask_analyst",
        "supervisor ask_researcher",
    ]
    drawn = {
        str(tool.get_attribute("data-of")): str(tool.get_attribute("data-tool"))
        for tool in page.locator("[data-tool]").all()
    }
    assert all(
        f"{agent} {tool}" in " ".join(" ".join(steps).split()) for agent, tool in drawn.items()
    )
    here.answered("Hello")
    expect(page.locator('[data-node="analyst"]')).not_to_have_attribute("data-state", "done")


@pytest.mark.parametrize("how", ["button", "key"])
def test_stops_a_stream(here: Visit, model: OfflineModel, how: str) -> None:
    """Stop, or Escape, ends the model's call, keeps what was read, and leaves the page ready."""
    model.enqueue(HALF)
    here.ask("Tell me a long story.")
    expect(here.page.locator("#messages .assistant .words")).to_contain_text("word3")
    if how == "button":
        here.page.get_by_role("button", name="Stop").click()
    else:
        here.page.keyboard.press("Escape")
    model.wait_for(lambda model: model.calls[-1].outcome == "cancelled")
    expect(here.page.get_by_role("status")).to_have_text("Stopped.")
    expect(here.page.locator(".note")).to_contain_text("keeps nothing")
    expect(here.page.get_by_label("Your question")).to_be_focused()
    assert words(here.page).startswith("word0 word1")
    assert here.answered("What is 6 * 7?") == "6 * 7 = 42."


def test_goes_on_after_a_reload(here: Visit, url: str) -> None:
    """The conversation is there again, and the next question is its next turn."""
    here.answered("What is 6 * 7?")
    heading = here.page.locator("#talk-heading").inner_text()
    here.reload()
    expect(here.page.locator("#messages .words")).to_have_text(["What is 6 * 7?", "6 * 7 = 42."])
    expect(here.page.locator("#talk-heading")).to_have_text(heading)
    assert here.answered("Now divide that by 2") == "42 / 2 = 21."


def test_lists_opens_and_deletes_sessions(here: Visit, url: str) -> None:
    """A new session leaves the old one in the list; it is opened by keyboard, and deleted so."""
    page = here.page
    here.answered("What is 1 + 1?")
    page.get_by_role("button", name="New session").click()
    expect(page.locator("#messages li")).to_have_count(0)
    expect(page.get_by_label("Your question")).to_be_focused()
    here.answered("What is 2 + 2?")
    rows = page.locator("#session-list .open")
    older = rows.filter(has_text="What is 1 + 1?")
    expect(rows.first).to_contain_text("What is 2 + 2?")
    expect(rows.first).to_have_attribute("aria-current", "true")
    older.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#messages .words")).to_have_text(["What is 1 + 1?", "1 + 1 = 2."])
    expect(page.locator("#session-facts")).to_contain_text("2 messages, last used ")
    expect(page.get_by_label("Your question")).to_be_focused()

    known = rows.count()
    older.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete this session?")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(rows).to_have_count(known)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(known - 1)
    expect(older).to_have_count(0)
    expect(page.locator("#messages li")).to_have_count(0)
    expect(page.locator("#announcement")).to_contain_text("Session deleted.")
    assert page.evaluate("() => document.activeElement.closest('#left') !== null")
    here.reload()
    expect(rows).to_have_count(known - 1)


def test_lists_more_sessions_than_fit_on_a_page(here: Visit, model: OfflineModel) -> None:
    """Twenty at a time, and the rest on demand; the number in the heading is of all."""
    count = here.page.evaluate(
        """async () => {
            const ask = (query) => fetch("api/v1/query", {method: "POST", body: query,
                headers: {"Content-Type": "application/json"}});
            for (let n = 0; n < 21; n += 1) await ask('{"query": "Hello"}');
            return (await (await fetch("api/v1/sessions")).json()).count;
        }"""
    )
    here.page.get_by_role("button", name="Refresh").click()
    expect(here.page.locator("#session-count")).to_have_text(str(count))
    expect(here.page.locator("#session-list .open")).to_have_count(20)
    here.page.get_by_role("button", name="Show more").click()
    expect(here.page.locator("#session-list .open")).to_have_count(min(count, 40))


def test_a_session_deleted_elsewhere_leaves_the_list(here: Visit) -> None:
    """Opening one that is gone says so, and the list is right again."""
    here.answered("What is 3 + 3?")
    row = here.page.locator("#session-list .open").first
    gone = str(row.get_attribute("data-id"))
    here.page.get_by_role("button", name="New session").click()
    here.page.evaluate(f"() => fetch('api/v1/session/{gone}', {{method: 'DELETE'}})")
    row.click()
    expect(here.page.locator("#session-problem")).to_contain_text("There is no such session.")
    expect(here.page.locator(f'[data-id="{gone}"]')).to_have_count(0)


def test_shows_a_failure_in_the_middle(here: Visit, model: OfflineModel) -> None:
    """What was read stays, marked as a part; the error says what and how; asking again replaces
    both."""
    model.enqueue(Scenario("The answer begins well and goes on for a while.", cut_after=4))
    here.ask("What is 6 * 7?")
    problem = here.page.locator("#messages .problem")
    expect(problem).to_contain_text("The model gave no usable answer.")
    expect(problem).to_contain_text("Code: model_error")
    assert words(here.page).startswith("The answer begins")
    expect(here.page.locator(".note")).to_have_text("Not the whole answer.")
    here.page.get_by_role("button", name="Ask again").click()
    expect(here.page.locator("#messages .words")).to_have_text(["What is 6 * 7?", "6 * 7 = 42."])
    expect(problem).to_have_count(0)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ('data: {"chunk": "Once", "done": false, "metadata": null}\n\n', "cut"),
        ('data: {"chunk": "Once", "done": false}\n\ndata: {"chunk": "Tw', "cut"),
        ('data: {"chunk": "Once"}\r\n\r\ndata: [DONE]\n\n', "no_event"),
    ],
    ids=["no last event", "cut in an event", "not JSON"],
)
def test_says_what_is_wrong_with_a_stream(here: Visit, sent: str, code: str) -> None:
    """A service that a student has half built may send anything: the page names it, and goes on."""
    here.page.context.route(
        "**/query/stream",
        lambda route: route.fulfill(content_type="text/event-stream", body=sent),
    )
    here.ask("What is 6 * 7?")
    expect(here.page.locator("#messages .problem")).to_contain_text(f"Code: {code}")
    assert words(here.page) == "Once"
    here.page.context.unroute("**/query/stream")
    here.page.get_by_role("button", name="Ask again").click()
    expect(here.page.locator("#messages .assistant .words")).to_have_text(["6 * 7 = 42."])


def test_takes_the_least_that_a_stream_can_be(here: Visit) -> None:
    """Chunks and a `done` are an answer, without any metadata."""
    events = 'data: {"chunk":"Forty"}\n\n: a comment\n\ndata: {"chunk":"-two","done":true}\n\n'
    here.page.context.route(
        "**/query/stream",
        lambda route: route.fulfill(content_type="text/event-stream", body=events),
    )
    assert here.answered("What is 6 * 7?") == "Forty-two"
    expect(here.page.get_by_role("status")).to_contain_text("Done")


def test_counts_down_to_the_next_attempt(here: Visit, model: OfflineModel) -> None:
    """Retry-After is a countdown; until it has run down, nothing is asked again."""
    model.enqueue(Scenario(status=429, retry_after=2))
    here.ask("What is 6 * 7?")
    again = here.page.get_by_role("button", name="Ask again")
    expect(again).to_have_attribute("aria-disabled", "true")
    expect(here.page.locator(".countdown")).to_contain_text("Try again in ")
    asked = model.call_count
    again.focus()
    here.page.keyboard.press("Enter")
    expect(here.page.locator(".countdown")).to_have_text("You can try again now.")
    expect(here.page.locator("#announcement")).to_have_text("You can try again now.")
    assert model.call_count == asked
    again.click()
    expect(here.page.locator("#messages .assistant .words")).to_have_text(["6 * 7 = 42."])


def test_says_that_an_answer_is_not_whole(here: Visit) -> None:
    """An answer that stopped at max_iterations comes with a note, and without an error."""
    here.page.get_by_label("Model calls at most").fill("2")
    here.answered("What is 6 * 7?")
    expect(here.page.locator(".note")).to_have_text("The allowance of model calls was used up.")


def test_shows_what_the_service_refuses(here: Visit) -> None:
    """A question that is too long is the service's to refuse: which field, and why."""
    here.ask("long " * 500)
    problem = here.page.locator("#messages .problem")
    expect(problem).to_contain_text("The request is not valid.")
    expect(problem).to_contain_text("query: String should have at most 2000 characters")


def test_says_that_the_service_is_gone(here: Visit) -> None:
    """Without a connection, a sentence says so, and asking again works once there is one."""
    here.page.context.set_offline(True)
    here.ask("What is 6 * 7?")
    problem = here.page.locator("#messages .problem")
    expect(problem).to_contain_text("The service cannot be reached.")
    expect(here.page.locator("#health")).to_have_text("not reached")
    here.page.context.set_offline(False)
    here.page.get_by_role("button", name="Ask again").click()
    expect(here.page.locator("#messages .assistant .words")).to_have_text(["6 * 7 = 42."])
    expect(here.page.locator("#health")).to_have_text("healthy")


def test_what_the_model_says_is_text(here: Visit, model: OfflineModel) -> None:
    """Tags in an answer, in a tool's arguments and in the history are shown, never obeyed."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script><b>bold</b>"
    model.respond(Scenario(pieces=[evil[:9], evil[9:]]))
    assert here.answered(evil) == evil
    here.reload()
    expect(here.page.locator("#messages .words")).to_have_text([evil, evil])
    assert here.page.locator("#messages img, #messages script, #messages b").count() == 0
    assert here.page.title() == "Playground: Agent service, medium track"
    refused = here.page.evaluate(
        "() => { try { document.body.innerHTML = '<p>'; } catch (error) { return error.name; } }"
    )
    assert refused == "TypeError"  # of the policy's, should the page ever try
    here.complaints.clear()


def test_shows_what_goes_over_the_wire(here: Visit, tmp_path: Path) -> None:
    """The curl command, typed into a shell, gets what the page got; the events are as they came."""
    here.page.locator("#wire summary").click()
    question = 'What’s $HOME\'s "value"? And 6 * 7?'
    here.answered(question)
    page = here.page
    raw = page.locator("#events").inner_text()
    assert raw.startswith("HTTP 200, X-Request-ID ")
    events = event_data(raw.partition("\n\n")[2].encode() + b"\n\n")
    assert len(events) > 3
    assert [event for event in events if '"done":true' in event] == events[-1:]

    command = page.locator("#curl").inner_text().replace("curl", "curl -s")
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=30)
    assert len(event_data(done.stdout)) == len(events)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert (
        page.evaluate("() => navigator.clipboard.readText()") == page.locator("#curl").inner_text()
    )


def test_everything_is_within_reach_of_the_keyboard(here: Visit) -> None:
    """The skip link leads to the question; Shift and Enter is a new line; Tab gets everywhere."""
    page = here.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the question")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("6 * 7?")
    page.keyboard.press("Enter")
    expect(page.locator("#messages .words")).to_have_text(["What is\n6 * 7?", "6 * 7 = 42."])
    expect(page.get_by_label("Your question")).to_be_focused()
    missing = {"ask", "iterations", "new-session", "check-health", "conversation"}
    for _ in range(150):  # the sessions of the other tests are on the way
        page.keyboard.press("Tab")
        missing.discard(page.evaluate("() => document.activeElement.id"))
    assert not missing


def test_screen_readers_hear_sentences_and_not_tokens(here: Visit, model: OfflineModel) -> None:
    """Forty pieces change the live regions a few times; then the answer is read, once."""
    model.respond(Scenario(pieces=PIECES, token_delay=0.01))
    page = here.page
    page.evaluate(
        """() => {
            window.heard = [];
            for (const region of document.querySelectorAll("[role=status], [aria-live]")) {
                new MutationObserver(() => heard.push(region.textContent))
                    .observe(region, {childList: true, characterData: true, subtree: true});
            }
        }"""
    )
    answer = here.answered("Tell me something.")
    heard = page.evaluate("() => heard")
    assert 2 <= len(heard) <= 5, heard
    assert [said for said in heard if "word0" in said] == [f"The agent says: {answer}"]
    live = page.locator("[aria-live] .words, [role=log] .words, [role=status] .words")
    assert live.count() == 0


def test_long_answer_is_followed_to_its_end(here: Visit, model: OfflineModel) -> None:
    """The end stays in view while it grows; of all that, the beginning is read aloud."""
    model.respond(Scenario(huge=20_000))
    assert len(here.answered("Tell me everything.")) > 19_000
    page = here.page
    below = "place => place.scrollHeight - place.scrollTop - place.clientHeight"
    assert page.locator("#conversation").evaluate(below) < 5
    assert len(page.locator("#announcement").inner_text()) < 2_000
    model.respond(Scenario(pieces=["More. " * 100] * 2, hang_after=1))
    here.ask("More?")
    expect(page.locator("#messages .assistant .words").last).to_contain_text("More.")
    assert page.locator("#conversation").evaluate(below) < 5


def test_moves_nothing_for_those_who_asked_for_that(
    visit: Visitor, url: str, model: OfflineModel
) -> None:
    """With reduced motion nothing is animated, not even while an answer is written."""
    model.respond(HALF)
    for motion, moving in (("no-preference", True), ("reduce", False)):
        here = visit(url, reduced_motion=motion)
        here.ask("Tell me something.")
        expect(here.page.locator("#messages .assistant .words")).to_contain_text("word3")
        assert here.page.evaluate("() => document.getAnimations().length > 0") is moving, motion
        here.page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_barrier(
    visit: Visitor, url: str, model: OfflineModel, scheme: str, size: dict[str, int]
) -> None:
    """Not at first, while an answer is written, after it, with an error, or in the dialog; and
    nothing is wider than the screen."""
    here = visit(url, color_scheme=scheme, viewport=size)
    page = here.page
    found = here.barriers()
    model.enqueue(Scenario(pieces=["A ", "word-" * 30, "and"], hang_after=2))
    here.ask("Tell me a story.")
    expect(page.locator("#messages .assistant .words")).to_contain_text("word-word")
    found += here.barriers()
    page.keyboard.press("Escape")
    while page.locator("details:not([open])").count():
        page.locator("details:not([open]) > summary").first.click()
    here.answered(BOTH)
    found += here.barriers()
    model.enqueue(Scenario(status=429, retry_after=60))
    here.ask("Once more.")
    expect(page.locator(".countdown")).to_be_visible()
    found += here.barriers()
    assert not here.scrolls_sideways()
    page.locator("#session-list .small").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found += here.barriers()
    assert found == []


def test_docs_work_without_the_internet(visit: Visitor, url: str) -> None:
    """Swagger UI shows every operation, and asks the service, with files of the app's own."""
    here = visit(url, path="/docs")
    page = here.page
    expect(page.locator(".opblock")).to_have_count(7)
    page.locator("#operations-agent-list_sessions_api_v1_sessions_get .opblock-summary").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"next_cursor"')
