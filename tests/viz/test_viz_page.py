"""The interactive page in a real browser, over its debugging pipe; skipped where there is none."""

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from browser import needs_browser
from tinygrad_cnn.core.op import FUNCTIONS, OPS
from tinygrad_cnn.viz import Figure
from tinygrad_cnn.viz.capture import entry_names
from tinygrad_cnn.viz.html import explained

READY = "typeof states !== 'undefined'"


@pytest.fixture
def page(browser, nets, tmp_path):
    Figure(nets.lenet()).save(tmp_path / "lenet.html")
    browser.open(tmp_path / "lenet.html", READY)
    return browser


@pytest.fixture
def folded(browser, nets, tmp_path):
    recording = nets.resnet(4)
    Figure(recording).save(tmp_path / "resnet.html")
    browser.open(tmp_path / "resnet.html", READY)
    browser.names = entry_names(recording)
    return browser


DIMMED = "[...document.querySelectorAll('main>div:not([hidden]) .card.dim')].length"
SHOWN = "document.querySelector('main>div:not([hidden])').id"


@needs_browser
def test_the_page_asks_for_nothing_and_complains_of_nothing(page):
    assert [url.rpartition("/")[2] for url in page.requests()] == ["lenet.html"]
    assert page.complaints() == []
    assert page.run("document.title") == "LeNet"


@needs_browser
def test_hovering_a_card_lights_its_path_and_shows_its_facts(page):
    x, y = page.center("v0-n4")
    page.mouse("mouseMoved", x, y)
    page.wait("document.querySelector('#facts h2').textContent === 'relu'")
    assert page.run("document.querySelector('#facts .hint').textContent") == tc.relu.__doc__.split(
        "\n")[0].strip()
    lit = page.run("[...now.cards.values()].filter(c => !c.node.classList.contains('dim'))"
                   ".map(c => c.id)")
    assert lit == ["n0", "n1", "n2", "n3", "n4", "n5", "n8", "n9", "n10", "n11", "n14", "n16"]
    page.mouse("mouseMoved", 5, 790)
    page.wait(f"{DIMMED} === 0")


@needs_browser
def test_a_click_keeps_the_path_until_escape(page):
    page.click("v0-n4")
    page.mouse("mouseMoved", 5, 790)
    assert page.run(DIMMED) > 0
    page.key("Escape", 27)
    page.wait(f"{DIMMED} === 0")


@needs_browser
def test_a_card_reached_by_keyboard_lights_its_path(page):
    page.run("document.getElementById('v0-n4').focus()")
    assert page.run("document.querySelector('#facts h2').textContent") == "relu"
    label = page.run("document.getElementById('v0-n4').getAttribute('aria-label')")
    assert label.startswith("relu #4 54% zeros ")       # the words that can be seen
    page.key(" ", 32)
    assert page.run("kept") == "n4"


@needs_browser
def test_the_slash_key_searches_and_enter_centers(page):
    page.key("/", 191)
    assert page.run("document.activeElement.id") == "find"
    for letter in "linear":
        page.key(letter, ord(letter.upper()))
    page.wait("document.getElementById('hits').textContent === '2 of 17 cards'"
              " || document.getElementById('hits').textContent.startsWith('1 of')")
    assert page.run(DIMMED) >= 15
    page.key("Enter", 13)
    x, y = page.center("v0-n14")
    area = page.run("(r => [r.x, r.y, r.width, r.height])(now.svg.getBoundingClientRect())")
    assert abs(x - area[0] - area[2] / 2) < 3 + area[2] / 2
    assert area[1] <= y <= area[1] + area[3]


@needs_browser
def test_wheel_buttons_and_keys_zoom_and_dragging_pans(page):
    width = "now.svg.viewBox.baseVal.width"
    before = page.run(width)
    page.mouse("mouseWheel", 400, 400, deltaX=0, deltaY=-100)
    page.wait(f"{width} < {before}")
    page.key("0", 48)
    full = page.run("now.full.width")
    assert page.run(width) == full
    page.key("+", 187)
    assert page.run(width) == pytest.approx(full / 1.25)
    page.click("out")
    assert page.run(width) == pytest.approx(full)
    left = page.run("now.svg.viewBox.baseVal.x")
    page.mouse("mousePressed", 60, 600, button="left", clickCount=1)
    page.mouse("mouseMoved", 160, 600, button="left", buttons=1)
    page.mouse("mouseReleased", 160, 600, button="left", clickCount=1)
    assert page.run("now.svg.viewBox.baseVal.x") < left


@needs_browser
def test_levels_fold_and_modules_open_and_close(folded):
    assert folded.run(SHOWN) == "view-v0"
    folded.run("document.querySelector('[data-state=operators]').click()")
    assert folded.run("now.name") == "operators"
    folded.run("document.querySelector('[data-state=folded]').click()")
    stack = folded.run("[...now.cards.values()].find(c => c.path).id")
    folded.run(f"document.getElementById('v0-{stack}').focus()")
    before = folded.run("now.cards.size")
    folded.key("Enter", 13)
    folded.wait("now.name.startsWith('open ')")
    assert folded.run("now.cards.size") > before
    folded.run("document.querySelector('#facts')")
    first = folded.run("[...now.cards.keys()][0]")
    folded.run(f"now.cards.get('{first}').node.focus()")
    folded.run("[...document.querySelectorAll('#facts button')]"
               ".find(b => b.textContent.startsWith('fold')).click()")
    assert folded.run(SHOWN) == "view-v0"


@needs_browser
def test_the_slider_steps_through_the_backward_pass_and_play_runs_it(page):
    waiting = "[...document.querySelectorAll('main>div:not([hidden]) .edge.waiting')].length"
    page.run("el('step').value = 1; el('step').dispatchEvent(new Event('input'))")
    assert page.run("el('where').textContent") == "1/14  cross_entropy → linear  grad 0.010"
    assert page.run(waiting) == 15
    page.run("el('step').value = 14; el('step').dispatchEvent(new Event('input'))")
    assert page.run(waiting) == 2           # x and y have no gradient
    page.click("play")
    page.wait("Number(el('step').value) >= 2")
    page.click("play")
    assert page.run("el('play').textContent") == "▶ backward"


IN_VIEW = ("(([a, b]) => a.top >= b.top && a.bottom <= b.bottom)([now.cards.get('{}').node, "
           "now.svg].map(x => x.getBoundingClientRect()))")


@needs_browser
def test_play_and_focus_keep_what_they_show_in_view(page):
    assert not page.run(IN_VIEW.format("n16"))          # the loss is below the window
    page.run("el('step').value = 1; el('step').dispatchEvent(new Event('input'))")
    assert page.run(IN_VIEW.format("n14"))              # where the first gradient went
    page.run("el('step').value = 14; el('step').dispatchEvent(new Event('input'))")
    source = page.run("now.backward[13].source")
    assert page.run(IN_VIEW.format(source))
    page.key("Escape", 27)
    page.run("document.getElementById('v0-n0').focus()")
    page.key("Tab", 9)
    page.run("document.getElementById('v0-n16').focus()")
    assert page.run(IN_VIEW.format("n16"))


@needs_browser
def test_steps_one_by_one_show_what_a_jump_shows(page):
    waiting = "[...document.querySelectorAll('main>div:not([hidden]) .waiting')].map(e => e.id)"
    page.run("for (let k = 1; k <= 6; k++) backward(k)")
    steps = page.run(waiting)
    page.run("backward(0); backward(6)")
    assert page.run(waiting) == steps


@needs_browser
def test_a_search_finds_what_is_folded_and_opens_it(folded):
    folded.run("el('find').value = 'stage1[2].conv1'; el('find').dispatchEvent(new Event('input'))")
    assert folded.run("el('hits').textContent").startswith("1 of ")
    folded.run("el('find').focus()")
    folded.key("Enter", 13)
    assert folded.run("search().map(c => c.title)") == ["conv1 · conv2d"]
    for name in folded.names:               # as problems() prints them
        words = name.partition("#")[0].replace("[", ".").replace("]", "")
        folded.run("show(states[0].name); el('find').value = " + json.dumps(name.partition("#")[0])
                   + "; el('find').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))")
        assert folded.run("[...now.cards.values()].some(c => c.own.includes("
                          f"{json.dumps(words)}))"), name
        at = folded.run("(([l, t, r, b]) => [(l + r) / 2, (t + b) / 2])(shown())")
        box = folded.run("[...now.cards.values()].find(c => c.own.includes("
                         f"{json.dumps(words)})).box")
        assert at == pytest.approx([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


@needs_browser
def test_the_panel_says_what_an_op_is_and_its_backward_rule(page):
    page.run("facts(now.cards.get('n14'))")
    assert page.run("[...document.querySelectorAll('#facts pre')].map(p => p.textContent)") == [
        "∂x = matmul(ct, w.T)", "∂w = matmul(x.T, ct)", "∂b = sum_to(ct, shape=b.shape)"]
    page.run("facts(now.cards.get('n3'))")
    assert page.run("document.querySelector('#facts pre').textContent").startswith(
        "y[n, i, j, o] = b[o] + Σ_{u, v, c} x[n, i·s")


def test_every_op_can_be_explained_in_its_own_words():
    for name, op in OPS.items():
        found = explained(name)
        assert len(found["rules"]) == len(op.vjp)
        assert all(rule and "apply(" not in rule and "lambda" not in rule
                   for _, rule in found["rules"]), name
        assert found["what"] or name not in FUNCTIONS, name


@needs_browser
def test_no_finding_of_axe(browser, nets, tmp_path):
    axe = importlib.util.find_spec("axe_core_python")
    if axe is None:
        pytest.skip("axe-core is not installed: pip install axe-core-python")
    script = (Path(axe.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    for scheme, recording in (("light", nets.lenet()), ("dark", nets.resnet(4))):
        Figure(recording).save(tmp_path / "net.html")
        browser.call("Emulation.setEmulatedMedia",
                     features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(tmp_path / "net.html", READY)
        browser.run("backward(3)")
        browser.run(script)
        found = browser.run("axe.run().then(r => r.violations.map(v => [v.impact, v.id, "
                            "v.nodes[0].html]))")
        assert found == []
    browser.call("Emulation.setEmulatedMedia", features=[])


@needs_browser
def test_a_page_of_a_thousand_cards_draws_those_in_the_window(browser, nets, tmp_path):
    recording = nets.chain(1100)
    Figure(recording, level="everything", limit=2000).save(tmp_path / "large.html")
    browser.open(tmp_path / "large.html")
    near = "[...now.cards.values()].filter(c => !c.far).length"
    browser.wait(f"now.cards.size === 1101 && {near} < 40")
    browser.run("backward(0); backward(1)")
    browser.wait(f"{near} < 40")
    browser.run("window.changes = 0; new MutationObserver(m => window.changes += m.length).observe("
                "now.svg, {attributes: true, subtree: true})")
    browser.run("backward(2)")
    browser.wait("window.changes > 0 && !waiting")
    assert browser.run("window.changes") < 100          # of 2,200 cards and lines
    assert browser.run("now.cards.get(now.at.id).far") in (None, False)
    assert browser.run(IN_VIEW.format(browser.run("now.at.id")))
    browser.run("now.cards.get('n0').node.focus()")     # far away, yet in reach of the keyboard
    assert browser.run("document.activeElement.id") == "v0-n0"
    browser.run("fit()")                                # no letter could be read
    browser.wait("now.svg.classList.contains('small')")


@needs_browser
def test_the_small_map_shows_the_window_and_leads_there(page):
    assert page.run("el('map').hasAttribute('hidden')") is False
    x, y, w, h = page.run("(r => [r.x, r.y, r.width, r.height])(el('map').getBoundingClientRect())")
    page.mouse("mousePressed", x + w / 2, y + h - 2, button="left", buttons=1, clickCount=1)
    page.mouse("mouseReleased", x + w / 2, y + h - 2, button="left", clickCount=1)
    full, at = page.run("[now.full.y + now.full.height, shown()[1] + shown()[3]]")
    assert at / 2 == pytest.approx(full, rel=0.02)
    page.wait("Number(el('map').lastChild.getAttribute('y')) > 0")
    page.run("fit()")
    page.wait("el('map').hasAttribute('hidden')")


@needs_browser
def test_a_finding_is_a_link_to_its_card(page):
    page.run("document.querySelector('#facts button.warn').click()")
    assert page.run("now.cards.get(kept).warnings.length") == 1
    assert page.run(IN_VIEW.format(page.run("kept")))


@needs_browser
def test_a_drag_over_a_card_is_no_click_and_zoom_has_limits(page):
    x, y = page.center("v0-n4")
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 60, y + 10, button="left", buttons=1)
    page.mouse("mouseReleased", x + 60, y + 10, button="left", clickCount=1)
    assert page.run("kept") is None
    page.run("for (let k = 0; k < 80; k++) zoom(1.25)")
    assert page.run("now.svg.viewBox.baseVal.width / now.full.width") == pytest.approx(4)
    page.run("for (let k = 0; k < 80; k++) zoom(0.8)")
    assert page.run("now.full.width / now.svg.viewBox.baseVal.width") == pytest.approx(12)


@needs_browser
def test_print_shows_the_picture_alone(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('aside')).display") == "none"
    assert page.run("getComputedStyle(document.querySelector('main')).overflow") == "visible"
    page.call("Emulation.setEmulatedMedia", media="")
    page.run("zoom(0.3); document.documentElement.dataset.theme = 'dark';"
             "window.seen = []; addEventListener('beforeprint', () => seen.push(box().width, "
             "document.documentElement.dataset.theme))")
    zoomed = page.run("box().width")
    page.call("Page.printToPDF")
    assert page.run("seen") == [page.run("now.full.width"), "light"]
    assert page.run("box().width") == zoomed
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.run("document.querySelectorAll('h1').length") == 1


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_theme_and_the_button_turns_it(page, scheme):
    page.call("Emulation.setEmulatedMedia",
              features=[{"name": "prefers-color-scheme", "value": scheme}])
    color = "getComputedStyle(document.body).backgroundColor"
    card = "getComputedStyle(document.querySelector('#v0-n4 rect')).fill"
    light, dark = ("rgb(255, 255, 255)", "rgb(254, 254, 254)"), ("rgb(15, 23, 32)",
                                                                 "rgb(27, 39, 51)")
    first, second = (light, dark) if scheme == "light" else (dark, light)
    assert (page.run(color), page.run(card)) == first
    page.click("theme")
    assert (page.run(color), page.run(card)) == second
    page.call("Emulation.setEmulatedMedia", features=[])


@needs_browser
def test_a_small_window_keeps_everything_in_reach(page):
    page.call("Emulation.setDeviceMetricsOverride", width=480, height=800, deviceScaleFactor=1,
              mobile=False)
    assert page.run("document.documentElement.scrollWidth <= 480")
    page.call("Emulation.clearDeviceMetricsOverride")


@needs_browser
def test_without_a_script_the_picture_has_its_size_and_the_page_scrolls(browser, nets, tmp_path):
    Figure(nets.lenet()).save(tmp_path / "net.html")
    for domain in ("DOM", "CSS"):
        browser.call(f"{domain}.enable")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.events.clear()
        browser.call("Page.navigate", url=(tmp_path / "net.html").as_uri())
        for _ in range(1000):                           # no script can tell that it is loaded
            if any(e.get("method") == "Page.loadEventFired" for e in browser.events):
                break
            browser.run("1")
            time.sleep(0.02)
        root = browser.call("DOM.getDocument")["root"]["nodeId"]

        def style(selector):
            found = browser.call("CSS.getComputedStyleForNode",
                                 nodeId=browser.call("DOM.querySelector", nodeId=root,
                                                     selector=selector)["nodeId"])["computedStyle"]
            return {entry["name"]: entry["value"] for entry in found}

        assert style("main")["overflow-y"] == "auto"
        assert style("header")["display"] == style("aside")["display"] == "none"
        wide = float(re.search(r'viewBox="0 0 (\d+)', (tmp_path / "net.html").read_text())[1])
        assert float(style("main svg")["width"].removesuffix("px")) == pytest.approx(wide, rel=0.02)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
        for domain in ("CSS", "DOM"):
            browser.call(f"{domain}.disable")


def test_the_page_of_a_big_network_stays_below_two_megabytes(nets):
    text = Figure(nets.resnet(9)).html()
    assert len(text.encode()) < 2_000_000
    assert text.count('<div id="view-') > 3


def test_a_page_of_one_large_picture_stays_below_two_megabytes_too(nets):
    text = Figure(nets.resnet(22), level="everything", limit=2000).html()
    assert text.count('<div id="view-') >= 1
    assert len(text.encode()) < 2_000_000


def test_the_page_of_a_tangle_of_nine_hundred_ops_stays_below_two_megabytes(nets):
    rng, b = np.random.default_rng(0), nets.Builder()
    made = [b.leaf("parameter", f"p{k}", (4, 4)) for k in range(5)]
    for _ in range(900):
        made.append(b.op("add", (4, 4), *rng.choice(made[-30:], 2).tolist()))
    text = Figure(b.recording(), level="everything", limit=2000).html()
    assert 900_000 < len(text.encode()) < 2_000_000


def test_the_policy_allows_the_style_and_the_script_alone(nets):
    text = Figure(nets.lenet()).html()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "://" not in re.sub(r'xmlns="[^"]+"', "", text)
